//! Traces, and evidence of what was ended.

use ntrace_e2e::{Output, Setup, Stage};
use ntrace_protocol::{JobId, JobState, JobView, Reason};
use serde_json::{Value, json};

/// An artefact's bytes.
async fn artefact(stage: &Stage, id: JobId, name: &str) -> Option<Vec<u8>> {
    let client = stage.client().await;
    let found = client.artefacts(&id.to_string()).await.unwrap();
    let found = found.into_iter().find(|found| found.name == name)?;
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len() as u64;
        let piece = client.blob_get(&found.id.to_string(), at, 500_000).await;
        let (piece, is_last) = piece.unwrap();
        bytes.extend(piece);
        if is_last {
            return Some(bytes);
        }
    }
}

/// The sentence of the evidence, and that its files are there.
async fn evidence(stage: &Stage, id: JobId, output: &Output) -> String {
    let mut events = output.events.iter();
    let summary = events
        .find(|event| event["event"] == "evidence_summary")
        .unwrap_or_else(|| panic!("no evidence: {:?}", output.events));
    for name in ["evidence/processes.txt", "evidence/stacks.txt"] {
        let named = summary["artefacts"].as_array().unwrap();
        assert!(named.contains(&json!(name)), "{summary}");
        let bytes = artefact(stage, id, name).await;
        let text = String::from_utf8(bytes.expect("it is kept")).unwrap();
        eprintln!("--- {name}\n{text}");
    }
    summary["sentence"].as_str().unwrap().to_owned()
}

async fn ended_by_a_clock(
    stage: &Stage,
    script: &str,
    limits: Value,
    reason: Reason,
) -> (JobView, String) {
    let id = stage.submit(script, json!({"limits": limits})).await;
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert_eq!(job.reason, Some(reason), "{job:?}");
    let output = stage.output(id).await;
    (job, evidence(stage, id, &output).await)
}

#[tokio::test]
async fn a_job_that_sleeps_for_ever_is_named_with_where_it_waits() {
    let stage = Stage::start(Setup::workers(1)).await;
    let (_, sentence) = ended_by_a_clock(
        &stage,
        "cd /; sh -c 'sleep 81.5; true'; true",
        json!({"silence": "1s"}),
        Reason::Silence,
    )
    .await;
    assert!(sentence.contains("(sleep) waits"), "{sentence}");
}
