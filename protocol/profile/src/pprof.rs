//! pprof: the form in which a profile is kept (`cpu.pb.gz`).
//!
//! Written and read as a stream of fields, one sample at a time, so that a
//! million stacks need no copy of the file in memory. `Function.name` is the
//! name that is compared, `system_name` the one that was found. The header,
//! and the kind of the frames of each mapping, stand in a comment that
//! begins with `ntrace:`; other programs pass over it. Profiles of other
//! programs are read as well.

mod fields;
mod message;
mod read;
mod sample;
mod write;

use serde::{Deserialize, Serialize};

use crate::frame::FrameKind;
use crate::header::Header;

pub use read::{ReadError, read};
pub use write::write;

/// How our comment begins.
const COMMENT: &str = "ntrace:";

/// Our comment.
#[derive(Debug, Serialize, Deserialize)]
struct Comment {
    header: Header,
    /// The kind of the frames of each mapping, in the mappings' order.
    kinds: Vec<FrameKind>,
}
