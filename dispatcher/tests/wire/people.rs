//! Commands for people: push, status, list, wait, stop, remove, about.

use serde_json::{Value, json};

use crate::support::{Dispatcher, SHA, Wire, within};

async fn start(flags: &[&str]) -> (tempfile::TempDir, Dispatcher, Wire) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, flags).await;
    let wire = dispatcher.connect().await;
    (temp, dispatcher, wire)
}

#[tokio::test]
async fn a_pushed_job_is_queued_and_shown_with_its_position() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let first = wire.push().await;
    let second = wire.push_with(json!({"labels": ["x"]})).await;
    let job = wire.status(&second).await;
    assert_eq!(job["state"], "queued");
    assert_eq!(job["position"], 2);
    assert_eq!(job["source"]["commit"], SHA);
    assert_eq!(job["labels"], json!(["x"]));
    let urgent = wire.push_with(json!({"priority": 5})).await;
    assert_eq!(wire.status(&urgent).await["position"], 1);
    assert_eq!(wire.status(&first).await["position"], 2);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_github_payload_is_a_push() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let payload = json!({
        "after": SHA, "ref": "refs/heads/main",
        "repository": {"name": "r", "owner": {"login": "o"}},
    });
    let id = wire.call("push", json!([payload])).await;
    let job = wire.status(id.as_str().unwrap()).await;
    assert_eq!(job["source"]["owner"], "o");
    dispatcher.end().await;
}

#[tokio::test]
async fn the_same_id_makes_no_second_job_and_another_content_is_refused() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let args = json!(["o", "r", SHA, id]);
    assert_eq!(wire.call("push", args.clone()).await, id);
    assert_eq!(wire.call("push", args).await, id);
    let other = json!(["o", "other", SHA, id]);
    assert_eq!(wire.refused("push", other).await, "EEXIST id");
    let jobs = wire.call("list", json!([])).await;
    assert_eq!(jobs.as_array().unwrap().len(), 1);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_has_room_again() {
    let (_temp, dispatcher, mut wire) = start(&["--max-queue", "2"]).await;
    let first = wire.push().await;
    wire.push().await;
    let args = json!(["o", "r", SHA]);
    assert_eq!(wire.refused("push", args).await, "EAGAIN");
    wire.call("stop", json!([first])).await;
    wire.push().await;
    dispatcher.end().await;
}

#[tokio::test]
async fn a_prefix_names_a_job_unless_it_fits_two() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let one = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let two = "0192d3a4-5b6d-7d8e-9f00-112233445566";
    for id in [one, two] {
        wire.call("push", json!(["o", "r", SHA, id])).await;
    }
    assert_eq!(wire.status("0192D3A4-5b6C").await["id"], one);
    let refused = wire.refused("status", json!(["0192d3a4-5b6"])).await;
    assert_eq!(refused, "EINVAL id");
    assert_eq!(wire.refused("status", json!(["0192d3a"])).await, "EINVAL id");
    let unknown = json!(["ffffffff"]);
    assert_eq!(wire.refused("status", unknown).await, "ENOENT id");
    dispatcher.end().await;
}

#[tokio::test]
async fn a_list_is_newest_first_in_pages_that_survive_removal() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(wire.push().await);
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut after = Value::Null;
    loop {
        let filter = json!([{"limit": 2, "after": after}]);
        let page = wire.try_call("list", filter).await.unwrap();
        let jobs = page[0].as_array().unwrap();
        seen.extend(jobs.iter().map(|j| j["id"].as_str().unwrap().to_owned()));
        after = page[1].clone();
        if after.is_null() {
            break;
        }
        // The last one of the page goes; the next page is as it was.
        let last = seen.last().unwrap().clone();
        wire.call("stop", json!([last])).await;
        wire.call("remove", json!([last])).await;
    }
    assert_eq!(seen, ids);
    let by_id = json!([{"after": ids[0], "limit": 1}]);
    assert_eq!(wire.call("list", by_id).await[0]["id"], json!(ids[2]));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_list_is_filtered() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let plain = wire.push().await;
    let labelled = wire.push_with(json!({"labels": ["ci", "x"]})).await;
    let other = wire.call("push", json!(["p", "s", SHA])).await;
    wire.call("stop", json!([plain])).await;
    for (filter, expected) in [
        (json!({"state": "queued"}), json!([other, labelled])),
        (json!({"state": "stopped"}), json!([plain])),
        (json!({"repo": "p/s"}), json!([other])),
        (json!({"repo": "r"}), json!([labelled, plain])),
        (json!({"repo": "p/r"}), json!([])),
        (json!({"label": "ci"}), json!([labelled])),
        (json!({"label": "ci", "repo": "s"}), json!([])),
        (json!({"label": "x", "state": "queued"}), json!([labelled])),
    ] {
        let jobs = wire.call("list", json!([filter])).await;
        let ids = jobs.as_array().unwrap().iter().map(|j| j["id"].clone());
        assert_eq!(ids.collect::<Value>(), expected, "{filter}");
    }
    dispatcher.end().await;
}

