//! The way to the zones over a real sshd and the gate: what the link may do,
//! and what others may do to the VMs, without a job being lost or run in a
//! dirty zone. `NTRACE_E2E_SSH=1` runs all other modules this way as well;
//! `scripts/check.sh` does so for the full counts.

use std::time::Instant;

use ntrace_e2e::zones::Zones;
use ntrace_e2e::{Setup, Stage, until};
use ntrace_protocol::{JobId, JobState, WorkerState};
use serde_json::Value;

/// Runs until somebody makes the file in the zone.
const WAITING: &str =
    "echo up; until [ -e /tmp/go ]; do sleep 0.1; done; echo end";

/// A stage behind a real sshd; none where there is none.
async fn stage(workers: usize) -> Option<Stage> {
    let stage = Stage::start(Setup::workers(workers).over_ssh()).await;
    stage.is_over_ssh().then_some(stage)
}

fn go(stage: &Stage) {
    for uuid in &stage.workers {
        // One that is just down cannot be told.
        let _ = stage.zones.zlogin(uuid, &["/usr/bin/touch", "/tmp/go"]);
    }
}

/// Waits for the second run of a job, and says how long that took.
async fn runs_again(stage: &Stage, job: JobId, after: &str) {
    let began = Instant::now();
    until("it runs again", async || {
        let view = stage.status(job).await;
        let is_again = view.runs.len() == 2 && view.state == JobState::Running;
        is_again.then_some(())
    })
    .await;
    eprintln!("back after {after}: {:.1?}", began.elapsed());
}

#[tokio::test]
async fn a_restart_of_sshd_disturbs_no_job() {
    let Some(mut stage) = stage(1).await else { return };
    let job = stage.submit(WAITING, Value::Null).await;
    stage.says(job, "up").await;
    stage.gate().sshd.restart();
    go(&stage);
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(view.runs.len(), 1, "{view:?}");
    assert_eq!(stage.output(job).await.text(), "up\nend\n");
}

#[tokio::test]
async fn a_job_whose_link_is_lost_is_run_again() {
    let Some(mut stage) = stage(1).await else { return };
    let job = stage.submit(WAITING, Value::Null).await;
    stage.says(job, "up").await;
    stage.gate().sshd.cut();
    runs_again(&stage, job, "a lost link").await;
    go(&stage);
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(view.runs.len(), 2, "{view:?}");
}

#[tokio::test]
async fn a_rebooted_global_zone_costs_one_more_run() {
    let Some(mut stage) = stage(1).await else { return };
    let job = stage.submit(WAITING, Value::Null).await;
    stage.says(job, "up").await;
    let uuid = stage.workers[0].clone();
    stage.gate().sshd.stop_all();
    stage.zones.must(&["stop", &uuid, "-F"], "");
    stage.gate().sshd.restart();
    runs_again(&stage, job, "a reboot").await;
    go(&stage);
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
}

#[tokio::test]
async fn a_link_lost_in_mid_rollback_costs_one_more_reset() {
    let Some(mut stage) = stage(0).await else { return };
    let uuid = stage.zones.create(&Zones::manifest());
    stage.workers.push(uuid.clone());
    stage.list(&uuid);
    stage.zones.faults(&uuid, "rollback=hang:3*1\n");
    stage.control().await.enroll(&uuid, Value::Null).await.unwrap();
    let rolls_back = format!("rollback-snapshot {uuid}");
    until("it rolls back", async || {
        stage.gate().log().contains(&rolls_back).then_some(())
    })
    .await;
    stage.gate().sshd.cut();
    let began = Instant::now();
    let view = stage.worker_reaches(&uuid, WorkerState::Available).await;
    eprintln!("clean after a link lost: {:.1?}", began.elapsed());
    assert!(view.resets.failed >= 1, "{view:?}");
    let (job, _) = stage.run("echo fine", Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
}

#[tokio::test]
async fn a_rollback_by_somebody_else_under_a_job_is_noticed() {
    let Some(stage) = stage(1).await else { return };
    let job = stage.submit(WAITING, Value::Null).await;
    stage.says(job, "up").await;
    let uuid = &stage.workers[0];
    stage.zones.must(&["rollback-snapshot", uuid, "clean"], "");
    until("it runs again", async || {
        let view = stage.status(job).await;
        let is_again = view.runs.len() == 2 && view.state == JobState::Running;
        is_again.then_some(())
    })
    .await;
    go(&stage);
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(view.runs[0].state, "lost", "{view:?}");
}
