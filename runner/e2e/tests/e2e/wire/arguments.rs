//! Arguments that no command takes, each refused by name.

use ntrace_e2e::{Setup, Stage};
use serde_json::{Value, json};

use super::{PUSH, SHA, error_of, job_id, refused, still_serves};

/// Texts that are no name of an owner or repository, whatever they try.
fn bad_names() -> Vec<Value> {
    let mut names: Vec<Value> = [
        "",
        " ",
        "-",
        "-h",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=id",
        ".",
        "..",
        ".git",
        "a/../../etc",
        "a/b",
        "/etc/passwd",
        "C:\\x",
        "a ",
        " a",
        "$(id)",
        "`id`",
        ";id",
        "a|id",
        "a&&id",
        "a\nid",
        "a'",
        "a\"",
        "${IFS}",
        "%0a",
        "{a,b}",
        "ext::sh -c id",
        "EXT::x",
        "file:///etc",
        "ssh://-oProxyCommand=id/x",
        "git@host:x",
        "https://user:pw@host/",
        "https://169.254.169.254/",
        "%2e%2e%2f",
        "%252e%252e",
        "e\u{301}",
        "\u{e9}",
        "\u{430}",
        "a\u{200d}b",
        "\u{202e}a",
        "a\0b",
        "a\u{1b}[2J",
        "a*",
        "a?",
        "~",
        "~root",
        "a:b",
        "a@b",
        "a\\b",
        "#",
        "!x",
    ]
    .map(Value::from)
    .to_vec();
    names.extend([101, 65_535].map(|n| json!("a".repeat(n))));
    names.extend([json!(["a"]), json!({"a": 1}), json!(5), json!(true)]);
    names
}

fn bad_commits() -> Vec<Value> {
    let mut commits: Vec<Value> = [
        "",
        "HEAD",
        "main",
        "refs/heads/x",
        "-n",
        "0f16cfe",
        "\u{ff10}\u{ff10}",
        "0f16cfe0d6a3b8e87229c91bee901fad5dae987g",
        "0f16cfe0d6a3b8e87229c91bee901fad5dae9878 ",
        "0f16cfe0d6a3b8e87229c91bee901fad5dae9878\n",
        "0x16cfe0d6a3b8e87229c91bee901fad5dae9878",
    ]
    .map(Value::from)
    .to_vec();
    for n in [39, 41, 63, 65, 128, 65_536] {
        commits.push(json!("a".repeat(n)));
    }
    commits.push(json!(" ".repeat(40)));
    commits.push(json!("\u{ff10}".repeat(40)));
    commits.extend([json!(5), json!([SHA]), json!({"sha": SHA}), json!(true)]);
    commits
}

#[tokio::test]
async fn a_push_with_a_bad_argument_is_refused_by_name() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let line = &mut stage.line();
    for name in bad_names() {
        refused(line, &json!([name, "nano", SHA]), "push", "owner");
        refused(line, &json!(["dscape", name, SHA]), "push", "repo");
    }
    for commit in bad_commits() {
        refused(line, &json!(["dscape", "nano", commit]), "push", "commit");
    }
    for (args, field) in [
        (json!([]), "owner"),
        (json!(["dscape"]), "repo"),
        (json!(["dscape", "nano"]), "commit"),
        (json!([null, "nano", SHA]), "owner"),
        (json!(["dscape", "nano", SHA, {}, 1]), "argument 5"),
        (json!([{"after": SHA}]), "owner"),
        (json!([{"repository": {"owner": {"login": "a"}}}]), "repo"),
        (
            json!([{"repository": {"name": "b", "owner": {"name": "a"}}}]),
            "commit",
        ),
    ] {
        refused(line, &args, "push", field);
    }
    still_serves(line);
    let none = stage.ask("list", &[]).await.unwrap();
    assert_eq!(none[0], json!([]), "nothing was taken");
}

