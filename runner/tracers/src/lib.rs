//! Tracers behind one trait, and evidence of hanging jobs.
//!
//! A tracer runs outside of the zone and sees only the zone. It is started
//! before a job's command and finished after it; in between it can be asked
//! for the last seconds. What of its start takes time may be done earlier. Must not know what a job is, nor where traces are
//! kept. Invariant: whatever a tracer does, it is a value: none of its
//! failures can fail a job.

mod choice;
mod dtrace;
mod environment;
pub mod evidence;
mod node;
mod perf;
mod preload;
mod render;
mod sample;
mod syscalls;
mod tracer;

pub use choice::{Choice, Chosen, Place, choose};
pub use dtrace::{Dtrace, DtraceCalls};
pub use environment::{Additions, OPT_OUT, add};
pub use node::node_trace;
pub use perf::{NoPerf, Perf};
pub use preload::Preload;
pub use sample::{Program, Sample};
pub use syscalls::{Counted, Counting, cannot_count};
pub use tracer::{
    Armed, Cpu, Labels, Running, StartError, Target, Trace, TraceError, Tracer,
    Window,
};
