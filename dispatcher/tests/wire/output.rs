//! Output: kept in order, acknowledged when kept, read by anybody.

use serde_json::{Value, json};

use crate::support::{Dispatcher, Run, Wire, within};

async fn start(flags: &[&str]) -> (tempfile::TempDir, Dispatcher, Wire) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, flags).await;
    let wire = dispatcher.connect().await;
    (temp, dispatcher, wire)
}

/// All records of `logs`, and its answer.
async fn logs(
    wire: &mut Wire,
    id: &str,
    options: Value,
) -> (Vec<Value>, Value) {
    let asked = wire.send("logs", json!([id, options])).await;
    let end = wire.answer(asked).await.unwrap().remove(0);
    // The answer comes last, so all notices are here.
    let records = wire.inbox.drain(..).map(|mut line| {
        assert_eq!(line[0], "log");
        assert_eq!(line[2], -1);
        line[1][0].take()
    });
    (records.collect(), end)
}

fn data(records: &[Value]) -> Vec<&str> {
    records.iter().filter_map(|r| r["data"].as_str()).collect()
}

#[tokio::test]
async fn the_same_report_again_is_ignored_and_a_gap_is_not_taken() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let run = wire.next().await;
    assert_eq!(
        wire.report(&run, "stdout", 1, json!("a")).await,
        json!({"stdout": 1})
    );
    assert_eq!(
        wire.report(&run, "stdout", 1, json!("other")).await,
        json!({"stdout": 1})
    );
    assert_eq!(
        wire.report(&run, "stdout", 3, json!("c")).await,
        json!({"stdout": 1})
    );
    let list = json!([
        run.report("stderr", 1, json!("x")),
        run.report("stdout", 2, json!("b")),
        run.report("stdout", 3, json!("c")),
        run.report("stdout", 5, json!("e")),
    ]);
    let acked = wire.call("result", json!([list])).await;
    assert_eq!(acked["acked"][&run.run], json!({"stdout": 3, "stderr": 1}));
    assert_eq!(acked["refused"], json!([]));
    let (records, end) = logs(&mut wire, &id, json!({})).await;
    assert_eq!(data(&records), ["a", "x", "b", "c"]);
    assert_eq!(end, json!({"next": 4, "ended": false}));
    dispatcher.end().await;
}

#[tokio::test]
async fn the_verdict_waits_for_the_output() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let run = wire.next().await;
    let end = run.end("done", json!({"stdout": 2}));
    let acked = wire.call("result", json!([end])).await;
    assert_eq!(acked["acked"], json!({}));
    assert_eq!(wire.state(&id).await, "leased");
    wire.report(&run, "stdout", 1, json!("a")).await;
    wire.call("result", json!([end])).await;
    assert_eq!(wire.state(&id).await, "leased");
    wire.report(&run, "stdout", 2, json!("b")).await;
    let few = run.end("done", json!({"stdout": 1}));
    assert_eq!(wire.refused("result", json!([few])).await, "EINVAL data");
    let acked = wire.call("result", json!([end])).await;
    assert_eq!(acked["acked"], json!({"stdout": 2, "control": 1}));
    assert_eq!(wire.state(&id).await, "done");
    let (records, end) = logs(&mut wire, &id, json!({})).await;
    assert_eq!(records.last().unwrap()["stream"], "control");
    assert_eq!(end, json!({"next": 3, "ended": true, "exit": {"code": 0}}));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_read_begins_anywhere_and_takes_the_streams_that_are_wanted() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut last = 0;
    // Two runs of the job, ten records each.
    for _ in 0..2 {
        let mut runner = dispatcher.connect().await;
        let run = runner.next().await;
        for seq in 1..=5 {
            let text = format!("{}", last);
            runner.report(&run, "stdout", seq, json!(text)).await;
            runner.report(&run, "stderr", seq, json!("e")).await;
            last += 1;
        }
        drop(runner);
        wire.until_state(&id, "queued").await;
    }
    let (all, end) = logs(&mut wire, &id, json!({})).await;
    assert_eq!((all.len(), &end["next"]), (20, &json!(20)));
    for (at, record) in all.iter().enumerate() {
        assert_eq!(record["n"], at);
        assert_eq!(record["job"], id);
    }
    assert_ne!(all[0]["run_id"], all[19]["run_id"]);
    for from in [1, 9, 10, 11, 19, 20, 25] {
        let (part, end) = logs(&mut wire, &id, json!({"from": from})).await;
        assert_eq!(part, all.get(from..).unwrap_or_default(), "{from}");
        assert_eq!(end["next"], from.max(20));
    }
    let only = json!({"streams": ["stdout"], "from": 3});
    let (part, _) = logs(&mut wire, &id, only).await;
    let expected: Vec<String> = (2..10).map(|n| n.to_string()).collect();
    assert_eq!(data(&part), expected);
    dispatcher.end().await;
}

