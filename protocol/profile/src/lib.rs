//! Profiles: the model, its formats, its pictures and its differences.
//!
//! Bytes and values in, bytes and values out: this crate opens no file,
//! reads no clock and starts no thread. What it reads may be hostile, so
//! each importer has bounds and named errors, and nothing recurses: a stack
//! of ten thousand frames costs memory, not the program's own stack.

pub mod diff;
pub mod export;
pub mod folded;
mod frame;
mod header;
pub mod import;
mod language;
mod names;
pub mod pprof;
mod profile;
mod stacks;
mod strings;
pub mod svg;
mod table;
mod tree;

pub use frame::{FrameId, FrameKind, FrameView, Symbol};
pub use header::Header;
pub use names::{demangled, javascript, native, perf_map};
pub use profile::{Profile, Sample, Value};
pub use stacks::StackId;
