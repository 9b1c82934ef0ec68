//! Typed calls to a dispatcher or a runner.
//!
//! Used by the runner, the program `ntrace` and the tests. It knows what each
//! command takes and answers, and how to wait before it connects again; it
//! knows neither how a dispatcher works nor what is shown to people.

mod backoff;
mod connect;
mod dispatcher;
mod logs;
mod runner;

pub use backoff::Backoff;
pub use connect::{ConnectError, connect};
pub use dispatcher::{
    AckReply, Dispatcher, Export, ListFilter, ListPage, Refused, StopOptions,
};
pub use logs::{LogEnd, LogStream, LogsOptions};
pub use ntrace_session::{CallError, Peer};
pub use runner::RunnerControl;

use ntrace_protocol::{Code, WireError};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads the result at a position as a type.
fn result<T: DeserializeOwned>(
    name: &str,
    results: &mut [Value],
    at: usize,
) -> Result<T, CallError> {
    let value = match results.get_mut(at) {
        Some(value) => value.take(),
        None => Value::Null,
    };
    serde_json::from_value(value).map_err(|error| {
        CallError::Refused(WireError::new(
            Code::Eproto,
            format!("the answer to {name} is not as documented: {error}"),
        ))
    })
}
