//! A push is one job, however often it had to be sent.

use std::path::Path;
use std::process::Command;

use ntrace_protocol::{JobId, JobState};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::program::{run, run_in};

const COMMIT: &str = "0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233";

#[tokio::test]
async fn a_push_prints_the_id_that_it_sent() {
    let fake = Fake::start().await;
    let args = [
        "push",
        "dscape",
        "nano",
        COMMIT,
        "--run",
        "make bench",
        "--limit",
        "time=5m",
        "--env",
        "A=1",
        "--label",
        "ci",
    ];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let id: JobId = ran.out().trim_end().parse().unwrap();
    assert_eq!(id.to_string().as_bytes()[14], b'7', "a UUID of version 7");
    let calls = fake.state().calls.clone();
    let (name, args) = &calls[0];
    assert_eq!(name, "push");
    assert_eq!(args[..3], [json!("dscape"), json!("nano"), json!(COMMIT)]);
    assert_eq!(args[3]["id"], json!(id));
    assert_eq!(args[3]["run"], "make bench");
    assert_eq!(args[3]["limits"], json!({"time": "5m"}));
    assert_eq!(args[3]["env"], json!({"A": "1"}));
}

#[tokio::test]
async fn a_push_whose_answers_are_lost_is_repeated_and_makes_one_job() {
    let fake = Fake::start().await;
    fake.change(|all| all.lose_answers = 3);
    let args = ["push", "o", "r", COMMIT, "--json"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let value: Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!(fake.asked("push"), 4);
    let jobs: Vec<_> = fake.state().jobs.keys().copied().collect();
    assert_eq!(json!(jobs), json!([value["id"]]));
}

#[tokio::test]
async fn a_push_that_is_never_answered_says_how_to_repeat_it() {
    let fake = Fake::start().await;
    fake.change(|all| all.lose_answers = u32::MAX);
    let args = ["push", "o", "r", COMMIT, "--patience", "500ms"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let id = *fake.state().jobs.keys().next().unwrap();
    assert!(ran.stderr.contains(&format!("--id {id}")), "{ran:?}");
    assert_eq!(fake.state().jobs.len(), 1);
}

#[tokio::test]
async fn a_push_that_waits_ends_with_the_verdict() {
    let fake = Fake::start().await;
    for (state, code) in [(JobState::Done, 0), (JobState::Failed, 1)] {
        fake.change(|all| all.verdict = Some((state, json!("hello"))));
        let args = ["push", "o", "r", COMMIT, "--wait"];
        let ran = run(&fake.addr(), &args).await;
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let id = ran.out().trim_end().to_owned();
        assert!(id.parse::<JobId>().is_ok(), "{ran:?}");
        assert!(ran.stderr.contains(state.as_str()), "{ran:?}");
        let args = ["submit", "-f", "--", "echo", "hello"];
        let ran = run(&fake.addr(), &args).await;
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert_eq!(ran.out(), "hello");
    }
    let args = ["push", "o", "r", COMMIT, "--wait", "--json"];
    let ran = run(&fake.addr(), &args).await;
    let value: Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!(value["state"], "failed");
}

/// Runs git in a test's own repository.
fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?} {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_work_tree_pushes_its_head() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let ran = run_in(at, &fake.addr(), &["push"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    git(at, &["init", "-q"]);
    let url = "git@github.com:dscape/nano.git";
    git(at, &["remote", "add", "origin", url]);
    let ran = run_in(at, &fake.addr(), &["push"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stderr.contains("no commit here"), "{ran:?}");
    git(
        at,
        &[
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "x",
        ],
    );
    let head = git(at, &["rev-parse", "HEAD"]);
    let ran = run_in(at, &fake.addr(), &["push", "--label", "x"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said = format!("pushing dscape/nano at {head}");
    assert!(ran.stderr.contains(&said), "{ran:?}");
    assert!(ran.stderr.contains("no branch of origin"), "{ran:?}");
    let args = fake.state().calls.last().unwrap().1.clone();
    assert_eq!(args[..3], [json!("dscape"), json!("nano"), json!(head)]);
    git(at, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
    let ran = run_in(at, &fake.addr(), &["push"]).await;
    assert!(!ran.stderr.contains("no branch of origin"), "{ran:?}");
}

#[tokio::test]
async fn a_hostile_origin_is_refused_and_runs_nothing() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    git(at, &["init", "-q"]);
    let trap = at.join("trap");
    let hostile = format!("ext::sh -c 'touch% {}'", trap.display());
    git(at, &["config", "remote.origin.url", &hostile]);
    git(at, &["config", "core.fsmonitor", "touch trap"]);
    let ran = run_in(at, &fake.addr(), &["push"]).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(!trap.exists());
    assert_eq!(fake.asked("push"), 0);
}
