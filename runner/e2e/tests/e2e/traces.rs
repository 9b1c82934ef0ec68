//! Traces, and evidence of what was ended.

use std::process::Stdio;

use ntrace_e2e::{Output, Repo, Setup, Stage, leftovers, skip};
use ntrace_protocol::trace::{TraceState, TraceSummary, Tracer};
use ntrace_protocol::{JobId, JobState, JobView, Reason};
use rustix::process::Signal;
use serde_json::{Value, json};

/// An artefact's bytes.
pub(crate) async fn artefact(
    stage: &Stage,
    id: JobId,
    name: &str,
) -> Option<Vec<u8>> {
    let client = stage.client().await;
    let found = client.artefacts(&id.to_string()).await.unwrap();
    let found = found.into_iter().find(|found| found.name == name)?;
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len() as u64;
        let piece = client.blob_get(&found.id.to_string(), at, 500_000).await;
        let (piece, is_last) = piece.unwrap();
        bytes.extend(piece);
        if is_last {
            return Some(bytes);
        }
    }
}

/// The sentence of the evidence, and that its files are there.
pub(crate) async fn evidence(
    stage: &Stage,
    id: JobId,
    output: &Output,
) -> String {
    let mut events = output.events.iter();
    let summary = events
        .find(|event| event["event"] == "evidence_summary")
        .unwrap_or_else(|| panic!("no evidence: {:?}", output.events));
    for name in ["evidence/processes.txt", "evidence/stacks.txt"] {
        let named = summary["artefacts"].as_array().unwrap();
        assert!(named.contains(&json!(name)), "{summary}");
        let bytes = artefact(stage, id, name).await;
        let text = String::from_utf8(bytes.expect("it is kept")).unwrap();
        eprintln!("--- {name}\n{text}");
    }
    summary["sentence"].as_str().unwrap().to_owned()
}

async fn ended_by_a_clock(
    stage: &Stage,
    script: &str,
    limits: Value,
    reason: Reason,
) -> (JobView, String) {
    let id = stage.submit(script, json!({"limits": limits})).await;
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert_eq!(job.reason, Some(reason), "{job:?}");
    let output = stage.output(id).await;
    (job, evidence(stage, id, &output).await)
}

/// A C program in the tree, and the command that builds it.
fn c_repo(stage: &Stage, name: &str, source: &str) -> (Repo, String) {
    let repo = stage.repos.make("dscape", name);
    repo.write("a.c", source).write(
        ".ntrace.toml",
        "[job]\nsetup = \"cc -O2 -g -fomit-frame-pointer -pthread a.c -o \
         prog\"\nrun = \"./prog\"\n",
    );
    let commit = repo.commit();
    (repo, commit)
}

pub(crate) fn has(program: &str) -> bool {
    let found = std::process::Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = found.is_ok_and(|status| status.success());
    if !is_there {
        skip(&format!("{program} is not installed"));
    }
    is_there
}

const BURN: &str = r#"
#include <stdio.h>
static volatile unsigned long sink;
__attribute__((noinline)) void burn_most(unsigned long n) {
    for (unsigned long i = 0; i < n; i++) sink += i * 7;
}
__attribute__((noinline)) void burn_some(unsigned long n) {
    for (unsigned long i = 0; i < n; i++) sink += i * 7;
}
int main(void) {
    for (int i = 0; i < 200; i++) {
        burn_most(3000000);
        burn_some(1000000);
    }
    puts("burnt");
    return 0;
}
"#;

/// The run's trace was begun and is stored.
async fn stored(stage: &Stage, id: JobId, names: &[&str]) -> TraceSummary {
    let trace = stored_by(stage, id, names).await;
    let output = stage.output(id).await;
    assert!(output.events.iter().any(|e| e["event"] == "trace_started"));
    trace
}

/// The run's trace is stored, with these names in its picture.
async fn stored_by(stage: &Stage, id: JobId, names: &[&str]) -> TraceSummary {
    let job = stage.finished(id).await;
    let output = stage.output(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?} {output:?}");
    let trace = job.runs[0].trace.clone().expect("a run says what was traced");
    assert_eq!(trace.state, TraceState::Stored, "{trace:?}");
    eprintln!("{trace:?}");
    let profile = artefact(stage, id, "trace/cpu.pb.gz").await;
    assert!(profile.expect("it is kept").starts_with(&[0x1f, 0x8b]));
    let svg = artefact(stage, id, "trace/flamegraph.svg").await;
    let svg = String::from_utf8(svg.expect("it is kept")).unwrap();
    for name in names {
        assert!(svg.contains(name), "{name} is not in the picture");
    }
    trace
}

