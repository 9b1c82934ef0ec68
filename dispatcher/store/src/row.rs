//! Values as they stand in the tables.
//!
//! Numbers are SQLite's 64-bit integers, ids are their 16 bytes, structures
//! are JSON text. What does not parse is a [`Fault::Corrupt`], never a
//! panic.

use ntrace_protocol::{JobId, JobState, Reason, RunId, StopOrder, WorkerUuid};
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::db::Fault;

/// An id that a table holds as a blob.
pub(crate) trait Id: Sized {
    fn from_16(bytes: [u8; 16]) -> Self;

    /// From a blob.
    fn of(blob: &[u8]) -> Result<Self, Fault> {
        let bytes = blob.try_into();
        bytes.map(Self::from_16).map_err(|_| Fault::Corrupt { what: "id" })
    }
}

macro_rules! ids {
    ($($name:ty),*) => {$(
        impl Id for $name {
            fn from_16(bytes: [u8; 16]) -> Self {
                <$name>::from_bytes(bytes)
            }
        }
    )*};
}
ids!(JobId, RunId, WorkerUuid, ntrace_protocol::id::ArtefactId);

/// A structure as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .expect("our types have string keys and finite numbers")
}

/// A structure from JSON text.
pub(crate) fn from_json<T: DeserializeOwned>(
    text: &str,
    what: &'static str,
) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|_| Fault::Corrupt { what })
}

/// A structure from JSON text that may be absent.
pub(crate) fn maybe_json<T: DeserializeOwned>(
    text: Option<String>,
    what: &'static str,
) -> Result<Option<T>, Fault> {
    text.map(|text| from_json(&text, what)).transpose()
}

/// How a job is to be stopped: its grace in this column, if that was asked
/// for at all, and whether with evidence in the next.
pub(crate) fn stop_order(
    row: &Row<'_>,
    at: usize,
) -> rusqlite::Result<Option<StopOrder>> {
    let grace: Option<i64> = row.get(at)?;
    let evidence = row.get(at + 1)?;
    Ok(grace.map(|ms| StopOrder { grace_ms: uint(ms), evidence }))
}

/// A state from its name.
pub(crate) fn state(text: &str) -> Result<JobState, Fault> {
    text.parse().map_err(|_| Fault::Corrupt { what: "state" })
}

/// A reason from its name.
pub(crate) fn reason(text: Option<String>) -> Result<Option<Reason>, Fault> {
    let parse = |text: String| {
        serde_json::from_value(text.into())
            .map_err(|_| Fault::Corrupt { what: "reason" })
    };
    text.map(parse).transpose()
}

/// For SQLite, which has no unsigned integers.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// From SQLite.
pub(crate) fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
