//! Reading the log of a run, in pieces, from any record.
//!
//! Must not know who writes it. A reader holds at most one piece in memory,
//! and never looks behind the end that it is given, so it does not see what
//! is not synced.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::frame::{self, HEAD, Parsed, Record};

/// How much is read at once, unless one record is longer.
const PIECE: usize = 256 * 1024;

/// A log that is open for reading.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    position: u64,
}

/// Why a log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the log of the run")]
    Io(#[from] io::Error),
    /// What stands there is no record.
    #[error("the log of the run is damaged at byte {at}")]
    Damaged {
        /// Where.
        at: u64,
    },
}

impl LogFile {
    /// Opens a log; none if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self { file, position: 0 })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// How long the file is.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether the file is empty.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// How far it was read, in bytes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next records up to the given byte; none at that byte.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn next_batch(
        &mut self,
        end: u64,
    ) -> Result<Option<Vec<Record>>, ReadError> {
        let left = end.saturating_sub(self.position);
        if left == 0 {
            return Ok(None);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut bytes = self.piece(left.min(PIECE))?;
        if let Parsed::Short { wanted } = frame::parse(&bytes)
            && wanted <= left
        {
            bytes = self.piece(wanted)?;
        }
        let mut records = Vec::new();
        let mut at = 0;
        while let Parsed::Whole { body, size } = frame::parse(&bytes[at..]) {
            let damaged = ReadError::Damaged { at: self.position + at as u64 };
            records.push(frame::decode(body).ok_or(damaged)?);
            at += size;
        }
        if records.is_empty() {
            return Err(ReadError::Damaged { at: self.position });
        }
        self.position += at as u64;
        Ok(Some(records))
    }

    /// Passes over at most `count` records before the given byte; says how
    /// many there were.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn skip(&mut self, count: u64, end: u64) -> Result<u64, ReadError> {
        let mut skipped = 0;
        while skipped < count && self.position < end {
            let mut head = [0; HEAD];
            self.file.read_exact_at(&mut head, self.position)?;
            let damaged = ReadError::Damaged { at: self.position };
            let size = frame::size(&head).ok_or(damaged)?;
            self.position += size as u64;
            skipped += 1;
        }
        Ok(skipped)
    }

    fn piece(&self, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes)
    }
}
