//! Traces: what the record says of them.

use serde_json::{Value, json};

use crate::support::{Dispatcher, Run, Wire};

async fn start() -> (tempfile::TempDir, Dispatcher, Wire) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, &[]).await;
    let wire = dispatcher.connect().await;
    (temp, dispatcher, wire)
}

async fn end_with(wire: &mut Wire, run: &Run, last: Value, trace: Value) {
    let mut end = run.end("done", last);
    end["data"]["trace"] = trace;
    wire.call("result", json!([end])).await;
}

#[tokio::test]
async fn the_record_says_what_became_of_a_trace_and_what_came_before() {
    let (_temp, dispatcher, mut wire) = start().await;
    let id = wire.push().await;
    let run = wire.next().await;
    let parents = vec!["a".repeat(40); 20];
    let source = json!({"event": "source", "parents": parents});
    wire.report(&run, "events", 1, source).await;
    let hung = json!({"event": "evidence_summary", "sentence": "in a lock"});
    wire.report(&run, "events", 2, hung).await;
    let trace = json!({"state": "stored", "tracer": "sample", "hz": 99,
        "profiles": 1, "samples": 500, "cpu_seconds": 5.0,
        "samples_over_cpu": 1.01, "kernel": true, "new": "field",
        "warnings": vec!["\u{1b}[2J".repeat(400); 100]});
    end_with(&mut wire, &run, json!({"events": 2}), trace).await;
    let shown = &wire.status(&id).await["runs"][0];
    assert_eq!(shown["parents"].as_array().unwrap().len(), 16);
    assert_eq!(shown["notes"], json!(["evidence: in a lock"]));
    assert_eq!(shown["trace"]["samples"], 500);
    assert_eq!(shown["trace"]["tracer"], "sample");
    let warnings = shown["trace"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 16);
    assert!(!warnings[0].as_str().unwrap().contains('\u{1b}'));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_trace_that_is_not_there_says_why_after_a_restart_too() {
    let (_temp, dispatcher, mut wire) = start().await;
    let id = wire.push().await;
    let run = wire.next().await;
    let failed = json!({"state": "failed", "tracer": "from the future"});
    end_with(&mut wire, &run, json!({}), failed).await;
    drop(wire);
    let dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    let shown = &wire.status(&id).await["runs"][0]["trace"];
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["tracer"], "other");
    assert_eq!(shown["why"], "the runner did not say why");
    drop(wire);
    dispatcher.end().await;
}
