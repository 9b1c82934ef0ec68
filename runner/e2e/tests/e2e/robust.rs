//! What breaks: dispatcher, runner, the way between them, workers. Nothing
//! that was acknowledged is lost, and nothing counts twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ntrace_client::{Dispatcher, ListFilter};
use ntrace_e2e::{DEADLINE, Setup, Stage, leftovers, until};
use ntrace_protocol::report::{Data, End, EndTag, Outcome, Report};
use ntrace_protocol::runner::{Assignment, Held, Hello, Next};
use ntrace_protocol::{
    Code, Exit, JobId, JobState, Reason, Source, Stream, Timestamp,
};
use serde_json::{Value, json};

const SHA: &str = "0f16cfe0d6a3b8e87229c91bee901fad5dae9878";

fn new_id() -> JobId {
    JobId::generate(fastrand::u64(..1 << 41), fastrand::u128(..))
}

/// Pushes one after the other until the connection breaks; what was
/// acknowledged and what was sent.
async fn pusher(
    client: Dispatcher,
    acknowledged: Arc<AtomicUsize>,
) -> (Vec<JobId>, Vec<JobId>) {
    let (mut acked, mut sent) = (Vec::new(), Vec::new());
    let spec = ntrace_protocol::JobSpec {
        source: Some(Source {
            owner: "dscape".parse().unwrap(),
            repo: "nano".parse().unwrap(),
            commit: SHA.parse().unwrap(),
        }),
        ..<_>::default()
    };
    loop {
        let ids: Vec<_> = (0..8).map(|_| new_id()).collect();
        sent.extend(&ids);
        let pushes = ids.iter().map(|id| client.push(&spec, Some(*id)));
        let answers = futures::future::join_all(pushes).await;
        for (id, answer) in ids.iter().zip(&answers) {
            if let Ok(found) = answer {
                assert_eq!(found, id);
                acked.push(*id);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
        if answers.iter().any(Result::is_err) {
            return (acked, sent);
        }
    }
}

async fn all_jobs(stage: &Stage) -> BTreeMap<JobId, usize> {
    let client = stage.client().await;
    let mut found = BTreeMap::new();
    let mut filter = ListFilter { limit: Some(500), ..<_>::default() };
    loop {
        let page = client.list(&filter).await.unwrap();
        for job in &page.jobs {
            *found.entry(job.id).or_default() += 1;
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return found,
        }
    }
}

#[tokio::test]
async fn every_acknowledged_push_survives_a_killed_dispatcher_once() {
    let mut stage = Stage::start(Setup::dispatcher()).await;
    let (mut acked, mut sent) = (BTreeSet::new(), BTreeSet::new());
    for round in 1..=4 {
        let count = Arc::new(AtomicUsize::new(0));
        let mut pushers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let client = stage.client().await;
            pushers.spawn(pusher(client, count.clone()));
        }
        until("some pushes are acknowledged", async || {
            (count.load(Ordering::Relaxed) > 150 * round).then_some(())
        })
        .await;
        stage.kill_dispatcher();
        for (its, all) in pushers.join_all().await {
            acked.extend(its);
            sent.extend(all);
        }
        stage.restart_dispatcher();
        let found = all_jobs(&stage).await;
        assert!(found.values().all(|times| *times == 1));
        let lost: Vec<_> =
            acked.iter().filter(|id| !found.contains_key(id)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        assert!(found.keys().all(|id| sent.contains(id)));
    }
    // A repeat of what was acknowledged before the crash is the same job.
    let id = acked.first().unwrap();
    let args = [json!("dscape"), json!("nano"), json!(SHA), json!(id)];
    assert_eq!(stage.ask("push", &args).await.unwrap(), [json!(id)]);
    assert_eq!(all_jobs(&stage).await[id], 1);
}

fn hello(name: &str, runs: Vec<Held>) -> Hello {
    Hello {
        name: name.parse().unwrap(),
        version: "0".to_owned(),
        zone: None,
        workers: vec![],
        runs,
    }
}

async fn next(runner: &Dispatcher) -> Assignment {
    until("work comes", async || {
        let next = Next { wait_ms: Some(2000), worker: None };
        runner.next(&next).await.unwrap()
    })
    .await
}

fn report(run: &Assignment, stream: Stream, seq: u64, data: Data) -> Report {
    Report {
        job: run.id,
        run_id: run.run_id,
        lease: run.lease,
        stream,
        seq,
        when: Timestamp::from_system(std::time::SystemTime::now()),
        data,
    }
}

fn text(run: &Assignment, seq: u64, text: &str) -> Report {
    report(run, Stream::Stdout, seq, Data::Text(text.to_owned()))
}

fn phase(run: &Assignment, seq: u64, phase: &str) -> Report {
    let event = json!({"event": "phase", "phase": phase});
    report(run, Stream::Events, seq, Data::from_event(&event))
}

fn end(run: &Assignment, outcome: Outcome, last: &[(Stream, u64)]) -> Report {
    let end = End {
        event: EndTag::End,
        outcome,
        reason: None,
        sentence: None,
        exit: Some(Exit::Code { code: 0 }),
        usage: None,
        trace: None,
        last: last.iter().copied().collect(),
    };
    report(run, Stream::Control, 1, Data::from_event(&end))
}

async fn send(runner: &Dispatcher, reports: &[Report]) -> Vec<Code> {
    let reply = runner.result(reports, DEADLINE).await.unwrap();
    reply.refused.iter().map(|refused| refused.error.code).collect()
}

#[tokio::test]
async fn a_runner_that_was_fenced_off_changes_nothing() {
    let setup = Setup::dispatcher().dispatcher_args(&["--lease", "1s"]);
    let stage = Stage::start(setup).await;
    let job = stage.submit("true", Value::Null).await;
    let (old, new) = (stage.client().await, stage.client().await);
    old.hello(&hello("old", vec![])).await.unwrap();
    new.hello(&hello("new", vec![])).await.unwrap();
    let first = next(&old).await;
    assert_eq!((first.id, first.attempt), (job, 1));
    assert!(
        send(&old, &[phase(&first, 1, "running"), text(&first, 1, "old ")])
            .await
            .is_empty()
    );
    // No sign of life: the lease runs out and another runner gets the job.
    let second = next(&new).await;
    assert_eq!((second.id, second.attempt), (job, 2));
    assert!(second.lease > first.lease);
    let late = [
        text(&first, 2, "late "),
        end(&first, Outcome::Done, &[(Stream::Stdout, 2)]),
    ];
    assert_eq!(send(&old, &late).await, [Code::Efenced]);
    let held = [first.held()];
    let dropped = old.beat(&held, DEADLINE).await.unwrap();
    assert_eq!(dropped, [first.run_id]);
    assert!(!stage.status(job).await.state.is_final());

    let last = [(Stream::Stdout, 1), (Stream::Events, 1)];
    let reports = [
        phase(&second, 1, "running"),
        text(&second, 1, "new"),
        end(&second, Outcome::Done, &last),
    ];
    assert!(send(&new, &reports).await.is_empty());
    assert!(send(&new, &reports).await.is_empty(), "a repeat is accepted");
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done);
    let states: Vec<_> = view.runs.iter().map(|r| r.state.as_str()).collect();
    assert_eq!(states, ["lost", "done"]);
    assert_eq!(stage.output(job).await.text(), "old new");
}

#[tokio::test]
async fn a_verdict_waits_for_all_output() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let job = stage.submit("true", Value::Null).await;
    let runner = stage.client().await;
    runner.hello(&hello("r", vec![])).await.unwrap();
    let run = next(&runner).await;
    send(&runner, &[phase(&run, 1, "running"), text(&run, 1, "a")]).await;
    let last = [(Stream::Stdout, 3), (Stream::Events, 1)];
    // Neither a hole nor an end before the output is taken.
    let early = [text(&run, 3, "c"), end(&run, Outcome::Done, &last)];
    send(&runner, &early).await;
    assert!(!stage.status(job).await.state.is_final());
    let whole = [text(&run, 2, "b"), text(&run, 3, "c"), early[1].clone()];
    let reply = runner.result(&whole, DEADLINE).await.unwrap();
    let acked = &reply.acked[&run.run_id];
    assert_eq!(acked[&Stream::Stdout], 3);
    assert_eq!(acked[&Stream::Control], 1);
    assert_eq!(stage.finished(job).await.state, JobState::Done);
    assert_eq!(stage.output(job).await.text(), "abc");
}

