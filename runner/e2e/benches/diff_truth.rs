//! Whether `diff` tells the truth: profiles of the real sampler, through the
//! real dispatcher, on this machine as it is.
//!
//! ```text
//! scripts/bench/diff-truth [ROUNDS] [node|c] [keep=DIR]
//! ```
//!
//! Each round pushes a commit and then the next one, in which one function
//! has more to do, so that the whole takes about 16 % more. Each push is run
//! eight times. The commit against itself, a round before, is not to be
//! called different; the next commit is to be called, by that function's
//! name first. Then each push is compared with each other one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ntrace_client::Dispatcher;
use ntrace_e2e::{Repo, Setup, Stage};
use ntrace_protocol::compare::{DiffView, Level};
use ntrace_protocol::{JobId, JobState};
use serde_json::json;

/// Rounds unless told otherwise.
const ROUNDS: usize = 11;
/// How often each push runs the command.
const REPEAT: u32 = 8;
/// Samples a second: the runs are short, and noise is that of counting.
const HZ: u32 = 2999;

/// A job, and what is planted in it.
struct Job {
    name: &'static str,
    file: &'static str,
    text: &'static str,
    setup: &'static str,
    run: &'static str,
    /// What is replaced in the next commit, and by what.
    planted: (&'static str, &'static str),
    /// The function with more to do.
    function: &'static str,
}

const JOBS: [Job; 2] = [
    Job {
        name: "node",
        file: "job.js",
        text: include_str!("diff_truth/job.js"),
        setup: "true",
        run: "node job.js",
        planted: ("ROUNDS = 12", "ROUNDS = 15"),
        function: "parseRecord",
    },
    Job {
        name: "c",
        file: "job.c",
        text: include_str!("diff_truth/job.c"),
        setup: "cc -O2 -g job.c -o job",
        run: "./job",
        planted: ("ROUNDS 11", "ROUNDS 13"),
        function: "parse_record",
    },
];

/// Pushes of one commit, in order.
type Pushes = Vec<JobId>;

/// What was said of some pairs.
#[derive(Default)]
struct Tally {
    pairs: usize,
    called: usize,
    named_first: usize,
    /// What was called, and how often.
    what: BTreeMap<String, usize>,
    /// The changes of all CPU.
    totals: Vec<f64>,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rounds = args.iter().find_map(|arg| arg.parse().ok());
    let keep = args.iter().find_map(|arg| arg.strip_prefix("keep="));
    let keep = keep.map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing special");
    for job in &JOBS {
        let is_one_named =
            JOBS.iter().any(|job| args.iter().any(|arg| arg == job.name));
        if !is_one_named || args.iter().any(|arg| arg == job.name) {
            let keep = keep.as_deref().map(|dir| dir.join(job.name));
            let work = measure(job, rounds.unwrap_or(ROUNDS), keep.as_deref());
            runtime.block_on(work);
        }
    }
}

