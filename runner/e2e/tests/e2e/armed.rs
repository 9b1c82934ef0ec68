//! What becomes of a tracer that is ready while its command is not.

use std::path::Path;

use ntrace_e2e::{DEADLINE, Setup, Stage, until};
use ntrace_protocol::trace::TraceState;
use ntrace_protocol::{JobState, WorkerState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::traces::samplers;

/// A stage whose worker is clean, and takes so many seconds to let the next
/// tree in.
async fn slow_to_fill(seconds: u64) -> Stage {
    let stage = Stage::start(Setup::workers(1)).await;
    let worker = stage.workers.first().unwrap();
    stage.worker_reaches(worker, WorkerState::Available).await;
    stage.zones.faults(worker, &format!("probe=hang:{seconds}*1"));
    stage
}

/// The sampler, once there is one.
async fn sampler(stage: &mut Stage) -> Pid {
    let look = async || samplers(stage).first().copied();
    let pid = until("a sampler runs", look).await;
    Pid::from_raw(pid as i32).unwrap()
}

fn gone(pid: Pid) -> Option<()> {
    let path = format!("/proc/{}", pid.as_raw_nonzero());
    (!Path::new(&path).exists()).then_some(())
}

#[tokio::test]
async fn a_job_that_is_stopped_takes_its_armed_tracer_along() {
    let mut stage = slow_to_fill(60).await;
    let id = stage.submit("echo never", Value::Null).await;
    let pid = sampler(&mut stage).await;
    let client = stage.client().await;
    let (args, patience) = ([json!(id.to_string())], DEADLINE);
    client.peer().call("stop", &args, patience).await.unwrap();
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Stopped, "{job:?}");
    until("the sampler is gone", async || gone(pid)).await;
    let (job, output) = stage.run("echo next", Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(output.text(), "next\n");
}

#[tokio::test]
async fn an_armed_tracer_that_dies_does_not_fail_the_job() {
    let mut stage = slow_to_fill(2).await;
    // Whenever it dies, that is before the end of the command.
    let script = "n=0; while [ ! -e /tmp/go ] && [ $n -lt 600 ]; do \
                  sleep 0.1; n=$((n + 1)); done; echo gone";
    let id = stage.submit(script, Value::Null).await;
    let pid = sampler(&mut stage).await;
    kill_process(pid, Signal::KILL).unwrap();
    stage.reaches(id, JobState::Running).await;
    let worker = stage.workers.first().unwrap().clone();
    until("the command may end", async || {
        let touched = stage.zones.zlogin(&worker, &["touch", "/tmp/go"]);
        touched.status.success().then_some(())
    })
    .await;
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let trace = job.runs[0].trace.clone().unwrap();
    assert_eq!(trace.state, TraceState::Failed, "{trace:?}");
    assert!(trace.why.unwrap().contains("died"));
    let output = stage.output(id).await;
    assert_eq!(output.text(), "gone\n");
    let failed = json!("trace_failed");
    assert!(output.events.iter().any(|e| e["event"] == failed));
}
