//! What is on its way to a peer: lines in order, bounded in bytes.
//!
//! A sender waits for room; so a peer that reads slowly slows down whoever
//! has something for it, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

/// How many bytes one write gathers.
const GATHER: usize = 64 * 1024;

/// The sending end.
#[derive(Clone)]
pub(crate) struct Outbox {
    room: Arc<Semaphore>,
    capacity: u32,
    lines: mpsc::UnboundedSender<Line>,
}

/// The writing end. What is half written is kept here, so that writing may
/// be interrupted and taken up again.
pub(crate) struct Drain {
    room: Arc<Semaphore>,
    lines: mpsc::UnboundedReceiver<Line>,
    gathered: BytesMut,
    /// Room is given back only when the bytes are with the system.
    held: Vec<OwnedSemaphorePermit>,
}

/// A line, with the room that it takes until it is written.
struct Line {
    bytes: Bytes,
    room: OwnedSemaphorePermit,
}

/// An outbox with room for so many bytes. (The channel itself has no bound;
/// the room has.)
pub(crate) fn outbox(capacity: usize) -> (Outbox, Drain) {
    let capacity = u32::try_from(capacity).unwrap_or(u32::MAX / 2);
    let room = Arc::new(Semaphore::new(capacity as usize));
    let (sender, receiver) = mpsc::unbounded_channel();
    let outbox = Outbox { room: room.clone(), capacity, lines: sender };
    let drain = Drain {
        room,
        lines: receiver,
        gathered: BytesMut::new(),
        held: Vec::new(),
    };
    (outbox, drain)
}

impl Outbox {
    /// Waits for room, then hands the line over. A line larger than the
    /// whole outbox waits until it has it for itself. False: nobody will
    /// write it.
    pub(crate) async fn send(&self, line: Vec<u8>) -> bool {
        let size = u32::try_from(line.len()).unwrap_or(u32::MAX);
        let size = size.min(self.capacity);
        let Ok(room) = self.room.clone().acquire_many_owned(size).await else {
            return false;
        };
        self.lines.send(Line { bytes: line.into(), room }).is_ok()
    }
}

impl Outbox {
    /// Waits until all that was sent is with the system, or nobody writes.
    pub(crate) async fn flushed(&self) {
        // An error means that the writer is gone.
        let _ = self.room.acquire_many(self.capacity).await;
    }
}

/// Why writing ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// All senders are gone and all is written.
    Finished,
    /// The peer took nothing for too long.
    Stalled,
    /// The connection broke.
    Broken,
}

impl Drain {
    /// Writes lines until all senders are gone. No single write may go
    /// without progress for longer than `stall`.
    pub(crate) async fn write_all(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        stall: Duration,
    ) -> WriteEnd {
        loop {
            if let Some(end) = self.write_queued(to, stall).await {
                return end;
            }
            match self.lines.recv().await {
                Some(line) => self.gather(line),
                None => return WriteEnd::Finished,
            }
        }
    }

    /// Writes what is queued now.
    pub(crate) async fn write_queued(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        stall: Duration,
    ) -> Option<WriteEnd> {
        loop {
            while self.gathered.len() < GATHER {
                let Ok(line) = self.lines.try_recv() else { break };
                self.gather(line);
            }
            if self.gathered.is_empty() {
                return None;
            }
            while !self.gathered.is_empty() {
                let written = to.write_buf(&mut self.gathered);
                match timeout(stall, written).await {
                    Ok(Ok(1..)) => {}
                    Ok(_) => return Some(WriteEnd::Broken),
                    Err(_) => return Some(WriteEnd::Stalled),
                }
            }
            self.held.clear();
        }
    }

    fn gather(&mut self, line: Line) {
        self.gathered.extend_from_slice(&line.bytes);
        self.held.push(line.room);
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.room.close();
    }
}
