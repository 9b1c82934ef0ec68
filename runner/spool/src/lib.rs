//! Output held on disk until the dispatcher has it.
//!
//! Each run has a directory of its own: a small file that says whose it is,
//! and segments of framed records, numbered densely per stream. What was
//! appended survives the death of the process (it is with the system before
//! `append` returns); the beginning and the end of a run survive that of the
//! machine too. What the dispatcher has acknowledged is deleted segment by
//! segment, and the directory with the last of it.
//!
//! Knows files and reports; must not know connections, tasks or timers, so
//! waiting for room is its caller's business. Invariant: a report is read
//! out exactly as it was put in, in order of arrival, as often as it is
//! wanted, until it is acknowledged.

mod cut;
mod meta;
mod record;
mod run;
mod segment;
mod spool;
mod weight;

pub use meta::RunMeta;
pub use run::{Cursor, Progress, RunSpool};
pub use spool::{Leftover, Opened, Options, Spool};
pub use weight::weight;

use std::io;
use std::path::{Path, PathBuf};

/// Why the spool could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system refused.
    #[error("cannot {tried} {}", .path.display())]
    Io {
        /// What was tried.
        tried: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The run has an end, nothing comes after it.
    #[error("the run has ended; nothing can be added to its spool")]
    Ended,
    /// The run was dropped; its spool is gone.
    #[error("the run was dropped; its spool is gone")]
    Discarded,
}

impl SpoolError {
    fn io(tried: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { tried, path, source }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded))
    }
}
