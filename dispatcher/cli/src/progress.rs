//! How a job gets on, in one line that is rewritten; and the pulse that asks
//! for it.
//!
//! The pulse is also the sign of life of a connection on which nothing else
//! comes: a dispatcher that does not answer it is taken for lost.

use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ntrace_client::{CallError, Dispatcher};
use ntrace_protocol::job::JobView;
use ntrace_protocol::{JobId, JobState, Timestamp};
use tokio::time::sleep;

use crate::screen::Screen;
use crate::table::{short, took};

/// How often the shown line is brought up to date.
const SHOWN: Duration = Duration::from_secs(1);
/// How often a silent connection is asked whether it lives.
const SILENT: Duration = Duration::from_secs(30);
/// How long it has to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// What a pulse brings: the job, if it was asked for.
pub(crate) type Beat = Result<Option<JobView>, CallError>;

/// The next beat: soon, with the job, if a line is shown; else later.
pub(crate) fn pulse(
    dispatcher: &Dispatcher,
    job: JobId,
    is_shown: bool,
    is_first: bool,
) -> BoxFuture<'static, Beat> {
    let dispatcher = dispatcher.clone();
    async move {
        if !is_shown {
            sleep(SILENT).await;
            return dispatcher.ping(ANSWER).await.map(|()| None);
        }
        if !is_first {
            sleep(SHOWN).await;
        }
        dispatcher.status(&job.to_string()).await.map(Some)
    }
    .boxed()
}

/// Shows how the job gets on.
pub(crate) fn show(screen: &Screen, job: &JobView) {
    let now = Timestamp::from_system(SystemTime::now());
    screen.rewrite(&line(job, now));
}

/// The line.
fn line(job: &JobView, now: Timestamp) -> String {
    let run = job.runs.last();
    let since = match job.state {
        JobState::Queued => None,
        state => run.and_then(|run| run.times.get(state.as_str())),
    };
    let elapsed = took(now.ms_since(*since.unwrap_or(&job.submitted)));
    let mut line = format!("{} {}", short(&job.id), job.state);
    if let (JobState::Queued, Some(position)) = (job.state, job.position) {
        line.push_str(&format!(", position {position}"));
    }
    if let Some(worker) = run.and_then(|run| run.worker)
        && job.state.is_live()
    {
        line.push_str(&format!(" on worker {}", short(&worker)));
    }
    if job.runs.len() > 1 {
        line.push_str(&format!(", run {}", job.runs.len()));
    }
    format!("{line}, {elapsed}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_state_place_and_time() {
        let mut job: JobView = serde_json::from_value(json!({
            "id": "0192d3a4-5b6c-7d8e-9f00-112233445566",
            "state": "queued", "position": 3,
            "submitted": "2026-11-21T09:00:00.000Z",
        }))
        .unwrap();
        let now = "2026-11-21T09:00:05.500Z".parse().unwrap();
        assert_eq!(line(&job, now), "0192d3a4-5b6c queued, position 3, 5.50s");
        job.state = JobState::Running;
        job.runs = serde_json::from_value(json!([{
            "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
            "worker": "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f",
            "lease": 1, "state": "running",
            "times": {"running": "2026-11-21T09:00:05.000Z"},
        }]))
        .unwrap();
        assert_eq!(
            line(&job, now),
            "0192d3a4-5b6c running on worker 8e16d8d2-4d7a, 500ms"
        );
    }
}
