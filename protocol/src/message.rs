//! One line of the wire: a request, an answer, or something wrong.
//!
//! ```text
//! request  [name, args, id]      ["push",["dscape","nano","0f16…"],1]
//! answer   [args, id]            [[null,"0192…"],1]
//! notice   a request with id -1: nobody answers
//! ```
//!
//! An id belongs to the asker and is echoed exactly as it was sent, so it is
//! kept as the JSON text that it was.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::MAX_DEPTH;
use crate::error::{Code, WireError};

/// An id as it was written.
#[derive(Clone, Debug)]
pub struct RawId(Box<RawValue>);

impl RawId {
    /// The id `null`, for answers to lines whose id is not known.
    pub fn null() -> Self {
        Self::from_text("null")
    }

    /// An own id, from a counter.
    pub fn number(id: u32) -> Self {
        Self::from_text(&id.to_string())
    }

    /// The id of notices.
    pub fn notice() -> Self {
        Self::from_text("-1")
    }

    fn from_text(text: &str) -> Self {
        let raw = RawValue::from_string(text.to_owned());
        Self(raw.expect("a number or null is JSON"))
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether it is exactly -1: the asker wants no answer.
    pub fn is_notice(&self) -> bool {
        self.as_str() == "-1"
    }

    /// The id as one of our own counter, if it can be one.
    pub fn as_own(&self) -> Option<u32> {
        self.as_str().parse().ok()
    }
}

impl PartialEq for RawId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// A request: run the named command.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The command's name.
    pub name: String,
    /// Its arguments, by position.
    pub args: Vec<Value>,
    /// The asker's id; exactly -1 for a notice.
    pub id: RawId,
}

/// An answer to a request of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The results, or the error.
    pub outcome: Result<Vec<Value>, WireError>,
    /// Our id, echoed.
    pub id: RawId,
}

/// One good line.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The peer asks.
    Request(Request),
    /// The peer answers.
    Answer(Answer),
}

/// A line that is no message: what is wrong, and whose id it bore.
#[derive(Clone, Debug, PartialEq)]
pub struct BadLine {
    /// The error to answer with; its code is `EPROTO`.
    pub error: WireError,
    /// The third element of the line if there was one, else null.
    pub id: RawId,
}

impl BadLine {
    fn new(message: impl Into<String>, id: Option<&RawValue>) -> Self {
        let id = id.map_or_else(RawId::null, |id| RawId(id.to_owned()));
        Self { error: WireError::new(Code::Eproto, message), id }
    }
}

/// The rule, for messages.
const SHAPE: &str = "a line must be a request [\"name\",[arguments],id] or an \
                     answer [[error,results],id]; try [\"help\",[],1]";

/// Parses one line without its line end.
///
/// # Errors
/// A [`BadLine`] that can be answered.
pub fn parse(line: &[u8]) -> Result<Message, BadLine> {
    let text = std::str::from_utf8(line)
        .map_err(|_| BadLine::new("the line is not valid UTF-8", None))?;
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| {
        let what = if e.is_data() { SHAPE.to_owned() } else { not_json(&e) };
        BadLine::new(what, None)
    })?;
    match parts[..] {
        [name, args, id] if is(name, '"') && is(args, '[') => {
            parse_request(name, args, id).map(Message::Request)
        }
        [args, id] if is(args, '[') => {
            parse_answer(args, id).map(Message::Answer)
        }
        _ => Err(BadLine::new(SHAPE, parts.get(2).copied())),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("the line is not JSON: {error}")
}

fn is(raw: &RawValue, first: char) -> bool {
    raw.get().starts_with(first)
}

fn parse_request(
    name: &RawValue,
    args: &RawValue,
    id: &RawValue,
) -> Result<Request, BadLine> {
    let bad = |message: String| BadLine::new(message, Some(id));
    // An id is echoed raw, so it is bounded like the rest of the line; but
    // one that is nested as deep as a bomb is not worth echoing.
    if depth_of(id.get()) > MAX_DEPTH {
        return Err(BadLine::new(too_deep(), None));
    }
    let name = serde_json::from_str(name.get())
        .map_err(|e| bad(format!("the command's name is not text: {e}")))?;
    let args = parse_values(args).map_err(bad)?;
    Ok(Request { name, args, id: RawId(id.to_owned()) })
}

fn parse_answer(args: &RawValue, id: &RawValue) -> Result<Answer, BadLine> {
    // An answer has no third element, so what is wrong with it is answered
    // with the id null.
    let mut values = parse_values(args).map_err(|m| BadLine::new(m, None))?;
    let id = RawId(id.to_owned());
    if values.is_empty() {
        return Ok(Answer { outcome: Ok(values), id });
    }
    let first = values.remove(0);
    let outcome =
        if first.is_null() { Ok(values) } else { Err(error_of(first)) };
    Ok(Answer { outcome, id })
}

/// An error of the peer; whatever shape it has, something can be said.
fn error_of(value: Value) -> WireError {
    if let Ok(error) = serde_json::from_value::<WireError>(value.clone()) {
        return error;
    }
    let message = value.get("message").and_then(Value::as_str);
    let message = message.filter(|m| !m.is_empty()).map(str::to_owned);
    let message = message.unwrap_or_else(|| format!("the peer said {value}"));
    WireError::new(Code::Eunknown, message)
}

