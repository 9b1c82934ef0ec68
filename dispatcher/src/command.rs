//! The commands of port 9181, by whom they are for.
//!
//! Each reads its arguments into types, does one thing with the store or the
//! engine, and answers; whatever is wrong is said with a code and a field.

pub(crate) mod about;
pub(crate) mod artefact;
pub(crate) mod job;
pub(crate) mod logs;
pub(crate) mod report;
pub(crate) mod runner;
pub(crate) mod trace;
pub(crate) mod why;

use ntrace_protocol::WireError;
use serde_json::Value;

/// What a command answers.
pub(crate) type Answer = Result<Vec<Value>, WireError>;
