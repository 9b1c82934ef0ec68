//! `wait`: until a job is final.

use std::time::Duration;

use ntrace_client::CallError;
use ntrace_protocol::id::JobRef;
use ntrace_protocol::job::JobView;
use ntrace_protocol::unit::format_duration;
use ntrace_protocol::{Code, JobId};
use tokio::time::{Instant, timeout};

use crate::failure::{Failure, Status};
use crate::link::Link;
use crate::logs::verdict_status;
use crate::progress;
use crate::screen::Screen;
use crate::show;

/// How long one question may wait; then it is asked again, so that a
/// dispatcher that went silent is noticed.
const CHUNK: Duration = Duration::from_secs(60);

/// How much longer than the user's time-out the dispatcher's answer to it
/// may take.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) async fn wait(
    id: &JobRef,
    limit: Option<Duration>,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    // The whole id is needed for what is said, and to ask for progress.
    let id = id.to_string();
    let job = link.ask(screen, async |d| d.status(&id).await).await?;
    let job = match job.state.is_final() {
        true => job,
        false => until_final(job.id, limit, link, screen).await?,
    };
    if screen.json {
        screen.json(&job)?;
    } else {
        screen.line(&show::verdict(&job, screen.out_colours()))?;
    }
    Ok(verdict_status(job.state))
}

/// Waits, over as many connections as it takes.
pub(crate) async fn until_final(
    job: JobId,
    limit: Option<Duration>,
    link: &mut Link,
    screen: &Screen,
) -> Result<JobView, Failure> {
    let _interrupt = screen.leave_running_on_interrupt(job);
    let Some(limit) = limit else {
        return ask(job, None, link, screen).await;
    };
    let end = Instant::now() + limit;
    let late = || {
        Failure::TimedOut(format!(
            "job {job} has not ended within {}; it goes on",
            format_duration(limit)
        ))
    };
    let asked = timeout(limit + GRACE, ask(job, Some(end), link, screen)).await;
    screen.clear();
    match asked.unwrap_or_else(|_| Err(late())) {
        Err(Failure::Refused(error)) if error.code == Code::Etime => {
            Err(late())
        }
        other => other,
    }
}

async fn ask(
    job: JobId,
    end: Option<Instant>,
    link: &mut Link,
    screen: &Screen,
) -> Result<JobView, Failure> {
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let chunk = left.map_or(CHUNK, |left| left.min(CHUNK));
        let outcome = one_chunk(job, chunk, link, screen).await?;
        screen.clear();
        match outcome {
            Ok(job) if job.state.is_final() => return Ok(job),
            Ok(_) => link.works(),
            Err(CallError::Refused(error))
                if error.code == Code::Etime && left != Some(chunk) =>
            {
                link.works();
            }
            Err(CallError::Closed { .. }) => link.again(screen).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

type Outcome = Result<JobView, CallError>;

async fn one_chunk(
    job: JobId,
    chunk: Duration,
    link: &mut Link,
    screen: &Screen,
) -> Result<Outcome, Failure> {
    let dispatcher = link.dispatcher().await?;
    let id = job.to_string();
    // The wire has milliseconds.
    let chunk = Duration::from_millis(
        u64::try_from(chunk.as_millis()).unwrap_or(u64::MAX),
    );
    let waiting = dispatcher.wait(&id, Some(chunk));
    tokio::pin!(waiting);
    let is_shown = screen.can_rewrite();
    let mut pulse = progress::pulse(&dispatcher, job, is_shown, true);
    loop {
        tokio::select! {
            biased;
            outcome = &mut waiting => return Ok(outcome),
            beat = &mut pulse => {
                match beat {
                    Ok(Some(job)) => progress::show(screen, &job),
                    Ok(None) | Err(CallError::Refused(_)) => {}
                    Err(CallError::Late { name, .. }
                        | CallError::Closed { name }) =>
                    {
                        return Ok(Err(CallError::Closed { name }));
                    }
                }
                pulse = progress::pulse(&dispatcher, job, is_shown, false);
            }
        }
    }
}
