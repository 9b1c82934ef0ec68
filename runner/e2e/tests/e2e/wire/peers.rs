//! Peers that ask too often, too much or too slowly, and second processes.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ntrace_e2e::{DEADLINE, Setup, Stage, eventually};
use serde_json::json;

use super::{PUSH, SHA, error_of, job_id, still_serves};

#[tokio::test]
async fn the_same_id_makes_one_job_however_often_it_is_pushed() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let id = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let mut line = stage.line();
    let push = json!(["push", ["dscape", "nano", SHA, id], 1]).to_string();
    for _ in 0..500 {
        line.send(format!("{push}\n"));
    }
    for _ in 0..500 {
        assert_eq!(line.value(), json!([[null, id], 1]));
    }
    let other =
        line.ask(&json!(["push", ["dscape", "other", SHA, id], 1]).to_string());
    assert_eq!(error_of(&other), ("EEXIST".into(), "id".into()));
    let jobs = stage.ask("list", &[]).await.unwrap();
    assert_eq!(jobs[0].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_and_forgets_nothing() {
    let setup = Setup::dispatcher().dispatcher_args(&["--max-queue", "10"]);
    let stage = Stage::start(setup).await;
    let mut line = stage.line();
    let ids: Vec<_> = (0..10).map(|_| job_id(&line.ask(PUSH))).collect();
    for _ in 0..3 {
        assert_eq!(error_of(&line.ask(PUSH)).0, "EAGAIN");
    }
    stage.ask("stop", &[json!(ids[0])]).await.unwrap();
    job_id(&line.ask(PUSH));
    assert_eq!(error_of(&line.ask(PUSH)).0, "EAGAIN");
    for id in &ids {
        stage.status(id.parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_peer_that_never_reads_costs_bounded_memory() {
    let mut stage = Stage::start(Setup::dispatcher()).await;
    let mut deaf = stage.line();
    let line = format!("{}\n", json!(["ping", ["x".repeat(10_000)], 1]));
    let before = stage.dispatcher().memory();
    // It must stop reading, so sending blocks or fails long before the end.
    let stream = std::thread::spawn(move || {
        (0..40_000_u32).take_while(|_| deaf.offer(&line)).count()
    });
    let mut other = stage.line();
    let began = Instant::now();
    while !stream.is_finished() && began.elapsed() < Duration::from_secs(5) {
        still_serves(&mut other);
    }
    let grown = stage.dispatcher().peak_memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for one deaf peer");
    stage.kill_dispatcher();
    stream.join().unwrap();
    stage.restart_dispatcher();
    still_serves(&mut stage.line());
}

#[tokio::test]
async fn slow_and_silent_peers_keep_nobody_waiting() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let silent: Vec<_> = (0..300).map(|_| stage.line()).collect();
    let mut slow: Vec<_> = (0..100).map(|_| stage.line()).collect();
    for line in &mut slow {
        line.send("[\"push\",[\"");
    }
    still_serves(&mut stage.line());
    job_id(&stage.line().ask(PUSH));
    drop((silent, slow));
    let jobs = stage.ask("list", &[]).await.unwrap();
    assert_eq!(jobs[0].as_array().unwrap().len(), 1, "no half line counts");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let stage = Stage::start(Setup::workers(0)).await;
    for (name, dir) in [
        ("ntrace-dispatcher", stage.dispatcher_data()),
        ("ntrace-runner", stage.runner_data()),
    ] {
        let mut child = Command::new(stage.programs().path(name))
            .env_clear()
            .envs(stage.env())
            .args(["--listen", "localhost:0", "--data"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = eventually("the second one ends", DEADLINE, || {
            child.try_wait().unwrap()
        });
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!ended.success(), "{name}: {said}");
        assert!(said.contains("data"), "it says why: {said}");
    }
}

#[tokio::test]
async fn an_address_for_everybody_is_refused() {
    let stage = Stage::start(Setup::dispatcher()).await;
    for name in ["ntrace-dispatcher", "ntrace-runner"] {
        let output = Command::new(stage.programs().path(name))
            .env_clear()
            .envs(stage.env())
            .args(["--listen", "0.0.0.0:0", "--data"])
            .arg(stage.path().join(name))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name}: {said}");
        assert!(said.contains("authentication"), "{name}: {said}");
    }
}
