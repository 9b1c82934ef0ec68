//! What is said on the wire: messages, codec, states, validated names.
//!
//! This crate does no I/O and reads no clock. Text and bytes become domain
//! types here, once; nobody further in checks them again. The format is the
//! one of the npm package `rpc-stream` (see docs/protocol.md).
//!
//! Reading order: [`message`] and [`codec`] are the lines; [`command`] is the
//! fixed table of what may be asked; [`name`], [`id`] and [`unit`] are the
//! small validated values; [`spec`] is what a user asks for; [`job`] and
//! [`worker`] are the states with their tables of legal moves; [`report`] is
//! what a runner sends back, [`stop`] how it is told to end a run, [`trace`]
//! what became of a run's trace, [`syscalls`] which system calls it made, and
//! [`compare`] how traces are looked at.

pub mod codec;
pub mod command;
pub mod compare;
pub mod error;
pub mod id;
pub mod job;
pub mod limits;
pub mod message;
pub mod name;
pub mod report;
pub mod runner;
pub mod spec;
pub mod stop;
pub mod syscalls;
pub mod text;
pub mod trace;
pub mod unit;
pub mod worker;

pub use codec::{Decoded, LineCodec};
pub use error::{Code, WireError};
pub use id::{JobId, Lease, RunId, WorkerUuid};
pub use job::{Exit, JobState, JobView, Reason, RunView, Usage};
pub use limits::Limits;
pub use message::{Answer, Message, Request};
pub use name::{Commit, Label, Owner, Repo, RunnerName};
pub use report::{Data, Report, Stream};
pub use spec::{JobSpec, Source};
pub use stop::StopOrder;
pub use trace::{TraceOptions, TraceSummary};
pub use unit::Timestamp;
pub use worker::WorkerState;

/// The longest line that is accepted unless a flag says otherwise, in bytes.
pub const MAX_LINE: usize = 1024 * 1024;

/// How deep JSON may be nested in a line.
pub const MAX_DEPTH: usize = 64;
