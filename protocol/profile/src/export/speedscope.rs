//! speedscope's own JSON: <https://www.speedscope.app/file-format-schema.json>.
//!
//! Written as it goes, so that a large profile is not held twice.

use std::fmt::Write as _;

use ntrace_protocol::text;
use serde::Serialize;

use super::functions::Functions;
use super::order;
use crate::profile::{Profile, Value};

#[derive(Serialize)]
struct Frame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

/// The profile as speedscope JSON, in CPU time where it is known.
pub fn speedscope(profile: &Profile, title: &str) -> String {
    let timed = profile.total().cpu_ns > 0;
    let weight = |value: Value| match timed {
        true => value.cpu_ns,
        false => value.samples,
    };
    let unit = if timed { "nanoseconds" } else { "none" };
    let mut out = String::from(
        r#"{"$schema":"https://www.speedscope.app/file-format-schema.json","#,
    );
    out.push_str(r#""exporter":"ntrace","name":"#);
    json(&mut out, &text::escape(title));
    out.push_str(r#","activeProfileIndex":0,"shared":{"frames":["#);
    let functions = Functions::new(profile);
    for (n, function) in functions.rows.iter().enumerate() {
        comma(&mut out, n);
        let line = (function.line > 0).then_some(function.line);
        let (name, file) = (&function.name, &function.file);
        json(&mut out, &Frame { name, file, line });
    }
    out.push_str(r#"]},"profiles":[{"type":"sampled","name":"#);
    json(&mut out, &text::escape(title));
    let samples = order::by_stack(profile);
    let all: u64 = samples.iter().map(|s| weight(s.value)).sum();
    write(
        &mut out,
        format_args!(
            r#","unit":"{unit}","startValue":0,"endValue":{all},"samples":["#
        ),
    );
    for (n, sample) in samples.iter().enumerate() {
        comma(&mut out, n);
        out.push('[');
        for (n, frame) in profile.stack(sample.stack).iter().enumerate() {
            comma(&mut out, n);
            write(&mut out, format_args!("{}", functions.row(*frame)));
        }
        out.push(']');
    }
    out.push_str(r#"],"weights":["#);
    for (n, sample) in samples.iter().enumerate() {
        comma(&mut out, n);
        write(&mut out, format_args!("{}", weight(sample.value)));
    }
    out.push_str("]}]}");
    out
}

fn comma(out: &mut String, n: usize) {
    if n > 0 {
        out.push(',');
    }
}

fn json(out: &mut String, value: &impl Serialize) {
    let text = serde_json::to_string(value)
        .expect("strings and numbers are always JSON");
    out.push_str(&text);
}

fn write(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
}
