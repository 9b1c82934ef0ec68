//! Commands about jobs, for people: `push`, `submit`, `status`, `list`,
//! `wait`, `stop`, `remove`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ntrace_protocol::id::JobRef;
use ntrace_protocol::name::{Label, Owner, Repo};
use ntrace_protocol::spec::JobRequest;
use ntrace_protocol::unit::MAX_DURATION;
use ntrace_protocol::{Code, JobId, JobState, JobView, StopOrder, WireError};
use ntrace_store::{Filter, NewJob, Pushed};
use serde_json::{Value, json};

use super::Answer;
use crate::args::{self, Options};
use crate::clock;
use crate::connection::{Connection, Shared};
use crate::engine::Request;
use crate::refusal::Refusal as _;

/// Jobs of a page unless the caller says otherwise.
const PAGE: u32 = 100;
/// The most jobs of a page.
const PAGE_MAX: u32 = 1000;
/// What a stopped job gets between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);

/// `push`.
pub(crate) async fn push(conn: &Connection, args: &[Value]) -> Answer {
    keep(&conn.shared, JobRequest::from_push(args)?).await
}

/// `submit`.
pub(crate) async fn submit(conn: &Connection, args: &[Value]) -> Answer {
    keep(&conn.shared, JobRequest::from_submit(args)?).await
}

async fn keep(shared: &Shared, request: JobRequest) -> Answer {
    let id = request.id.unwrap_or_else(clock::job_id);
    let job = NewJob {
        id,
        is_own_id: request.id.is_some(),
        spec: request.spec,
        submitted: clock::now(),
        max_queue: shared.max_queue,
    };
    let pushed = shared.store.push(job).await.map_err(|e| e.wire())?;
    if pushed == Pushed::New {
        shared.stats.pushed.fetch_add(1, Ordering::Relaxed);
        shared.engine.tell(Request::Queued).await;
    }
    Ok(vec![json!(id)])
}

/// The id of the job that the first argument names. A whole id may still be
/// nobody's.
pub(crate) async fn find(
    shared: &Shared,
    args: &[Value],
) -> Result<JobId, WireError> {
    match args::job_ref(args)? {
        JobRef::Full(id) => Ok(id),
        prefix @ JobRef::Prefix(_) => {
            shared.store.find(prefix).await.map_err(|e| e.wire())
        }
    }
}

/// The job of that id.
pub(crate) async fn look(
    shared: &Shared,
    id: JobId,
) -> Result<JobView, WireError> {
    let job = shared.store.job(id).await.map_err(|e| e.wire())?;
    job.ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: JobId) -> WireError {
    WireError::new(Code::Enoent, format!("there is no job {id}")).on("id")
}

/// `status`.
pub(crate) async fn status(conn: &Connection, args: &[Value]) -> Answer {
    let id = find(&conn.shared, args).await?;
    Ok(vec![json!(look(&conn.shared, id).await?)])
}

/// `list`.
pub(crate) async fn list(conn: &Connection, args: &[Value]) -> Answer {
    let known = ["state", "repo", "label", "after", "limit"];
    let options = Options::read(args, 0, "filter", &known)?;
    let limit = options.typed("limit", "a whole number from 1 to 1000")?;
    let limit: u32 = limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        let text = format!("limit must be from 1 to {PAGE_MAX}");
        return Err(WireError::invalid("limit", text));
    }
    let (owner, repo) = repo(&options)?;
    let filter = Filter {
        state: options.parsed::<JobState>("state").map_err(plain("state"))?,
        repo,
        owner,
        label: options.parsed::<Label>("label").map_err(plain("label"))?,
        before: after(&conn.shared, &options).await?,
        limit,
    };
    let page = conn.shared.store.list(filter).await.map_err(|e| e.wire())?;
    let next = page.next.map(|row| format!("{CURSOR}{row}"));
    Ok(vec![json!(page.jobs), json!(next)])
}

