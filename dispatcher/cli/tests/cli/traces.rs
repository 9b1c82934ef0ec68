//! `flame`, `export`, `diff`, `why`.

use std::os::unix::fs::PermissionsExt as _;

use ntrace_protocol::JobState;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::fake::Fake;
use crate::program::{finish, ntrace, run, run_in};

fn side(job: &str) -> Value {
    json!({
        "runs": [{"job": job, "run_id": job,
            "submitted": "2026-11-21T09:00:00.000Z"}],
        "source": {"owner": "o", "repo": "r", "commit": "a".repeat(40)},
        "profiles": 8, "samples": 700, "cpu_seconds": 4.0,
    })
}

fn difference(job: &str) -> Value {
    let mut base = side(job);
    base["why"] = json!("the last done run of the parent commit bbbb");
    let of = |base: f64, new: f64, level: &str| json!({"base": base, "new": new, "level": level, "q": 0.01});
    json!({
        "base": base, "new": side(job), "left_out": 12,
        "total": of(4.0, 4.6, "changed"),
        "rows": [{"name": "by\u{1b}[2JHash", "self": of(1.0, 1.6, "changed"),
            "inclusive": of(2.0, 2.6, "changed")}],
        "warnings": ["the workers differ"],
    })
}

#[tokio::test]
async fn a_flame_graph_is_fetched_whole_into_a_file_named_after_the_job() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    let content = b"<svg>0123456789</svg>".repeat(60_000);
    fake.change(|all| all.content = content.clone());
    let dir = tempfile::tempdir().unwrap();
    let ran = run_in(dir.path(), &fake.addr(), &["flame", &id]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let file = dir.path().join(format!("ntrace-{}.svg", &id[..13]));
    assert_eq!(std::fs::read(&file).unwrap(), content);
    assert!(fake.asked("export") > 1);
    assert!(ran.stderr.contains("few \\x1b[2J samples"), "{ran:?}");
    let again = run_in(dir.path(), &fake.addr(), &["flame", &id]).await;
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.stderr.contains("--force"), "{again:?}");
    let to_stdout = ["export", &id, "--format", "folded", "-o", "-"];
    let ran = run(&fake.addr(), &to_stdout).await;
    assert!(ran.stdout == content);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_document_that_changes_while_it_is_fetched_is_not_kept() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    fake.change(|all| {
        all.content = b"0123456789".repeat(100_000);
        all.changes_after = Some(1);
    });
    let dir = tempfile::tempdir().unwrap();
    let args = ["flame", &id, "-o", "f.svg"];
    let ran = run_in(dir.path(), &fake.addr(), &args).await;
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn open_shows_the_file_by_its_whole_path() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    fake.change(|all| all.content = b"<svg/>".to_vec());
    let dir = tempfile::tempdir().unwrap();
    let browser = dir.path().join("xdg-open");
    std::fs::write(&browser, "#!/bin/sh\nprintf %s \"$1\" > \"$0.got\"\n")
        .unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&browser, mode).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let mut command =
        ntrace(&fake.addr(), &["flame", &id, "--open", "-o", "--version"]);
    command.current_dir(dir.path()).env("PATH", path);
    let ran = finish(command.spawn().unwrap()).await;
    // It is a name here and would be an option there.
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let mut command =
        ntrace(&fake.addr(), &["flame", &id, "--open", "-o=-x.svg"]);
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    command.current_dir(dir.path()).env("PATH", path);
    let ran = finish(command.spawn().unwrap()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let got = std::fs::read_to_string(dir.path().join("xdg-open.got")).unwrap();
    let real = dir.path().canonicalize().unwrap().join("-x.svg");
    assert_eq!(got, real.to_str().unwrap());
}

