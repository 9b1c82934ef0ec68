//! System calls by count.

use ntrace_e2e::{Setup, Stage, is_root, skip};
use ntrace_protocol::syscalls::{SyscallCounts, SyscallSummary};
use ntrace_protocol::trace::{TraceState, TraceSummary};
use ntrace_protocol::{JobId, JobState};
use serde_json::{Value, json};

use crate::traces::artefact;

/// Reads and writes a byte so many times.
fn dd(count: u32) -> String {
    format!(
        "exec /bin/dd if=/dev/zero of=/dev/null bs=1 count={count} status=none"
    )
}

async fn counted(stage: &Stage, script: &str, trace: Value) -> JobId {
    let id = stage.submit(script, json!({"trace": trace})).await;
    let job = stage.finished(id).await;
    let output = stage.output(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?} {output:?}");
    id
}

async fn trace_of(stage: &Stage, id: JobId) -> TraceSummary {
    stage.status(id).await.runs[0].trace.clone().unwrap()
}

async fn file(stage: &Stage, id: JobId, name: &str) -> SyscallCounts {
    let bytes = artefact(stage, id, name).await.expect(name);
    serde_json::from_slice(&bytes).unwrap()
}

/// What the kernel runs for a process: links to BPF's descriptors.
fn programs(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links =
        entries.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    links.filter(|to| to.to_string_lossy().contains("bpf")).count()
}

fn count_of(counts: &SyscallCounts, name: &str) -> u64 {
    let mut calls = counts.calls.iter();
    let found = calls.find(|call| call.name == name && call.abi.is_none());
    found.map_or(0, |call| call.count)
}

#[tokio::test]
async fn system_calls_are_counted_one_by_one() {
    if !is_root() {
        return skip("only root may count system calls");
    }
    let mut stage = Stage::start(Setup::workers(1)).await;
    // Without a profile, which says in words that there is none.
    let alone = json!({"profile": "none", "syscalls": true});
    let id = counted(&stage, &dd(0), alone).await;
    let trace = trace_of(&stage, id).await;
    assert_eq!(trace.state, TraceState::None);
    assert!(trace.why.unwrap().contains("asks for none"));
    let none = file(&stage, id, "trace/syscalls.json").await;
    assert_eq!(trace.syscalls, Some(SyscallSummary::of(&none)));
    // From the moment at which it is the job's user: no helper of the zone
    // is in it, and it became the shell and the program, each by one call.
    let of = |name: &str| none.calls.iter().find(|call| call.name == name);
    let execve = of("execve").unwrap();
    assert_eq!(execve.count - execve.errors, 2, "{none:?}");
    assert!(of("setns").is_none() && of("setresuid").is_none(), "{none:?}");

    // Beside a profile, each repetition by itself.
    let both = json!({"syscalls": true, "repeat": 2});
    let id = counted(&stage, &dd(3000), both).await;
    let trace = trace_of(&stage, id).await;
    assert_eq!(trace.state, TraceState::Stored, "{trace:?}");
    let names = ["trace/syscalls.json", "trace/2/syscalls.json"];
    let mut total = 0;
    for name in names {
        let some = file(&stage, id, name).await;
        for call in ["read", "write"] {
            let more = count_of(&some, call) - count_of(&none, call);
            assert_eq!(more, 3000, "{call} in {name}");
        }
        total += some.total;
    }
    let summary = trace.syscalls.unwrap();
    assert_eq!((summary.total, summary.missed), (Some(total), 0));
    let why = json!(stage.client().await.why(&id.to_string()).await.unwrap());
    assert!(why.to_string().contains(&summary.sentence()), "{why}");

    // Nothing of it is left in the runner, nor is anything counted unasked.
    let runner = stage.runner().pid();
    assert_eq!(programs(runner), 0);
    let id = counted(&stage, "true", json!({"syscalls": false})).await;
    assert_eq!(trace_of(&stage, id).await.syscalls, None);
    assert!(artefact(&stage, id, "trace/syscalls.json").await.is_none());
}

/// Who may not count is told why, and the job and its profile go on.
pub(crate) async fn who_may_not_count_is_told(stage: &Stage) {
    let id = counted(stage, "true", json!({"syscalls": true})).await;
    let trace = trace_of(stage, id).await;
    assert_eq!(trace.state, TraceState::Stored, "{trace:?}");
    let why = trace.syscalls.unwrap().why.unwrap();
    assert!(why.contains("root"), "{why}");
    let output = stage.output(id).await;
    let notes: Vec<String> =
        output.events.iter().map(|event| event["text"].to_string()).collect();
    let is_told = |note: &String| note.contains("system calls are not counted");
    assert!(notes.iter().any(is_told), "{notes:?}");
}
