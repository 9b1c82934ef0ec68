//! From the acknowledgement of a push to the first instruction of the job's
//! command, in a clean worker with the source cached.
//!
//! ```text
//! scripts/bench/push-latency.sh [PUSHES] [ordinary]
//! ```
//!
//! The command is `exec date +%s%N` on the same clock, so what is printed
//! includes the start of a shell and of `date`: the truth is a little better.
//! Each push is made traced, as by default, and untraced, in turn: what else
//! the machine does hits both alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ntrace_client::Dispatcher;
use ntrace_e2e::{Setup, Stage, Who};
use ntrace_protocol::{JobState, WorkerState};
use serde_json::{Value, json};

/// Pushes that are measured unless told otherwise.
const PUSHES: usize = 50;

/// Pushes before that, which fill caches.
const WARM: usize = 5;

/// The ways to push, and what each asks for.
const WAYS: [(&str, &str); 2] = [("traced", "cpu"), ("untraced", "none")];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let pushes = args.iter().find_map(|arg| arg.parse().ok());
    let who = match args.iter().any(|arg| arg == "ordinary") {
        true => Who::NOBODY_ELSE,
        false => Who::Us,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing special");
    runtime.block_on(measure(pushes.unwrap_or(PUSHES), who));
}

/// Figures by name, in milliseconds.
#[derive(Default)]
struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    fn add(&mut self, name: impl Into<String>, ms: f64) {
        self.0.entry(name.into()).or_default().push(ms);
    }

    fn print(&mut self) {
        println!("{:<34} {:>9} {:>9} {:>9}", "ms", "median", "p95", "worst");
        for (name, all) in &mut self.0 {
            all.sort_by(f64::total_cmp);
            let at = |share: f64| {
                let last = all.len().saturating_sub(1);
                // Fits: a share of a count of pushes.
                let at = (share * last as f64).round() as usize;
                all.get(at).copied().unwrap_or(f64::NAN)
            };
            let (median, p95, worst) = (at(0.5), at(0.95), at(1.0));
            println!("{name:<34} {median:>9.2} {p95:>9.2} {worst:>9.2}");
        }
    }
}

fn now_ns() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_nanos()
}

async fn measure(pushes: usize, who: Who) {
    let stage = Stage::start(Setup::workers(1).who(who)).await;
    let repo = stage.repos.make("bench", "latency");
    repo.write("README", "a small tree\n");
    let commit = repo.commit();
    let client = stage.client().await;
    let mut figures = WAYS.map(|_| Figures::default());
    for n in 0..WARM + pushes {
        for ((_, profile), figures) in WAYS.iter().zip(&mut figures) {
            let options = json!({
                "run": "exec date +%s%N",
                "trace": {"profile": profile},
            });
            let worker = stage.workers.first().expect("there is one").clone();
            stage.worker_reaches(&worker, WorkerState::Available).await;
            let push =
                [json!(repo.owner), json!(repo.name), json!(commit), options];
            let mut unused = Figures::default();
            let figures = if n < WARM { &mut unused } else { figures };
            one(&stage, &client, &push, figures).await;
        }
    }
    println!("{pushes} pushes each way, one worker, clean and waiting");
    for ((name, _), figures) in WAYS.iter().zip(&mut figures) {
        println!();
        println!("{name}; load {}", load());
        figures.print();
    }
}

/// Makes a push and waits for its end.
async fn one(
    stage: &Stage,
    client: &Dispatcher,
    push: &[Value],
    figures: &mut Figures,
) {
    let asked = Instant::now();
    let answer = client
        .peer()
        .call("push", push, Duration::from_secs(60))
        .await
        .expect("the dispatcher takes a push");
    let acked = now_ns();
    let took = asked.elapsed();
    let id = answer.first().and_then(|id| id.as_str());
    let id = id.and_then(|id| id.parse().ok()).expect("a job id");
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let began: u128 = stage
        .output(id)
        .await
        .text()
        .trim()
        .parse()
        .expect("date prints a number");
    figures.add("1 push, asked to acknowledged", ms(took.as_nanos()));
    let waited = began.saturating_sub(acked);
    figures.add("2 acknowledged to first instruction", ms(waited));
    phases(&job, acked, figures);
}

/// How busy the machine was in the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn ms(ns: u128) -> f64 {
    ns as f64 / 1e6
}

/// Where the time went, as the record tells (in whole milliseconds).
fn phases(job: &ntrace_protocol::JobView, acked: u128, figures: &mut Figures) {
    let Some(run) = job.runs.last() else { return };
    let acked = ms(acked);
    for (n, name) in ["leased", "preparing", "running"].iter().enumerate() {
        if let Some(time) = run.times.get(*name) {
            let after = time.0 as f64 - acked;
            figures.add(format!("{} acknowledged to {name}", n + 3), after);
        }
    }
    let usage = run.usage.iter().flat_map(|usage| &usage.phases_ms);
    for (name, took) in usage {
        figures.add(format!("7 phase {name}"), *took as f64);
    }
}
