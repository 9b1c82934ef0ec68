//! The rules of the wire, which both servers keep.

use std::collections::BTreeSet;

use ntrace_e2e::{Line, Setup, Stage};
use serde_json::{Value, json};

use super::{error_of, still_serves};

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
