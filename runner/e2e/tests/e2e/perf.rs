//! The tracer perf: a second opinion, which must be near the first.

use std::collections::BTreeMap;

use ntrace_e2e::{
    DEADLINE, Setup, Stage, eventually, is_root, leftovers, skip,
};
use ntrace_profile::{FrameKind, Profile, pprof};
use ntrace_protocol::trace::{TraceState, TraceSummary, Tracer};
use ntrace_protocol::{JobId, JobState};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::traces::{artefact, has};

/// Points by which a share may be off, on a machine that is busy.
const POINTS: f64 = 3.0;

const SPLIT: &str =
    include_str!("../../../tracers/sampler/tests/sampling/programs/split.c");

const NAMES: [&str; 3] = ["seventy", "twenty", "ten"];

/// perf, and the right to use it.
fn has_perf() -> bool {
    if !is_root() {
        skip("only root may trace by perf");
        return false;
    }
    has("perf")
}

fn by(tracer: &str) -> Value {
    json!({"trace": {"tracer": tracer, "hz": 997}})
}

/// A job that is done, with its trace.
async fn traced(stage: &Stage, id: JobId) -> (TraceSummary, Profile) {
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let trace = job.runs[0].trace.clone().expect("a run says what was traced");
    assert_eq!(trace.state, TraceState::Stored, "{trace:?}");
    let bytes = artefact(stage, id, "trace/cpu.pb.gz").await.unwrap();
    (trace, pprof::read(&bytes).unwrap())
}

/// The per cent of samples with a stack as wanted.
fn percent(
    profile: &Profile,
    wanted: impl Fn(&[(&str, FrameKind)]) -> bool,
) -> f64 {
    let (mut all, mut found) = (0, 0);
    for sample in profile.samples() {
        let stack = profile.stack(sample.stack);
        let views = stack.into_iter().map(|id| profile.view(id));
        let frames: Vec<_> = views.map(|v| (v.name, v.kind)).collect();
        all += sample.value.samples;
        found += u64::from(wanted(&frames)) * sample.value.samples;
    }
    found as f64 * 100.0 / all as f64
}

fn shares(profile: &Profile) -> BTreeMap<&'static str, f64> {
    let of = |name: &str| {
        percent(profile, |frames| frames.iter().any(|(n, _)| *n == name))
    };
    let names = NAMES.into_iter().chain(["main"]);
    names.map(|name| (name, of(name))).collect()
}

#[tokio::test]
async fn perf_and_the_sampler_agree_on_a_program_that_is_known() {
    if !has_perf() || !has("cc") {
        return;
    }
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("dscape", "split");
    repo.write("split.c", SPLIT).write(
        ".ntrace.toml",
        "[job]\nsetup = \"cc -O2 -fomit-frame-pointer -w split.c -o split\"\n\
         run = \"./split 70\"\n",
    );
    let commit = repo.commit();
    let mut found = Vec::new();
    for (word, tracer) in [("perf", Tracer::Perf), ("sample", Tracer::Sample)] {
        let mut left = 3;
        let (id, trace, profile) = loop {
            let id = stage.push(&repo, &commit, by(word)).await;
            let (trace, profile) = traced(&stage, id).await;
            eprintln!("{word}: {trace:?}");
            left -= 1;
            // Now and then perf 6.1 gives up on a recording of its own.
            let is_cut = |text: &String| text.contains("perf script ended");
            if left == 0 || !trace.warnings.iter().any(is_cut) {
                break (id, trace, profile);
            }
        };
        assert_eq!(trace.tracer, Some(tracer));
        assert!(trace.kernel);
        // As many samples as there was processor time.
        let health = trace.samples_over_cpu.unwrap();
        let lost = trace.lost as f64 / trace.samples.unwrap() as f64;
        assert!((health - 1.0).abs() <= 0.1 + lost, "{trace:?}");
        let shares = shares(&profile);
        eprintln!("{word}: {shares:?}");
        for (name, truth) in NAMES.into_iter().zip([70.0, 20.0, 10.0]) {
            let share = shares[name];
            assert!((share - truth).abs() <= POINTS, "{word}: {shares:?}");
        }
        assert!(shares["main"] >= 95.0, "{word}: {shares:?}");
        let svg = artefact(&stage, id, "trace/flamegraph.svg").await.unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("seventy") && svg.contains("dscape/split"));
        assert_eq!(svg.contains("perf"), word == "perf", "{}", &svg[..2000]);
        found.push(shares);
    }
    for name in NAMES {
        let apart = (found[0][name] - found[1][name]).abs();
        assert!(apart <= 1.5 * POINTS, "{name}: {found:?}");
    }
}

