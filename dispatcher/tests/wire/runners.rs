//! Commands of runners: leases, signs of life, fencing, stops, restarts.

use serde_json::{Value, json};

use crate::support::{Dispatcher, Run, Wire, within};

async fn start(flags: &[&str]) -> (tempfile::TempDir, Dispatcher, Wire) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, flags).await;
    let wire = dispatcher.connect().await;
    (temp, dispatcher, wire)
}

#[tokio::test]
async fn a_job_goes_through_its_states_as_its_runner_says() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    wire.hello("r0", json!([])).await;
    let run = wire.next().await;
    assert_eq!((run.job.as_str(), run.attempt), (id.as_str(), 1));
    assert_eq!(wire.state(&id).await, "leased");
    let worker = "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f";
    let events = [
        (json!({"event": "assigned", "worker": worker}), "leased"),
        (json!({"event": "phase", "phase": "preparing"}), "preparing"),
        (json!({"event": "note", "text": "a\u{1b}b"}), "preparing"),
        (json!({"event": "phase", "phase": "running"}), "running"),
        // Out of order: kept in the output, and nothing else.
        (json!({"event": "phase", "phase": "preparing"}), "running"),
        (json!({"event": "phase", "phase": "collecting"}), "collecting"),
        (json!({"event": "of the future"}), "collecting"),
    ];
    for (at, (event, state)) in events.iter().enumerate() {
        let seq = at as u64 + 1;
        let acked = wire.report(&run, "events", seq, event.clone()).await;
        assert_eq!(acked, json!({"events": seq}));
        assert_eq!(wire.state(&id).await, *state);
    }
    let mut end = run.end("failed", json!({"events": events.len()}));
    end["data"]["reason"] = json!("exit");
    end["data"]["exit"] = json!({"code": 3});
    end["data"]["usage"] = json!({"cpu_ms": 5});
    let acked = wire.call("result", json!([end])).await;
    assert_eq!(acked["acked"]["control"], 1);
    let job = wire.status(&id).await;
    assert_eq!(job["state"], "failed");
    assert_eq!(job["reason"], "exit");
    assert_eq!(job["exit"], json!({"code": 3}));
    let shown = &job["runs"][0];
    assert_eq!(shown["worker"], worker);
    assert_eq!(shown["runner"], "r0");
    assert_eq!(shown["usage"]["cpu_ms"], 5);
    assert_eq!(shown["notes"], json!(["a\\x1bb"]));
    for state in ["leased", "preparing", "running", "collecting", "failed"] {
        assert!(shown["times"][state].is_string(), "{state}");
    }
    // The same verdict again is acknowledged again, and nothing moves.
    let again = wire.call("result", json!([end])).await;
    assert_eq!(again, acked);
    let late = run.report("stdout", 1, json!("late"));
    let refused = wire.refused("result", json!([late])).await;
    assert_eq!(refused, "EFENCED lease");
    dispatcher.end().await;
}

#[tokio::test]
async fn next_waits_and_the_highest_priority_goes_first() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let none = wire.try_call("next", json!([{"wait_ms": 1}])).await.unwrap();
    assert_eq!(none, [Value::Null]);
    let mut runner = dispatcher.connect().await;
    let waiting = runner.send("next", json!([])).await;
    let low = wire.push_with(json!({"priority": -1})).await;
    let given = runner.answer(waiting).await.unwrap().remove(0);
    assert_eq!(given["id"], json!(low));
    let low = wire.push_with(json!({"priority": -1})).await;
    let old = wire.push().await;
    let new = wire.push().await;
    let high = wire.push_with(json!({"priority": 1})).await;
    for expected in [high, old, new, low] {
        assert_eq!(runner.next().await.job, expected);
    }
    let none = runner.call("next", json!([{"wait_ms": 0}])).await;
    assert_eq!(none, Value::Null);
    dispatcher.end().await;
}

