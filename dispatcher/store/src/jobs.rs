//! Jobs as users ask for them: push, look, list, remove.
//!
//! Must not know runners. `seq`, the row's number, is the order of arrival;
//! the queue goes by priority, then by `seq`.

use ntrace_protocol::id::JobRef;
use ntrace_protocol::{
    JobId, JobSpec, JobState, JobView, Label, Repo, RunId, RunView, Timestamp,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::db::{Db, Fault, Tx};
use crate::row::{self, Id as _, int, uint};

/// How far a queued job's position is counted.
pub const POSITION_MAX: u64 = 10_000;

/// What the jobs of a page may have together, as they are shown, in bytes: a
/// page is no longer than a line may be.
const PAGE_BYTES: usize = 256 * 1024;

/// A job to be kept.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Whether the caller chose the id, so that it may be there already.
    pub is_own_id: bool,
    /// What was asked for.
    pub spec: JobSpec,
    /// When.
    pub submitted: Timestamp,
    /// How many jobs may be queued, this one included.
    pub max_queue: u64,
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// A new job is queued.
    New,
    /// The same job was there already.
    Known,
}

/// Why a push was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The id is another job's.
    #[error("the id {0} belongs to a job with another content")]
    Exists(JobId),
    /// A job of this id is just being removed.
    #[error("the job {0} is being removed; try again")]
    BeingRemoved(JobId),
    /// The queue is full.
    #[error("the queue is full with {0} jobs; try again later")]
    Full(u64),
    /// The database did not do it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a job was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is none.
    #[error("there is no job {0}")]
    Unknown(String),
    /// The prefix fits several.
    #[error("{0} fits more than one job; give more characters")]
    Ambiguous(String),
    /// The database did not do it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a job was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// It is not final.
    #[error("the job {id} is {state}; stop it first")]
    Busy {
        /// The job.
        id: JobId,
        /// Its state.
        state: JobState,
    },
    /// The database did not do it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<JobState>,
    /// Of this repository.
    pub repo: Option<Repo>,
    /// Of this owner.
    pub owner: Option<String>,
    /// With this label.
    pub label: Option<Label>,
    /// Older than this row.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// Newest first.
    pub jobs: Vec<JobView>,
    /// `before` of the next page, if there may be more.
    pub next: Option<u64>,
}

impl Db {
    /// Keeps a job. The same id with the same content is the same job.
    ///
    /// # Errors
    /// The id is another job's, or the queue or the disk is full.
    pub(crate) async fn push(&self, job: NewJob) -> Result<Pushed, PushError> {
        let spec = row::to_json(&job.spec);
        self.write(move |tx| push(tx, &job, &spec)).await
    }

    /// Finds a job by its id or a prefix.
    pub(crate) async fn find(&self, id: JobRef) -> Result<JobId, FindError> {
        self.read(move |sql| find(sql, &id)).await
    }

    /// A job with its runs, and its position if it is queued.
    pub(crate) async fn job(
        &self,
        id: JobId,
    ) -> Result<Option<JobView>, Fault> {
        self.read(move |sql| job(sql, id)).await
    }

    /// A page of jobs, newest first.
    pub(crate) async fn list(&self, filter: Filter) -> Result<Page, Fault> {
        self.read(move |sql| list(sql, &filter)).await
    }

    /// The row number of a job, for `before`.
    pub(crate) async fn row_of(&self, id: JobId) -> Result<Option<u64>, Fault> {
        self.read(move |sql| {
            let text = "SELECT seq FROM jobs WHERE id = ?1";
            let seq: Option<i64> = sql
                .prepare_cached(text)?
                .query_row([&id.as_bytes()[..]], |row| row.get(0))
                .optional()?;
            Ok(seq.map(uint))
        })
        .await
    }

    /// Forgets a final job. Its files are still there; see `sweep`.
    pub(crate) async fn remove(&self, id: JobId) -> Result<(), RemoveError> {
        self.write(move |tx| remove(tx, id)).await
    }

