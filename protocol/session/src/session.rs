//! The life of one connection.
//!
//! One task reads and runs requests, one writes. Requests are begun in the
//! order in which they came and answered when they are ready.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::BytesMut;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use ntrace_protocol::message::{BadLine, Message, RawId};
use ntrace_protocol::{Decoded, LineCodec, MAX_LINE, WireError};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::{JoinHandle, unconstrained};
use tokio::time::{Instant, timeout};
use tokio_util::codec::Decoder;
use tracing::debug;

use crate::outbox::{Drain, WriteEnd, outbox};
use crate::peer::Peer;

/// How long what is queued may still take to be written at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a half-closed peer may wait before it is asked whether it is
/// still there: only a write shows that it has gone altogether.
const HALF_CLOSED_PING: Duration = Duration::from_secs(60);

/// How much is read at once.
const READ: usize = 64 * 1024;

/// The bounds of a connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest line, in bytes.
    pub max_line: usize,
    /// Requests that are run at once; while there are so many, nothing more
    /// is read.
    pub max_open: usize,
    /// Bytes of the lines of these requests together; likewise.
    pub max_open_bytes: usize,
    /// Bytes on their way to the peer; whoever has more for it waits.
    pub outbox: usize,
    /// A peer that takes nothing for so long is cut off; likewise one that
    /// does not finish the line that it has begun.
    pub stall: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_line: MAX_LINE,
            max_open: 256,
            max_open_bytes: 8 * 1024 * 1024,
            outbox: 1024 * 1024,
            stall: Duration::from_secs(60),
        }
    }
}

/// A request of the peer.
#[derive(Clone, Debug)]
pub struct Call {
    /// The command's name, as it was sent.
    pub name: String,
    /// Its arguments.
    pub args: Vec<Value>,
}

/// What a side of a connection can be asked.
pub trait Service: Send + Sync + 'static {
    /// Runs a command. The future is polled once in the order of arrival
    /// before the next line is looked at, so what it does before its first
    /// wait is done in order.
    fn call(
        self: Arc<Self>,
        call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>>;
}

/// A running connection. Dropping the handle does not end it.
pub struct SessionHandle {
    /// The other side.
    pub peer: Peer,
    task: JoinHandle<()>,
}

impl SessionHandle {
    /// Waits until the connection is over and all its tasks have ended.
    pub async fn ended(self) {
        // A cancelled or panicked task has ended as well.
        let _ = self.task.await;
    }
}

/// Takes a connection and serves it until it ends.
///
/// `service` is made with the handle of the peer, so that it can call back.
pub fn spawn<S: Service>(
    stream: TcpStream,
    config: Config,
    service: impl FnOnce(&Peer) -> Arc<S>,
) -> std::io::Result<SessionHandle> {
    let addr = stream.peer_addr()?;
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    let (reader, writer) = stream.into_split();
    let (outbox, drain) = outbox(config.outbox);
    let peer = Peer::new(addr, outbox);
    let service = service(&peer);
    let writing = Writing { drain, writer, peer: peer.clone() };
    let session = Session {
        reader,
        buffer: BytesMut::new(),
        codec: LineCodec::new(config.max_line),
        service,
        peer: peer.clone(),
        open: FuturesUnordered::new(),
        open_bytes: Arc::default(),
        line: 0,
        config,
    };
    let task = tokio::spawn(session.run(writing));
    Ok(SessionHandle { peer, task })
}

/// Lets the system find out that a host is gone. A peer that cannot be asked
/// is still served.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    let set = || {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
        sockopt::set_tcp_keepcnt(stream, 3)
    };
    if let Err(error) = set() {
        debug!(%error, "keep-alive could not be set");
    }
}

type Open = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Session<S> {
    reader: OwnedReadHalf,
    buffer: BytesMut,
    codec: LineCodec,
    service: Arc<S>,
    peer: Peer,
    open: FuturesUnordered<Open>,
    /// Bytes of the lines that are open.
    open_bytes: Arc<AtomicUsize>,
    /// Bytes of the line that was decoded last.
    line: usize,
    config: Config,
}

/// Why reading ended.
enum ReadEnd {
    /// The peer will send no more, but may still read.
    HalfClosed,
    /// The connection is to be closed once open answers are sent.
    Refused,
    /// The connection broke or was closed.
    Over,
}

impl<S: Service> Session<S> {
    async fn run(mut self, writing: Writing) {
        let stall = self.config.stall;
        let writer = tokio::spawn(writing.run(stall));
        let end = self.read().await;
        self.peer.end_sending();
        match end {
            ReadEnd::HalfClosed => {
                self.finish_open().await;
                self.peer.flushed().await;
            }
            ReadEnd::Refused => {
                let rest = self.finish_open();
                // What was asked before the bad line is still answered, but
                // not waited for for ever.
                let _ = timeout(stall, rest).await;
                self.peer.flushed().await;
            }
            ReadEnd::Over => {}
        }
        self.peer.close();
        // Open requests are dropped here, with the peer handles they hold.
        drop(self);
        let _ = writer.await;
    }