#[tokio::test]
async fn a_bad_option_is_refused_by_name() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let line = &mut stage.line();
    let env = |n: usize| {
        let pairs = (0..n).map(|i| (format!("V{i}"), json!("x")));
        Value::Object(pairs.collect())
    };
    for (options, field) in [
        (json!(5), "options"),
        (json!([]), "options"),
        (json!("no uuid"), "id"),
        (json!({"id": "x"}), "id"),
        (json!({"id": 5}), "id"),
        (json!({"nonsense": 1}), "options"),
        (json!({"__proto__": {}}), "options"),
        (json!({"role": "admin"}), "options"),
        (json!({"argv": ["x"]}), "options"),
        (json!({"run": ""}), "run"),
        (json!({"run": 5}), "run"),
        (json!({"run": "a\u{0}b"}), "run"),
        (json!({"run": "x".repeat(200_000)}), "options"),
        (json!({"setup": ["x"]}), "setup"),
        (json!({"env": []}), "env"),
        (json!({"env": {"A": 5}}), "env"),
        (json!({"env": {"A=B": "x"}}), "env"),
        (json!({"env": {"": "x"}}), "env"),
        (json!({"env": {"1A": "x"}}), "env"),
        (json!({"env": {"A": "x\u{0}y"}}), "env"),
        (json!({"env": env(10_000)}), "env"),
        (json!({"trace": "everything"}), "trace"),
        (json!({"trace": {"profile": "cpu", "hz": 0}}), "trace"),
        (json!({"trace": {"profile": "cpu", "hz": 1e9}}), "trace"),
        (json!({"limits": []}), "limits"),
        (json!({"limits": {"tine": "5s"}}), "limits"),
        (json!({"limits": {"time": 5}}), "limits.time"),
        (json!({"limits": {"time": "0s"}}), "limits.time"),
        (json!({"limits": {"time": "-1s"}}), "limits.time"),
        (json!({"limits": {"time": "1000000000000s"}}), "limits.time"),
        (json!({"limits": {"memory": -1}}), "limits.memory"),
        (json!({"limits": {"memory": "lots"}}), "limits.memory"),
        (json!({"limits": {"cpus": 0}}), "limits.cpus"),
        (json!({"limits": {"pids": 1.5}}), "limits.pids"),
        (json!({"labels": "x"}), "labels"),
        (json!({"labels": [5]}), "labels"),
        (json!({"labels": ["a b"]}), "labels"),
        (json!({"labels": vec!["x"; 33]}), "labels"),
        (json!({"priority": 4_294_967_296_u64}), "priority"),
        (json!({"priority": -1001}), "priority"),
        (json!({"priority": 0.5}), "priority"),
        (json!({"priority": "high"}), "priority"),
        (json!({"retry": -1}), "retry"),
        (json!({"retry": 21}), "retry"),
    ] {
        refused(line, &json!(["dscape", "nano", SHA, options]), "push", field);
    }
    let nan = line
        .ask(&format!(r#"["push",["a","b","{SHA}",{{"priority":NaN}}],1]"#));
    assert_eq!(error_of(&nan).0, "EPROTO", "NaN is no JSON");
    still_serves(line);
}

#[tokio::test]
async fn commands_for_people_refuse_bad_arguments_by_name() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let line = &mut stage.line();
    let id = job_id(&line.ask(PUSH));
    let unknown = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    for name in ["status", "logs", "wait", "stop", "remove", "artefacts"] {
        refused(line, &json!([]), name, "id");
        for bad in [
            json!(5),
            json!(""),
            json!("x"),
            json!("0192d3a"),
            json!("../../etc/passwd"),
            json!({"id": id}),
            json!([id]),
        ] {
            refused(line, &json!([bad]), name, "id");
        }
        let answer = line.ask(&json!([name, [unknown], 1]).to_string());
        assert_eq!(error_of(&answer).0, "ENOENT", "{name}: {answer}");
    }
    for (name, args, field) in [
        ("submit", json!([]), "job"),
        ("submit", json!(["echo"]), "job"),
        ("submit", json!([{}]), "argv"),
        ("submit", json!([{"argv": []}]), "argv"),
        ("submit", json!([{"argv": "echo"}]), "argv"),
        ("submit", json!([{"argv": [""]}]), "argv"),
        ("submit", json!([{"argv": [5]}]), "argv"),
        ("submit", json!([{"argv": ["x"], "run": "y"}]), "job"),
        ("submit", json!([{"argv": ["x"], "source": {}}]), "owner"),
        ("list", json!([{"state": "odd"}]), "state"),
    ] {
        refused(line, &args, name, field);
    }
    for (name, args) in [
        ("list", json!([5])),
        ("list", json!([{"nonsense": 1}])),
        ("logs", json!([id, 5])),
        ("logs", json!([id, {"from": -1}])),
        ("logs", json!([id, {"streams": ["stdin"]}])),
        ("wait", json!([id, {"timeout": 5}])),
        ("wait", json!([id, {"timeout": "soon"}])),
        ("stop", json!([id, {"grace": "-1s"}])),
        ("blob-get", json!(["x", 0, 1])),
        ("blob-get", json!([unknown, -1, 1])),
        ("blob-get", json!([unknown, 0, "many"])),
    ] {
        let answer = line.ask(&json!([name, args, 5]).to_string());
        assert_eq!(error_of(&answer).0, "EINVAL", "{name} {args}: {answer}");
    }
    let answer = line.ask(&json!(["blob-get", [unknown, 0, 1], 1]).to_string());
    assert_eq!(error_of(&answer).0, "ENOENT", "{answer}");
    let answer =
        line.ask(&json!(["wait", [id, {"timeout": "50ms"}], 1]).to_string());
    assert_eq!(error_of(&answer).0, "ETIME", "{answer}");
    let answer = line.ask(&json!(["remove", [id], 1]).to_string());
    assert_eq!(error_of(&answer).0, "EBUSY", "{answer}");
    still_serves(line);
}