    /// Jobs whose files are still to be removed.
    pub(crate) async fn removed(&self) -> Result<Vec<JobId>, Fault> {
        self.read(|sql| {
            let mut query = sql.prepare("SELECT job FROM removed")?;
            let rows = query.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            rows.map(|blob| JobId::of(&blob?)).collect()
        })
        .await
    }

    /// The files of a removed job are gone.
    pub(crate) async fn swept(&self, id: JobId) -> Result<(), Fault> {
        self.write(move |tx| {
            let text = "DELETE FROM removed WHERE job = ?1";
            tx.sql.prepare_cached(text)?.execute([&id.as_bytes()[..]])?;
            Ok(())
        })
        .await
    }
}

fn push(
    tx: &mut Tx<'_>,
    job: &NewJob,
    spec: &str,
) -> Result<Pushed, PushError> {
    let id = &job.id.as_bytes()[..];
    if job.is_own_id
        && let Some(pushed) = known(tx, job, spec)?
    {
        return Ok(pushed);
    }
    if *tx.queued >= job.max_queue {
        return Err(PushError::Full(*tx.queued));
    }
    let source = job.spec.source.as_ref();
    let insert = "INSERT INTO jobs
        (id, state, priority, submitted, owner, repo, hash, spec)
        VALUES (?1, 'queued', ?2, ?3, ?4, ?5, ?6, ?7)";
    tx.sql
        .prepare_cached(insert)
        .map_err(Fault::from)?
        .execute(params![
            id,
            job.spec.priority,
            int(job.submitted.0),
            source.map(|s| s.owner.as_str()),
            source.map(|s| s.repo.as_str()),
            source.map(|s| s.commit.as_str()),
            spec,
        ])
        .map_err(Fault::from)?;
    let seq = tx.sql.last_insert_rowid();
    for label in &job.spec.labels {
        let insert = "INSERT OR IGNORE INTO labels VALUES (?1, ?2)";
        tx.sql
            .prepare_cached(insert)
            .and_then(|mut s| s.execute(params![label.as_str(), seq]))
            .map_err(Fault::from)?;
    }
    *tx.queued += 1;
    Ok(Pushed::New)
}

fn known(
    tx: &Tx<'_>,
    job: &NewJob,
    spec: &str,
) -> Result<Option<Pushed>, PushError> {
    let id = &job.id.as_bytes()[..];
    let look = || -> Result<(Option<String>, bool), Fault> {
        let text = "SELECT spec FROM jobs WHERE id = ?1";
        let kept = tx
            .sql
            .prepare_cached(text)?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let text = "SELECT 1 FROM removed WHERE job = ?1";
        let is_removed = tx.sql.prepare_cached(text)?.exists([id])?;
        Ok((kept, is_removed))
    };
    match look()? {
        (Some(kept), _) if kept == spec => Ok(Some(Pushed::Known)),
        (Some(_), _) => Err(PushError::Exists(job.id)),
        (None, true) => Err(PushError::BeingRemoved(job.id)),
        (None, false) => Ok(None),
    }
}

