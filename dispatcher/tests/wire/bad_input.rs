//! Bad input: answered with a named error, and the connection goes on.

use serde_json::{Value, json};

use crate::support::{Dispatcher, SHA, Wire};

async fn start(flags: &[&str]) -> (tempfile::TempDir, Dispatcher, Wire) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, flags).await;
    let wire = dispatcher.connect().await;
    (temp, dispatcher, wire)
}

/// Each call is refused so, and the connection lives on.
async fn check(cases: &[(&str, Value, &str)]) {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    for (name, args, expected) in cases {
        let refused = wire.refused(name, args.clone()).await;
        assert_eq!(refused, *expected, "{name} {args}");
    }
    assert_eq!(wire.call("ping", json!([1])).await, 1);
    let stats = wire.call("stats", json!([])).await;
    assert_eq!(stats["queued"], 0);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_push_of_nonsense_is_refused_by_field() {
    let mut cases = vec![
        ("push", json!([]), "EINVAL owner"),
        ("push", json!(["o"]), "EINVAL repo"),
        ("push", json!(["o", "r"]), "EINVAL commit"),
        ("push", json!(["o", "r", SHA, null, null, 1]), "EINVAL argument 5"),
        ("push", json!([["o"], "r", SHA]), "EINVAL owner"),
        ("push", json!(["o", {"r": 1}, SHA]), "EINVAL repo"),
        ("push", json!(["o", "r", 5]), "EINVAL commit"),
        ("push", json!(["o", "r", SHA, "x"]), "EINVAL id"),
        ("push", json!(["o", "r", SHA, 5]), "EINVAL options"),
        ("push", json!(["o", "r", SHA, {"x": 1}]), "EINVAL options"),
        ("push", json!(["o", "r", SHA, {"argv": ["x"]}]), "EINVAL options"),
        ("push", json!([{"after": SHA}]), "EINVAL owner"),
    ];
    for bad in ["", "HEAD", "refs/heads/x", "-n", &SHA[1..], &" ".repeat(40)] {
        cases.push(("push", json!(["o", "r", bad]), "EINVAL commit"));
    }
    for bad in [
        "--upload-pack=x",
        "-h",
        "..",
        ".git",
        "a/b",
        "/etc",
        "$(id)",
        ";id",
        "a b",
        "ext::sh -c id",
        "а",
        "a\u{202e}",
        &"x".repeat(101),
    ] {
        cases.push(("push", json!([bad, "r", SHA]), "EINVAL owner"));
        cases.push(("push", json!(["o", bad, SHA]), "EINVAL repo"));
    }
    check(&cases).await;
}

#[tokio::test]
async fn options_of_nonsense_are_refused_by_field() {
    let push = |options: Value| json!(["o", "r", SHA, options]);
    let submit = |extra: Value| {
        let mut job = json!({"argv": ["true"]});
        job.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([job])
    };
    check(&[
        ("push", push(json!({"priority": 1.5})), "EINVAL priority"),
        ("push", push(json!({"priority": 4294967296_u64})), "EINVAL priority"),
        ("push", push(json!({"retry": -1})), "EINVAL retry"),
        ("push", push(json!({"retry": 21})), "EINVAL retry"),
        ("push", push(json!({"labels": "x"})), "EINVAL labels"),
        ("push", push(json!({"labels": ["a b"]})), "EINVAL labels"),
        ("push", push(json!({"env": {"A=B": "x"}})), "EINVAL env"),
        ("push", push(json!({"env": {"A": 5}})), "EINVAL env"),
        ("push", push(json!({"run": ""})), "EINVAL run"),
        ("push", push(json!({"run": "a\0b"})), "EINVAL run"),
        ("push", push(json!({"trace": "all"})), "EINVAL trace"),
        ("push", push(json!({"limits": {"x": 1}})), "EINVAL limits"),
        (
            "push",
            push(json!({"limits": {"time": "soon"}})),
            "EINVAL limits.time",
        ),
        ("submit", json!([5]), "EINVAL job"),
        ("submit", json!([{}]), "EINVAL argv"),
        ("submit", submit(json!({"argv": []})), "EINVAL argv"),
        ("submit", submit(json!({"source": {}})), "EINVAL owner"),
        ("submit", submit(json!({"role": "admin"})), "EINVAL job"),
    ])
    .await;
}

#[tokio::test]
async fn commands_of_people_name_the_wrong_argument() {
    let id = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    check(&[
        ("status", json!([]), "EINVAL id"),
        ("status", json!([5]), "EINVAL id"),
        ("status", json!(["x"]), "EINVAL id"),
        ("status", json!([id]), "ENOENT id"),
        ("list", json!([5]), "EINVAL filter"),
        ("list", json!([{"x": 1}]), "EINVAL filter"),
        ("list", json!([{"state": "x"}]), "EINVAL state"),
        ("list", json!([{"repo": "-x"}]), "EINVAL repo"),
        ("list", json!([{"repo": "-o/x"}]), "EINVAL repo"),
        ("list", json!([{"label": ""}]), "EINVAL label"),
        ("list", json!([{"limit": 0}]), "EINVAL limit"),
        ("list", json!([{"limit": 1001}]), "EINVAL limit"),
        ("list", json!([{"limit": "x"}]), "EINVAL limit"),
        ("list", json!([{"after": "x"}]), "EINVAL after"),
        ("list", json!([{"after": "row-x"}]), "EINVAL after"),
        ("list", json!([{"after": id}]), "ENOENT after"),
        ("logs", json!([id]), "ENOENT id"),
        ("logs", json!([id, {"from": -1}]), "EINVAL from"),
        ("logs", json!([id, {"follow": 1}]), "EINVAL follow"),
        ("logs", json!([id, {"streams": ["x"]}]), "EINVAL streams"),
        ("logs", json!([id, {"x": 1}]), "EINVAL options"),
        ("wait", json!([id]), "ENOENT id"),
        ("wait", json!([id, {"timeout": 5}]), "EINVAL timeout"),
        ("wait", json!([id, {"timeout": "-1s"}]), "EINVAL timeout"),
        ("stop", json!([id]), "ENOENT id"),
        ("stop", json!([id, {"grace": "soon"}]), "EINVAL grace"),
        ("stop", json!([id, {"evidence": "yes"}]), "EINVAL evidence"),
        ("stop", json!([id, {"evidences": true}]), "EINVAL options"),
        ("remove", json!([id]), "ENOENT id"),
        ("artefacts", json!([id]), "ENOENT id"),
        ("blob-get", json!(["x", 0, 1]), "EINVAL artefact id"),
        ("blob-get", json!([id, -1, 1]), "EINVAL offset"),
        ("blob-get", json!([id, 0, "1"]), "EINVAL length"),
        ("blob-get", json!([id, 0, 1]), "ENOENT artefact id"),
        ("why not", json!([]), "ENOCMD"),
        ("toString", json!([]), "ENOCMD"),
        ("constructor", json!([]), "ENOCMD"),
        ("stats", json!([1]), "EINVAL argument 1"),
    ])
    .await;
}

#[tokio::test]
async fn commands_of_runners_name_the_wrong_argument() {
    let run = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let hello = |field: &str, value: Value| {
        let mut hello =
            json!({"name": "r", "version": "1", "workers": [], "runs": []});
        hello[field] = value;
        json!([hello])
    };
    let report = |field: &str, value: Value| {
        let mut report = json!({
            "job": run, "run_id": run, "lease": 1, "stream": "stdout",
            "seq": 1, "when": "2026-01-31T12:00:00Z", "data": "x",
        });
        report[field] = value;
        json!([report])
    };
    let end = |end: Value| {
        let mut args = report("stream", json!("control"));
        args[0]["data"] = end;
        args
    };
    check(&[
        ("hello", json!([5]), "EINVAL runner"),
        ("hello", json!([{}]), "EINVAL name"),
        ("hello", hello("name", json!("a b")), "EINVAL name"),
        ("hello", hello("name", json!("\u{1b}]0;x\u{7}")), "EINVAL name"),
        ("hello", hello("version", json!(1)), "EINVAL version"),
        ("hello", hello("workers", json!([1])), "EINVAL workers"),
        ("hello", hello("runs", json!([{"run_id": run}])), "EINVAL runs"),
        ("next", json!([5]), "EINVAL options"),
        ("next", json!([{"wait_ms": -1}]), "EINVAL wait_ms"),
        ("next", json!([{"worker": "x"}]), "EINVAL worker"),
        ("beat", json!([5]), "EINVAL runs"),
        ("beat", json!([[{"run_id": run, "lease": "x"}]]), "EINVAL runs"),
        ("result", json!([5]), "EINVAL reports"),
        ("result", json!([[5]]), "EINVAL reports"),
        ("result", json!([{}]), "EINVAL job"),
        ("result", report("run_id", json!("x")), "EINVAL run_id"),
        ("result", report("lease", json!(-1)), "EINVAL lease"),
        ("result", report("stream", json!("3")), "EINVAL stream"),
        ("result", report("seq", json!(0)), "EINVAL seq"),
        ("result", report("seq", json!(1_u64 << 63)), "EINVAL seq"),
        ("result", report("seq", json!(-1)), "EINVAL seq"),
        ("result", report("when", json!("now")), "EINVAL when"),
        ("result", report("data", json!(5)), "EINVAL data"),
        ("result", report("data", json!({"x": 1})), "EINVAL data"),
        ("result", report("data", json!({"base64": "*"})), "EINVAL data"),
        ("result", report("lease", json!(1)), "EFENCED lease"),
        ("result", end(json!("end")), "EINVAL data"),
        ("result", end(json!({"event": "end"})), "EINVAL data"),
        (
            "result",
            end(json!({"event": "end", "outcome": "failed",
                "exit": {"code": 256}})),
            "EINVAL data",
        ),
        (
            "result",
            end(json!({"event": "end", "outcome": "failed",
                "exit": {"code": "0"}})),
            "EINVAL data",
        ),
        (
            "result",
            end(json!({"event": "end", "outcome": "done",
                "exit": {"code": 1}})),
            "EINVAL data",
        ),
    ])
    .await;
}

#[tokio::test]
async fn bad_lines_are_answered_and_the_next_good_one_runs() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    for (line, id) in [
        (&b"nonsense"[..], json!(null)),
        (b"{}", json!(null)),
        (b"null", json!(null)),
        (b"[]", json!(null)),
        (b"[1,2,3]", json!(3)),
        (b"[\"push\",{},\"x\"]", json!("x")),
        (b"\xff\xfe", json!(null)),
        (b"[\"push\",[1e999],4]", json!(4)),
        (b"\xef\xbb\xbf[\"ping\",[],5]", json!(null)),
        ("[".repeat(100_000).as_bytes(), json!(null)),
    ] {
        wire.write_raw(&[line, b"\r\n \n"].concat()).await;
        let answer = wire.line().await.unwrap();
        assert_eq!(answer[0][0]["code"], "EPROTO", "{answer}");
        assert_eq!(answer[1], id);
    }
    // Escapes in a name are the same name; ids are echoed as they were.
    wire.write_raw(b"[\"pi\\u006eg\",[7],1.50]\n").await;
    let answer = wire.line().await.unwrap();
    assert_eq!(answer, json!([[null, 7], 1.5]));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_line_over_the_limit_closes_only_its_own_connection() {
    let (_temp, dispatcher, mut wire) = start(&["--max-line", "8KiB"]).await;
    let mut long = dispatcher.connect().await;
    long.write_raw(&vec![b'a'; 9000]).await;
    let answer = long.line().await.unwrap();
    assert_eq!(answer[0][0]["code"], "EPROTO");
    assert!(long.line().await.is_none());
    assert_eq!(wire.call("ping", json!([1])).await, 1);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_report_that_no_reader_could_be_sent_is_refused() {
    let (_temp, dispatcher, mut wire) = start(&["--max-line", "8KiB"]).await;
    let id = wire.push().await;
    let run = wire.next().await;
    let near = run.report("stdout", 1, json!("x".repeat(7500)));
    assert_eq!(wire.refused("result", json!([near])).await, "EINVAL data");
    let fits = json!("x".repeat(7000));
    let acked = wire.report(&run, "stdout", 1, fits).await;
    assert_eq!(acked, json!({"stdout": 1}));
    let asked = wire.send("logs", json!([id])).await;
    let end = wire.answer(asked).await.unwrap().remove(0);
    assert_eq!(end["next"], 1);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_report_under_another_job_is_refused() {
    let (_temp, dispatcher, mut wire) = start(&[]).await;
    let other = wire.push().await;
    wire.push().await;
    let mut run = wire.next().await;
    let second = wire.next().await;
    assert_eq!(run.job, other);
    run.job = second.job;
    let report = run.report("stdout", 1, json!("x"));
    assert_eq!(wire.refused("result", json!([report])).await, "EINVAL job");
    dispatcher.end().await;
}
