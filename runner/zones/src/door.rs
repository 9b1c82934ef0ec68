//! The one door for commands that are not jobs: a deadline, bounded capture,
//! and errors that tell the whole story.
//!
//! Must not know what the commands mean. Invariants: nothing outlives its
//! deadline by more than the kill takes; no more is kept than was allowed,
//! and what was cut is said.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::carrier::{Carrier, Process, Reader, Writer};
use crate::command::{Command, Exit};
use crate::flow::Flow;
use crate::quote;

/// What is kept of a stdout: `lookup -j` of many VMs fits.
const KEEP_STDOUT: usize = 16 << 20;
/// What is kept of a stderr, from its start; messages are short.
const KEEP_STDERR: usize = 64 << 10;
/// How much of a stderr an error shows, from its end.
const TAIL: usize = 2 << 10;
/// How long a killed process may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// What was kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// How many more there were.
    pub cut: u64,
}

impl Captured {
    /// The bytes as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn take(&mut self, chunk: &[u8], keep: usize) {
        let room = keep.saturating_sub(self.bytes.len()).min(chunk.len());
        self.bytes.extend_from_slice(&chunk[..room]);
        self.cut += (chunk.len() - room) as u64;
    }
}

/// A command that ended by itself.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it printed.
    pub stdout: Captured,
    /// What it complained of.
    pub stderr: Captured,
    /// How long it took.
    pub elapsed: Duration,
}

impl Output {
    /// This output as the story of a failure of `command`.
    #[must_use]
    pub fn failure(&self, command: &Command) -> Failure {
        Failure {
            command: command.to_string(),
            exit: self.exit,
            stderr: tail(&self.stderr),
            elapsed: self.elapsed,
        }
    }
}

/// A command that ended badly: what was run, how it ended, what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The command line, escaped for display.
    pub command: String,
    /// How it ended.
    pub exit: Exit,
    /// The end of its stderr, escaped for display.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, exit, stderr, elapsed } = self;
        write!(f, "{command} ended with {exit} after {elapsed:.1?}")?;
        if stderr.is_empty() {
            f.write_str(" and said nothing")
        } else {
            write!(f, ": {stderr}")
        }
    }
}

impl std::error::Error for Failure {}

/// Why a command gave no output to judge.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot start {command}")]
    Spawn {
        /// The command line, escaped for display.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It ran past its deadline and was killed.
    #[error("{command} did not end within {elapsed:.1?} and was killed{said}")]
    Deadline {
        /// The command line, escaped for display.
        command: String,
        /// How long it was given.
        elapsed: Duration,
        /// The end of its stderr, with a lead-in, if it said anything.
        said: String,
    },
    /// Its streams or its exit could not be read.
    #[error("lost {command} after {elapsed:.1?}")]
    Lost {
        /// The command line, escaped for display.
        command: String,
        /// How long it had run.
        elapsed: Duration,
        /// Why.
        source: io::Error,
    },
}

/// Runs `command` with `input` on stdin, until it ends or the deadline
/// passes.
///
/// # Errors
/// When it cannot be started, does not end in time, or is lost. A bad exit
/// status is no error here: the caller judges it.
pub async fn run(
    carrier: &Carrier,
    command: &Command,
    input: Bytes,
    deadline: Instant,
) -> Result<Output, CommandError> {
    let started = Instant::now();
    let name = || command.to_string();
    let spawned = tokio::time::timeout_at(deadline, carrier.spawn(command));
    let Process { stdin, stdout, stderr, mut handle } = match spawned.await {
        Ok(Ok(process)) => process,
        Ok(Err(source)) => {
            return Err(CommandError::Spawn { command: name(), source });
        }
        Err(_) => {
            return Err(CommandError::Deadline {
                command: name(),
                elapsed: started.elapsed(),
                said: String::new(),
            });
        }
    };
    let gone = CancellationToken::new();
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let talk = async {
        let wait = async {
            let exit = handle.wait().await;
            gone.cancel();
            exit
        };
        let (exit, out, err, ()) = tokio::join!(
            wait,
            capture(stdout, &gone, &mut out, KEEP_STDOUT),
            capture(stderr, &gone, &mut err, KEEP_STDERR),
            feed(stdin, input, &gone),
        );
        out?;
        err?;
        exit
    };
    match tokio::time::timeout_at(deadline, talk).await {
        Ok(Ok(exit)) => Ok(Output {
            exit,
            stdout: out,
            stderr: err,
            elapsed: started.elapsed(),
        }),
        Ok(Err(source)) => Err(CommandError::Lost {
            command: name(),
            elapsed: started.elapsed(),
            source,
        }),
        Err(_) => {
            let elapsed = started.elapsed();
            handle.kill();
            // Reap it; whoever cannot be killed is left to the carrier.
            let _ = tokio::time::timeout(KILL_GRACE, handle.wait()).await;
            let said = match tail(&err) {
                said if said.is_empty() => said,
                said => format!("; it said: {said}"),
            };
            Err(CommandError::Deadline { command: name(), elapsed, said })
        }
    }
}

async fn capture(
    reader: Reader,
    gone: &CancellationToken,
    into: &mut Captured,
    keep: usize,
) -> io::Result<()> {
    let mut flow = Flow::new(reader, gone.clone());
    while let Some(chunk) = flow.next().await? {
        into.take(&chunk, keep);
    }
    Ok(())
}

/// Writes `input` and closes. A process that ends or closes its stdin
/// without reading all is judged by its exit, not by this.
async fn feed(mut stdin: Writer, input: Bytes, gone: &CancellationToken) {
    let write = async {
        stdin.write_all(&input).await?;
        stdin.shutdown().await
    };
    tokio::select! {
        _ = write => {}
        () = gone.cancelled() => {}
    }
}

/// The end of a stderr, lines joined, escaped for display.
pub(crate) fn tail(stderr: &Captured) -> String {
    let text = stderr.text();
    let text = text.trim();
    let mut from = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let lines: Vec<String> = text[from..]
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(quote::visible)
        .collect();
    let mut shown = lines.join(" | ");
    if from > 0 {
        shown.insert_str(0, "... ");
    }
    if stderr.cut > 0 {
        shown.push_str(&format!(" ... ({} bytes more)", stderr.cut));
    }
    shown
}