/// A parse error that already names its own field is said for this one.
fn plain(field: &'static str) -> impl Fn(WireError) -> WireError {
    move |error| error.on(field)
}

/// `owner/repo`, or a repository of whatever owner.
fn repo(
    options: &Options<'_>,
) -> Result<(Option<String>, Option<Repo>), WireError> {
    let Some(text) = options.typed::<String>("repo", "a string")? else {
        return Ok((None, None));
    };
    let Some((owner, repo)) = text.split_once('/') else {
        return Ok((None, Some(text.parse()?)));
    };
    let owner: Owner = owner.parse().map_err(plain("repo"))?;
    Ok((Some(owner.to_string()), Some(repo.parse()?)))
}

/// What `next` of `list` begins with, so that it is never taken for an id.
const CURSOR: &str = "row-";

/// Where the page begins: what `next` was, or a job.
async fn after(
    shared: &Shared,
    options: &Options<'_>,
) -> Result<Option<u64>, WireError> {
    let Some(text) = options.typed::<String>("after", "a string")? else {
        return Ok(None);
    };
    if let Some(row) = text.strip_prefix(CURSOR) {
        let row = row.parse().map_err(|_| {
            WireError::invalid("after", "after must be what next was")
        });
        return row.map(Some);
    }
    let id: JobRef = text.parse().map_err(plain("after"))?;
    let id = match id {
        JobRef::Full(id) => id,
        prefix @ JobRef::Prefix(_) => {
            let found = shared.store.find(prefix).await;
            found.map_err(|e| e.wire().on("after"))?
        }
    };
    let row = shared.store.row_of(id).await.map_err(|e| e.wire())?;
    row.map(Some).ok_or_else(|| unknown(id).on("after"))
}

/// `wait`.
pub(crate) async fn wait(conn: &Connection, args: &[Value]) -> Answer {
    let options = Options::read(args, 1, "options", &["timeout"])?;
    let timeout = options.duration("timeout")?.unwrap_or(MAX_DURATION);
    let shared = &conn.shared;
    let id = find(shared, args).await?;
    let mut watcher = shared.watchers.watch(id);
    let is_final = async {
        loop {
            watcher.look();
            let job = look(shared, id).await?;
            if job.state.is_final() {
                return Ok(vec![json!(job)]);
            }
            watcher.changed().await;
        }
    };
    match tokio::time::timeout(timeout, is_final).await {
        Ok(answer) => answer,
        Err(_) => Err(WireError::new(
            Code::Etime,
            format!("the job {id} is not final yet"),
        )),
    }
}

/// `stop`.
pub(crate) async fn stop(conn: &Connection, args: &[Value]) -> Answer {
    let options = Options::read(args, 1, "options", &["grace", "evidence"])?;
    let grace = options.duration("grace")?.unwrap_or(GRACE);
    let order = StopOrder {
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        evidence: options.typed("evidence", "true or false")?.unwrap_or(false),
    };
    let shared = &conn.shared;
    let id = find(shared, args).await?;
    let asked = shared.store.ask_stop(id, order, clock::now()).await;
    let state = asked.map_err(|e| e.wire())?.ok_or_else(|| unknown(id))?;
    if state.is_live() {
        shared.engine.tell(Request::StopAsked { job: id, order }).await;
    }
    shared.watchers.changed(id);
    Ok(vec![json!(look(shared, id).await?)])
}

/// `remove`.
pub(crate) async fn remove(conn: &Connection, args: &[Value]) -> Answer {
    let id = find(&conn.shared, args).await?;
    let shared = conn.shared.clone();
    // Finished even if the asker leaves meanwhile.
    let removed = conn.shared.tasks.spawn(async move {
        let removed = shared.store.remove(id).await;
        shared.documents.forget(id);
        shared.watchers.changed(id);
        removed
    });
    match removed.await {
        Ok(removed) => removed.map(|()| Vec::new()).map_err(|e| e.wire()),
        Err(error) => Err(WireError::new(Code::Einternal, error.to_string())),
    }
}