#[tokio::test]
async fn a_difference_is_a_table_with_its_base_and_harmless_names() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    fake.change(|all| {
        all.diff = difference(&id);
        all.content = b"<svg/>".to_vec();
    });
    let dir = tempfile::tempdir().unwrap();
    let args = ["diff", &id, "--top", "5", "--svg", "d.svg"];
    let ran = run_in(dir.path(), &fake.addr(), &args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let out = ran.out();
    assert!(out.starts_with("found  "), "what was found comes first: {out}");
    assert!(!out.contains('\u{1b}'), "{out}");
    for said in [
        "found  changed: by\\x1b[2JHash takes +0.600s (+60.0%) a run by itself",
        "total  4.000s -> 4.600s, +0.600s (+15.0%): changed",
        "the last done run of the parent commit bbbb",
        "the workers differ",
        "changed   +0.600s  1.000s  1.600s  +60.0%  +0.600s    by\\x1b[2JHash",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    assert!(ran.stderr.contains("12 more functions"), "{ran:?}");
    assert!(dir.path().join("d.svg").exists());
    // The picture is of the base that the table has.
    let calls = fake.state().calls.clone();
    let export = calls.iter().find(|(name, _)| name == "export").unwrap();
    assert_eq!(export.1[1], "diff-svg");
    assert_eq!(export.1[2]["base"], json!(id));
    let diff = calls.iter().find(|(name, _)| name == "diff").unwrap();
    assert_eq!(diff.1, [json!(id), Value::Null, json!({"top": 5})]);
}

#[tokio::test]
async fn why_is_a_line_for_each_step_and_json_is_the_answer_itself() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Queued, vec![]).to_string();
    let chain = json!([
        {"when": "2026-11-21T09:00:00.000Z", "text": "it was pushed"},
        {"text": "no runner \u{1b}[2J"},
    ]);
    fake.change(|all| all.why = chain.clone());
    let ran = run(&fake.addr(), &["why", &id]).await;
    assert_eq!(
        ran.out(),
        "2026-11-21T09:00:00.000Z  it was pushed\n                          \
         no runner \\x1b[2J\n"
    );
    let ran = run(&fake.addr(), &["why", &id, "--json"]).await;
    let value: Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!(value, chain);
}

#[tokio::test]
async fn a_name_that_names_no_trace_is_a_wrong_command_line() {
    let fake = Fake::start().await;
    for args in [
        &["flame", "short"][..],
        &["diff", "o/r@HEAD"],
        &["export", "0192d3a4-5b6c", "--format", "png"],
        &["export", "0192d3a4-5b6c"],
        &["diff", "0192d3a4-5b6c", "--top", "0"],
        &[
            "export",
            "0192d3a4-5b6c",
            "--format",
            "svg",
            "--base",
            "0192d3a4-5b6c",
        ],
    ] {
        let ran = run(&fake.addr(), args).await;
        assert_eq!(ran.code, Some(2), "{args:?} {ran:?}");
    }
    assert_eq!(fake.asked("export") + fake.asked("diff"), 0);
}

#[tokio::test]
async fn system_calls_are_shown_as_a_table_or_why_there_are_none() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Done, vec![]).to_string();
    fake.change(|all| all.artefacts = json!([]));
    let ran = run(&fake.addr(), &["syscalls", &id]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("--syscalls"), "{ran:?}");
    let content = json!({
        "arch": "x86_64", "total": 4, "errors": 1, "calls": [
            {"name": "re\u{1b}[2Jad", "number": 0, "count": 3, "errors": 1},
            {"name": "getpid", "abi": "i386", "number": 20, "count": 1},
        ],
    });
    let bytes = content.to_string().into_bytes();
    let hash: String = sha2::Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fake.change(|all| {
        all.artefacts = json!([{
            "id": "0192d3a4-5b6c-7d8e-9f00-0000000000aa",
            "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
            "name": "trace/syscalls.json", "bytes": bytes.len(),
            "sha256": hash,
        }]);
        all.content = bytes;
    });
    let ran = run(&fake.addr(), &["syscalls", &id]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> =
        ran.out().lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["3", "75.0", "%", "1", "re\\x1b[2Jad"]);
    assert_eq!(lines[2], ["1", "25.0", "%", "-", "getpid", "(i386)"]);
    assert!(ran.stderr.contains("4 system calls of 2 kinds, 1 failed"));
    let ran = run(&fake.addr(), &["syscalls", &id, "--json"]).await;
    let shown: Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!(shown["calls"][1]["abi"], "i386");
}