#[tokio::test]
async fn commands_of_runners_refuse_bad_arguments() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let line = &mut stage.line();
    let id = job_id(&line.ask(PUSH));
    let run = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let report = |change: Value| {
        let mut report = json!({
            "job": id, "run_id": run, "lease": 1, "stream": "stdout",
            "seq": 1, "when": "2026-01-01T00:00:00.000Z", "data": "x",
        });
        for (key, value) in change.as_object().unwrap() {
            report[key] = value.clone();
        }
        report
    };
    for (name, args) in [
        ("hello", json!([])),
        ("hello", json!([5])),
        ("hello", json!([{"name": "a b", "version": "1"}])),
        ("hello", json!([{"name": "x".repeat(60_000), "version": "1"}])),
        ("hello", json!([{"name": "r", "version": "1", "runs": 5}])),
        ("next", json!([5])),
        ("next", json!([{"wait_ms": -1}])),
        ("next", json!([{"nonsense": 1}])),
        ("beat", json!([])),
        ("beat", json!([5])),
        ("beat", json!([[{"run_id": "x", "lease": 1}]])),
        ("result", json!([])),
        ("result", json!([5])),
        ("result", json!([report(json!({"stream": "stdin"}))])),
        ("result", json!([report(json!({"seq": -1}))])),
        ("result", json!([report(json!({"seq": 0}))])),
        ("result", json!([report(json!({"data": 5}))])),
        ("result", json!([report(json!({"when": "yesterday"}))])),
        ("result", json!([report(json!({"data": {"base64": "*"}}))])),
        ("blob-put", json!([run, 1, "a", 0, "*"])),
        ("blob-put", json!([run, 1, "a", -1, "aGk="])),
    ] {
        let answer = line.ask(&json!([name, args, 5]).to_string());
        let (code, _) = error_of(&answer);
        let short: String = args.to_string().chars().take(200).collect();
        assert_eq!(code, "EINVAL", "{name} {short}: {answer}");
    }
    // Well formed, but for a run that nobody has.
    let answer =
        line.ask(&json!(["result", [report(json!({}))], 5]).to_string());
    assert_eq!(error_of(&answer).0, "EFENCED", "{answer}");
    let held = json!({"run_id": run, "lease": 1});
    let answer = line.ask(&json!(["beat", [[held]], 5]).to_string());
    assert_eq!(answer[0][1]["drop"], json!([run]), "{answer}");
    still_serves(line);
    let job = stage.status(id.parse().unwrap()).await;
    assert_eq!(job.state, ntrace_protocol::JobState::Queued);
}

#[tokio::test]
async fn the_runner_refuses_bad_arguments_by_name() {
    let stage = Stage::start(Setup::workers(0)).await;
    let line = &mut stage.runner_line();
    let unknown = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    for name in ["enroll", "expel", "clean"] {
        refused(line, &json!([]), name, "uuid");
        for bad in [
            json!("x"),
            json!(5),
            json!(""),
            json!("-h"),
            json!("../x"),
            json!("$(id)"),
            json!([unknown]),
            json!({"uuid": unknown}),
            json!("0192d3a45b6c7d8e9f00112233445566"),
            json!(format!("{{{unknown}}}")),
            json!(format!("{unknown}\n")),
            json!("a".repeat(60_000)),
        ] {
            refused(line, &json!([bad]), name, "uuid");
        }
    }
    for name in ["expel", "clean", "enroll"] {
        let answer = line.ask(&json!([name, [unknown], 1]).to_string());
        let (code, field) = error_of(&answer);
        assert_eq!(code, "ENOENT", "{name}: {answer}");
        assert_eq!(field, "uuid", "{name}: {answer}");
    }
    let uuid = stage.zones.create(&ntrace_e2e::zones::Zones::manifest());
    stage.list(&uuid);
    for snapshot in ["none", "-r", "a/b", "", "a@b", "$(id)"] {
        let args = json!([uuid, {"snapshot": snapshot}]);
        let answer = line.ask(&json!(["enroll", args, 1]).to_string());
        let (code, field) = error_of(&answer);
        assert!(matches!(&*code, "EINVAL" | "ENOENT"), "{args}: {answer}");
        assert_eq!(field, "snapshot", "{args}: {answer}");
    }
    for options in [json!(5), json!({"nonsense": 1}), json!({"labels": 5})] {
        let args = json!([uuid, options]);
        let answer = line.ask(&json!(["enroll", args, 1]).to_string());
        assert_eq!(error_of(&answer).0, "EINVAL", "{args}: {answer}");
    }
    still_serves(line);
    let workers = line.ask(r#"["workers",[],1]"#);
    assert_eq!(workers[0][1], json!([]), "nothing was enrolled");
}
