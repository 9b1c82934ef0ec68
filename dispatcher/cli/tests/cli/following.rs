//! Output is byte-exact, whole and once, whatever becomes of the connection.

use ntrace_protocol::report::LogRecord;
use ntrace_protocol::{JobState, Stream};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::program::{finish, ntrace, run, until};

/// All bytes, in the form of the wire.
fn noise() -> (Vec<u8>, Value) {
    let all: Vec<u8> = (0..=255).collect();
    (all.clone(), json!(ntrace_protocol::Data::from_output(&all)))
}

#[tokio::test]
async fn a_pipe_gets_both_streams_byte_for_byte() {
    let fake = Fake::start().await;
    let (bytes, data) = noise();
    let hostile = "\u{1b}]0;x\u{7}no newline";
    let id = fake.job(
        1,
        JobState::Failed,
        vec![
            ("events", json!({"event": "note", "text": "hidden"})),
            ("stdout", data.clone()),
            ("stderr", json!(hostile)),
            ("stdout", data),
            ("control", json!({"event": "end"})),
        ],
    );
    let ran = run(&fake.addr(), &["logs", &id.to_string()]).await;
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.stdout, [&bytes[..], &bytes].concat());
    let verdict = ran.stderr.strip_prefix(hostile).unwrap();
    assert_eq!(
        verdict,
        "018bcfe5-6801 failed (exit): the command \\x1b[2J exited with 3; \
         exit status 3; wall 1.20s; cpu 300ms\n"
    );
}

#[tokio::test]
async fn broken_connections_lose_and_repeat_nothing() {
    let fake = Fake::start().await;
    let records: Vec<_> =
        (0..2000).map(|n| ("stdout", json!(format!("line {n}\n")))).collect();
    let id = fake.job(1, JobState::Running, records);
    fake.change(|all| all.cuts = [0, 17, 400, 1, 900].into());
    let args = ["logs", "-f", &id.to_string(), "--patience", "60s"];
    let child = ntrace(&fake.addr(), &args).spawn().unwrap();
    until("all connections broke", || fake.state().cuts.is_empty()).await;
    fake.change(|all| {
        let records = all.records.get_mut(&id).unwrap();
        records.push(("stdout", json!("the end, without a newline")));
    });
    fake.set(id, JobState::Done);
    let ran = finish(child).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut expected: Vec<_> = (0..2000).map(|n| format!("line {n}")).collect();
    expected.push("the end, without a newline".to_owned());
    let lines: Vec<_> = ran.out().split('\n').collect();
    let wrong = lines.iter().zip(&expected).find(|(a, b)| *a != b);
    assert_eq!((wrong, lines.len()), (None, expected.len()));
    assert!(ran.stderr.contains("the connection was lost"), "{}", ran.stderr);
    assert_eq!(fake.asked("logs"), 6);
}

#[tokio::test]
async fn reading_begins_where_it_is_told_and_takes_one_stream() {
    let fake = Fake::start().await;
    let records = vec![
        ("stdout", json!("a\n")),
        ("stderr", json!("b\n")),
        (
            "events",
            json!({"event": "gap", "stream": "stdout", "bytes": 7,
            "why": "a limit"}),
        ),
        ("stdout", json!("c\n")),
    ];
    let id = fake.job(1, JobState::Done, records).to_string();
    let args = ["logs", &id, "--from", "1", "--stream", "stdout"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.out(), "c\n");
    // That something is missing is said even where events are not shown.
    assert!(ran.stderr.contains("7 bytes of stdout are missing"), "{ran:?}");
    assert!(!ran.stderr.contains("b\n"), "{ran:?}");
    let args = ["logs", &id, "--stream", "stderr"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.out(), "");
    assert!(ran.stderr.starts_with("b\n"), "{ran:?}");
    assert!(!ran.stderr.contains("missing"), "{ran:?}");
    let ran = run(&fake.addr(), &["logs", &id, "--timestamps"]).await;
    assert_eq!(
        ran.out(),
        "2026-11-21T09:00:00.000Z a\n2026-11-21T09:00:00.000Z c\n"
    );
}

#[tokio::test]
async fn with_json_each_record_is_a_line_and_the_verdict_the_last() {
    let fake = Fake::start().await;
    let (bytes, data) = noise();
    let records = vec![
        ("stdout", data),
        ("events", json!({"event": "phase", "phase": "running"})),
    ];
    let id = fake.job(1, JobState::Failed, records);
    let args = ["logs", "-f", &id.to_string(), "--json"];
    let ran = run(&fake.addr(), &args).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let lines: Vec<&str> = ran.out().lines().collect();
    assert_eq!(lines.len(), 3);
    let first: LogRecord = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(first.data.as_bytes(), bytes);
    let second: LogRecord = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(second.stream, Stream::Events);
    let last: Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(last["verdict"]["state"], "failed");
    assert_eq!(last["end"], json!({"next": 2, "ended": true}));
    assert_eq!(ran.stderr, "");
}

#[tokio::test]
async fn a_wait_survives_a_lost_connection() {
    let fake = Fake::start().await;
    let id = fake.job(1, JobState::Queued, vec![]);
    let wait = ["wait", &id.to_string()];
    let child = ntrace(&fake.addr(), &wait).spawn().unwrap();
    until("it waits", || fake.asked("wait") == 1).await;
    fake.break_all();
    until("it waits again", || fake.asked("wait") == 2).await;
    fake.set(id, JobState::Done);
    let ran = finish(child).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out().contains("done: exit status 0"), "{ran:?}");
}