#[tokio::test]
async fn an_anonymous_lease_ends_with_its_connection() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut runner = dispatcher.connect().await;
    let first = runner.next().await;
    drop(runner);
    let mut other = dispatcher.connect().await;
    let second = other.next().await;
    assert_eq!(second.job, id);
    assert_eq!(second.attempt, 2);
    assert!(second.lease > first.lease);
    let late = first.end("done", json!({}));
    let refused = wire.refused("result", json!([late])).await;
    assert_eq!(refused, "EFENCED lease");
    assert_eq!(wire.status(&id).await["runs"][0]["state"], "lost");
    dispatcher.end().await;
}

#[tokio::test]
async fn a_lease_without_a_sign_of_life_expires_and_is_fenced() {
    let (_temp, dispatcher, mut wire) = start(&["--lease", "3s"]).await;
    let id = wire.push_with(json!({"retry": 1})).await;
    let mut runner = dispatcher.connect().await;
    runner.hello("r0", json!([])).await;
    let first = runner.next().await;
    runner.report(&first, "stdout", 1, json!("a")).await;
    let second = runner.next().await;
    assert_eq!(second.job, id);
    let stale = first.report("stdout", 2, json!("b"));
    let good = second.report("stdout", 1, json!("c"));
    let mixed = runner.call("result", json!([[stale, good]])).await;
    assert_eq!(mixed["acked"][&second.run], json!({"stdout": 1}));
    assert_eq!(mixed["refused"][0]["run_id"], json!(first.run));
    assert_eq!(mixed["refused"][0]["code"], "EFENCED");
    let beat = json!([[first.held(), second.held()]]);
    let beat = runner.call("beat", beat).await;
    assert_eq!(beat["drop"], json!([first.run]));
    // The second begun run is lost as well, and retry was 1.
    let job = wire.until_state(&id, "failed").await;
    assert_eq!(job["reason"], "runner_lost");
    dispatcher.end().await;
}