#[tokio::test]
async fn wait_ends_with_the_job_or_with_its_time() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    let short = json!([id, {"timeout": "10ms"}]);
    assert_eq!(wire.refused("wait", short).await, "ETIME");
    let waiting = wire.send("wait", json!([id])).await;
    wire.call("stop", json!([id])).await;
    let job = wire.answer(waiting).await.unwrap().remove(0);
    assert_eq!(job["state"], "stopped");
    assert_eq!(job["reason"], "stopped");
    // One that is final is answered at once.
    assert_eq!(wire.call("wait", json!([id])).await["state"], "stopped");
    assert_eq!(wire.call("stop", json!([id])).await["state"], "stopped");
    dispatcher.end().await;
}

#[tokio::test]
async fn ten_thousand_pushes_on_one_connection_are_each_answered() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    const COUNT: usize = 10_000;
    let mut lines = String::new();
    for id in 0..COUNT {
        lines += &format!("{}\n", json!(["push", ["o", "r", SHA], id]));
    }
    let mut answers = std::collections::HashMap::new();
    let Wire { .. } = &wire;
    let mut reader = dispatcher.connect().await;
    std::mem::swap(&mut reader.write, &mut wire.write);
    // `reader.write` now writes to `wire`'s connection.
    let writing = tokio::spawn(async move {
        reader.write_raw(lines.as_bytes()).await;
        reader
    });
    for _ in 0..COUNT {
        let line = wire.line().await.unwrap();
        let id = line[1].as_u64().unwrap();
        let job = line[0][1].as_str().unwrap().to_owned();
        assert!(answers.insert(id, job).is_none());
    }
    drop(within(writing).await.unwrap());
    let mut other = dispatcher.connect().await;
    let stats = other.call("stats", json!([])).await;
    assert_eq!(stats["queued"], COUNT);
    // They were queued in the order in which they were sent.
    let first = other.next().await;
    assert_eq!(Some(&first.job), answers.get(&0));
    let second = other.next().await;
    assert_eq!(Some(&second.job), answers.get(&1));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answers() {
    use tokio::io::AsyncWriteExt as _;
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let push = json!(["push", ["o", "r", SHA], "a"]).to_string();
    wire.write_raw(format!("{push}\n[\"help\",[],1.50]").as_bytes()).await;
    wire.write.shutdown().await.unwrap();
    let mut ids = Vec::new();
    while let Some(line) = wire.line().await {
        assert!(line[0][0].is_null(), "{line}");
        ids.push(line[1].to_string());
    }
    ids.sort();
    assert_eq!(ids, ["\"a\"", "1.5"]);
    dispatcher.end().await;
}

#[tokio::test]
async fn ping_comes_back_and_can_be_sent_back() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    assert_eq!(wire.call("ping", json!(["x"])).await, "x");
    assert_eq!(wire.try_call("ping", json!([])).await.unwrap().len(), 0);
    let id = wire.send("ping", json!([{"back": 7}])).await;
    let back = wire.request().await;
    assert_eq!(back[0], "ping");
    assert_eq!(back[1], json!([7]));
    let answer = format!("{}\n", json!([[null, 8], back[2]]));
    wire.write_raw(answer.as_bytes()).await;
    assert_eq!(wire.answer(id).await.unwrap(), [json!(8)]);
    let id = wire.send("ping", json!([{"back": 7}])).await;
    let back = wire.request().await;
    let refusal = json!([[{"message": "no", "code": "EBUSY"}], back[2]]);
    wire.write_raw(format!("{refusal}\n").as_bytes()).await;
    let error = wire.answer(id).await.unwrap_err();
    assert_eq!(error.code, ntrace_protocol::Code::Ebusy);
    dispatcher.end().await;
}