/// A job in C without frame pointers is traced with its names.
pub(crate) async fn a_c_job_is_traced(stage: &Stage) {
    if !has("cc") {
        return;
    }
    let (repo, commit) = c_repo(stage, "burn", BURN);
    let id = stage.push(&repo, &commit, Value::Null).await;
    let names = ["burn_most", "burn_some", "main", "dscape/burn"];
    let trace = stored(stage, id, &names).await;
    assert_eq!(trace.tracer, Some(Tracer::Sample));
    assert!(trace.samples.unwrap() > 20, "{trace:?}");
    // Its set-up, which compiled it, is not in it.
    let svg = artefact(stage, id, "trace/flamegraph.svg").await.unwrap();
    assert!(!String::from_utf8(svg).unwrap().contains("cc1"));
    assert_eq!(stage.output(id).await.text(), "burnt\n");
}

/// A job in node is traced with the names of its functions, and nothing is
/// left in its directory.
pub(crate) async fn a_node_job_is_traced(stage: &Stage) {
    if !has("node") {
        return;
    }
    let repo = stage.repos.make("dscape", "nodejob");
    repo.write(
        "job.js",
        "function countPrimes(n) { let c = 0;\n\
         for (let i = 2; i < n; i++) { let p = true;\n\
         for (let j = 2; j * j <= i; j++) if (i % j === 0) { p = false; \
         break; }\n if (p) c++; } return c; }\n\
         for (let i = 0; i < 60; i++) countPrimes(60000);\n\
         console.log(require('fs').readdirSync('.').join(' '));\n",
    );
    let commit = repo.commit();
    let options = json!({"run": "node job.js; ls -A | tr '\\n' ' '"});
    let id = stage.push(&repo, &commit, options).await;
    stored(stage, id, &["countPrimes", "node"]).await;
    assert_eq!(stage.output(id).await.text(), "job.js\njob.js ");
}

#[tokio::test]
async fn jobs_in_c_and_node_are_traced_with_names() {
    let stage = Stage::start(Setup::workers(1)).await;
    a_c_job_is_traced(&stage).await;
    a_node_job_is_traced(&stage).await;
}

#[tokio::test]
async fn repetitions_are_stored_one_by_one_and_the_first_failure_ends_them() {
    let stage = Stage::start(Setup::workers(1)).await;
    let twice = json!({"trace": {"repeat": 2}});
    let (job, output) = stage.run("echo once", twice).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(output.text(), "once\nonce\n");
    let trace = job.runs[0].trace.clone().unwrap();
    assert_eq!(trace.profiles, 2, "{trace:?}");
    for name in ["trace/cpu.pb.gz", "trace/2/cpu.pb.gz"] {
        assert!(artefact(&stage, job.id, name).await.is_some(), "{name}");
    }
    let script = "echo run; [ -e ../once ] && exit 3; touch ../once";
    let (job, output) =
        stage.run(script, json!({"trace": {"repeat": 5}})).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert_eq!(output.text(), "run\nrun\n");
    let sentence = job.sentence.unwrap();
    assert!(sentence.contains("repetition 2 of 5"), "{sentence}");
    // Limits are of the run, not of each repetition.
    let options = json!({
        "trace": {"repeat": 50}, "limits": {"output": 100},
    });
    let (job, output) = stage.run("echo 0123456789", options).await;
    assert_eq!(job.reason, Some(Reason::OutputLimit), "{job:?}");
    assert_eq!(output.stdout.len(), 100);
}

#[tokio::test]
async fn what_is_not_traced_says_why() {
    let setup = Setup::workers(1).runner_args(&["--tracer", "sample"]);
    let stage = Stage::start(setup).await;
    for (options, state, words) in [
        (json!({"trace": "none"}), TraceState::None, "asks for none"),
        (
            json!({"trace": {"tracer": "dtrace"}}),
            TraceState::Failed,
            "--tracer",
        ),
    ] {
        let (job, _) = stage.run("true", options).await;
        assert_eq!(job.state, JobState::Done, "{job:?}");
        let trace = job.runs[0].trace.clone().unwrap();
        assert_eq!(trace.state, state, "{trace:?}");
        assert!(trace.why.unwrap().contains(words));
    }
}