#[tokio::test]
async fn the_lease_of_an_anonymous_runner_ends_with_its_connection() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let job = stage.submit("true", Value::Null).await;
    let mut nc = stage.line();
    let answer = nc.ask(r#"["next",[],1]"#);
    assert_eq!(answer[0][1]["id"], json!(job), "{answer}");
    assert_eq!(stage.status(job).await.state, JobState::Leased);
    drop(nc);
    let view = stage.reaches(job, JobState::Queued).await;
    assert_eq!(view.position, Some(1), "{view:?}");
    let answer = stage.line().ask(r#"["next",[{"wait_ms":5000}],1]"#);
    assert_eq!(answer[0][1]["id"], json!(job), "{answer}");
}

#[tokio::test]
async fn leases_outlive_a_restart_and_are_kept_or_dropped_by_name() {
    let mut stage = Stage::start(Setup::dispatcher()).await;
    let kept = stage.submit("kept", Value::Null).await;
    let lost = stage.submit("lost", Value::Null).await;
    let runner = stage.client().await;
    runner.hello(&hello("r", vec![])).await.unwrap();
    let runs = [next(&runner).await, next(&runner).await];
    assert_eq!(runs.each_ref().map(|run| run.id), [kept, lost]);
    for run in &runs {
        send(&runner, &[phase(run, 1, "running")]).await;
    }
    stage.kill_dispatcher();
    stage.restart_dispatcher();
    assert_eq!(stage.status(kept).await.state, JobState::Running);
    let runner = stage.client().await;
    let stale =
        Held { run_id: runs[1].run_id, lease: ntrace_protocol::Lease(0) };
    let hello = hello("r", vec![runs[0].held(), stale]);
    let welcome = runner.hello(&hello).await.unwrap();
    assert_eq!(welcome.keep, [runs[0].run_id]);
    assert_eq!(welcome.drop, [runs[1].run_id]);
    let last = [(Stream::Events, 1)];
    let ends = [end(&runs[0], Outcome::Done, &last)];
    assert!(send(&runner, &ends).await.is_empty());
    assert_eq!(stage.finished(kept).await.state, JobState::Done);
    let again = next(&runner).await;
    assert_eq!((again.id, again.attempt), (lost, 2));
}

#[tokio::test]
async fn a_lost_run_without_retries_fails_as_runner_lost() {
    let setup = Setup::dispatcher().dispatcher_args(&["--lease", "1s"]);
    let stage = Stage::start(setup).await;
    let job = stage.submit("true", json!({"retry": 0})).await;
    let runner = stage.client().await;
    runner.hello(&hello("r", vec![])).await.unwrap();
    let run = next(&runner).await;
    send(&runner, &[phase(&run, 1, "running")]).await;
    drop(runner);
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Failed);
    assert_eq!(view.reason, Some(Reason::RunnerLost));
    assert!(view.sentence.is_some());
}

