//! What people and scripts read of jobs, workers and artefacts.

use ntrace_protocol::JobState;
use ntrace_protocol::job::JobView;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::program::run;

#[tokio::test]
async fn a_list_is_newest_first_and_says_that_there_is_more() {
    let fake = Fake::start().await;
    for n in 0..5 {
        fake.job(n << 20, JobState::Done, vec![]);
    }
    let ran = run(&fake.addr(), &["list", "--limit", "2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<_> = ran.out().lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(lines[0].starts_with("ID "));
    assert!(lines[1] > lines[2], "{lines:?}");
    let more = ran.stderr.trim_end();
    let after = more.rsplit(' ').next().unwrap().trim_end_matches('`');
    let args = ["list", "--after", after, "--json"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.out().lines().count(), 3, "{ran:?}");
    assert_eq!(ran.stderr, "");
}

#[tokio::test]
async fn all_pages_of_a_long_list_are_fetched() {
    let fake = Fake::start().await;
    for n in 0..250 {
        fake.job(n, JobState::Done, vec![]);
    }
    fake.job(1000, JobState::Failed, vec![]);
    let args = ["list", "--all", "--json", "--state", "done"];
    let ran = run(&fake.addr(), &args).await;
    let jobs: Vec<JobView> = ran
        .out()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(jobs.len(), 250);
    assert!(jobs.windows(2).all(|pair| pair[0].id > pair[1].id));
    assert_eq!(fake.asked("list"), 3);
}

#[tokio::test]
async fn a_pipe_gets_no_colours_and_no_foreign_escapes() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Failed, vec![]).to_string();
    for args in [&["status", &id][..], &["list"], &["workers"], &["wait", &id]]
    {
        let ran = run(&fake.addr(), args).await;
        assert!(ran.out().len() > 10, "{args:?} {ran:?}");
        assert!(!ran.out().contains('\u{1b}'), "{args:?} {ran:?}");
    }
    let ran = run(&fake.addr(), &["workers"]).await;
    assert!(ran.out().contains("halt failed: \\x1b]0;x\\x07"), "{ran:?}");
}

#[tokio::test]
async fn json_is_one_document() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Queued, vec![]).to_string();
    for (args, pointer, expected) in [
        (&["status", &id][..], "/state", json!("queued")),
        (&["workers"], "/0/state", json!("defunct")),
        (&["runners"], "", json!([])),
        (&["stats"], "/jobs/queued", json!(3)),
        (&["ping"], "/dispatcher", json!(fake.addr())),
        (&["stop", &id], "/state", json!("stopped")),
        (&["remove", &id], "/removed", json!(id)),
    ] {
        let args = [args, &["--json"]].concat();
        let ran = run(&fake.addr(), &args).await;
        assert_eq!(ran.code, Some(0), "{args:?} {ran:?}");
        let value: Value = serde_json::from_str(ran.out()).unwrap();
        assert_eq!(value.pointer(pointer), Some(&expected), "{args:?}");
        assert_eq!(ran.out().lines().count(), 1);
    }
}

#[tokio::test]
async fn an_artefact_is_fetched_whole_and_an_old_file_is_kept() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    let content = b"0123456789abcdef".repeat(100_000);
    // The hash as sha256sum says it.
    let hash =
        "39ec05ee6a2d25b6c775d195d1ce3e75aa64dd11c76506827bc414d90b6a6184";
    fake.change(|all| {
        all.content = content.clone();
        all.artefacts = json!([{
            "id": "0192d3a4-5b6c-7d8e-9f00-0000000000aa",
            "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
            "name": "../a\u{1b}.txt", "bytes": content.len(), "sha256": hash,
        }]);
    });
    let ran = run(&fake.addr(), &["artefacts", "list", &id]).await;
    assert!(ran.out().contains("../a\\x1b.txt"), "{ran:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let path = file.to_str().unwrap();
    let get = ["artefacts", "get", &id, "../a\u{1b}.txt", "-o", path];
    let ran = run(&fake.addr(), &get).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(std::fs::read(&file).unwrap(), content);
    assert!(fake.asked("blob-get") > 1);
    std::fs::write(&file, "precious").unwrap();
    let ran = run(&fake.addr(), &get).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let to_stdout = ["artefacts", "get", &id, "../a\u{1b}.txt", "-o", "-"];
    let ran = run(&fake.addr(), &to_stdout).await;
    assert_eq!(ran.stdout, content);
    let missing = ["artefacts", "get", &id, "b.txt", "-o", "-"];
    let ran = run(&fake.addr(), &missing).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
}