fn parse_values(raw: &RawValue) -> Result<Vec<Value>, String> {
    // The outer array of the line is one level.
    if depth_of(raw.get()) + 1 > MAX_DEPTH {
        return Err(too_deep());
    }
    serde_json::from_str(raw.get()).map_err(|e| not_json(&e))
}

fn too_deep() -> String {
    format!("the line is nested deeper than {MAX_DEPTH}")
}

/// How deep arrays and objects are nested in valid JSON text.
fn depth_of(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Writes a request as a line, newline included.
pub fn write_request(name: &str, args: &[Value], id: &RawId) -> Vec<u8> {
    let mut line = Vec::with_capacity(64);
    line.push(b'[');
    put(&mut line, &name);
    line.push(b',');
    put(&mut line, &args);
    finish(line, id)
}

/// Writes an answer as a line, newline included.
pub fn write_answer(
    outcome: &Result<Vec<Value>, WireError>,
    id: &RawId,
) -> Vec<u8> {
    let mut line = Vec::with_capacity(64);
    line.push(b'[');
    match outcome {
        Ok(results) => {
            line.extend_from_slice(b"[null");
            for result in results {
                line.push(b',');
                put(&mut line, result);
            }
            line.push(b']');
        }
        Err(error) => put(&mut line, &[error]),
    }
    finish(line, id)
}

fn put(line: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(line, value).expect("memory takes any JSON value");
}

fn finish(mut line: Vec<u8>, id: &RawId) -> Vec<u8> {
    line.push(b',');
    line.extend_from_slice(id.as_str().as_bytes());
    line.extend_from_slice(b"]\n");
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(line: &str) -> Request {
        match parse(line.as_bytes()) {
            Ok(Message::Request(request)) => request,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn bad(line: &[u8]) -> BadLine {
        match parse(line) {
            Err(bad) => bad,
            Ok(message) => panic!("{line:?}: {message:?}"),
        }
    }

    #[test]
    fn ids_are_echoed_as_they_were_sent() {
        for id in [
            "0",
            "1",
            "1.5",
            "1.0",
            "1e999",
            "\"abc\"",
            "\"\\u0061\"",
            "null",
            "18446744073709551616",
            "{}",
            "[1]",
            "-1.0",
            "4294967295",
        ] {
            let request = request(&format!("[\"ping\",[1],{id}]"));
            assert!(!request.id.is_notice());
            let line = write_answer(&Ok(vec![json!(1)]), &request.id);
            let line = String::from_utf8(line).unwrap();
            assert_eq!(line, format!("[[null,1],{id}]\n"));
        }
        assert!(request("[\"ping\",[],-1]").id.is_notice());
    }

    #[test]
    fn an_escaped_name_is_the_same_name() {
        assert_eq!(request(r#"["pu\u0073h",[],1]"#).name, "push");
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_id() {
        for (line, id) in [
            ("{}", "null"),
            ("null", "null"),
            ("5", "null"),
            ("[]", "null"),
            ("[1]", "null"),
            ("\"x\"", "null"),
            ("[1,2]", "null"),
            ("[1,2,3]", "3"),
            ("[\"push\",{},7]", "7"),
            ("[[\"push\"],[],\"z\"]", "\"z\""),
            ("[\"push\",[],4,5]", "4"),
            ("[\"push\",[]]", "null"),
            ("[\"push\",[", "null"),
            ("[\"a\\ud800\",[],9]", "9"),
            ("GET / HTTP/1.1", "null"),
            ("\u{feff}[\"ping\",[],1]", "null"),
        ] {
            let bad = bad(line.as_bytes());
            assert_eq!(bad.error.code, Code::Eproto, "{line}");
            assert_eq!(bad.id.as_str(), id, "{line}");
        }
        bad(b"[\"ping\",[\"\xff\"],1]");
        bad(b"[\"ping\",[\"\xc0\xaf\"],1]");
        bad(b"[\"ping\",[\"\0\"],1]");
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_recurse() {
        let deep = |n: usize| {
            format!("[\"ping\",{}{},5]", "[".repeat(n), "]".repeat(n))
        };
        assert!(parse(deep(63).as_bytes()).is_ok());
        assert_eq!(bad(deep(64).as_bytes()).id.as_str(), "5");
        assert_eq!(bad(deep(400_000).as_bytes()).id.as_str(), "5");
        bad("[".repeat(1_000_000).as_bytes());
        let brackets_in_text = format!("[\"ping\",[\"{}\"],1]", "[".repeat(99));
        assert!(parse(brackets_in_text.as_bytes()).is_ok());
    }

    #[test]
    fn answers_carry_an_error_or_results() {
        let parse_answer = |line: &str| match parse(line.as_bytes()) {
            Ok(Message::Answer(answer)) => answer.outcome,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(
            parse_answer("[[null,1,2],3]"),
            Ok(vec![json!(1), json!(2)])
        );
        assert_eq!(parse_answer("[[],3]"), Ok(vec![]));
        let error = parse_answer(
            r#"[[{"message":"m","code":"EBUSY","field":"id","x":1}],3]"#,
        );
        assert_eq!(error, Err(WireError::new(Code::Ebusy, "m").on("id")));
        for odd in [r#"[["boom"],1]"#, r#"[[{"message":""}],1]"#] {
            let error = parse_answer(odd).unwrap_err();
            assert!(!error.message.is_empty());
        }
    }
}
