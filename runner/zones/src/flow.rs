//! Reads a stream of a process in chunks, to its true end.
//!
//! A process may leave children behind that hold its pipes, so the end of
//! file may never come. After the process itself is gone, what it wrote is
//! still read: until the stream is quiet for a moment, or more has come than
//! a pipe can have held. Must not know what the bytes are.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

/// The most that one read takes; a pipe seldom holds more.
const CHUNK: usize = 64 << 10;
/// Below this much room a fresh buffer is taken.
const LEAST: usize = 8 << 10;
/// After the process is gone: this long without a byte is the end.
const QUIET: Duration = Duration::from_millis(100);
/// After the process is gone: the most that can have been in its pipes.
const LEFT_IN_PIPES: usize = 2 << 20;

/// A stream of a process.
pub(crate) struct Flow<R> {
    reader: R,
    buffer: BytesMut,
    gone: CancellationToken,
    budget: usize,
}

impl<R: AsyncRead + Unpin> Flow<R> {
    /// `gone` is cancelled when the process ended.
    pub(crate) fn new(reader: R, gone: CancellationToken) -> Self {
        Self { reader, buffer: BytesMut::new(), gone, budget: LEFT_IN_PIPES }
    }

    /// The next bytes, or None at the end. May be dropped at any time
    /// without loss.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.buffer.capacity() < LEAST {
            self.buffer.reserve(CHUNK);
        }
        if !self.gone.is_cancelled() {
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.buffer) => {
                    return self.took(read?);
                }
                () = self.gone.cancelled() => {}
            }
        }
        if self.budget == 0 {
            return Ok(None);
        }
        let read = self.reader.read_buf(&mut self.buffer);
        match tokio::time::timeout(QUIET, read).await {
            Ok(read) => {
                let read = read?;
                self.budget = self.budget.saturating_sub(read);
                self.took(read)
            }
            Err(_) => Ok(None),
        }
    }

    fn took(&mut self, read: usize) -> io::Result<Option<Bytes>> {
        Ok((read > 0).then(|| self.buffer.split().freeze()))
    }
}
