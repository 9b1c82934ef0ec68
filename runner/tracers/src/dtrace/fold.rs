//! From what dtrace printed to stacks.

use std::time::Duration;

use crate::tracer::{Labels, Trace, TraceError};

const MISSING: &str = "this version cannot fold what dtrace prints";

/// The stacks of the last seconds.
pub(super) fn window(_: &[u8]) -> Result<Vec<(String, u64)>, TraceError> {
    Err(TraceError::Refused(MISSING.to_owned()))
}

/// The whole trace.
pub(super) fn trace(
    _: &[u8],
    _lost: u64,
    _warnings: Vec<String>,
    _labels: &Labels,
    _cpu: Option<Duration>,
) -> Result<Trace, TraceError> {
    Err(TraceError::Refused(MISSING.to_owned()))
}
