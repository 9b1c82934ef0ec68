//! What is typed into `nc` by a person.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ntrace_e2e::{Setup, Stage, skip};
use serde_json::{Value, json};

use super::{PUSH, SHA, job_id};

/// Pipes a line into the real `nc -N`.
fn nc(host: &str, port: u16, line: &str) -> Option<String> {
    let spawned = Command::new("nc")
        .args(["-N", host, &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            skip(&format!("nc cannot be run: {error}"));
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if errors.contains("invalid option") {
        skip("this nc has no -N");
        return None;
    }
    assert!(output.status.success(), "nc: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn a_push_typed_into_nc_is_answered_with_a_job_id() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let mut line = stage.line();
    let began = Instant::now();
    let answer = line.ask(PUSH);
    let took = began.elapsed();
    let first = job_id(&answer);
    assert_eq!(answer[1], 1);
    // Well under a second where nothing else runs; a loaded machine gets more.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let job = stage.status(first.parse().unwrap()).await;
    assert_eq!(job.source.unwrap().commit.as_str(), SHA);
    for host in ["localhost", "127.0.0.1", "::1"] {
        let Some(said) = nc(host, stage.dispatcher_port(), PUSH) else {
            return;
        };
        let answer = serde_json::from_str(&said).unwrap();
        assert_ne!(job_id(&answer), first);
        assert_eq!(said.lines().count(), 1, "nothing but the answer: {said}");
    }
    let jobs = stage.ask("list", &[]).await.unwrap();
    assert_eq!(jobs[0].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn an_enroll_typed_into_nc_is_answered_with_the_worker() {
    let stage = Stage::start(Setup::workers(0)).await;
    let uuid = stage.zones.create(&ntrace_e2e::zones::Zones::manifest());
    stage.list(&uuid);
    let typed = format!(r#"["enroll", ["{uuid}"], 1]"#);
    let answer = stage.runner_line().ask(&typed);
    assert_eq!(answer[0][0], Value::Null, "{answer}");
    assert_eq!(answer[0][1]["uuid"], json!(uuid), "{answer}");
    assert_eq!(answer[0][1]["snapshot"], "clean", "{answer}");
    assert_eq!(answer[1], 1);
    // Enrolling again is no error, and nc may be anywhere on this machine.
    for host in ["localhost", "::1"] {
        let Some(said) = nc(host, stage.runner_port(), &typed) else {
            return;
        };
        let answer: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(answer[0][1]["uuid"], json!(uuid), "{said}");
    }
    let workers = stage.runner_line().ask(r#"["workers",[],2]"#);
    assert_eq!(workers[0][1].as_array().unwrap().len(), 1, "{workers}");
}
