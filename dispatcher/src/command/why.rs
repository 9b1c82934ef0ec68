//! `why`: the chain of decisions about a job, in words.

use ntrace_protocol::compare::WhyStep;
use ntrace_protocol::job::RunView;
use ntrace_protocol::text::escape;
use ntrace_protocol::unit::format_duration;
use ntrace_protocol::{JobState, JobView, StopOrder, Timestamp};
use ntrace_store::Behind;
use serde_json::{Value, json};
use std::time::Duration;

use super::Answer;
use super::job::{find, look, unknown};
use crate::connection::Connection;
use crate::engine::{Load, Request};
use crate::refusal::Refusal as _;

/// The longest chain, in steps.
const STEPS_MAX: usize = 200;

/// `why`.
pub(crate) async fn why(conn: &Connection, args: &[Value]) -> Answer {
    let shared = &conn.shared;
    let id = find(shared, args).await?;
    let job = look(shared, id).await?;
    let behind = shared.store.behind(id).await.map_err(|e| e.wire())?;
    let behind = behind.ok_or_else(|| unknown(id))?;
    let load = shared.engine.ask(Request::Load).await?;
    Ok(vec![json!(chain(&job, &behind, load))])
}

fn step(when: Option<Timestamp>, text: impl Into<String>) -> WhyStep {
    WhyStep { when, text: text.into() }
}

/// The chain, oldest first.
fn chain(job: &JobView, behind: &Behind, load: Load) -> Vec<WhyStep> {
    let mut chain = vec![asked(job, behind)];
    let mut since = job.submitted;
    let runs = job.runs.len();
    for (at, run) in job.runs.iter().enumerate() {
        chain.extend(of_run(at + 1, run, since));
        let lost = run.times.get("lost").copied();
        since = lost.unwrap_or(since);
        let is_again = at + 1 < runs || job.state == JobState::Queued;
        if lost.is_some() && is_again {
            chain.push(step(lost, "the job was queued again"));
        }
    }
    if behind.lost_begun + behind.lost_idle > 0 {
        chain.push(step(None, losses(behind)));
    }
    if let Some(order) = behind.stop {
        chain.push(step(None, stop_asked(order)));
    }
    if job.state == JobState::Queued {
        chain.extend(waits(job, load));
    } else if job.state.is_live() {
        chain.push(step(None, format!("the job is {}", job.state)));
    } else {
        chain.push(step(job.ended, ended(job)));
    }
    shortened(chain)
}

/// The chain without its middle if it is very long, so that it fits a line.
fn shortened(mut chain: Vec<WhyStep>) -> Vec<WhyStep> {
    let Some(more) = chain.len().checked_sub(STEPS_MAX).filter(|n| *n > 0)
    else {
        return chain;
    };
    let from = STEPS_MAX / 4;
    let left_out = step(None, format!("{more} steps are left out here"));
    chain.splice(from..from + more, [left_out]);
    chain
}

fn asked(job: &JobView, behind: &Behind) -> WhyStep {
    let what = match (&job.source, &job.argv) {
        (_, Some(argv)) => {
            let words: Vec<_> = argv.iter().map(String::as_str).collect();
            let line = words.join(" ");
            let short: String = line.chars().take(100).collect();
            format!("the command {} was submitted", escape(&short))
        }
        (Some(source), None) => format!(
            "{}/{} at {} was pushed",
            source.owner, source.repo, source.commit
        ),
        (None, None) => "the job was submitted".to_owned(),
    };
    let times = match behind.spec.retries() {
        0 => "never run again if it is lost".to_owned(),
        n => format!("run again at most {n} times if it is lost"),
    };
    let text = format!("{what}, with priority {}, to be {times}", job.priority);
    step(Some(job.submitted), text)
}

