//! `status`, `list`, `stop`, `remove`.

use std::time::SystemTime;

use ntrace_client::{ListFilter, StopOptions};
use ntrace_protocol::id::JobRef;
use ntrace_protocol::{JobId, Timestamp};
use serde_json::json;

use crate::args::ListArgs;
use crate::failure::{Failure, Status};
use crate::link::Link;
use crate::screen::Screen;
use crate::show;

/// How many jobs are asked for at once.
const PAGE: u64 = 100;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

pub(crate) async fn status(
    id: &JobRef,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = id.to_string();
    let job = link.ask(screen, async |d| d.status(&id).await).await?;
    if screen.json {
        screen.json(&job)?;
    } else {
        let lines = show::job(&job, now(), screen.out_colours());
        screen.line(&lines.join("\n"))?;
    }
    Ok(Status::Ok)
}

pub(crate) async fn why(
    id: &JobRef,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = id.to_string();
    let chain = link.ask(screen, async |d| d.why(&id).await).await?;
    if screen.json {
        screen.json(&chain)?;
    } else {
        screen.line(&show::why(&chain).join("\n"))?;
    }
    Ok(Status::Ok)
}

pub(crate) async fn list(
    args: ListArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let mut left = if args.all { u64::MAX } else { args.limit };
    let mut filter = ListFilter {
        state: args.state.map(|state| state.to_string()),
        repo: args.repo,
        label: args.label,
        after: args.after,
        limit: None,
    };
    let mut is_first = true;
    while left > 0 {
        filter.limit = Some(left.min(PAGE));
        let page = link.ask(screen, async |d| d.list(&filter).await).await?;
        // A dispatcher that gives more than was asked for is not believed.
        let take = usize::try_from(left).unwrap_or(usize::MAX);
        let jobs = &page.jobs[..page.jobs.len().min(take)];
        left -= jobs.len() as u64;
        if screen.json {
            jobs.iter().try_for_each(|job| screen.json(job))?;
        } else if is_first || !jobs.is_empty() {
            let table = show::jobs(jobs, now());
            screen.table(&table, is_first, 1, show::job_style)?;
        }
        is_first = false;
        match page.next {
            Some(next) if !jobs.is_empty() => filter.after = Some(next),
            _ => return Ok(Status::Ok),
        }
    }
    if let Some(next) = &filter.after {
        screen.say(&there_are_more(next));
    }
    Ok(Status::Ok)
}

/// A hint that may be pasted into a shell, so it quotes only what is plain.
fn there_are_more(next: &str) -> String {
    let is_plain = !next.starts_with('-')
        && next.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match is_plain {
        true => format!("there are more: `ntrace list --after {next}`"),
        false => "there are more: give a higher --limit".to_owned(),
    }
}

pub(crate) async fn stop(
    id: &JobRef,
    options: StopOptions,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = id.to_string();
    let job = link.ask(screen, async |d| d.stop(&id, options).await).await?;
    if screen.json {
        screen.json(&job)?;
    } else if job.state.is_final() {
        screen.line(&show::verdict(&job, screen.out_colours()))?;
    } else {
        screen.line(&format!(
            "{} is {}, and is being stopped",
            job.id, job.state
        ))?;
        if options.evidence {
            screen.say(&evidence_will_be(job.id));
        }
    }
    Ok(Status::Ok)
}

fn evidence_will_be(job: JobId) -> String {
    format!(
        "what it was doing: `ntrace wait {job}`, then `ntrace why {job}` has \
         the sentence and `ntrace artefacts list {job}` the files evidence/…"
    )
}

pub(crate) async fn remove(
    id: &JobRef,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    // Asked once: a second answer would be that there is no such job.
    let id = id.to_string();
    link.dispatcher().await?.remove(&id).await?;
    if screen.json {
        screen.json(&json!({"removed": id}))?;
    } else {
        screen.line(&format!("{id} is removed"))?;
    }
    Ok(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_holds_nothing_that_a_shell_would_run() {
        assert!(there_are_more("0192d3a4-5b6c").contains("0192d3a4-5b6c`"));
        for bad in ["$(id)", "a b", "x;y", "--all", "\u{1b}[2J"] {
            assert!(!there_are_more(bad).contains(bad), "{bad}");
        }
    }
}