#[tokio::test]
async fn perf_names_javascript_of_processes_that_are_gone() {
    if !has_perf() || !has("node") {
        return;
    }
    let setup = Setup::workers(1).runner_args(&["--tracer", "perf"]);
    let stage = Stage::start(setup).await;
    let repo = stage.repos.make("dscape", "nodejob");
    repo.write(
        "job.js",
        "function countPrimes(n) { let c = 0;\n\
         for (let i = 2; i < n; i++) { let p = true;\n\
         for (let j = 2; j * j <= i; j++) if (i % j === 0) { p = false; \
         break; }\n if (p) c++; } return c; }\n\
         for (let i = 0; i < 100; i++) countPrimes(60000);\n",
    );
    let commit = repo.commit();
    let options = json!({"run": "node job.js; ls -A"});
    let id = stage.push(&repo, &commit, options).await;
    let (trace, profile) = traced(&stage, id).await;
    eprintln!("{trace:?}");
    assert_eq!(trace.tracer, Some(Tracer::Perf));
    assert_eq!(stage.output(id).await.text(), "job.js\n");
    let in_primes = percent(&profile, |frames| {
        frames.iter().any(|(name, kind)| {
            *name == "countPrimes job.js" && *kind == FrameKind::Jit
        })
    });
    eprintln!("countPrimes in {in_primes:.1} %");
    assert!(in_primes > 50.0, "{in_primes}");
    let whose = |frames: &[(&str, FrameKind)]| {
        !["node", "sh", "ls"].contains(&frames[0].0)
    };
    assert_eq!(percent(&profile, whose), 0.0, "others than the job's");
}

/// The runner's children whose command line has these words.
fn children(stage: &mut Stage, words: &str) -> Vec<u32> {
    let parent = format!("PPid:\t{}\n", stage.runner().pid());
    leftovers::with_word(words)
        .into_iter()
        .map(|found| found.pid)
        .filter(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.is_ok_and(|status| status.contains(&parent))
        })
        .collect()
}

/// A job of two seconds.
const SHORT: &str = "echo begun; while :; do sleep 0.1; n=$((n + 1)); \
                     [ \"$n\" -lt 20 ] || exit 0; done";

#[tokio::test]
async fn neither_perf_nor_its_runner_can_die_and_do_harm() {
    if !has_perf() {
        return;
    }
    let mut stage = Stage::start(Setup::workers(1)).await;
    a_killed_perf_does_not_fail_the_job(&mut stage).await;
    a_killed_runner_takes_its_perf_with_it(&mut stage).await;
}

async fn a_killed_runner_takes_its_perf_with_it(stage: &mut Stage) {
    let id = stage.submit(SHORT, by("perf")).await;
    stage.says(id, "begun").await;
    let rooms = stage.path().join("r/data/tracers/perf");
    let name = rooms.to_str().unwrap().to_owned();
    assert_eq!(leftovers::with_word(&name).len(), 1);
    assert_eq!(std::fs::read_dir(&rooms).unwrap().count(), 1);
    stage.kill_runner();
    eventually("perf is gone", DEADLINE, || {
        leftovers::with_word(&name).is_empty().then_some(())
    });
    stage.start_runner();
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(job.runs.len(), 2, "{job:?}");
    let trace = job.runs[1].trace.clone().unwrap();
    assert_eq!(trace.state, TraceState::Stored, "{trace:?}");
    // What the dead one recorded was swept away, too.
    assert_eq!(std::fs::read_dir(&rooms).unwrap().count(), 0);
}

async fn a_killed_perf_does_not_fail_the_job(stage: &mut Stage) {
    let id = stage.submit(SHORT, by("perf")).await;
    stage.says(id, "begun").await;
    let found = children(stage, "record -F");
    assert_eq!(found.len(), 1, "{found:?}");
    for pid in found {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let trace = job.runs[0].trace.clone().unwrap();
    assert_eq!(trace.state, TraceState::Failed, "{trace:?}");
    assert_eq!(trace.tracer, Some(Tracer::Perf));
    let why = trace.why.unwrap();
    assert!(why.contains("perf ended with signal 9"), "{why}");
    // Neither a recording nor its directory is left.
    let rooms = stage.path().join("r/data/tracers/perf");
    assert_eq!(std::fs::read_dir(rooms).unwrap().count(), 0);
}

#[tokio::test]
async fn where_perf_is_not_it_is_refused_in_words() {
    let nowhere = tempfile::tempdir().unwrap();
    let setup = Setup::workers(1).runner_path(nowhere.path());
    let stage = Stage::start(setup).await;
    let (job, _) = stage.run("true", by("perf")).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let trace = job.runs[0].trace.clone().unwrap();
    assert_eq!(trace.state, TraceState::Failed, "{trace:?}");
    let why = trace.why.unwrap();
    for word in ["perf is not installed", "linux-perf", "ask for sample"] {
        assert!(why.contains(word), "{why}");
    }
}