#[tokio::test]
async fn help_names_every_command_and_stats_count() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let all = wire.call("help", json!([])).await;
    assert_eq!(
        all.as_array().unwrap().len(),
        ntrace_protocol::command::DISPATCHER.len()
    );
    let one = wire.call("help", json!(["push"])).await;
    assert_eq!(one["command"], "push");
    assert_eq!(wire.refused("help", json!(["x"])).await, "ENOCMD");
    wire.push().await;
    let stats = wire.call("stats", json!([])).await;
    assert_eq!(stats["pushed"], 1);
    assert_eq!(stats["queued"], 1);
    assert_eq!(stats["commands"]["push"]["count"], 1);
    assert!(stats["commands"]["push"]["p99_us"].as_u64().unwrap() > 0);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_removed_job_leaves_no_file_and_no_row() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    assert_eq!(wire.refused("remove", json!([id])).await, "EBUSY id");
    let run = wire.next().await;
    assert_eq!(wire.refused("remove", json!([id])).await, "EBUSY id");
    wire.report(&run, "stdout", 1, json!("hello")).await;
    let put = json!([run.run, run.lease, "a/b", 0, "aGk=", {"eof": true}]);
    wire.call("blob-put", put).await;
    let end = run.end("done", json!({"stdout": 1}));
    wire.call("result", json!([end])).await;
    assert!(files(dispatcher.data()).iter().any(|f| f.contains(&id)));
    wire.call("remove", json!([id])).await;
    let left = files(dispatcher.data());
    assert!(!left.iter().any(|f| f.contains(&id)), "{left:?}");
    assert_eq!(wire.refused("status", json!([id])).await, "ENOENT id");
    assert_eq!(wire.refused("remove", json!([id])).await, "ENOENT id");
    assert_eq!(wire.refused("logs", json!([id])).await, "ENOENT id");
    assert_eq!(wire.refused("artefacts", json!([id])).await, "ENOENT id");
    dispatcher.end().await;
}

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path.display().to_string());
    }
    found
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let (_temp, dispatcher, _wire) = start(&[]).await;
    let config = crate::support::config(dispatcher.data(), &[]);
    let error = ntrace_dispatcher::Server::start(config).await.err().unwrap();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("in use by process"), "{text}");
    dispatcher.end().await;
}

#[tokio::test]
async fn why_tells_the_chain_and_refuses_what_it_does_not_know() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let id = wire.push().await;
    wire.push_with(json!({"priority": 3})).await;
    let said = |chain: &Value| {
        let steps = chain.as_array().unwrap().iter();
        let texts = steps.map(|step| step["text"].as_str().unwrap());
        texts.collect::<Vec<_>>().join("\n")
    };
    let waiting = said(&wire.call("why", json!([id])).await);
    assert!(waiting.contains("jobs to be leased before it: 1"), "{waiting}");
    assert!(waiting.contains("no runner is connected"), "{waiting}");
    wire.next().await;
    let run = wire.next().await;
    wire.call("result", json!([run.end("lost", json!({}))])).await;
    let run = wire.next().await;
    wire.call("result", json!([run.end("done", json!({}))])).await;
    let chain = wire.call("why", json!([id])).await;
    let told = said(&chain);
    for part in ["run 1 ended as lost", "queued again", "run 2 ended as done"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(chain[0]["when"], wire.status(&id).await["submitted"]);
    let nobody = json!(["0192d3a4-5b6c-7d8e-9f00-112233445566"]);
    assert_eq!(wire.refused("why", nobody).await, "ENOENT id");
    assert_eq!(wire.refused("why", json!([5])).await, "EINVAL id");
    assert_eq!(wire.refused("why", json!([])).await, "EINVAL id");
    dispatcher.end().await;
}
