//! Each exit status, and what is said with it.

use std::process::Stdio;

use ntrace_protocol::{Code, JobState, WireError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::time::timeout;

use crate::fake::Fake;
use crate::program::{DEADLINE, ended, finish, ntrace, run};

const NOBODY: &str = "127.0.0.1:1";

#[tokio::test]
async fn the_verdict_of_a_job_is_the_exit_status() {
    let fake = Fake::start().await;
    for (n, state, code) in [
        (1, JobState::Done, 0),
        (2, JobState::Failed, 1),
        (3, JobState::Stopped, 1),
    ] {
        let id = fake.job(n, state, vec![]).to_string();
        for command in [&["wait", &id][..], &["logs", "-f", &id]] {
            let ran = run(&fake.addr(), command).await;
            assert_eq!(ran.code, Some(code), "{ran:?}");
        }
        // Without -f it is asked for output, not for a verdict.
        let ran = run(&fake.addr(), &["logs", &id]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_2() {
    for args in [
        &["push", "a"][..],
        &["frobnicate"],
        &["status", "x"],
        &["push", "o", "r", "short"],
        &["push", "o", "r", "--limit", "tyme=1s"],
        &["submit", "--limit", "cpus=0", "--", "true"],
        &["ping", "--patience", "soon"],
    ] {
        let ran = run(NOBODY, args).await;
        assert_eq!(ran.code, Some(2), "{args:?} {ran:?}");
        assert!(!ran.stderr.is_empty() && ran.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_is_3_and_says_code_field_and_what_to_do() {
    let fake = Fake::start().await;
    let ran = run(&fake.addr(), &["status", "0192d3a4"]).await;
    assert_eq!(ran.code, Some(3));
    assert_eq!(
        ran.stderr,
        "ntrace: the dispatcher refused: there is no such job\n  \
         code:  ENOENT\n  field: id\n  \
         to do: `ntrace list` shows what there is\n"
    );
    let id = fake.job(1, JobState::Running, vec![]).to_string();
    let ran = run(&fake.addr(), &["remove", &id]).await;
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("EBUSY"), "{ran:?}");
}

#[tokio::test]
async fn a_hostile_refusal_reaches_no_terminal_raw() {
    let fake = Fake::start().await;
    fake.change(|all| {
        let error = WireError::new(Code::Eagain, "full \u{1b}[2J\u{9b}1m");
        all.refuse = Some(error.on("a\u{7}"));
    });
    let ran = run(&fake.addr(), &["list"]).await;
    assert_eq!(ran.code, Some(3));
    assert!(!ran.stderr.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{ran:?}");
}

#[tokio::test]
async fn with_json_an_error_is_one_object_on_stderr() {
    let fake = Fake::start().await;
    let ran = run(&fake.addr(), &["status", "0192d3a4", "--json"]).await;
    assert_eq!(ran.code, Some(3));
    let value: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(value["error"]["code"], "ENOENT");
    assert_eq!(value["exit"], 3);
    let ran = run(NOBODY, &["ping", "--json"]).await;
    let value: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(value["exit"], 4);
}

#[tokio::test]
async fn nobody_there_is_4_for_every_command() {
    let id = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let commit = "0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233";
    for args in [
        &["ping"][..],
        &["workers"],
        &["list"],
        &["status", id],
        &["wait", id],
        &["logs", "-f", id],
        &["push", "o", "r", commit],
        &["submit", "--", "true"],
    ] {
        let ran = run(NOBODY, args).await;
        assert_eq!(ran.code, Some(4), "{args:?} {ran:?}");
        assert!(ran.stderr.contains("cannot connect"), "{ran:?}");
    }
}

#[tokio::test]
async fn a_wait_that_is_too_short_is_5_and_the_job_goes_on() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Running, vec![]).to_string();
    let args = ["wait", &id, "--timeout", "100ms"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stderr.contains("has not ended within 100ms"), "{ran:?}");
    assert_eq!(fake.asked("stop"), 0);
}

#[tokio::test]
async fn a_damaged_artefact_is_6_and_leaves_no_file() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    fake.change(|all| {
        all.content = b"hello".to_vec();
        all.artefacts = json!([{
            "id": "0192d3a4-5b6c-7d8e-9f00-0000000000aa",
            "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
            "name": "a.txt", "bytes": 5, "sha256": "00".repeat(32),
        }]);
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.txt");
    let path = file.to_str().unwrap();
    let args = ["artefacts", "get", &id, "a.txt", "-o", path];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn a_stop_asks_for_no_more_than_is_said_and_tells_where_it_will_be() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Running, vec![]).to_string();
    let ran = run(&fake.addr(), &["stop", &id]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("evidence"), "{ran:?}");
    let args = ["stop", &id, "--evidence", "--grace", "5s"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains(&format!("`ntrace why {id}`")), "{ran:?}");
    assert!(ran.stderr.contains("evidence/"), "{ran:?}");
    let calls = fake.state().calls.clone();
    let args: Vec<_> = calls
        .into_iter()
        .filter(|(name, _)| name == "stop")
        .map(|(_, args)| json!(args))
        .collect();
    let with = json!({"grace": "5s", "evidence": true});
    assert_eq!(args, [json!([id]), json!([id, with])]);
}

#[tokio::test]
async fn ctrl_c_is_130_leaves_the_job_running_and_says_how_to_stop_it() {
    let fake = Fake::start().await;
    let records = vec![("stdout", json!("begun\n"))];
    let id = fake.job(1, JobState::Running, records);
    let mut child =
        ntrace(&fake.addr(), &["logs", "-f", &id.to_string()]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some("begun"));
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ran = finish(child).await;
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.stderr.contains(&format!("`ntrace stop {id}`")), "{ran:?}");
    assert_eq!(fake.asked("stop"), 0);
}

#[tokio::test]
async fn ctrl_c_ends_it_even_when_nobody_reads_its_output() {
    let fake = Fake::start().await;
    let block = json!("x".repeat(10_000));
    let id = fake.job(1, JobState::Running, vec![("stdout", block); 500]);
    let args = ["logs", "-f", &id.to_string()];
    let mut child = ntrace(&fake.addr(), &args).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 1];
    stdout.read_exact(&mut first).await.unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(ended(&mut child).await.code(), Some(130));
    drop(stdout);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let fake = Fake::start().await;
    let block = json!("x".repeat(10_000));
    let records = vec![("stdout", block); 200];
    let id = fake.job(1, JobState::Done, records).to_string();
    let mut child = ntrace(&fake.addr(), &["logs", "-f", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut first).await.unwrap();
    drop(reader);
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).await.unwrap();
    assert_eq!(ended(&mut child).await.code(), Some(141));
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_dispatcher_that_goes_away_for_good_is_4() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Running, vec![]);
    fake.change(|all| all.cuts = vec![0; 10_000].into());
    fake.change(|all| {
        all.records.insert(id, vec![("stdout", json!("never\n"))]);
    });
    let id = id.to_string();
    let args = ["logs", "-f", &id, "--patience", "700ms"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stderr.contains("trying again"), "{ran:?}");
    assert!(ran.stderr.contains("could not be had again"), "{ran:?}");
    assert!(ran.stdout.is_empty());
    let tries = fake.asked("logs");
    assert!((1..20).contains(&tries), "{tries} tries");
}