    async fn read(&mut self) -> ReadEnd {
        let mut line_began = None;
        loop {
            match self.decode().await {
                Ok(true) => {
                    line_began = None;
                    continue;
                }
                Ok(false) => {}
                Err(end) => return end,
            }
            if self.buffer.is_empty() {
                line_began = None;
            } else if line_began.is_none() {
                line_began = Some(Instant::now());
            }
            let line_end = line_began.map(|began| began + self.config.stall);
            self.buffer.reserve(READ);
            tokio::select! {
                biased;
                () = self.peer.closed() => return ReadEnd::Over,
                Some(()) = self.open.next() => {}
                read = self.reader.read_buf(&mut self.buffer) => match read {
                    Ok(0) => return self.last_lines().await,
                    Ok(_) => self.peer.heard(),
                    Err(_) => return ReadEnd::Over,
                },
                () = sleep_until(line_end) => {
                    self.refuse(WireError::new(
                        ntrace_protocol::Code::Eproto,
                        "the line was begun and not ended",
                    ));
                    return ReadEnd::Refused;
                }
            }
        }
    }

    /// Runs one line of what has been read. False: there is none.
    async fn decode(&mut self) -> Result<bool, ReadEnd> {
        while self.is_full() {
            tokio::select! {
                () = self.peer.closed() => return Err(ReadEnd::Over),
                _ = self.open.next() => {}
            }
        }
        let before = self.buffer.len();
        let decoded = self.codec.decode(&mut self.buffer);
        self.line = before - self.buffer.len();
        let Some(decoded) = decoded.map_err(|_| ReadEnd::Over)? else {
            return Ok(false);
        };
        self.take(decoded)?;
        Ok(true)
    }

    /// Whether nothing more is to be begun until something has ended.
    fn is_full(&self) -> bool {
        let bytes = self.open_bytes.load(Relaxed);
        self.open.len() >= self.config.max_open
            || !self.open.is_empty() && bytes >= self.config.max_open_bytes
    }

    /// The peer half-closed: a last line may lack its end.
    async fn last_lines(&mut self) -> ReadEnd {
        loop {
            match self.decode().await {
                Ok(true) => continue,
                Ok(false) => break,
                Err(end) => return end,
            }
        }
        match self.codec.decode_eof(&mut self.buffer) {
            Ok(Some(decoded)) => match self.take(decoded) {
                Ok(()) => ReadEnd::HalfClosed,
                Err(end) => end,
            },
            _ => ReadEnd::HalfClosed,
        }
    }

    fn take(&mut self, decoded: Decoded) -> Result<(), ReadEnd> {
        match decoded {
            Decoded::Message(Message::Request(request)) => {
                let call = Call { name: request.name, args: request.args };
                let running = self.service.clone().call(call);
                self.begin(running, request.id);
            }
            Decoded::Message(Message::Answer(answer)) => {
                self.peer.take_answer(answer);
            }
            Decoded::Bad(BadLine { error, id }) => {
                self.begin(Box::pin(async { Err(error) }), id);
            }
            Decoded::Fatal(error) => {
                self.refuse(error);
                return Err(ReadEnd::Refused);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, error: WireError) {
        debug!(peer = %self.peer.addr(), %error, "connection refused");
        self.begin(Box::pin(async { Err(error) }), RawId::null());
    }

    fn begin(
        &mut self,
        running: BoxFuture<'static, Result<Vec<Value>, WireError>>,
        id: RawId,
    ) {
        let peer = self.peer.clone();
        let weight = Weight::new(&self.open_bytes, self.line);
        let mut open: Open = Box::pin(async move {
            let _weight = weight;
            let outcome = running.await;
            if !id.is_notice() {
                peer.answer(&outcome, &id).await;
            }
        });
        // Polled now, so that requests begin in the order of arrival; and
        // outside of the task's budget, whose end would hold back one and let
        // the next one overtake it. What waits is polled again with the rest.
        let mut context = Context::from_waker(Waker::noop());
        let first = std::pin::pin!(unconstrained(open.as_mut()));
        if first.poll(&mut context).is_pending() {
            self.open.push(open);
        }
    }

    /// Answers what is open. The peer only reads now, so it is asked from
    /// time to time whether it is still there.
    async fn finish_open(&mut self) {
        let mut ping = tokio::time::interval_at(
            Instant::now() + HALF_CLOSED_PING,
            HALF_CLOSED_PING,
        );
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.open.is_empty() {
            tokio::select! {
                () = self.peer.closed() => return,
                _ = self.open.next() => {}
                _ = ping.tick() => {
                    let peer = self.peer.clone();
                    self.open.push(Box::pin(async move {
                        let _ = peer.notify("ping", &[]).await;
                    }));
                }
            }
        }
    }
}

/// What an open request holds of the bytes that may be open.
struct Weight {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Weight {
    fn new(of: &Arc<AtomicUsize>, bytes: usize) -> Self {
        of.fetch_add(bytes, Relaxed);
        Self { bytes, of: of.clone() }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// The writing half.
struct Writing {
    drain: Drain,
    writer: OwnedWriteHalf,
    peer: Peer,
}

impl Writing {
    async fn run(mut self, stall: Duration) {
        let peer = self.peer.clone();
        let closed = peer.closed();
        let end = tokio::select! {
            end = self.drain.write_all(&mut self.writer, stall) => end,
            () = closed => self.last_words().await,
        };
        if end != WriteEnd::Finished {
            debug!(peer = %peer.addr(), ?end, "the peer is cut off");
        }
        peer.close();
        // The peer may be gone already.
        let _ = self.writer.shutdown().await;
    }

    /// Writes what is queued, but does not wait for more.
    async fn last_words(&mut self) -> WriteEnd {
        let Self { drain, writer, .. } = self;
        match timeout(LAST_WORDS, drain.write_queued(writer, LAST_WORDS)).await
        {
            Ok(None) => WriteEnd::Finished,
            Ok(Some(end)) => end,
            Err(_) => WriteEnd::Stalled,
        }
    }
}