/// What happened in one run, in the order of time.
fn of_run(number: usize, run: &RunView, since: Timestamp) -> Vec<WhyStep> {
    let mut steps: Vec<(Timestamp, u8, String)> = Vec::new();
    let runner = match &run.runner {
        Some(name) => format!("runner {name}"),
        None => "a runner without a name".to_owned(),
    };
    let worker = match &run.worker {
        Some(worker) => format!("worker {worker}"),
        None => "a worker".to_owned(),
    };
    for (state, at) in &run.times {
        let (order, text) = match state.as_str() {
            "leased" => {
                let waited = Duration::from_millis(at.ms_since(since));
                let waited = format_duration(waited);
                let text = format!(
                    "run {number} was leased to {runner} (lease {}) after \
                     {waited} in the queue",
                    run.lease
                );
                (0, text)
            }
            "preparing" => (1, format!("{worker} was made ready for it")),
            "running" => (2, format!("the command began in {worker}")),
            "collecting" => (3, "the command was over".to_owned()),
            over => {
                let why = because(run.reason, run.sentence.as_deref());
                (4, format!("run {number} ended as {}{why}", escape(over)))
            }
        };
        steps.push((*at, order, text));
    }
    // Clocks of two machines tell the times; the order of a life is known.
    steps.sort_by_key(|(at, order, _)| (*order, *at));
    let mut told: Vec<_> =
        steps.into_iter().map(|(at, _, text)| step(Some(at), text)).collect();
    let before_the_end = told.len().saturating_sub(usize::from(is_over(run)));
    let notes = run.notes.iter().map(|note| step(None, escape(note)));
    told.splice(before_the_end..before_the_end, notes);
    if let Some(why) = run.trace.as_ref().and_then(|t| t.why.as_deref()) {
        told.push(step(None, format!("it has no trace: {}", escape(why))));
    }
    if let Some(calls) = run.trace.as_ref().and_then(|t| t.syscalls.as_ref()) {
        told.push(step(None, calls.sentence()));
    }
    told
}

fn is_over(run: &RunView) -> bool {
    run.times.keys().any(|state| {
        matches!(state.as_str(), "done" | "failed" | "stopped" | "lost")
    })
}

fn because(
    reason: Option<ntrace_protocol::Reason>,
    sentence: Option<&str>,
) -> String {
    let reason = reason.map(|reason| format!(" ({reason})"));
    let sentence = sentence.map(|text| format!(": {}", escape(text)));
    reason.unwrap_or_default() + &sentence.unwrap_or_default()
}

fn losses(behind: &Behind) -> String {
    format!(
        "lost runs that had begun: {}, of {} that may be; that never began, which \
         costs nothing: {}",
        behind.lost_begun,
        behind.spec.retries(),
        behind.lost_idle
    )
}

fn stop_asked(order: StopOrder) -> String {
    let grace = format_duration(Duration::from_millis(order.grace_ms));
    let evidence = match order.evidence {
        true => ", with evidence of what it was doing",
        false => "",
    };
    format!(
        "its end was asked for{evidence}, and {grace} between TERM and KILL"
    )
}

/// Why a queued job is still queued.
fn waits(job: &JobView, load: Load) -> Vec<WhyStep> {
    let place = match job.position {
        Some(1) => "it is the next to be leased".to_owned(),
        Some(position) => format!(
            "jobs to be leased before it: {}; those with a higher priority, then \
             those that came earlier",
            position - 1
        ),
        None => "more jobs are before it than are counted".to_owned(),
    };
    let workers = match load {
        Load { waiters: 0, runners: 0, leases: 0 } => {
            "no runner is connected; start one".to_owned()
        }
        Load { waiters: 0, leases: 0, .. } => {
            "no runner asks for work: none of their workers is available; \
             `workers` says why"
                .to_owned()
        }
        Load { waiters: 0, leases, .. } => {
            format!("all workers are busy with {leases} runs or being reset")
        }
        Load { waiters, .. } => format!(
            "{waiters} workers ask for work; one that just failed this job is \
             passed over for a while"
        ),
    };
    vec![step(None, place), step(None, workers)]
}

