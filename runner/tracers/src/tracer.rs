//! The one trait of all tracers, and what goes in and out.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ntrace_protocol::trace::Tracer as Kind;
use ntrace_zones::{Vm, Worker};
use tokio::time::Instant;

/// What is to be traced.
#[derive(Debug)]
pub struct Target<'a> {
    /// The zone, and the way to it.
    pub worker: &'a Worker,
    /// Samples a second, if somebody asked for a rate.
    pub hz: Option<u32>,
    /// Until when the tracer must have begun.
    pub deadline: Instant,
}

/// What a trace is of, for its title.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Owner and name.
    pub repository: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// The run.
    pub run_id: String,
}

/// Something that can trace a zone.
pub trait Tracer: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// Whether it can name what node compiles, given node's perf maps.
    fn names_node(&self) -> bool;

    /// Begins to trace; resolves once nothing of what runs next is missed.
    fn start<'a>(
        &'a self,
        target: Target<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, StartError>>;

    /// Makes ready what takes time, and traces nothing yet; `vm` is the zone
    /// as it was seen just now. None: this tracer has nothing to make ready,
    /// and is only started.
    fn arm<'a>(
        &'a self,
        target: Target<'a>,
        vm: &'a Vm,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Armed>>, StartError>> {
        let _ = (target, vm);
        std::future::ready(Ok(None)).boxed()
    }
}

/// A tracer that is ready and has seen nothing. Dropping it ends it.
pub trait Armed: Send {
    /// Begins to trace; resolves once nothing of what runs next is missed.
    fn begin(
        self: Box<Self>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Box<dyn Running>, StartError>>;
}

/// A trace that is being made. Dropping it ends the tracer.
pub trait Running: Send {
    /// Samples a second of processor time.
    fn hz(&self) -> u32;

    /// The stacks of the last seconds.
    fn window(&mut self) -> BoxFuture<'_, Result<Window, TraceError>>;

    /// Ends the tracer and gives what it saw.
    fn finish(
        self: Box<Self>,
        labels: Labels,
        cpu: Cpu,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Trace, TraceError>>;
}

/// Processor time that a zone used while it was traced, measured by somebody
/// else than the tracer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: Option<Duration>,
    /// What was not spent in the kernel.
    pub user: Option<Duration>,
}

/// Stacks of the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// How many seconds it is of.
    pub seconds: u32,
    /// Stacks, root first with `;` between frames, and their counts.
    pub folded: Vec<(String, u64)>,
}

/// A trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The profile, gzip'd pprof.
    pub profile: Vec<u8>,
    /// The flame graph.
    pub flame_graph: Vec<u8>,
    /// Samples in it.
    pub samples: u64,
    /// Samples lost.
    pub lost: u64,
    /// How often the kernel slowed the sampling down.
    pub throttled: u64,
    /// The share of frames that have a name, 0 to 1.
    pub share_named: Option<f64>,
    /// The processor time that the samples are to account for, where the
    /// tracer knows it better than others.
    pub cpu: Option<Duration>,
    /// Whether kernel frames are in it.
    pub kernel: bool,
    /// What whoever reads it should know.
    pub warnings: Vec<String>,
}

/// Why a tracer did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its program cannot be started.
    #[error("cannot start {what}")]
    Spawn {
        /// Which program.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended before it had begun.
    #[error("{what} ended with {exit} before it was ready{said}")]
    Ended {
        /// Which program.
        what: &'static str,
        /// How it ended.
        exit: ntrace_zones::Exit,
        /// Its words, with a lead-in, if it had any.
        said: String,
    },
    /// It was not ready in time.
    #[error("{what} was not ready in time{said}")]
    Late {
        /// Which program.
        what: &'static str,
        /// Its words, with a lead-in, if it had any.
        said: String,
    },
    /// It says itself why.
    #[error("{0}")]
    Refused(String),
}

/// Why there is no trace although it was begun.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The tracer died.
    #[error("{what} ended with {exit} while the job ran{said}")]
    Died {
        /// Which program.
        what: &'static str,
        /// How it ended.
        exit: ntrace_zones::Exit,
        /// Its words, with a lead-in, if it had any.
        said: String,
    },
    /// What it wrote makes no sense.
    #[error("what {what} wrote cannot be read: {why}")]
    Unreadable {
        /// Which program.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It did not end in time.
    #[error("{what} did not end in time")]
    Late {
        /// Which program.
        what: &'static str,
    },
    /// It says itself why.
    #[error("{0}")]
    Refused(String),
}