#[tokio::test]
async fn any_bytes_come_back_as_they_were() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let run = wire.next().await;
    let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let encoded = json!({"base64": STANDARD.encode(&all)});
    wire.report(&run, "stdout", 1, encoded.clone()).await;
    let text = "a\0\u{1b}[2J\r\u{202e}\"é\n";
    wire.report(&run, "stdout", 2, json!(text)).await;
    let (records, _) = logs(&mut wire, &id, json!({})).await;
    assert_eq!(records[0]["data"], encoded);
    assert_eq!(records[1]["data"], text);
    assert_eq!(records[1]["when"], "2026-01-31T12:00:00.000Z");
    dispatcher.end().await;
}

#[tokio::test]
async fn fifty_followers_get_the_same_through_a_requeue_until_the_end() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut followers = Vec::new();
    for _ in 0..50 {
        let mut follower = dispatcher.connect().await;
        let job = id.clone();
        followers.push(tokio::spawn(async move {
            logs(&mut follower, &job, json!({"follow": true})).await
        }));
    }
    let mut runner = dispatcher.connect().await;
    let first = runner.next().await;
    for seq in 1..=100 {
        let text = json!(format!("first {seq}\n"));
        runner.report(&first, "stdout", seq, text).await;
    }
    drop(runner);
    let run = wire.next().await;
    assert_eq!(run.attempt, 2);
    for seq in 1..=100 {
        let text = json!(format!("second {seq}\n"));
        wire.report(&run, "stderr", seq, text).await;
    }
    let end = run.end("done", json!({"stderr": 100}));
    wire.call("result", json!([end])).await;
    let (expected, end) = logs(&mut wire, &id, json!({})).await;
    assert_eq!(expected.len(), 201);
    assert_eq!(end["ended"], true);
    for follower in followers {
        let (records, last) = within(follower).await.unwrap();
        assert_eq!(last, end);
        assert!(records == expected);
    }
    dispatcher.end().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_slows_nobody() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let mut stuck = dispatcher.connect().await;
    stuck.send("logs", json!([id, {"follow": true}])).await;
    let run = wire.next().await;
    let text = "x".repeat(500_000);
    for seq in 1..=60 {
        wire.report(&run, "stdout", seq, json!(text)).await;
    }
    let end = run.end("done", json!({"stdout": 60}));
    wire.call("result", json!([end])).await;
    // All of it is kept, and not a byte of it was read. The other one can still read all of it.
    let mut bytes = 0;
    while bytes < 60 * text.len() {
        let log = stuck.request().await;
        bytes += log[1][0]["data"].as_str().unwrap().len();
    }
    dispatcher.end().await;
}

#[tokio::test]
async fn reports_in_flight_together_stay_in_order() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let run = wire.next().await;
    let mut asked = Vec::new();
    for seq in 1..=200_u64 {
        let report = run.report("stdout", seq, json!(seq.to_string()));
        asked.push(wire.send("result", json!([[report]])).await);
    }
    let end = run.end("done", json!({"stdout": 200}));
    asked.push(wire.send("result", json!([[end]])).await);
    for id in asked {
        let acked = wire.answer(id).await.unwrap().remove(0);
        assert_eq!(acked["refused"], json!([]));
    }
    assert_eq!(wire.state(&id).await, "done");
    let (records, _) = logs(&mut wire, &id, json!({})).await;
    assert_eq!(records.len(), 201);
    dispatcher.end().await;
}

#[tokio::test]
async fn output_survives_a_restart_and_a_torn_tail_is_cut() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    wire.hello("r0", json!([])).await;
    let run = wire.next().await;
    for seq in 1..=3 {
        wire.report(&run, "stdout", seq, json!("kept")).await;
    }
    let shard = &id[34..];
    let log =
        dispatcher.data().join(format!("output/{shard}/{id}/{}.log", run.run));
    let whole = std::fs::read(&log).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[..20]);
    std::fs::write(&log, torn).unwrap();
    let dispatcher = dispatcher.restart().await;
    assert_eq!(std::fs::read(&log).unwrap(), whole);
    let mut wire = dispatcher.connect().await;
    wire.hello("r0", json!([run.held()])).await;
    let acked = wire.report(&run, "stdout", 4, json!("more")).await;
    assert_eq!(acked, json!({"stdout": 4}));
    let (records, _) = logs(&mut wire, &id, json!({})).await;
    assert_eq!(data(&records), ["kept", "kept", "kept", "more"]);
    dispatcher.end().await;
}

#[tokio::test]
async fn output_of_many_runs_is_kept_apart() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let mut runs: Vec<Run> = Vec::new();
    for _ in 0..10 {
        wire.push().await;
        runs.push(wire.next().await);
    }
    let reports: Vec<Value> = (1..=20)
        .flat_map(|seq| {
            runs.iter().map(move |r| r.report("stdout", seq, json!(r.job)))
        })
        .collect();
    let acked = wire.call("result", json!([reports])).await;
    assert_eq!(acked["acked"].as_object().unwrap().len(), 10);
    for run in &runs {
        let (records, _) = logs(&mut wire, &run.job, json!({})).await;
        assert_eq!(records.len(), 20);
        assert!(records.iter().all(|r| r["data"] == json!(run.job)));
    }
    dispatcher.end().await;
}