fn ended(job: &JobView) -> String {
    let why = because(job.reason, job.sentence.as_deref());
    let exit = job.exit.as_ref().map(|exit| format!("; {exit}"));
    let exit = exit.map(|text| escape(&text)).unwrap_or_default();
    format!("the job is {}{why}{exit}", job.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { leases: 0, waiters: 0, runners: 0 };

    fn job(value: Value) -> JobView {
        let mut whole = json!({
            "id": "0192d3a4-5b6c-7d8e-9f00-112233445566",
            "argv": ["echo", "\u{1b}[2J"],
            "submitted": "2026-11-21T09:00:00.000Z",
        });
        let map = whole.as_object_mut().unwrap();
        map.extend(value.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn behind(lost_begun: u32) -> Behind {
        let spec = ntrace_protocol::JobSpec::default();
        Behind { spec, lost_begun, lost_idle: 0, stop: None }
    }

    fn texts(job: &JobView, behind: &Behind, load: Load) -> Vec<String> {
        chain(job, behind, load).into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn a_queued_job_says_what_it_waits_for() {
        let queued = job(json!({"state": "queued", "position": 3}));
        let said = texts(&queued, &behind(0), LOAD);
        assert_eq!(
            said,
            [
                "the command echo \\x1b[2J was submitted, with priority 0, \
                 to be run again at most 2 times if it is lost",
                "jobs to be leased before it: 2; those with a higher priority, \
                 then those that came earlier",
                "no runner is connected; start one",
            ]
        );
        let busy = Load { leases: 2, waiters: 0, runners: 1 };
        let said = texts(&queued, &behind(0), busy).join("\n");
        assert!(said.contains("busy with 2 runs"), "{said}");
    }

    #[test]
    fn a_very_long_chain_loses_its_middle_and_says_so() {
        let steps = |n: usize| (0..n).map(|n| step(None, n.to_string()));
        assert_eq!(shortened(steps(STEPS_MAX).collect()).len(), STEPS_MAX);
        let short = shortened(steps(STEPS_MAX + 30).collect());
        assert_eq!(short.len(), STEPS_MAX + 1);
        assert_eq!(short[STEPS_MAX / 4].text, "30 steps are left out here");
        assert_eq!(short.last().unwrap().text, "229");
    }

    #[test]
    fn a_lost_run_is_told_with_its_cause_and_what_came_of_it() {
        let run = |number: u32, times: Value, more: Value| {
            let mut run = json!({
                "run_id": format!("0192d3a4-5b6c-7d8e-9f00-00000000000{number}"),
                "runner": "r0", "lease": number, "times": times,
            });
            let map = run.as_object_mut().unwrap();
            map.extend(more.as_object().unwrap().clone());
            run
        };
        let lost = run(
            1,
            json!({"leased": "2026-11-21T09:00:02.000Z",
                "running": "2026-11-21T09:00:01.900Z",
                "lost": "2026-11-21T09:00:30.000Z"}),
            json!({"state": "lost", "reason": "runner_lost",
                "sentence": "no sign of life"}),
        );
        let done = run(
            2,
            json!({"leased": "2026-11-21T09:00:31.000Z",
                "done": "2026-11-21T09:01:00.000Z"}),
            json!({"state": "done", "notes": ["runs x"],
                "trace": {"state": "none", "why": "not asked for",
                    "syscalls": {"why": "no right"}}}),
        );
        let job = job(json!({"state": "done", "exit": {"code": 0},
            "ended": "2026-11-21T09:01:00.000Z", "runs": [lost, done]}));
        let said = texts(&job, &behind(1), LOAD);
        assert_eq!(
            said[1..],
            [
                "run 1 was leased to runner r0 (lease 1) after 2s in the \
                 queue",
                "the command began in a worker",
                "run 1 ended as lost (runner_lost): no sign of life",
                "the job was queued again",
                "run 2 was leased to runner r0 (lease 2) after 1s in the \
                 queue",
                "runs x",
                "run 2 ended as done",
                "it has no trace: not asked for",
                "system calls were not counted: no right",
                "lost runs that had begun: 1, of 2 that may be; that never \
                 began, which costs nothing: 0",
                "the job is done; exit status 0",
            ]
        );
    }
}
