//! The wire: what is typed into `nc` is answered as documented, and no bad
//! line or argument hurts its connection or anybody else.

use ntrace_e2e::Line;
use serde_json::{Value, json};

mod arguments;
mod peers;
mod rules;
mod typed;

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

fn job_id(answer: &Value) -> String {
    assert_eq!(answer[0][0], Value::Null, "{answer}");
    let id = answer[0][1].as_str().unwrap().to_owned();
    let id_of = id.parse::<ntrace_protocol::JobId>();
    assert!(id_of.is_ok(), "{answer}");
    id
}