/// A job that counts to `n` on its own clock.
fn counting(n: u32) -> String {
    format!(
        "i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo line $i; \
         sleep 0.02; done"
    )
}

fn counted(n: u32) -> String {
    (1..=n).map(|i| format!("line {i}\n")).collect()
}

#[tokio::test]
async fn a_killed_dispatcher_does_not_disturb_a_running_job() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let job = stage.submit(&counting(300), Value::Null).await;
    for at in [20, 120] {
        stage.says(job, &format!("line {at}\n")).await;
        stage.kill_dispatcher();
        stage.restart_dispatcher();
    }
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(view.runs.len(), 1, "{view:?}");
    assert_eq!(stage.output(job).await.text(), counted(300));
}

#[tokio::test]
async fn a_broken_or_frozen_way_loses_nothing() {
    let setup =
        Setup::workers(1).proxied().dispatcher_args(&["--lease", "60s"]);
    let stage = Stage::start(setup).await;
    let job = stage.submit(&counting(250), Value::Null).await;
    use ntrace_e2e::proxy::Way;
    for (at, way) in [(10, Way::Cut), (60, Way::Frozen), (110, Way::Cut)] {
        stage.says(job, &format!("line {at}\n")).await;
        stage.proxy().set(way);
        // While the way is closed the job goes on; only its own clock can
        // tell how long that was.
        tokio::time::sleep(Duration::from_millis(400)).await;
        stage.proxy().set(Way::Open);
    }
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(view.runs.len(), 1, "{view:?}");
    assert_eq!(stage.output(job).await.text(), counted(250));
}

