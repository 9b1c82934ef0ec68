//! The other side of a connection, as a handle that is cheap to clone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ntrace_protocol::WireError;
use ntrace_protocol::message::{Answer, RawId, write_answer, write_request};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::outbox::Outbox;

/// Own ids count from 1 and stay below this.
const ID_END: u32 = 1 << 31;

/// The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct Closed;

/// Why a call brought no results.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer answered with an error.
    #[error("{0}")]
    Refused(WireError),
    /// The connection ended before the answer.
    #[error("the connection closed before {name} was answered")]
    Closed {
        /// The command.
        name: String,
    },
    /// The answer took too long.
    #[error("{name} was not answered within {after:?}")]
    Late {
        /// The command.
        name: String,
        /// The deadline.
        after: Duration,
    },
}

impl CallError {
    /// The peer's error, if it was one.
    pub fn wire(&self) -> Option<&WireError> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

type Outcome = Result<Vec<Value>, WireError>;

/// The other side of a connection.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<Inner>,
}

struct Inner {
    addr: SocketAddr,
    outbox: Outbox,
    next_id: AtomicU32,
    /// Our open calls; none is added once the peer can answer no more.
    pending: Mutex<Option<HashMap<u32, oneshot::Sender<Outcome>>>>,
    /// The last error that answered no request of ours: if the connection
    /// ends after it, it is why.
    refusal: Mutex<Option<WireError>>,
    /// The peer will send nothing more; it may still read.
    ended_sending: CancellationToken,
    closed: CancellationToken,
    born: Instant,
    /// When it was heard last, in milliseconds since `born`.
    heard_ms: AtomicU64,
}

impl Peer {
    pub(crate) fn new(addr: SocketAddr, outbox: Outbox) -> Self {
        let inner = Inner {
            addr,
            outbox,
            next_id: AtomicU32::new(1),
            pending: Mutex::new(Some(HashMap::new())),
            refusal: Mutex::new(None),
            ended_sending: CancellationToken::new(),
            closed: CancellationToken::new(),
            born: Instant::now(),
            heard_ms: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The peer's address.
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Calls a command and waits for its results.
    ///
    /// # Errors
    /// The peer refused, the connection ended, or the deadline passed.
    pub async fn call(
        &self,
        name: &str,
        args: &[Value],
        deadline: Duration,
    ) -> Result<Vec<Value>, CallError> {
        let late =
            |_| CallError::Late { name: name.to_owned(), after: deadline };
        timeout(deadline, self.call_unbounded(name, args))
            .await
            .map_err(late)?
    }

    /// Calls a command that may take as long as it takes (`wait`, `logs`).
    /// It ends with the connection.
    ///
    /// # Errors
    /// The peer refused, or the connection ended.
    pub async fn call_unbounded(
        &self,
        name: &str,
        args: &[Value],
    ) -> Result<Vec<Value>, CallError> {
        let closed = || self.why_closed(name);
        let (slot, answer) = self.open_slot().ok_or_else(closed)?;
        let line = write_request(name, args, &RawId::number(slot.id));
        if !self.inner.outbox.send(line).await {
            return Err(closed());
        }
        let outcome = answer.await.map_err(|_| closed())?;
        outcome.map_err(CallError::Refused)
    }

    /// Sends a notice, as soon as there is room for it.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn notify(
        &self,
        name: &str,
        args: &[Value],
    ) -> Result<(), Closed> {
        let line = write_request(name, args, &RawId::notice());
        if self.inner.outbox.send(line).await { Ok(()) } else { Err(Closed) }
    }

    /// Sends an answer.
    pub(crate) async fn answer(&self, outcome: &Outcome, id: &RawId) {
        // If it is not sent, the asker is gone; there is nobody to tell.
        self.inner.outbox.send(write_answer(outcome, id)).await;
    }

    /// Hands an answer to whoever asked. An unknown id is passed over: the
    /// asker may have given up.
    pub(crate) fn take_answer(&self, answer: Answer) {
        if answer.id == RawId::null() {
            *self.refusal() = answer.outcome.err();
            return;
        }
        let Some(id) = answer.id.as_own() else { return };
        let slot = self.pending().as_mut().and_then(|open| open.remove(&id));
        if let Some(slot) = slot {
            // The asker may have gone this very moment.
            let _ = slot.send(answer.outcome);
        }
    }

    /// Ends the connection: what is queued is still written, for a moment.
    pub fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// Something came from the peer.
    pub(crate) fn heard(&self) {
        let ms = self.inner.born.elapsed().as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        self.inner.heard_ms.store(ms, Ordering::Relaxed);
    }

    /// Waits until nothing has come from the peer for so long. Of use with a
    /// peer that gives signs of life: a link that is dead at its middle
    /// stays open at its ends.
    pub async fn silent_for(&self, limit: Duration) {
        loop {
            let heard = self.inner.heard_ms.load(Ordering::Relaxed);
            let until = self.inner.born + Duration::from_millis(heard) + limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Waits until the peer will send nothing more: it half-closed, or the
    /// connection is over. A program that is still of use never half-closes.
    pub async fn ended_sending(&self) {
        self.inner.ended_sending.cancelled().await;
    }

    /// No answer can come any more: open calls end.
    pub(crate) fn end_sending(&self) {
        self.inner.ended_sending.cancel();
        self.pending().take();
    }

    /// Waits until all that was sent is with the system.
    pub(crate) async fn flushed(&self) {
        self.inner.outbox.flushed().await;
    }

    /// Why a call has no answer: the connection ended, and perhaps the peer
    /// said why.
    fn why_closed(&self, name: &str) -> CallError {
        match self.refusal().clone() {
            Some(error) => CallError::Refused(error),
            None => CallError::Closed { name: name.to_owned() },
        }
    }

    fn refusal(&self) -> MutexGuard<'_, Option<WireError>> {
        self.inner.refusal.lock().expect("no holder of this lock panics")
    }

    fn pending(
        &self,
    ) -> MutexGuard<'_, Option<HashMap<u32, oneshot::Sender<Outcome>>>> {
        self.inner.pending.lock().expect("no holder of this lock panics")
    }

    fn open_slot(&self) -> Option<(Slot<'_>, oneshot::Receiver<Outcome>)> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.pending();
        let open = pending.as_mut()?;
        let id = loop {
            let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
            let id = id % ID_END;
            if id != 0 && !open.contains_key(&id) {
                break id;
            }
        };
        open.insert(id, sender);
        Some((Slot { peer: self, id }, receiver))
    }
}

/// An open call; forgotten when the asker gives up.
struct Slot<'a> {
    peer: &'a Peer,
    id: u32,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.peer.pending().as_mut() {
            open.remove(&self.id);
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peer({})", self.addr())
    }
}