#[tokio::test]
async fn where_no_tracer_works_node_tells_of_itself() {
    if !has("node") {
        return;
    }
    // There is no dtrace here.
    let setup = Setup::workers(1).runner_args(&["--tracer", "dtrace"]);
    let stage = Stage::start(setup).await;
    let script = "echo 'function burnInNode() { let c = 0; \
                  for (let i = 0; i < 4e8; i++) c += i % 7; return c; } \
                  burnInNode()' >a.js; node a.js; rm a.js; ls -A";
    let id = stage.submit(script, Value::Null).await;
    let trace = stored_by(&stage, id, &["burnInNode"]).await;
    assert_eq!(trace.tracer, Some(Tracer::Preload), "{trace:?}");
    let said = trace.warnings.join(" ");
    assert!(said.contains("cannot start dtrace"), "{said}");
    let output = stage.output(id).await;
    assert_eq!(output.text(), "", "nothing is left in the job's directory");
    assert!(output.events.iter().any(|e| e["event"] == "trace_failed"));
}

/// The processes of the runner's samplers.
pub(crate) fn samplers(stage: &mut Stage) -> Vec<u32> {
    let parent = format!("PPid:\t{}\n", stage.runner().pid());
    let is_child = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| status.contains(&parent))
    };
    leftovers::processes()
        .into_iter()
        .filter(|found| found.line.starts_with("ntrace-sampler"))
        .map(|found| found.pid)
        .filter(|pid| is_child(*pid))
        .collect()
}

#[tokio::test]
async fn a_tracer_that_is_killed_does_not_fail_the_job() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let script = "echo begun; while [ ! -e ../go ]; do sleep 0.1; \
                  n=$((n + 1)); [ \"$n\" -lt 600 ] || exit 9; \
                  [ \"$n\" -lt 20 ] || exit 0; done";
    let id = stage.submit(script, Value::Null).await;
    stage.says(id, "begun").await;
    let found = samplers(&mut stage);
    assert!(!found.is_empty(), "no sampler runs");
    for pid in found {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let trace = job.runs[0].trace.clone().unwrap();
    assert_eq!(trace.state, TraceState::Failed, "{trace:?}");
    assert!(trace.why.unwrap().contains("died"));
    let output = stage.output(id).await;
    assert!(output.events.iter().any(|e| e["event"] == "trace_failed"));
}

#[tokio::test]
async fn a_job_that_sleeps_for_ever_is_named_with_where_it_waits() {
    let stage = Stage::start(Setup::workers(1)).await;
    let (_, sentence) = ended_by_a_clock(
        &stage,
        "cd /; sh -c 'sleep 81.5; true'; true",
        json!({"silence": "1s"}),
        Reason::Silence,
    )
    .await;
    assert!(sentence.contains("(sleep) waits"), "{sentence}");
}

const DEADLOCK: &str = r#"
#include <pthread.h>
#include <stdio.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
__attribute__((noinline)) static void *take_it_again(void *arg) {
    pthread_mutex_lock(&lock);
    puts("never");
    return arg;
}
int main(void) {
    pthread_t thread;
    pthread_mutex_lock(&lock);
    pthread_create(&thread, 0, take_it_again, 0);
    pthread_join(thread, 0);
    return 0;
}
"#;

const LOOP: &str = r#"
static volatile unsigned long sink;
__attribute__((noinline)) static void spin_for_ever(void) {
    for (;;) sink++;
}
int main(void) { spin_for_ever(); return 0; }
"#;

/// A deadlock and an endless loop are named by their functions.
pub(crate) async fn hangs_are_named(stage: &Stage) {
    if !has("cc") {
        return;
    }
    for (name, source, words) in [
        ("deadlock", DEADLOCK, ["take_it_again", "waits"]),
        ("loop", LOOP, ["spin_for_ever", "runs"]),
    ] {
        let (repo, commit) = c_repo(stage, name, source);
        let options = json!({"limits": {"time": "2s"}});
        let id = stage.push(&repo, &commit, options).await;
        let job = stage.finished(id).await;
        assert_eq!(job.reason, Some(Reason::Timeout), "{job:?}");
        let output = stage.output(id).await;
        let sentence = evidence(stage, id, &output).await;
        eprintln!("{name}: {sentence}");
        for word in words {
            assert!(sentence.contains(word), "{name}: {sentence}");
        }
    }
}

#[tokio::test]
async fn a_deadlock_and_an_endless_loop_are_named() {
    let stage = Stage::start(Setup::workers(1)).await;
    hangs_are_named(&stage).await;
}