fn find(sql: &Connection, id: &JobRef) -> Result<JobId, FindError> {
    let (low, high) = match id {
        JobRef::Full(id) => (*id.as_bytes(), *id.as_bytes()),
        JobRef::Prefix(prefix) => range_of(prefix),
    };
    let blobs = || -> Result<Vec<Vec<u8>>, Fault> {
        let text = "SELECT id FROM jobs WHERE id BETWEEN ?1 AND ?2 LIMIT 2";
        let mut query = sql.prepare_cached(text)?;
        let rows = query.query_map([&low[..], &high[..]], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    match &blobs()?[..] {
        [] => Err(FindError::Unknown(id.to_string())),
        [one] => Ok(JobId::of(one)?),
        _ => Err(FindError::Ambiguous(id.to_string())),
    }
}

/// The lowest and highest id with the given first hex digits.
fn range_of(prefix: &str) -> ([u8; 16], [u8; 16]) {
    let digits = prefix.bytes().filter(u8::is_ascii_hexdigit);
    let (mut low, mut high) = ([0; 16], [0xff; 16]);
    for (at, digit) in digits.take(32).enumerate() {
        let value = char::from(digit).to_digit(16).unwrap_or(0) as u8;
        let shift = if at % 2 == 0 { 4 } else { 0 };
        let mask = 0x0f_u8 << shift;
        low[at / 2] = (low[at / 2] & !mask) | (value << shift);
        high[at / 2] = (high[at / 2] & !mask) | (value << shift);
    }
    (low, high)
}

const JOB_COLUMNS: &str = "seq, id, state, priority, submitted, spec, reason,
    sentence, exit, ended";

struct JobRow {
    seq: i64,
    id: Vec<u8>,
    state: String,
    priority: i64,
    submitted: i64,
    spec: String,
    reason: Option<String>,
    sentence: Option<String>,
    exit: Option<String>,
    ended: Option<i64>,
}

impl JobRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            id: row.get(1)?,
            state: row.get(2)?,
            priority: row.get(3)?,
            submitted: row.get(4)?,
            spec: row.get(5)?,
            reason: row.get(6)?,
            sentence: row.get(7)?,
            exit: row.get(8)?,
            ended: row.get(9)?,
        })
    }

    fn into_view(self, sql: &Connection) -> Result<JobView, Fault> {
        let spec: JobSpec = row::from_json(&self.spec, "spec")?;
        Ok(JobView {
            id: JobId::of(&self.id)?,
            state: row::state(&self.state)?,
            reason: row::reason(self.reason)?,
            sentence: self.sentence,
            source: spec.source,
            argv: spec.argv,
            labels: spec.labels,
            priority: self.priority,
            submitted: Timestamp(uint(self.submitted)),
            ended: self.ended.map(|ms| Timestamp(uint(ms))),
            position: None,
            exit: row::maybe_json(self.exit, "exit")?,
            runs: runs(sql, self.seq)?,
        })
    }
}

fn job(sql: &Connection, id: JobId) -> Result<Option<JobView>, Fault> {
    // One snapshot for the job, its runs and its position.
    let sql = &sql.unchecked_transaction()?;
    let text = format!("SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?1");
    let row = sql
        .prepare_cached(&text)?
        .query_row([&id.as_bytes()[..]], JobRow::of)
        .optional()?;
    let Some(row) = row else {
        return Ok(None);
    };
    let seq = row.seq;
    let mut view = row.into_view(sql)?;
    if view.state == JobState::Queued {
        view.position = position(sql, view.priority, seq)?;
    }
    Ok(Some(view))
}

/// Counts what is in front, up to a bound; none if there is more.
fn position(
    sql: &Connection,
    priority: i64,
    seq: i64,
) -> Result<Option<u64>, Fault> {
    let text = "SELECT
        (SELECT count(*) FROM (SELECT 1 FROM jobs
            WHERE state = 'queued' AND priority > ?1 LIMIT ?3))
      + (SELECT count(*) FROM (SELECT 1 FROM jobs
            WHERE state = 'queued' AND priority = ?1 AND seq < ?2 LIMIT ?3))";
    let ahead: i64 = sql
        .prepare_cached(text)?
        .query_row(params![priority, seq, int(POSITION_MAX)], |r| r.get(0))?;
    Ok(Some(uint(ahead) + 1).filter(|at| *at <= POSITION_MAX))
}

fn runs(sql: &Connection, job: i64) -> Result<Vec<RunView>, Fault> {
    let text = "SELECT id, runner, worker, lease, state, reason, sentence,
        times, exit, usage, notes, trace, parents FROM runs WHERE job = ?1 ORDER BY attempt";
    let mut query = sql.prepare_cached(text)?;
    let mut rows = query.query([job])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(run_of(row)?);
    }
    Ok(runs)
}

