//! What tracing costs a job: processor time of traced runs over that of
//! untraced ones, paired and interleaved, with an A/A row as the noise.
//!
//! ```text
//! scripts/bench/trace-overhead [ROUNDS] [ordinary] [JOB...]
//! ```
//!
//! It goes through the whole of ntrace, so it is what a user's job pays:
//! the sampling and what is set in its environment. What the tracer itself
//! uses is not the job's, and is shown as the time it takes to start and end.

use std::time::Duration;

use ntrace_e2e::{Setup, Stage, Who};
use ntrace_protocol::trace::{TraceState, Tracer};
use ntrace_protocol::{JobState, JobView, WorkerState};
use serde_json::{Value, json};

/// Rounds unless told otherwise.
const ROUNDS: usize = 11;

/// What is run: a name, and a shell command of about a second.
const JOBS: [(&str, &str); 3] = [
    ("CPU-bound", "awk 'BEGIN { for (i = 0; i < 30000000; i++) s += i * 7 }'"),
    (
        "fork-heavy",
        "i=0; while [ $i -lt 1200 ]; do /bin/true; i=$((i + 1)); done",
    ),
    (
        "I/O-heavy",
        "for i in 1 2 3; do tar cf - /usr/include /usr/share/doc 2>&- | cat \
         >/dev/null; done",
    ),
];

/// Ways to run it, beside plainly; those from the fourth on are for root,
/// the last one only where it is installed.
const WAYS: [(&str, &str); 5] = [
    ("A/A", "none"),
    ("sample", "sample"),
    ("sample 997 Hz", "fast"),
    ("syscalls", "syscalls"),
    ("perf", "perf"),
];

/// The ways that can be had by this user here.
fn ways(is_ordinary: bool) -> &'static [(&'static str, &'static str)] {
    if is_ordinary || !ntrace_e2e::is_root() {
        ntrace_e2e::skip("syscalls and perf: the user is not root");
        return &WAYS[..3];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join("perf").is_file()) {
        return &WAYS;
    }
    ntrace_e2e::skip("perf: it is not installed");
    &WAYS[..4]
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rounds = args.iter().find_map(|arg| arg.parse().ok());
    let is_ordinary = args.iter().any(|arg| arg == "ordinary");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing special");
    let is_named = |name: &str| args.iter().any(|arg| arg == name);
    let mut jobs = JOBS.to_vec();
    if jobs.iter().any(|(name, _)| is_named(name)) {
        jobs.retain(|(name, _)| is_named(name));
    }
    let rounds = rounds.unwrap_or(ROUNDS);
    runtime.block_on(measure(&jobs, rounds, is_ordinary));
}

async fn measure(jobs: &[(&str, &str)], rounds: usize, is_ordinary: bool) {
    let who = match is_ordinary {
        true => Who::NOBODY_ELSE,
        false => Who::Us,
    };
    let stage = Stage::start(Setup::workers(1).who(who)).await;
    println!("{rounds} rounds; ratio of the job's processor time to that");
    println!("of an untraced run: median (95 % confidence)");
    println!("| job | CPU of it | way | ratio | tracer's start and end |");
    println!("|---|---|---|---|---|");
    let ways = ways(is_ordinary);
    for (name, script) in jobs {
        let mut plain = Vec::new();
        let mut ratios = vec![Vec::new(); ways.len()];
        let mut ends = vec![Vec::new(); ways.len()];
        for round in 0..rounds {
            // Which one comes first changes, so that a drift is nobody's.
            let order = ways.len() + 1;
            let mut found = vec![(0.0, 0.0); order];
            for step in 0..order {
                let which = (round + step) % order;
                let way = match which.checked_sub(1) {
                    None => "none",
                    Some(way) => ways[way].1,
                };
                found[which] = run(&stage, script, way).await;
            }
            plain.push(found[0].0);
            for (way, (cpu, took)) in found[1..].iter().enumerate() {
                ratios[way].push(cpu / found[0].0);
                ends[way].push(*took);
            }
        }
        for (way, (label, _)) in ways.iter().enumerate() {
            let ratio = &mut ratios[way];
            let (median, low, high) = spread(ratio);
            println!(
                "| {name} | {:.2} s | {label} | {median:.3} \
                 ({low:.3}-{high:.3}) | {:.0} ms |",
                spread(&mut plain).0 / 1e3,
                spread(&mut ends[way]).0,
            );
        }
    }
}

/// Runs a job; its processor time, and what the tracer took, in ms.
async fn run(stage: &Stage, script: &str, way: &str) -> (f64, f64) {
    let worker = stage.workers.first().expect("there is one");
    stage.worker_reaches(worker, WorkerState::Available).await;
    let trace = match way {
        "fast" => json!({"profile": "cpu", "hz": 997, "tracer": "sample"}),
        "none" => json!("none"),
        "syscalls" => json!({"profile": "none", "syscalls": true}),
        tracer => json!({"profile": "cpu", "tracer": tracer}),
    };
    let options: Value = json!({"trace": trace});
    let id = stage.submit(script, options).await;
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    check(&job, way);
    let usage = job.runs.last().and_then(|run| run.usage.clone());
    let usage = usage.expect("a run says what it used");
    let cpu = usage.cpu_ms.expect("the place counts processor time");
    let took = usage.phases_ms.get("trace").copied().unwrap_or(0);
    // Small numbers of milliseconds.
    (Duration::from_millis(cpu).as_secs_f64() * 1e3, took as f64)
}

/// A trace that was not made would cost nothing.
fn check(job: &JobView, way: &str) {
    let trace = job.runs.last().and_then(|run| run.trace.clone());
    let trace = trace.expect("a run says what was traced");
    if way == "syscalls" {
        let calls = trace.syscalls.as_ref();
        assert!(calls.is_some_and(|c| c.total.is_some()), "{trace:?}");
    } else if way != "none" {
        assert_eq!(trace.state, TraceState::Stored, "{trace:?}");
        let tracer = match way {
            "perf" => Tracer::Perf,
            _ => Tracer::Sample,
        };
        assert_eq!(trace.tracer, Some(tracer), "{trace:?}");
    }
}

/// The median, and the ranks that hold it 95 times of 100.
fn spread(all: &mut [f64]) -> (f64, f64, f64) {
    all.sort_by(f64::total_cmp);
    let count = all.len() as f64;
    let half = 0.98 * count.sqrt();
    let at = |rank: f64| {
        let rank = rank.clamp(0.0, count - 1.0).round() as usize;
        all.get(rank).copied().unwrap_or(f64::NAN)
    };
    let middle = (count - 1.0) / 2.0;
    (at(middle), at(middle - half), at(middle + half))
}
