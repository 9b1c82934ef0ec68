//! Races: an operator and a second runner act on a worker while jobs run. No
//! run counts that did not have the zone that was probed, from its start to
//! its end.

use std::ffi::OsString;

use ntrace_client::RunnerControl;
use ntrace_e2e::process::Start;
use ntrace_e2e::{Process, Setup, Stage, Who, until};
use ntrace_protocol::{JobId, JobState, JobView, Reason, WorkerState};
use serde_json::{Value, json};

/// A job that fails where it finds the traces of another, or where the zone
/// is not the same at its end as at its start.
const JOB: &str = "for place in /tmp /var/tmp /dev/shm; do
  if [ -e $place/ntplanted ]; then echo \"dirty: $place\"; exit 66; fi
done
boot() { cut -d' ' -f22 /proc/1/stat; }
mine=$(boot) || exit 67
echo $mine >/var/tmp/ntplanted; echo $mine >/tmp/ntplanted
sleep 0.3
[ \"$(cat /var/tmp/ntplanted)\" = \"$mine\" ] || exit 68
[ \"$(cat /tmp/ntplanted)\" = \"$mine\" ] || exit 69
[ \"$(boot)\" = \"$mine\" ] || exit 70
echo clean
";

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

/// A second runner of the same dispatcher and the same zones.
struct Second {
    process: Process,
    control: RunnerControl,
}

impl Second {
    async fn start(stage: &Stage) -> Self {
        let text = |value: &str| OsString::from(value);
        let data = stage.path().join("r/second");
        let dispatcher = format!("127.0.0.1:{}", stage.dispatcher_port());
        let mut process = Process::start(&Start {
            name: "second runner".to_owned(),
            program: stage.programs().path("ntrace-runner"),
            args: vec![
                text("--listen"),
                text("localhost:0"),
                text("--name"),
                text("second"),
                text("--dispatcher"),
                dispatcher.into(),
                text("--data"),
                data.into(),
                text("--source"),
                stage.repos.template().into(),
                text("--tracer"),
                text("none"),
            ],
            env: stage.env(),
            who: Who::Us,
            log: stage.path().join("second.log"),
        });
        let port = process.port(0).expect("the second runner listens");
        let addr = format!("127.0.0.1:{port}");
        let control = RunnerControl::connect(&addr).await.unwrap();
        Self { process, control }
    }

    async fn is_clean(&self, uuid: &str) {
        until("the second runner has its worker", async || {
            let views = self.control.workers().await.unwrap();
            let mut views = views.iter().filter(|v| v.uuid.to_string() == uuid);
            views.any(|v| v.state == WorkerState::Available).then_some(())
        })
        .await;
    }
}

/// What an operator does to a VM, again and again. Some of it fails, since
/// others act at the same time; that is the point.
fn meddle(stage: &Stage, uuid: &str) -> usize {
    let acts: [&[&str]; 3] = [
        &["rollback-snapshot", uuid, "clean"],
        &["stop", uuid, "-F"],
        &["start", uuid],
    ];
    let done = acts.iter().cycle().take(9);
    done.filter(|act| stage.zones.vmadm(act, "").status.success()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runners_and_an_operator_on_one_vm_lose_and_double_nothing() {
    let setup = Setup::workers(1).runner_args(&["--tracer", "none"]);
    let stage = Stage::start(setup).await;
    let uuid = stage.workers[0].clone();
    let mut second = Second::start(&stage).await;
    second.control.enroll(&uuid, Value::Null).await.unwrap();
    second.is_clean(&uuid).await;
    let mut jobs: Vec<JobId> = Vec::new();
    for _ in 0..6 {
        jobs.push(stage.submit(JOB, json!({"retry": 20})).await);
    }
    let acted = tokio::task::block_in_place(|| meddle(&stage, &uuid));
    // The two would take the zone from each other for long; the rest is done
    // by one.
    second.control.expel(&uuid).await.unwrap();
    let mut lost = 0;
    let mut by = std::collections::BTreeSet::new();
    for id in &jobs {
        let job = stage.finished(*id).await;
        check(&job);
        assert_eq!(stage.output(*id).await.text(), "clean\n", "{job:#?}");
        for run in &job.runs {
            by.extend(run.runner.clone().map(|name| name.to_string()));
            if run.state == "lost" {
                lost += 1;
                eprintln!("lost: {}", run.sentence.as_deref().unwrap());
            }
        }
    }
    let jobs = jobs.len();
    eprintln!("{jobs} jobs by {by:?}, {lost} runs lost, {acted} acts of 9");
    assert!(acted > 0, "the operator never got through");
    let ended = second.process.end(ntrace_e2e::DEADLINE);
    assert!(ended.is_some(), "the second runner does not end");
}