fn run_of(row: &Row<'_>) -> Result<RunView, Fault> {
    let runner: Option<String> = row.get(1)?;
    let worker: Option<Vec<u8>> = row.get(2)?;
    let corrupt = |what| move |_| Fault::Corrupt { what };
    Ok(RunView {
        run_id: RunId::of(&row.get::<_, Vec<u8>>(0)?)?,
        runner: runner
            .map(|name| name.parse())
            .transpose()
            .map_err(corrupt("runner"))?,
        worker: worker
            .map(|blob| ntrace_protocol::WorkerUuid::of(&blob))
            .transpose()?,
        lease: ntrace_protocol::Lease(uint(row.get(3)?)),
        state: row.get(4)?,
        reason: row::reason(row.get(5)?)?,
        sentence: row.get(6)?,
        times: row::from_json(&row.get::<_, String>(7)?, "times")?,
        exit: row::maybe_json(row.get(8)?, "exit")?,
        usage: row::maybe_json(row.get(9)?, "usage")?,
        notes: row::from_json(&row.get::<_, String>(10)?, "notes")?,
        trace: row::maybe_json(row.get(11)?, "trace")?,
        parents: row::maybe_json(row.get(12)?, "parents")?.unwrap_or_default(),
    })
}

fn list(sql: &Connection, filter: &Filter) -> Result<Page, Fault> {
    let sql = &sql.unchecked_transaction()?;
    let mut text = format!("SELECT {JOB_COLUMNS} FROM jobs WHERE true");
    let mut values: Vec<Box<dyn rusqlite::ToSql>> = Vec::new();
    let mut also = |clause: &str, value: Box<dyn rusqlite::ToSql>| {
        text.push_str(clause);
        text.push_str(" ?");
        values.push(value);
    };
    if let Some(state) = filter.state {
        also(" AND state =", Box::new(state.as_str()));
    }
    if let Some(repo) = &filter.repo {
        also(" AND repo =", Box::new(repo.to_string()));
    }
    if let Some(owner) = &filter.owner {
        also(" AND owner =", Box::new(owner.clone()));
    }
    if let Some(before) = filter.before {
        also(" AND seq <", Box::new(int(before)));
    }
    if let Some(label) = &filter.label {
        also(
            " AND seq IN (SELECT seq FROM labels WHERE label =",
            Box::new(label.to_string()),
        );
        text.push(')');
    }
    text.push_str(" ORDER BY seq DESC LIMIT ?");
    values.push(Box::new(i64::from(filter.limit)));
    let mut query = sql.prepare_cached(&text)?;
    let values = rusqlite::params_from_iter(values);
    let mut rows = query.query(values)?;
    let (mut jobs, mut next, mut bytes) = (Vec::new(), None, 0);
    while let Some(row) = rows.next()? {
        let row = JobRow::of(row)?;
        let seq = uint(row.seq);
        let view = row.into_view(sql)?;
        bytes += row::to_json(&view).len();
        jobs.push(view);
        if jobs.len() >= filter.limit as usize || bytes >= PAGE_BYTES {
            next = Some(seq);
            break;
        }
    }
    Ok(Page { jobs, next })
}

fn remove(tx: &mut Tx<'_>, id: JobId) -> Result<(), RemoveError> {
    let blob = &id.as_bytes()[..];
    let text = "SELECT seq, state FROM jobs WHERE id = ?1";
    let found: Option<(i64, String)> = tx
        .sql
        .prepare_cached(text)
        .and_then(|mut query| {
            query
                .query_row([blob], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .map_err(Fault::from)?;
    let (seq, state) = found.ok_or(RemoveError::Unknown(id))?;
    let state = row::state(&state)?;
    if !state.is_final() {
        return Err(RemoveError::Busy { id, state });
    }
    let delete = || -> Result<(), Fault> {
        for text in [
            "DELETE FROM labels WHERE seq = ?1",
            "DELETE FROM artefacts WHERE job = ?1",
            "DELETE FROM runs WHERE job = ?1",
            "DELETE FROM jobs WHERE seq = ?1",
        ] {
            tx.sql.prepare_cached(text)?.execute([seq])?;
        }
        let text = "INSERT OR IGNORE INTO removed VALUES (?1)";
        tx.sql.prepare_cached(text)?.execute([blob])?;
        Ok(())
    };
    Ok(delete()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_of_ids() {
        let (low, high) = range_of("0192d3a4-5");
        assert_eq!(low[..5], [0x01, 0x92, 0xd3, 0xa4, 0x50]);
        assert_eq!(high[..5], [0x01, 0x92, 0xd3, 0xa4, 0x5f]);
        assert_eq!((low[5], high[15]), (0, 0xff));
    }
}