async fn measure(job: &Job, rounds: usize, keep: Option<&Path>) {
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("o", job.name);
    let recipe = format!(
        "[job]\nsetup = \"{}\"\nrun = \"{}\"\n[trace]\nrepeat = {REPEAT}\n\
         hz = {HZ}\n",
        job.setup, job.run
    );
    repo.write(".ntrace.toml", recipe).write(job.file, job.text);
    let base = repo.commit();
    let (from, to) = job.planted;
    repo.write(job.file, job.text.replace(from, to));
    let new = repo.commit();
    let client = stage.client().await;
    let (mut bases, mut news) = (Pushes::new(), Pushes::new());
    let (mut same, mut planted) = (Tally::default(), Tally::default());
    for _ in 0..rounds {
        let id = push(&stage, &repo, &base, keep, "base").await;
        if let Some(last) = bases.last() {
            same.take(job, &compare(&client, id, Some(*last)).await);
        }
        bases.push(id);
        let id = push(&stage, &repo, &new, keep, "new").await;
        let view = compare(&client, id, None).await;
        assert_eq!(
            view.base.side.runs.first().map(|r| r.job),
            bases.last().copied()
        );
        planted.take(job, &view);
        if let Some(last) = news.last() {
            same.take(job, &compare(&client, id, Some(*last)).await);
        }
        news.push(id);
    }
    println!(
        "| {} | pairs | called | named first | change of all CPU |",
        job.name
    );
    println!("|---|---|---|---|---|");
    same.tell("the same commit, one after the other");
    planted.tell("a planted change, one after the other");
    let (mut same, mut planted) = (Tally::default(), Tally::default());
    for side in [&bases, &news] {
        for (at, one) in side.iter().enumerate() {
            for other in side.iter().skip(at + 1) {
                same.take(job, &compare(&client, *other, Some(*one)).await);
            }
        }
    }
    for base in &bases {
        for new in &news {
            planted.take(job, &compare(&client, *new, Some(*base)).await);
        }
    }
    same.tell("the same commit, each with each");
    planted.tell("a planted change, each with each");
}

/// Pushes a commit and waits; its profiles are kept if somebody wants them.
async fn push(
    stage: &Stage,
    repo: &Repo,
    commit: &str,
    keep: Option<&Path>,
    side: &str,
) -> JobId {
    let id = stage.push(repo, commit, json!({})).await;
    let view = stage.finished(id).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    let Some(dir) = keep else { return id };
    let dir = dir.join(side).join(id.to_string());
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let client = stage.client().await;
    let found = client.artefacts(&id.to_string()).await;
    for artefact in found.expect("the dispatcher answers") {
        if artefact.name.ends_with("cpu.pb.gz") {
            let id = artefact.id.to_string();
            let bytes = fetch(&client, &id).await;
            let file = dir.join(artefact.name.replace('/', "-"));
            std::fs::write(file, bytes).expect("the file can be written");
        }
    }
    id
}

async fn fetch(client: &Dispatcher, artefact: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len() as u64;
        let piece = client.blob_get(artefact, at, 500_000).await;
        let (piece, is_last) = piece.expect("the dispatcher answers");
        bytes.extend(piece);
        if is_last {
            return bytes;
        }
    }
}

async fn compare(
    client: &Dispatcher,
    new: JobId,
    base: Option<JobId>,
) -> DiffView {
    let base = base.map(|base| base.to_string());
    let view = client.diff(&new.to_string(), base.as_deref(), Some(50)).await;
    view.expect("both have profiles")
}

impl Tally {
    fn take(&mut self, job: &Job, view: &DiffView) {
        self.pairs += 1;
        let total = &view.total;
        self.totals.push(total.new / total.base - 1.0);
        let mut called = Vec::new();
        if total.level > Level::None {
            called.push("all CPU".to_owned());
        }
        for row in &view.rows {
            if row.own.level > Level::None {
                called.push(row.name.clone());
            } else if row.inclusive.level > Level::None {
                called.push(format!("{} with callees", row.name));
            }
        }
        self.called += usize::from(!called.is_empty());
        for name in called {
            *self.what.entry(name).or_default() += 1;
        }
        let first = view.rows.first();
        let is_named = first.is_some_and(|row| {
            row.name.starts_with(job.function) && row.own.level > Level::None
        });
        self.named_first += usize::from(is_named);
    }

    fn tell(mut self, what: &str) {
        self.totals.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = self.totals.len().saturating_sub(1) as f64;
            let value = self.totals.get((last * part).round() as usize);
            value.copied().unwrap_or(f64::NAN) * 100.0
        };
        println!(
            "| {what} | {} | {} | {} | {:+.1} % ({:+.1} to {:+.1}) |",
            self.pairs,
            self.called,
            self.named_first,
            at(0.5),
            at(0.0),
            at(1.0)
        );
        for (name, times) in &self.what {
            eprintln!("    {times} times {name:?}");
        }
    }
}