#[tokio::test]
async fn a_run_that_ended_behind_a_closed_way_is_still_told() {
    use ntrace_e2e::proxy::Way;
    let stage = Stage::start(Setup::workers(1).proxied()).await;
    let script = "echo begun; while [ ! -e /tmp/go ]; do sleep 0.02; done; \
                  head -c 3000000 /dev/zero; exit 5";
    let job = stage.submit(script, Value::Null).await;
    stage.says(job, "begun").await;
    stage.proxy().set(Way::Cut);
    stage.zones.zlogin(&stage.workers[0], &["/usr/bin/touch", "/tmp/go"]);
    // The worker is made clean again while nobody can be told.
    let uuid = &stage.workers[0];
    until("the worker is clean again", async || {
        let worker = stage.worker(uuid).await?;
        (worker.resets.done >= 2).then_some(())
    })
    .await;
    stage.proxy().set(Way::Open);
    let view = stage.finished(job).await;
    assert_eq!(view.reason, Some(Reason::Exit), "{view:?}");
    assert_eq!(view.runs.len(), 1, "{view:?}");
    let output = stage.output(job).await;
    assert_eq!(output.stdout.len(), 3_000_000 + "begun\n".len());
}

pub(crate) async fn a_killed_runner_leaves_nothing_alive(stage: &mut Stage) {
    let token = format!("77.{}", fastrand::u32(10_000_000..));
    let script = format!(
        "if [ -e $HOME/again ]; then :; fi; echo begun; \
         setsid sleep {token} & (sleep {token} &) ; sleep {token}"
    );
    let job = stage.submit(&script, json!({"limits": {"time": "4s"}})).await;
    stage.says(job, "begun").await;
    let word = format!("sleep {token}");
    ntrace_e2e::eventually("three processes run", DEADLINE, || {
        (leftovers::with_word(&word).len() >= 3).then_some(())
    });
    stage.kill_runner();
    if stage.is_over_ssh() {
        // No lifeline reaches through ssh: the next runner's reset ends it.
        stage.start_runner();
    }
    let began = std::time::Instant::now();
    ntrace_e2e::eventually("the job's processes end", DEADLINE, || {
        leftovers::with_word(&word).is_empty().then_some(())
    });
    let took = began.elapsed();
    if !stage.is_over_ssh() {
        assert!(took < Duration::from_secs(3), "they lived on for {took:?}");
        stage.start_runner();
    }
    let view = stage.finished(job).await;
    // The second run meets its limit of time.
    assert_eq!(view.reason, Some(Reason::Timeout), "{view:?}");
    assert_eq!(view.runs.len(), 2, "{view:?}");
    assert_eq!(view.runs[0].state, "lost");
    let output = stage.output(job).await;
    assert_eq!(output.text(), "begun\nbegun\n", "{view:?}");
    let (next, _) = stage.run("echo fine", Value::Null).await;
    assert_eq!(next.state, JobState::Done, "{next:?}");
}

#[tokio::test]
async fn a_killed_runner_costs_one_more_run_and_leaves_nothing_alive() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    a_killed_runner_leaves_nothing_alive(&mut stage).await;
}

#[tokio::test]
async fn a_killed_runner_without_retries_fails_the_job() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let job = stage.submit("echo up; sleep 78.5", json!({"retry": 0})).await;
    stage.says(job, "up").await;
    stage.kill_runner();
    stage.start_runner();
    let view = stage.finished(job).await;
    assert_eq!(view.reason, Some(Reason::RunnerLost), "{view:?}");
    assert_eq!(view.runs.len(), 1, "{view:?}");
    assert_eq!(stage.output(job).await.text(), "up\n");
}
