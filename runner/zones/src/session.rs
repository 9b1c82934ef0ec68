//! One conversation with a zone: bytes in, two streams out, and a status
//! record that says how the command ended.
//!
//! Chunks go through bounded channels: a slow reader slows the job, never
//! fills memory. The exit of zlogin is no evidence, since it is 0 for a
//! killed command; without a record the place has failed. Must not know what
//! is run.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::carrier::{Carrier, Handle, Process, Reader, Writer};
use crate::command::{Command, Exit};
use crate::flow::Flow;
use crate::marker::{Filter, Nonce};

/// Chunks of one stream that wait for their reader; each is at most 64 KiB.
/// Past this the job itself waits.
const CHUNKS: usize = 16;
/// How long a killed zlogin may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// How much of a body is copied at once.
const BODY_CHUNK: usize = 64 << 10;

/// How a command inside a zone ended.
#[derive(Debug)]
pub enum Ended {
    /// It exited with this status.
    Exit(i32),
    /// It died of a signal.
    Signal {
        /// Its name, such as `SIGKILL`.
        name: String,
        /// Whether it left a core file.
        core: bool,
    },
    /// It could not be run.
    Error {
        /// Why.
        message: String,
        /// The exit status that a shell would have given, if there is one.
        code: Option<i32>,
    },
    /// Nothing tells how it ended: the place has failed, not the command.
    NoMarker(Lost),
}

/// Why there is no status record.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// zlogin could not be started.
    #[error("cannot start zlogin")]
    NotStarted(#[source] io::Error),
    /// zlogin ended without one; its exit proves nothing.
    #[error("zlogin ended with {0} and without a status record")]
    Silent(Exit),
    /// The deadline passed.
    #[error("the command did not end by its deadline")]
    Deadline,
    /// The caller gave it up.
    #[error("the command was given up")]
    Abandoned,
    /// The streams broke.
    #[error("lost zlogin")]
    Broken(#[source] io::Error),
    /// What was to be sent in could not be read.
    #[error("cannot read what was to be sent into the zone")]
    Source(#[source] io::Error),
    /// There is a record, and it makes no sense.
    #[error("the status record cannot be read: {0}")]
    Unreadable(String),
}

/// What a command has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Processor time.
    pub cpu_ms: u64,
    /// What of it was not spent in the kernel, where that is told apart.
    pub user_ms: Option<u64>,
    /// The largest resident set of one of its processes, in bytes.
    pub max_rss: u64,
}

/// The status record as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<String>,
    pub(crate) core: bool,
    pub(crate) error: Option<String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) files: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) skipped: Vec<String>,
    pub(crate) processes: Vec<crate::inside::ProcessInfo>,
}

/// How a conversation ended.
#[derive(Debug)]
pub struct Outcome {
    /// How the command ended.
    pub ended: Ended,
    /// What it used, where the zone can tell.
    pub usage: Option<Usage>,
    /// From start to end.
    pub elapsed: Duration,
    pub(crate) record: Record,
}

/// A command that runs inside a zone. Read both streams to their end, or
/// drop them: an unread stream stops the job. The parts may go different
/// ways.
#[derive(Debug)]
pub struct Run {
    /// Its stdout; None after the last byte.
    pub stdout: mpsc::Receiver<Bytes>,
    /// Its stderr, without the status record; None after the last byte.
    pub stderr: mpsc::Receiver<Bytes>,
    /// Its end.
    pub ending: Ending,
}

impl Run {
    /// Waits for its end, see [`Ending::wait`].
    pub async fn ended(&mut self) -> Outcome {
        self.ending.wait().await
    }
}

/// The end of a command, to be waited for. Dropping it gives the command
/// up: what is on its way is lost, and what runs in the zone is then for
/// [`crate::Inside::kill`].
#[derive(Debug)]
pub struct Ending {
    task: Option<tokio::task::JoinHandle<Outcome>>,
    started: Instant,
    _giving_up: DropGuard,
}

impl Ending {
    /// Waits for the end, which comes after the last byte of both streams
    /// was taken over by the channels. May be dropped and called again until
    /// it has answered; later it answers that nothing is known.
    pub async fn wait(&mut self) -> Outcome {
        let Some(task) = self.task.as_mut() else {
            return lost(Lost::Abandoned, self.started);
        };
        let outcome = task.await;
        self.task = None;
        // Only a runtime that shuts down aborts the task.
        outcome.unwrap_or_else(|_| lost(Lost::Abandoned, self.started))
    }
}

/// What is sent into the zone after the header.
pub(crate) type Body = Box<dyn AsyncRead + Send + Unpin>;

/// Starts a conversation.
pub(crate) fn start(
    carrier: &Arc<Carrier>,
    command: Command,
    nonce: Nonce,
    head: Bytes,
    body: Option<Body>,
    deadline: Instant,
) -> Run {
    let (out, stdout) = mpsc::channel(CHUNKS);
    let (err, stderr) = mpsc::channel(CHUNKS);
    let given_up = CancellationToken::new();
    let started = Instant::now();
    let talk = Talk { filter: Filter::new(&nonce), head, body, out, err };
    let task = tokio::spawn({
        let (carrier, given_up) = (Arc::clone(carrier), given_up.clone());
        async move {
            talk.hold(&carrier, &command, started, deadline, &given_up).await
        }
    });
    let _giving_up = given_up.drop_guard();
    let ending = Ending { task: Some(task), started, _giving_up };
    Run { stdout, stderr, ending }
}

