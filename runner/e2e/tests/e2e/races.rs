//! Races: an operator acts on a worker while a job runs. No run counts that
//! did not have the zone that was probed, from its start to its end.

use ntrace_e2e::{Setup, Stage, until};
use ntrace_protocol::{JobState, JobView, Reason};
use serde_json::Value;

/// Each run of a job but the last was lost by the place, and says why.
fn check(job: &JobView) {
    assert_eq!(job.state, JobState::Done, "{job:#?}");
    let (last, before) = job.runs.split_last().unwrap();
    assert_eq!(last.state, "done", "{job:#?}");
    for run in before {
        assert_eq!(run.state, "lost", "{job:#?}");
        assert_eq!(run.reason, Some(Reason::Zone), "{job:#?}");
        let sentence = run.sentence.as_deref().unwrap_or_default();
        assert!(!sentence.is_empty(), "{job:#?}");
    }
}

#[tokio::test]
async fn a_job_whose_zone_an_operator_takes_is_run_again() {
    let setup = Setup::workers(1).runner_args(&["--tracer", "none"]);
    let stage = Stage::start(setup).await;
    let uuid = &stage.workers[0];
    let script = "echo up; until [ -e /tmp/go ]; do sleep 0.02; done; echo end";
    for act in
        [&["rollback-snapshot", uuid, "clean"][..], &["stop", uuid, "-F"]]
    {
        let job = stage.submit(script, Value::Null).await;
        stage.says(job, "up").await;
        stage.zones.must(act, "");
        // Only the second run is let go.
        let client = stage.client().await;
        let what = format!("{} makes it run again", act[0]);
        until(&what, async || {
            let view = client.status(&job.to_string()).await.unwrap();
            assert!(!view.state.is_final(), "{act:?}: {view:#?}");
            let is_second = view.runs.len() == 2;
            (is_second && view.state == JobState::Running).then_some(())
        })
        .await;
        until("the second run ends", async || {
            stage.zones.zlogin(uuid, &["/usr/bin/touch", "/tmp/go"]);
            let view = client.status(&job.to_string()).await.unwrap();
            view.state.is_final().then_some(())
        })
        .await;
        let view = stage.finished(job).await;
        check(&view);
        assert_eq!(view.runs.len(), 2, "{act:?}: {view:#?}");
        let why = view.runs[0].sentence.clone().unwrap();
        eprintln!("vmadm {}: {why}", act[0]);
    }
}
