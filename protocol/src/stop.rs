//! How a run is to be stopped: what a person asks for, what the dispatcher
//! keeps, and what a runner is told.

use serde_json::{Value, json};

use crate::RunId;
use crate::error::WireError;
use crate::text::quote;

/// An order to stop a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOrder {
    /// How long the run has between TERM and KILL, in milliseconds.
    pub grace_ms: u64,
    /// Whether to see what it is doing before it is ended.
    pub evidence: bool,
}

impl StopOrder {
    /// What holds when a later order comes after this one: the later grace,
    /// and evidence if either of them asks for it.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        let evidence = self.evidence || later.evidence;
        Self { evidence, ..later }
    }

    /// The arguments of a runner's `stop`. Without evidence they are the
    /// two that each runner knows.
    pub fn to_args(self, run: RunId) -> Vec<Value> {
        let mut args = vec![json!(run), json!(self.grace_ms)];
        if self.evidence {
            args.push(json!({"evidence": true}));
        }
        args
    }
}

/// Whether a runner's `stop` asks for evidence. An option that is not known
/// is that of a newer dispatcher, which does without it.
///
/// # Errors
/// `EINVAL` on `options` or `evidence`: it is of another type.
pub fn wants_evidence(options: Option<&Value>) -> Result<bool, WireError> {
    let map = match options {
        None | Some(Value::Null) => return Ok(false),
        Some(Value::Object(map)) => map,
        Some(other) => {
            let found = quote(&other.to_string());
            let text = format!("options must be an object, not {found}");
            return Err(WireError::invalid("options", text));
        }
    };
    match map.get("evidence") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(wanted)) => Ok(*wanted),
        Some(other) => {
            let found = quote(&other.to_string());
            let text = format!("evidence must be true or false, not {found}");
            Err(WireError::invalid("evidence", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: StopOrder = StopOrder { grace_ms: 10_000, evidence: false };

    #[test]
    fn a_later_order_takes_no_evidence_away() {
        let with = StopOrder { grace_ms: 5, evidence: true };
        let both = StopOrder { grace_ms: 10_000, evidence: true };
        assert_eq!(with.then(PLAIN), both);
        assert_eq!(PLAIN.then(with), with);
        assert_eq!(PLAIN.then(PLAIN), PLAIN);
    }

    #[test]
    fn a_plain_order_is_told_as_ever_and_another_is_read_as_it_was_told() {
        let run = RunId::generate(1, 1);
        assert_eq!(PLAIN.to_args(run), [json!(run), json!(10_000)]);
        let with = StopOrder { evidence: true, ..PLAIN };
        let args = with.to_args(run);
        assert_eq!(wants_evidence(args.get(2)), Ok(true));
        assert_eq!(wants_evidence(None), Ok(false));
    }

    #[test]
    fn a_bad_option_is_named_and_a_strange_one_passed_over() {
        let field = |value: Value| {
            wants_evidence(Some(&value)).unwrap_err().field.unwrap()
        };
        assert_eq!(field(json!(true)), "options");
        assert_eq!(field(json!({"evidence": "yes"})), "evidence");
        let newer = json!({"later": 1, "evidence": false});
        assert_eq!(wants_evidence(Some(&newer)), Ok(false));
    }
}
