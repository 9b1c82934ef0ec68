//! Workers: enrolled, expelled, drained, broken on purpose and mended.

use std::time::Duration;

use ntrace_e2e::zones::Zones;
use ntrace_e2e::{DEADLINE, Setup, Stage, leftovers, until};
use ntrace_protocol::{JobState, WorkerState};
use serde_json::{Value, json};

async fn enroll_with(stage: &mut Stage, switches: &str) -> String {
    let uuid = stage.zones.create(&Zones::manifest());
    stage.list(&uuid);
    // A zone that is up, so that there is something to halt.
    stage.zones.must(&["start", &uuid], "");
    stage.zones.faults(&uuid, switches);
    stage.workers.push(uuid.clone());
    stage.control().await.enroll(&uuid, Value::Null).await.unwrap();
    uuid
}

async fn is_gone(stage: &Stage, uuid: &str) {
    until(&format!("worker {uuid} is gone"), async || {
        stage.worker(uuid).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_worker_is_defunct_with_its_reason_and_others_go_on() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let mut broken = Vec::new();
    for (switch, stages) in [
        ("halt=fail\n", &["halting"][..]),
        ("rollback=fail\n", &["rolling_back"]),
        ("boot=fail\n", &["booting", "rolling_back"]),
    ] {
        broken.push((enroll_with(&mut stage, switch).await, switch, stages));
    }
    // The worker that is well serves all the while.
    for _ in 0..3 {
        let (job, _) = stage.run("echo fine", Value::Null).await;
        assert_eq!(job.state, JobState::Done, "{job:?}");
        assert_eq!(job.runs[0].worker.unwrap().to_string(), stage.workers[0]);
    }
    for (uuid, switch, stages) in &broken {
        let worker = stage.worker_reaches(uuid, WorkerState::Defunct).await;
        let reason = worker.reason.clone().unwrap_or_default();
        assert!(
            stages.iter().any(|stage| reason.starts_with(stage)),
            "{switch}: {reason}"
        );
        assert!(reason.contains("vmadm"), "the command: {reason}");
        assert!(worker.resets.failed >= 1, "{worker:?}");
    }
    // Mended, it is taken in again when it is asked for.
    let control = stage.control().await;
    for (uuid, ..) in &broken {
        stage.zones.faults(uuid, "");
        control.clean(uuid).await.unwrap();
        let worker = stage.worker_reaches(uuid, WorkerState::Available).await;
        assert_eq!(worker.reason, None, "{worker:?}");
    }
}

#[tokio::test]
async fn a_worker_recovers_by_itself_from_what_passes() {
    let mut stage = Stage::start(Setup::workers(0)).await;
    for switches in [
        "boot=fail*1\n",
        "halt=fail*1\n",
        "event=timeout*1\n",
        "kill=between*1\n",
        "boot=slow:1*1\n",
        "halt=hang:1*1\n",
    ] {
        enroll_with(&mut stage, switches).await;
    }
    let control = stage.control().await;
    until("all workers are clean", async || {
        let workers = control.workers().await.unwrap();
        for worker in &workers {
            // What passes by itself is tried again, not given up.
            let state = worker.state;
            assert_ne!(state, WorkerState::Defunct, "{worker:?}");
        }
        let available = |state| state == WorkerState::Available;
        workers.iter().all(|w| available(w.state)).then_some(())
    })
    .await;
    let (job, _) = stage.run("echo fine", Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
}

#[tokio::test]
async fn a_worker_can_be_expelled_in_each_state() {
    let mut stage = Stage::start(Setup::workers(2)).await;
    let control = stage.control().await;
    let [first, second] = [0, 1].map(|i| stage.workers[i].clone());
    stage.all_available().await;

    // Available: it goes at once, and a second time there is none such.
    control.expel(&first).await.unwrap();
    is_gone(&stage, &first).await;
    let again = control.expel(&first).await.unwrap_err();
    assert_eq!(again.wire().unwrap().code, ntrace_protocol::Code::Enoent);

    // Running: its job may finish, then it is gone.
    let job = stage
        .submit(
            "echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo end",
            Value::Null,
        )
        .await;
    stage.says(job, "up").await;
    let view = control.expel(&second).await.unwrap();
    assert!(view.leaving, "{view:?}");
    stage.zones.zlogin(&second, &["/usr/bin/touch", "/tmp/go"]);
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    is_gone(&stage, &second).await;

    // Defunct, and in the middle of a reset.
    let defunct = enroll_with(&mut stage, "boot=fail\n").await;
    stage.worker_reaches(&defunct, WorkerState::Defunct).await;
    control.expel(&defunct).await.unwrap();
    is_gone(&stage, &defunct).await;
    let resetting = enroll_with(&mut stage, "halt=hang:2*1\n").await;
    control.expel(&resetting).await.unwrap();
    until("it is gone, and is leaving all the while", async || {
        let worker = stage.worker(&resetting).await;
        let is_staying = worker.as_ref().is_some_and(|it| !it.leaving);
        assert!(!is_staying, "{worker:?}");
        worker.is_none().then_some(())
    })
    .await;

    // Gone means gone: after a restart as well. The VMs are not touched.
    stage.kill_runner();
    stage.start_runner();
    let left = stage.control().await.workers().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(stage.zones.all().len(), 4);
}

#[tokio::test]
async fn a_worker_that_many_enroll_at_once_is_one() {
    let mut stage = Stage::start(Setup::workers(0)).await;
    let uuid = stage.zones.create(&Zones::manifest());
    stage.list(&uuid);
    stage.workers.push(uuid.clone());
    let mut controls = Vec::new();
    for _ in 0..8 {
        controls.push(stage.control().await);
    }
    let all = controls.iter().map(|it| it.enroll(&uuid, Value::Null));
    for enrolled in futures::future::join_all(all).await {
        enrolled.unwrap();
    }
    let worker = stage.worker_reaches(&uuid, WorkerState::Available).await;
    assert_eq!(worker.resets.done, 1, "{worker:?}");
    stage.control().await.expel(&uuid).await.unwrap();
    is_gone(&stage, &uuid).await;
    // Nobody is left who would take a job.
    let job = stage.submit("echo who", Value::Null).await.to_string();
    let client = stage.client().await;
    let waited = client.wait(&job, Some(Duration::from_secs(1))).await;
    assert!(waited.is_err(), "somebody took the job: {waited:?}");
    client.stop(&job, <_>::default()).await.unwrap();
}

#[tokio::test]
async fn enrolled_workers_are_there_again_after_a_restart() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let uuid = stage.workers[0].clone();
    let labels = json!({"labels": ["fast"]});
    stage.control().await.enroll(&uuid, labels).await.unwrap();
    stage.kill_runner();
    stage.start_runner();
    let worker = stage.worker_reaches(&uuid, WorkerState::Available).await;
    assert_eq!(worker.labels, ["fast".parse().unwrap()]);
    assert_eq!(worker.resets.done, 1, "it was made clean again: {worker:?}");
}

#[tokio::test]
async fn the_dispatcher_shows_the_workers_of_its_runners() {
    let mut stage = Stage::start(Setup::workers(2)).await;
    let client = stage.client().await;
    until("both workers show as available", async || {
        let workers = client.workers().await.unwrap();
        let states = workers.iter().map(|worker| worker.state);
        let available = states.filter(|s| *s == WorkerState::Available);
        (available.count() == 2).then_some(())
    })
    .await;
    let runners = client.runners().await.unwrap();
    assert!(runners[0].connected && runners[0].workers == 2, "{runners:?}");
    stage.kill_runner();
    until("the runner shows as gone", async || {
        let runners = client.runners().await.unwrap();
        runners.iter().all(|runner| !runner.connected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drained_runner_finishes_what_it_has_and_takes_no_more() {
    let stage = Stage::start(Setup::workers(1)).await;
    let script = "echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done";
    let running = stage.submit(script, Value::Null).await;
    stage.says(running, "up").await;
    let control = stage.control().await;
    let draining = tokio::spawn(async move { control.drain().await });
    let waiting = stage.submit("true", Value::Null).await;
    assert!(!draining.is_finished(), "a job is in it");
    stage.zones.zlogin(&stage.workers[0], &["/usr/bin/touch", "/tmp/go"]);
    draining.await.unwrap().unwrap();
    assert_eq!(stage.finished(running).await.state, JobState::Done);
    let view = stage.status(waiting).await;
    assert_eq!(view.state, JobState::Queued, "{view:?}");
    assert!(view.runs.is_empty(), "{view:?}");
}

#[tokio::test]
async fn a_runner_that_is_asked_to_end_lets_its_job_finish() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let script = "echo up; sleep 1; echo end";
    let job = stage.submit(script, Value::Null).await;
    stage.says(job, "up").await;
    let status = stage.runner().end(DEADLINE).expect("it ends by itself");
    assert!(status.success(), "{status}");
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(view.runs.len(), 1);
    assert_eq!(stage.output(job).await.text(), "up\nend\n");
    if stage.is_over_ssh() {
        // No lifeline reaches through ssh: they wait for the next runner.
        return;
    }
    let uuids = &stage.workers;
    ntrace_e2e::eventually("its zones end with it", DEADLINE, || {
        leftovers::cgroups_of(uuids).is_empty().then_some(())
    });
}

#[tokio::test]
async fn a_worker_that_somebody_touched_is_made_clean_before_a_job() {
    let stage = Stage::start(Setup::workers(1)).await;
    stage.all_available().await;
    let uuid = &stage.workers[0];
    stage.zones.zlogin(uuid, &["/usr/bin/touch", "/opt/ntdirt"]);
    stage.zones.must(&["reboot", uuid], "");
    let (job, output) = stage.run("ls /opt", Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert!(!output.text().contains("ntdirt"), "{}", output.text());
}

#[tokio::test]
async fn a_worker_that_waited_too_long_is_made_clean_again() {
    let setup = Setup::workers(1).runner_args(&["--reset-after", "10s"]);
    let stage = Stage::start(setup).await;
    let uuid = stage.workers[0].clone();
    until("it is reset while it waits", async || {
        (stage.worker(&uuid).await?.resets.done >= 2).then_some(())
    })
    .await;
    let (job, _) = stage.run("true", Value::Null).await;
    assert_eq!(job.state, JobState::Done);
}
