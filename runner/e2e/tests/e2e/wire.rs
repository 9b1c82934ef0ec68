//! The wire: what is typed into `nc` is answered as documented, and no bad
//! line or argument hurts its connection or anybody else.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ntrace_e2e::{DEADLINE, Line, Setup, Stage, eventually, skip};
use serde_json::{Value, json};

const PUSH: &str = r#"["push", ["dscape", "nano", "0f16cfe0d6a3b8e87229c91bee901fad5dae9878"], 1]"#;
const SHA: &str = "0f16cfe0d6a3b8e87229c91bee901fad5dae9878";

/// The code and the field of an error.
fn error_of(answer: &Value) -> (String, String) {
    let error = &answer[0][0];
    let message = error["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "an error says something: {answer}");
    assert_eq!(answer[0].as_array().map(Vec::len), Some(1), "{answer}");
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("field"))
}

/// The next good line on the same connection is served.
fn still_serves(line: &mut Line) {
    let n = fastrand::u32(..);
    let answer = line.ask(&format!(r#"["ping",[{n}],"still {n}"]"#));
    assert_eq!(answer, json!([[null, n], format!("still {n}")]));
}

fn refused(line: &mut Line, args: &Value, name: &str, field: &str) {
    let answer = line.ask(&json!([name, args, 5]).to_string());
    let (code, found) = error_of(&answer);
    let short: String = args.to_string().chars().take(200).collect();
    assert_eq!(code, "EINVAL", "{name} {short}: {answer}");
    assert_eq!(found, field, "{name} {short}: {answer}");
    assert_eq!(answer[1], 5);
}

/// Pipes a line into the real `nc -N`.
fn nc(host: &str, port: u16, line: &str) -> Option<String> {
    let spawned = Command::new("nc")
        .args(["-N", host, &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            skip(&format!("nc cannot be run: {error}"));
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if errors.contains("invalid option") {
        skip("this nc has no -N");
        return None;
    }
    assert!(output.status.success(), "nc: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn job_id(answer: &Value) -> String {
    assert_eq!(answer[0][0], Value::Null, "{answer}");
    let id = answer[0][1].as_str().unwrap().to_owned();
    let id_of = id.parse::<ntrace_protocol::JobId>();
    assert!(id_of.is_ok(), "{answer}");
    id
}

#[tokio::test]
async fn a_push_typed_into_nc_is_answered_with_a_job_id() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let mut line = stage.line();
    let began = Instant::now();
    let answer = line.ask(PUSH);
    let took = began.elapsed();
    let first = job_id(&answer);
    assert_eq!(answer[1], 1);
    // Well under a second where nothing else runs; a loaded machine gets more.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let job = stage.status(first.parse().unwrap()).await;
    assert_eq!(job.source.unwrap().commit.as_str(), SHA);
    for host in ["localhost", "127.0.0.1", "::1"] {
        let Some(said) = nc(host, stage.dispatcher_port(), PUSH) else {
            return;
        };
        let answer = serde_json::from_str(&said).unwrap();
        assert_ne!(job_id(&answer), first);
        assert_eq!(said.lines().count(), 1, "nothing but the answer: {said}");
    }
    let jobs = stage.ask("list", &[]).await.unwrap();
    assert_eq!(jobs[0].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn an_enroll_typed_into_nc_is_answered_with_the_worker() {
    let stage = Stage::start(Setup::workers(0)).await;
    let uuid = stage.zones.create(&ntrace_e2e::zones::Zones::manifest());
    stage.list(&uuid);
    let typed = format!(r#"["enroll", ["{uuid}"], 1]"#);
    let answer = stage.runner_line().ask(&typed);
    assert_eq!(answer[0][0], Value::Null, "{answer}");
    assert_eq!(answer[0][1]["uuid"], json!(uuid), "{answer}");
    assert_eq!(answer[0][1]["snapshot"], "clean", "{answer}");
    assert_eq!(answer[1], 1);
    // Enrolling again is no error, and nc may be anywhere on this machine.
    for host in ["localhost", "::1"] {
        let Some(said) = nc(host, stage.runner_port(), &typed) else {
            return;
        };
        let answer: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(answer[0][1]["uuid"], json!(uuid), "{said}");
    }
    let workers = stage.runner_line().ask(r#"["workers",[],2]"#);
    assert_eq!(workers[0][1].as_array().unwrap().len(), 1, "{workers}");
}

/// Bad lines, and the id that their answer bears.
fn bad_lines() -> Vec<(Vec<u8>, Value)> {
    let text = |line: &str, id: Value| (line.as_bytes().to_vec(), id);
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    vec![
        text("hello", Value::Null),
        text("{}", Value::Null),
        text("null", Value::Null),
        text("5", Value::Null),
        text("[]", Value::Null),
        text("\"push\"", Value::Null),
        text(r#"["push"]"#, Value::Null),
        text(r#"["push",["a"]]"#, Value::Null),
        text(r#"["push",{},1]"#, json!(1)),
        text(r#"["push",null,"x"]"#, json!("x")),
        text(r#"[5,[],1.5]"#, json!(1.5)),
        text(r#"[null,[],{"a":1}]"#, json!({"a": 1})),
        text(r#"["ping",[],1,2]"#, json!(1)),
        text(r#"["ping",[],1"#, Value::Null),
        text(r#"["ping",[],01]"#, Value::Null),
        text("[\"ping\",[\"a\rb\"],1]", Value::Null),
        text(r#"["ping",["\ud800"],3]"#, json!(3)),
        text("GET / HTTP/1.1", Value::Null),
        text("SSH-2.0-OpenSSH_9.9", Value::Null),
        text("*1", Value::Null),
        text("\u{feff}[\"ping\",[],1]", Value::Null),
        (b"[\"ping\",[\"\0\"],1]".to_vec(), Value::Null),
        (b"[\"ping\",[\"\xff\"],1]".to_vec(), Value::Null),
        (b"[\"ping\",[\"\xc0\xaf\"],1]".to_vec(), Value::Null),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Value::Null),
        (deep(100_000).into_bytes(), Value::Null),
        (format!(r#"["ping",[{}],4]"#, deep(70)).into_bytes(), json!(4)),
    ]
}

fn every_bad_line_is_answered(port: u16) {
    let mut line = Line::connect(port);
    for (bad, id) in bad_lines() {
        line.send(&bad);
        line.send("\n");
        let answer = line.value();
        let shown: String =
            String::from_utf8_lossy(&bad).chars().take(80).collect();
        assert_eq!(error_of(&answer).0, "EPROTO", "{shown}: {answer}");
        assert_eq!(answer[1], id, "{shown}: {answer}");
        still_serves(&mut line);
    }
}

fn unknown_commands_are_named(port: u16) {
    let mut line = Line::connect(port);
    let long = "x".repeat(60_000);
    let own = ["", "Ping", "ping ", "toString", "constructor", "__proto__"];
    for name in own.into_iter().chain([&*long]) {
        let answer = line.ask(&json!([name, [], 1]).to_string());
        assert_eq!(error_of(&answer).0, "ENOCMD", "{answer}");
        let message = answer[0][0]["message"].as_str().unwrap();
        assert!(message.contains("ping"), "it lists them: {message}");
        assert!(message.len() < 4000, "it does not echo all: {message}");
    }
    // A name is what it means, not how it is written.
    let answer = line.ask(r#"["p\u0069ng",[1],1]"#);
    assert_eq!(answer, json!([[null, 1], 1]));
}

fn ids_are_echoed_as_they_were_sent(port: u16) {
    let mut line = Line::connect(port);
    for id in [
        "0",
        "1",
        "1.5",
        "\"abc\"",
        "null",
        "true",
        "{\"a\":[1]}",
        "1e3",
        "-2",
        "-1.0",
        "4294967295",
        "9007199254740993",
        "18446744073709551616",
        "123456789012345678901234567890",
        "\"\"",
    ] {
        line.send(format!("[\"ping\",[],{id}]\n"));
        let found = line.line().unwrap();
        assert_eq!(found, format!("[[null],{id}]"));
    }
    // Only exactly -1 wants no answer: the next one is for the next line.
    line.send("[\"ping\",[\"lost\"],-1]\n[\"push\",[],-1]\n");
    still_serves(&mut line);
    line.send("[\"ping\",[1],7]\n[\"ping\",[2],7]\n");
    let mut both: Vec<_> = [line.value(), line.value()]
        .iter()
        .map(|answer| answer[0][1].as_u64().unwrap())
        .collect();
    both.sort_unstable();
    assert_eq!(both, [1, 2], "one id twice is two answers");
}

fn lines_come_in_any_pieces(port: u16) {
    let mut line = Line::connect(port);
    let text = "[\"ping\",[\"gr\u{fc}\u{df}e \u{1f600}\"],1]\r\n";
    for byte in text.bytes() {
        line.send([byte]);
    }
    assert_eq!(line.value()[0][1], json!("gr\u{fc}\u{df}e \u{1f600}"));
    line.send("\n\r\n   \t \n[\"ping\",[1],1]\n[\"ping\",[2],2]\n");
    assert_eq!(line.value(), json!([[null, 1], 1]));
    assert_eq!(line.value(), json!([[null, 2], 2]));
    line.send("\n".repeat(100_000));
    still_serves(&mut line);
    // What was never ended with a newline was never asked.
    let mut cut = Line::connect(port);
    cut.send(r#"["ping",[1],1"#);
    cut.finish();
    let rest = String::from_utf8(cut.rest()).unwrap();
    assert!(!rest.contains("[null,1]"), "{rest}");
}

fn a_half_close_still_brings_the_answers(port: u16) {
    let mut line = Line::connect(port);
    line.send("[\"ping\",[1],1]\n[\"help\",[],2]\n[\"ping\",[3],3]\n");
    line.finish();
    let rest = String::from_utf8(line.rest()).unwrap();
    let ids: BTreeSet<_> = rest
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()[1].as_u64())
        .collect();
    assert_eq!(ids, BTreeSet::from([Some(1), Some(2), Some(3)]), "{rest}");
}

fn arguments_are_counted(port: u16) {
    let mut line = Line::connect(port);
    let answer = line.ask(r#"["ping",[1,null,null],1]"#);
    assert_eq!(answer, json!([[null, 1], 1]), "trailing nulls are allowed");
    let answer = line.ask(r#"["ping",[1,2],1]"#);
    assert_eq!(error_of(&answer).0, "EINVAL", "{answer}");
    let answer = line.ask(r#"["help",["nonsense"],1]"#);
    assert_eq!(error_of(&answer).0, "ENOCMD", "{answer}");
    let answer = line.ask(r#"["help",[5],1]"#);
    assert_eq!(error_of(&answer), ("EINVAL".into(), "command".into()));
    let help = line.ask(r#"["help",[],1]"#);
    for command in help[0][1].as_array().unwrap() {
        let example = command["example"].as_str().unwrap();
        assert!(serde_json::from_str::<Value>(example).is_ok(), "{example}");
    }
}

fn the_server_asks_back(port: u16) {
    let mut line = Line::connect(port);
    line.send("[\"ping\",[{\"back\":\"x\"}],1]\n");
    let question = line.value();
    assert_eq!(question[0], "ping");
    assert_eq!(question[1], json!(["x"]));
    line.send(format!("{}\n", json!([[null, "y"], question[2]])));
    assert_eq!(line.value(), json!([[null, "y"], 1]));
    line.send("[\"ping\",[{\"back\":1}],2]\n");
    let question = line.value();
    let no = json!([[{"message": "no", "code": "ENOENT"}], question[2]]);
    line.send(format!("{no}\n"));
    let answer = line.value();
    assert_eq!(answer[1], 2);
    assert!(answer[0][0]["message"].is_string(), "{answer}");
}

fn too_long_a_line_closes_only_its_connection(port: u16) {
    let mut other = Line::connect(port);
    let mut line = Line::connect(port);
    let piece = vec![b'a'; 64 * 1024];
    for _ in 0..64 {
        if !line.offer(&piece) {
            break;
        }
    }
    let rest = String::from_utf8(line.rest()).unwrap();
    // The refusal may be lost in the reset; it is never anything else.
    if let Some(first) = rest.lines().next() {
        let answer: Value = serde_json::from_str(first).unwrap();
        assert_eq!(error_of(&answer).0, "EPROTO", "{answer}");
    }
    still_serves(&mut other);
    // Just below the limit all is well.
    let word = "b".repeat(1024 * 1024 - 64);
    let answer = other.ask(&json!(["ping", [word], 1]).to_string());
    assert_eq!(answer[0][1].as_str().map(str::len), Some(word.len()));
}

fn the_rules_of_the_wire_hold(port: u16) {
    every_bad_line_is_answered(port);
    unknown_commands_are_named(port);
    ids_are_echoed_as_they_were_sent(port);
    lines_come_in_any_pieces(port);
    a_half_close_still_brings_the_answers(port);
    arguments_are_counted(port);
    the_server_asks_back(port);
    too_long_a_line_closes_only_its_connection(port);
}

#[tokio::test]
async fn the_dispatcher_keeps_the_rules_of_the_wire() {
    let stage = Stage::start(Setup::dispatcher()).await;
    the_rules_of_the_wire_hold(stage.dispatcher_port());
}

#[tokio::test]
async fn the_runner_keeps_the_rules_of_the_wire() {
    let stage = Stage::start(Setup::workers(0)).await;
    the_rules_of_the_wire_hold(stage.runner_port());
}

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

#[tokio::test]
async fn the_same_id_makes_one_job_however_often_it_is_pushed() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let id = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let mut line = stage.line();
    let push = json!(["push", ["dscape", "nano", SHA, id], 1]).to_string();
    for _ in 0..500 {
        line.send(format!("{push}\n"));
    }
    for _ in 0..500 {
        assert_eq!(line.value(), json!([[null, id], 1]));
    }
    let other =
        line.ask(&json!(["push", ["dscape", "other", SHA, id], 1]).to_string());
    assert_eq!(error_of(&other), ("EEXIST".into(), "id".into()));
    let jobs = stage.ask("list", &[]).await.unwrap();
    assert_eq!(jobs[0].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_and_forgets_nothing() {
    let setup = Setup::dispatcher().dispatcher_args(&["--max-queue", "10"]);
    let stage = Stage::start(setup).await;
    let mut line = stage.line();
    let ids: Vec<_> = (0..10).map(|_| job_id(&line.ask(PUSH))).collect();
    for _ in 0..3 {
        assert_eq!(error_of(&line.ask(PUSH)).0, "EAGAIN");
    }
    stage.ask("stop", &[json!(ids[0])]).await.unwrap();
    job_id(&line.ask(PUSH));
    assert_eq!(error_of(&line.ask(PUSH)).0, "EAGAIN");
    for id in &ids {
        stage.status(id.parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_peer_that_never_reads_costs_bounded_memory() {
    let mut stage = Stage::start(Setup::dispatcher()).await;
    let mut deaf = stage.line();
    let line = format!("{}\n", json!(["ping", ["x".repeat(10_000)], 1]));
    let before = stage.dispatcher().memory();
    // It must stop reading, so sending blocks or fails long before the end.
    let stream = std::thread::spawn(move || {
        (0..40_000_u32).take_while(|_| deaf.offer(&line)).count()
    });
    let mut other = stage.line();
    let began = Instant::now();
    while !stream.is_finished() && began.elapsed() < Duration::from_secs(5) {
        still_serves(&mut other);
    }
    let grown = stage.dispatcher().peak_memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for one deaf peer");
    stage.kill_dispatcher();
    stream.join().unwrap();
    stage.restart_dispatcher();
    still_serves(&mut stage.line());
}

#[tokio::test]
async fn slow_and_silent_peers_keep_nobody_waiting() {
    let stage = Stage::start(Setup::dispatcher()).await;
    let silent: Vec<_> = (0..300).map(|_| stage.line()).collect();
    let mut slow: Vec<_> = (0..100).map(|_| stage.line()).collect();
    for line in &mut slow {
        line.send("[\"push\",[\"");
    }
    still_serves(&mut stage.line());
    job_id(&stage.line().ask(PUSH));
    drop((silent, slow));
    let jobs = stage.ask("list", &[]).await.unwrap();
    assert_eq!(jobs[0].as_array().unwrap().len(), 1, "no half line counts");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let stage = Stage::start(Setup::workers(0)).await;
    for (name, dir) in [
        ("ntrace-dispatcher", stage.dispatcher_data()),
        ("ntrace-runner", stage.runner_data()),
    ] {
        let mut child = Command::new(stage.programs().path(name))
            .env_clear()
            .envs(stage.env())
            .args(["--listen", "localhost:0", "--data"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = eventually("the second one ends", DEADLINE, || {
            child.try_wait().unwrap()
        });
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!ended.success(), "{name}: {said}");
        assert!(said.contains("data"), "it says why: {said}");
    }
}

#[tokio::test]
async fn an_address_for_everybody_is_refused() {
    let stage = Stage::start(Setup::dispatcher()).await;
    for name in ["ntrace-dispatcher", "ntrace-runner"] {
        let output = Command::new(stage.programs().path(name))
            .env_clear()
            .envs(stage.env())
            .args(["--listen", "0.0.0.0:0", "--data"])
            .arg(stage.path().join(name))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name}: {said}");
        assert!(said.contains("authentication"), "{name}: {said}");
    }
}
