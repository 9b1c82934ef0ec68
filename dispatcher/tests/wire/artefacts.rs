//! Artefacts: in pieces, whole or not at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::support::{Dispatcher, Run, Wire};

async fn start() -> (tempfile::TempDir, Dispatcher, Wire, Run) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, &[]).await;
    let mut wire = dispatcher.connect().await;
    wire.push().await;
    let run = wire.next().await;
    (temp, dispatcher, wire, run)
}

fn put(run: &Run, name: &str, offset: u64, piece: &[u8]) -> Value {
    json!([run.run, run.lease, name, offset, STANDARD.encode(piece)])
}

fn last(mut args: Value, content: &[u8]) -> Value {
    let hash = sha2::Sha256::digest(content);
    let hash: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    let options = json!({"eof": true, "sha256": hash});
    args.as_array_mut().unwrap().push(options);
    args
}

async fn shown(wire: &mut Wire, run: &Run) -> Value {
    wire.call("artefacts", json!([run.job])).await
}

#[tokio::test]
async fn an_artefact_comes_in_pieces_and_is_seen_only_whole() {
    let (_temp, dispatcher, mut wire, run) = start().await;
    let content: Vec<u8> = (0..=255).cycle().take(150_000).collect();
    let (one, two) = content.split_at(100_000);
    let name = "coverage/a b.bin";
    assert_eq!(wire.call("blob-put", put(&run, name, 0, one)).await, 100_000);
    // The answer may have been lost: the same again is fine.
    assert_eq!(wire.call("blob-put", put(&run, name, 0, one)).await, 100_000);
    assert_eq!(shown(&mut wire, &run).await, json!([]));
    let gap = put(&run, name, 100_001, two);
    assert_eq!(wire.refused("blob-put", gap).await, "EINVAL offset");
    let other = put(&run, name, 0, &two[..10]);
    assert_eq!(wire.refused("blob-put", other).await, "EINVAL offset");
    let end = last(put(&run, name, 100_000, two), &content);
    assert_eq!(wire.call("blob-put", end.clone()).await, 150_000);
    assert_eq!(wire.call("blob-put", end).await, 150_000);
    let all = shown(&mut wire, &run).await;
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert_eq!(
        (&all[0]["name"], &all[0]["bytes"]),
        (&json!(name), &json!(150_000))
    );
    let mut read = Vec::new();
    loop {
        let args = json!([all[0]["id"], read.len(), 40_000]);
        let results = wire.try_call("blob-get", args).await.unwrap();
        read.extend(STANDARD.decode(results[0].as_str().unwrap()).unwrap());
        if results[1] == true {
            break;
        }
    }
    assert!(read == content);
    let behind = json!([all[0]["id"], 1_000_000, 10]);
    let behind = wire.try_call("blob-get", behind).await.unwrap();
    assert_eq!(behind, [json!(""), json!(true)]);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_wrong_hash_or_a_second_content_is_refused() {
    let (_temp, dispatcher, mut wire, run) = start().await;
    let wrong = last(put(&run, "a", 0, b"abc"), b"abd");
    assert_eq!(wire.refused("blob-put", wrong).await, "EINVAL sha256");
    assert_eq!(shown(&mut wire, &run).await, json!([]));
    let right = last(put(&run, "a", 0, b"abc"), b"abc");
    assert_eq!(wire.call("blob-put", right).await, 3);
    let second = last(put(&run, "a", 0, b"other"), b"other");
    assert_eq!(wire.refused("blob-put", second).await, "EEXIST name");
    let more = put(&run, "a", 3, b"d");
    assert_eq!(wire.refused("blob-put", more).await, "EEXIST name");
    dispatcher.end().await;
}

#[tokio::test]
async fn hostile_names_and_stale_leases_are_refused() {
    let (_temp, dispatcher, mut wire, run) = start().await;
    for name in [
        "",
        ".",
        "..",
        "../../x",
        "/etc/cron.d/x",
        "a\\..\\b",
        "a//b",
        "a\0",
        "a\nb",
        &"x".repeat(256),
        "a/../b",
        "\u{1b}]0;x\u{7}",
    ] {
        let args = put(&run, name, 0, b"x");
        let refused = wire.refused("blob-put", args).await;
        assert_eq!(refused, "EINVAL name", "{name:?}");
    }
    let mut stale = put(&run, "a", 0, b"x");
    stale[1] = json!(run.lease + 1);
    assert_eq!(wire.refused("blob-put", stale).await, "EFENCED lease");
    for (at, value, field) in [
        (3, json!(-1), "offset"),
        (3, json!(9_223_372_036_854_775_808_u64), "offset"),
        (4, json!("*"), "base64"),
        (4, json!(5), "base64"),
        (0, json!("x"), "run_id"),
    ] {
        let mut args = put(&run, "a", 0, b"x");
        args[at] = value;
        let refused = wire.refused("blob-put", args).await;
        assert_eq!(refused, format!("EINVAL {field}"));
    }
    for (name, tail) in [("-rf", true), (".ssh/authorized_keys", true)] {
        let mut args = put(&run, name, 0, b"x");
        args.as_array_mut().unwrap().push(json!({"eof": tail}));
        assert_eq!(wire.call("blob-put", args).await, 1);
    }
    wire.call("result", json!([run.end("done", json!({}))])).await;
    let late = put(&run, "late", 0, b"x");
    assert_eq!(wire.refused("blob-put", late).await, "EFENCED lease");
    dispatcher.end().await;
}

#[tokio::test]
async fn what_was_not_completed_goes_with_its_run() {
    let (_temp, dispatcher, mut wire, run) = start().await;
    wire.call("blob-put", put(&run, "a", 0, b"half")).await;
    let parts = dispatcher.data().join("artefacts/parts");
    assert_eq!(std::fs::read_dir(&parts).unwrap().count(), 1);
    wire.call("result", json!([run.end("done", json!({}))])).await;
    assert_eq!(std::fs::read_dir(&parts).unwrap().count(), 0);
    dispatcher.end().await;
}
