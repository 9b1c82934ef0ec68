//! Profiles that other programs wrote: dtrace, perf, V8.
//!
//! What they print goes through a job's names and may end anywhere. What
//! cannot be read is left out and counted in a warning of the header.

mod cpuprofile;
mod dtrace;
mod perf;

pub use cpuprofile::{CpuProfileError, cpuprofile};
pub use dtrace::dtrace;
pub use perf::{PerfScript, perf_script};

use crate::header::Header;

/// Says in the header how many records could not be read.
fn left_out(header: &mut Header, broken: u64, cut: bool) {
    if broken > 0 {
        let s = if broken == 1 { "" } else { "s" };
        header.warn(format!("{broken} record{s} could not be read"));
    }
    if cut {
        header.warn("the output ends within a record, which is left out");
    }
}