#[tokio::test]
async fn beats_keep_a_lease_alive() {
    let (_temp, dispatcher, mut wire) = start(&["--lease", "3s"]).await;
    let id = wire.push().await;
    wire.hello("r0", json!([])).await;
    let run = wire.next().await;
    let began = tokio::time::Instant::now();
    while began.elapsed().as_millis() < 4500 {
        let beat = wire.call("beat", json!([[run.held()]])).await;
        assert_eq!(beat["drop"], json!([]));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(wire.status(&id).await["runs"].as_array().unwrap().len(), 1);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_runner_that_comes_back_keeps_what_it_holds_and_no_more() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let (one, two) = (wire.push().await, wire.push().await);
    let mut runner = dispatcher.connect().await;
    runner.hello("r0", json!([])).await;
    let first = runner.next().await;
    let second = runner.next().await;
    drop(runner);
    let mut runner = dispatcher.connect().await;
    let unknown = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let runs = json!([first.held(), {"run_id": unknown, "lease": 99}]);
    let welcome = runner.hello("r0", runs).await;
    assert_eq!(welcome["keep"], json!([first.run]));
    assert_eq!(welcome["drop"], json!([unknown]));
    assert_eq!(welcome["lease_ms"], 30_000);
    wire.until_state(&two, "queued").await;
    assert_eq!(wire.state(&one).await, "leased");
    let again = runner.next().await;
    assert_eq!((again.job, again.attempt), (two, 2));
    assert_ne!(again.run, second.run);
    runner.call("result", json!([first.end("done", json!({}))])).await;
    assert_eq!(wire.state(&one).await, "done");
    dispatcher.end().await;
}

#[tokio::test]
async fn of_two_connections_with_one_name_the_newer_wins() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    wire.push().await;
    let mut old = dispatcher.connect().await;
    old.hello("r0", json!([])).await;
    let run = old.next().await;
    let mut new = dispatcher.connect().await;
    let welcome = new.hello("r0", json!([run.held()])).await;
    assert_eq!(welcome["keep"], json!([run.run]));
    assert!(old.line().await.is_none(), "the older one is closed");
    // A repeated hello is an update, and gives nothing up.
    let welcome = new.hello("r0", json!([])).await;
    assert_eq!(welcome["drop"], json!([]));
    new.call("result", json!([run.end("done", json!({}))])).await;
    let runners = wire.call("runners", json!([])).await;
    assert_eq!(runners.as_array().unwrap().len(), 1);
    assert_eq!(runners[0]["connected"], true);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_restart_disturbs_no_run() {
    let (_temp, dispatcher, mut wire) = start(&["--lease", "60s"]).await;
    let id = wire.push().await;
    let stopped = wire.push().await;
    wire.hello("r0", json!([])).await;
    let run = wire.next().await;
    let other = wire.next().await;
    wire.report(&run, "stdout", 1, json!("before")).await;
    wire.call("stop", json!([stopped, {"grace": "3s"}])).await;
    let dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    assert_eq!(wire.state(&id).await, "leased");
    let runs = json!([run.held(), other.held()]);
    let welcome = wire.hello("r0", runs).await;
    assert_eq!(welcome["keep"], json!([run.run, other.run]));
    assert_eq!(welcome["drop"], json!([]));
    // The wish to stop is told again.
    let told = wire.request().await;
    assert_eq!(told[0], "stop");
    assert_eq!(told[1], json!([other.run, 3000]));
    let acked = wire.report(&run, "stdout", 2, json!("after")).await;
    assert_eq!(acked, json!({"stdout": 2}));
    let end = run.end("done", json!({"stdout": 2}));
    wire.call("result", json!([end])).await;
    assert_eq!(wire.state(&id).await, "done");
    // Leases go on from where they were.
    wire.push().await;
    assert!(wire.next().await.lease > other.lease);
    dispatcher.end().await;
}

#[tokio::test]
async fn after_a_restart_nothing_expires_for_a_whole_lease() {
    let (_temp, dispatcher, mut wire) = start(&["--lease", "2s"]).await;
    let id = wire.push().await;
    wire.hello("r0", json!([])).await;
    wire.next().await;
    // The lease is half over when the dispatcher goes.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let began = tokio::time::Instant::now();
    let dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    wire.until_state(&id, "queued").await;
    assert!(began.elapsed().as_millis() >= 2000);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_runner_whose_beats_stop_is_let_go_and_gets_no_more_work() {
    let (_temp, dispatcher, mut wire) = start(&["--lease", "1s"]).await;
    // One that never beat may be as quiet as it likes: a person with nc.
    let mut person = dispatcher.connect().await;
    person.hello("person", json!([])).await;
    let mut runner = dispatcher.connect().await;
    runner.hello("r0", json!([])).await;
    runner.call("beat", json!([[]])).await;
    runner.send("next", json!([])).await;
    // Its end of the connection stands, and nothing comes from it.
    assert_eq!(runner.line().await, None);
    let runners = wire.call("runners", json!([])).await;
    let of = |name: &str| {
        let all = runners.as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(of("r0")["connected"], json!(false));
    assert_eq!(of("person")["connected"], json!(true));
    // What is pushed now goes to who is there.
    let id = wire.push().await;
    let run = person.next().await;
    assert_eq!(run.job, id);
    assert_eq!(wire.status(&id).await["runs"].as_array().unwrap().len(), 1);
    dispatcher.end().await;
}

#[tokio::test]
async fn stop_reaches_the_runner_and_the_job_ends_as_stopped() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut runner = dispatcher.connect().await;
    runner.hello("r0", json!([])).await;
    let run = runner.next().await;
    wire.call("stop", json!([id, {"grace": "5s"}])).await;
    let told = runner.request().await;
    assert_eq!(told[0], "stop");
    assert_eq!(told[1], json!([run.run, 5000]));
    let answer = format!("{}\n", json!([[null], told[2]]));
    runner.write_raw(answer.as_bytes()).await;
    runner.call("result", json!([run.end("stopped", json!({}))])).await;
    let job = wire.status(&id).await;
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&json!("stopped"), &json!("stopped"))
    );
    dispatcher.end().await;
}