struct Talk {
    filter: Filter,
    head: Bytes,
    body: Option<Body>,
    out: mpsc::Sender<Bytes>,
    err: mpsc::Sender<Bytes>,
}

impl Talk {
    async fn hold(
        self,
        carrier: &Carrier,
        command: &Command,
        started: Instant,
        deadline: Instant,
        given_up: &CancellationToken,
    ) -> Outcome {
        let process = tokio::select! {
            process = carrier.spawn(command) => process,
            () = tokio::time::sleep_until(deadline) => {
                return lost(Lost::Deadline, started);
            }
            () = given_up.cancelled() => return lost(Lost::Abandoned, started),
        };
        let Process { stdin, stdout, stderr, mut handle } = match process {
            Ok(process) => process,
            Err(error) => return lost(Lost::NotStarted(error), started),
        };
        let why = tokio::select! {
            talked = self.exchange(stdin, stdout, stderr, &mut handle) => {
                match talked {
                    Ok((exit, json)) => return judge(exit, json, started),
                    Err(lost) => lost,
                }
            }
            () = tokio::time::sleep_until(deadline) => Lost::Deadline,
            () = given_up.cancelled() => Lost::Abandoned,
        };
        handle.kill();
        let _ = tokio::time::timeout(KILL_GRACE, handle.wait()).await;
        lost(why, started)
    }

    async fn exchange(
        self,
        stdin: Writer,
        stdout: Reader,
        stderr: Reader,
        handle: &mut Handle,
    ) -> Result<(Exit, Option<Vec<u8>>), Lost> {
        let Self { filter, head, body, out, err } = self;
        let gone = CancellationToken::new();
        let wait = async {
            let exit = handle.wait().await.map_err(Lost::Broken);
            gone.cancel();
            exit
        };
        let feeding = async {
            tokio::select! {
                fed = feed(stdin, head, body) => fed,
                () = gone.cancelled() => Ok(()),
            }
        };
        let (exit, (), json, ()) = tokio::try_join!(
            wait,
            pass(Flow::new(stdout, gone.clone()), out),
            pass_filtered(Flow::new(stderr, gone.clone()), err, filter),
            feeding,
        )?;
        Ok((exit, json))
    }
}

/// Sends the header and the body. A zone that does not read all of it is
/// judged by its status record.
async fn feed(
    mut stdin: Writer,
    head: Bytes,
    body: Option<Body>,
) -> Result<(), Lost> {
    if stdin.write_all(&head).await.is_err() {
        return Ok(());
    }
    if let Some(mut body) = body {
        let mut buffer = vec![0; BODY_CHUNK];
        loop {
            let read = body.read(&mut buffer).await.map_err(Lost::Source)?;
            if read == 0 {
                break;
            }
            if stdin.write_all(&buffer[..read]).await.is_err() {
                return Ok(());
            }
        }
    }
    let _ = stdin.shutdown().await;
    Ok(())
}

async fn pass(
    mut flow: Flow<Reader>,
    to: mpsc::Sender<Bytes>,
) -> Result<(), Lost> {
    while let Some(chunk) = flow.next().await.map_err(Lost::Broken)? {
        // Nobody reads: the job is not to stop for that.
        let _ = to.send(chunk).await;
    }
    Ok(())
}

async fn pass_filtered(
    mut flow: Flow<Reader>,
    to: mpsc::Sender<Bytes>,
    mut filter: Filter,
) -> Result<Option<Vec<u8>>, Lost> {
    let mut text = Vec::new();
    while let Some(chunk) = flow.next().await.map_err(Lost::Broken)? {
        filter.push(chunk, &mut text);
        for chunk in text.drain(..) {
            let _ = to.send(chunk).await;
        }
    }
    let json = filter.finish(&mut text);
    for chunk in text {
        let _ = to.send(chunk).await;
    }
    Ok(json)
}

fn lost(why: Lost, started: Instant) -> Outcome {
    Outcome {
        ended: Ended::NoMarker(why),
        usage: None,
        elapsed: started.elapsed(),
        record: Record::default(),
    }
}

fn judge(exit: Exit, json: Option<Vec<u8>>, started: Instant) -> Outcome {
    let Some(json) = json else {
        return lost(Lost::Silent(exit), started);
    };
    let mut record: Record = match serde_json::from_slice(&json) {
        Ok(record) => record,
        Err(error) => {
            return lost(Lost::Unreadable(error.to_string()), started);
        }
    };
    let ended = match (record.error.take(), record.signal.take(), record.code) {
        (Some(message), _, code) => {
            Ended::Error { message: crate::quote::visible(&message), code }
        }
        (None, Some(name), _) => Ended::Signal { name, core: record.core },
        (None, None, Some(code)) => Ended::Exit(code),
        (None, None, None) => {
            let why = "it says neither code nor signal nor error".to_owned();
            return lost(Lost::Unreadable(why), started);
        }
    };
    Outcome { ended, usage: record.usage, elapsed: started.elapsed(), record }
}