#[tokio::test]
async fn a_stop_with_evidence_outlives_a_restart_and_a_later_plain_one() {
    let (_temp, dispatcher, mut wire) = start(&["--lease", "60s"]).await;
    let id = wire.push().await;
    wire.hello("r0", json!([])).await;
    let run = wire.next().await;
    wire.call("stop", json!([id, {"grace": "3s", "evidence": true}])).await;
    let mut dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    let texts = wire.call("why", json!([id])).await.to_string();
    assert!(texts.contains("asked for, with evidence"), "{texts}");
    wire.call("stop", json!([id, {"grace": "5s"}])).await;
    dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    wire.hello("r0", json!([run.held()])).await;
    let told = wire.request().await;
    assert_eq!(told[0], "stop");
    assert_eq!(told[1], json!([run.run, 5000, {"evidence": true}]));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_runner_that_knows_of_no_evidence_is_told_the_rest() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut runner = dispatcher.connect().await;
    runner.hello("r0", json!([])).await;
    let run = runner.next().await;
    wire.call("stop", json!([id, {"evidence": true}])).await;
    let told = runner.request().await;
    assert_eq!(told[1], json!([run.run, 10_000, {"evidence": true}]));
    let error = json!({"code": "EINVAL", "message": "at most 2 arguments"});
    let refusal = format!("{}\n", json!([[error], told[2]]));
    runner.write_raw(refusal.as_bytes()).await;
    let told = runner.request().await;
    assert_eq!(told[0], "stop");
    assert_eq!(told[1], json!([run.run, 10_000]));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_lost_run_of_a_job_to_be_stopped_is_not_run_again() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut runner = dispatcher.connect().await;
    runner.next().await;
    wire.call("stop", json!([id])).await;
    drop(runner);
    wire.until_state(&id, "stopped").await;
    dispatcher.end().await;
}

#[tokio::test]
async fn a_failed_place_requeues_and_another_worker_gets_the_job() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push_with(json!({"retry": 1})).await;
    let (bad, good) = (
        "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e50",
        "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e51",
    );
    let worker = |uuid: &str| {
        json!({"uuid": uuid, "state": "available", "snapshot": "clean",
            "since": "2026-01-31T12:00:00.000Z"})
    };
    let hello = json!([{
        "name": "r0", "version": "1",
        "workers": [worker(bad), worker(good)],
    }]);
    wire.call("hello", hello).await;
    assert_eq!(wire.call("workers", json!([])).await[0]["runner"], json!("r0"));
    let given = wire.call("next", json!([{"worker": bad}])).await;
    let run = Run::of(&given);
    let zone = |run: &Run| {
        let mut end = run.end("lost", json!({}));
        end["data"]["reason"] = json!("zone");
        end["data"]["sentence"] = json!("it did not boot");
        json!([end])
    };
    wire.call("result", zone(&run)).await;
    let job = wire.status(&id).await;
    assert_eq!(job["state"], "queued");
    assert_eq!(job["sentence"], "it did not boot");
    let same = json!([{"worker": bad, "wait_ms": 50}]);
    assert_eq!(wire.call("next", same).await, Value::Null);
    let given = wire.call("next", json!([{"worker": good}])).await;
    let second = Run::of(&given);
    assert_eq!(second.job, id);
    // The verdict itself is a report, so this run had begun: retry is used.
    wire.call("result", zone(&second)).await;
    let job = wire.status(&id).await;
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&json!("failed"), &json!("zone"))
    );
    dispatcher.end().await;
}

#[tokio::test]
async fn of_many_waiters_each_gets_one_job() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    const COUNT: usize = 50;
    let mut runners = Vec::new();
    for _ in 0..COUNT {
        let mut runner = dispatcher.connect().await;
        let id = runner.send("next", json!([])).await;
        runners.push((runner, id));
    }
    let mut pushed = Vec::new();
    for _ in 0..COUNT {
        pushed.push(wire.push().await);
    }
    let mut given = Vec::new();
    for (runner, id) in &mut runners {
        let job = within(runner.answer(*id)).await.unwrap().remove(0);
        given.push(job["id"].as_str().unwrap().to_owned());
    }
    pushed.sort();
    given.sort();
    assert_eq!(pushed, given);
    dispatcher.end().await;
}
