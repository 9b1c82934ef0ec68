//! Doing things inside a zone: run, unpack, collect, kill, list.
//!
//! Two ways, found out by the probe: the zone's own helper
//! `/native/zone-job`, or fixed POSIX shell scripts where there is none.
//! Must not know what a job is for. Invariant: every text of a caller goes
//! in on stdin, as data; command lines are constants.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::carrier::Carrier;
use crate::command::{Command, Program};
use crate::door::{self, Captured};
use crate::marker::Nonce;
use crate::name::{UserName, WorkerUuid};
use crate::session::{self, Body, Ended, Ending, Outcome, Run};
use crate::spec::{Directory, JobSpec};

mod glob;
mod native;
pub(crate) mod shell;

/// What of a side stream is kept for a message.
const KEEP: usize = 16 << 10;
/// What of a process list or a file list is kept.
const KEEP_LIST: usize = 8 << 20;

/// How commands are run inside a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// By the zone's helper.
    Native,
    /// By its shell.
    Shell {
        /// The zone's operating system.
        uname: String,
    },
}

/// The inside of one booted zone.
#[derive(Debug, Clone)]
pub struct Inside {
    carrier: Arc<Carrier>,
    worker: WorkerUuid,
    kind: Kind,
}

/// A signal for a job's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks them to end.
    Term,
    /// Ends them.
    Kill,
    /// As the interrupt key does.
    Int,
    /// Asks for a core or a stack dump.
    Quit,
}

impl Signal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Int => "INT",
            Self::Quit => "QUIT",
        }
    }
}

/// A process in a zone, as evidence. What cannot be told of it is None.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProcessInfo {
    /// Its number.
    pub pid: u64,
    /// Its parent's.
    pub ppid: Option<u64>,
    /// Its state, in the letters of ps.
    pub state: Option<String>,
    /// Its threads.
    pub threads: Option<u64>,
    /// Where in the kernel it waits.
    pub wchan: Option<String>,
    /// Its resident memory in bytes.
    pub rss: Option<u64>,
    /// Its command line, cut and escaped: word by word where the zone tells
    /// words apart, else one text.
    pub argv: Vec<String>,
}

/// Files to take out of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collect {
    /// As whom.
    pub user: UserName,
    /// Below which directory.
    pub dir: Directory,
    /// Which, as paths relative to it; `*`, `?`, and `**` for any depth.
    pub globs: Vec<String>,
    /// At most so many bytes.
    pub max_bytes: u64,
    /// At most so many files.
    pub max_files: u64,
}

/// What was taken out of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many files.
    pub files: u64,
    /// How many bytes they hold.
    pub bytes: u64,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

/// Files on their way out of a zone.
#[derive(Debug)]
pub struct Collecting {
    /// A tar stream; None after its last byte. Read it, or the zone waits.
    pub tar: mpsc::Receiver<Bytes>,
    what: &'static str,
    telling: tokio::task::JoinHandle<Told>,
    skipped: Vec<String>,
    files: Option<u64>,
}

/// What becomes of a directory that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is used.
    Used,
    /// It is a sign that somebody else was here, and refused.
    Refused,
}

/// Why something could not be done inside a zone.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// The zone refused or failed.
    #[error("cannot {what} inside the zone: {why}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What the zone says.
        why: String,
    },
    /// The place failed: nothing tells what happened.
    #[error("cannot {what} inside the zone")]
    Lost {
        /// What was tried.
        what: &'static str,
        /// Why nothing is known.
        source: session::Lost,
    },
    /// The zone's shell cannot run this.
    #[error("this zone's shell cannot run {word:?}; wrap it in a script")]
    Unfit {
        /// The word it cannot take.
        word: String,
    },
}

impl Inside {
    pub(crate) fn new(
        carrier: Arc<Carrier>,
        worker: WorkerUuid,
        kind: Kind,
    ) -> Self {
        Self { carrier, worker, kind }
    }

    /// How commands are run there.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Starts a command. Past the deadline it is given up; end what runs in
    /// the zone by [`Inside::kill`].
    ///
    /// # Errors
    /// When the zone's shell cannot take the command.
    pub fn run(
        &self,
        spec: &JobSpec,
        deadline: Instant,
    ) -> Result<Run, InsideError> {
        let nonce = Nonce::new();
        let call = match &self.kind {
            Kind::Native => native::run(&nonce, spec),
            Kind::Shell { .. } => shell::run(&nonce, spec)?,
        };
        Ok(self.start(call, nonce, None, deadline))
    }

    /// Unpacks a tar stream below `dir`, which is made if it is not there,
    /// as `user`.
    ///
    /// # Errors
    /// When the stream breaks, or the zone cannot unpack it.
    pub async fn unpack(
        &self,
        user: &UserName,
        dir: &Directory,
        tar: impl AsyncRead + Send + Unpin + 'static,
        deadline: Instant,
    ) -> Result<(), InsideError> {
        let tar = Box::new(tar);
        self.unpack_in(user, dir, Found::Used, tar, deadline).await
    }

    /// As [`Inside::unpack`], but `dir` must not be there yet: of two that
    /// take the same zone for theirs, only the first one gets it.
    ///
    /// # Errors
    /// Also when `dir` is there.
    pub async fn unpack_first(
        &self,
        user: &UserName,
        dir: &Directory,
        tar: impl AsyncRead + Send + Unpin + 'static,
        deadline: Instant,
    ) -> Result<(), InsideError> {
        let tar = Box::new(tar);
        self.unpack_in(user, dir, Found::Refused, tar, deadline).await
    }

    async fn unpack_in(
        &self,
        user: &UserName,
        dir: &Directory,
        found: Found,
        tar: Body,
        deadline: Instant,
    ) -> Result<(), InsideError> {
        let nonce = Nonce::new();
        let call = match &self.kind {
            Kind::Native => native::unpack(&nonce, user, dir, found),
            Kind::Shell { .. } => shell::unpack(&nonce, user, dir, found),
        };
        let run = self.start(call, nonce, Some(tar), deadline);
        let (outcome, _, err) = captured(run, KEEP).await;
        judge("unpack files", outcome, &err).map(drop)
    }

    /// Takes files out as a tar stream.
    ///
    /// # Errors
    /// When the zone cannot list them. What happens to the stream later
    /// is told by [`Collecting::ended`].
    pub async fn collect(
        &self,
        want: &Collect,
        deadline: Instant,
    ) -> Result<Collecting, InsideError> {
        let what = "collect files";
        let nonce = Nonce::new();
        let (call, body, skipped, files) = match &self.kind {
            Kind::Native => {
                (native::collect(&nonce, want), None, Vec::new(), None)
            }
            Kind::Shell { .. } => {
                let listed = self.list_files(want, deadline).await?;
                let picked = shell::pick(&listed, want);
                let body: Body = Box::new(io::Cursor::new(picked.names));
                let call = shell::pack(&nonce, &want.user, &want.dir);
                (call, Some(body), picked.skipped, Some(picked.files))
            }
        };
        let Run { stdout, stderr, ending } =
            self.start(call, nonce, body, deadline);
        // The helper keeps to the limit by itself; a plain tar does not.
        let budget = files.map(|files| budget(want.max_bytes, files));
        let (to, tar) = mpsc::channel(1);
        let passing = tokio::spawn(pass(stdout, to, budget));
        let telling = tokio::spawn(tell(stderr, ending, passing));
        Ok(Collecting { tar, what, telling, skipped, files })
    }

    async fn list_files(
        &self,
        want: &Collect,
        deadline: Instant,
    ) -> Result<Captured, InsideError> {
        let nonce = Nonce::new();
        let call = shell::list(&nonce, &want.user, &want.dir);
        let run = self.start(call, nonce, None, deadline);
        let (outcome, out, err) = captured(run, KEEP_LIST).await;
        judge("list files", outcome, &err)?;
        Ok(out)
    }

    /// Sends a signal to every process of a user: to all of a job.
    ///
    /// # Errors
    /// When the zone cannot do that.
    pub async fn kill(
        &self,
        user: &UserName,
        signal: Signal,
        deadline: Instant,
    ) -> Result<(), InsideError> {
        let nonce = Nonce::new();
        let call = match &self.kind {
            Kind::Native => native::kill(&nonce, signal),
            Kind::Shell { .. } => shell::kill(&nonce, user, signal),
        };
        let run = self.start(call, nonce, None, deadline);
        let (outcome, _, err) = captured(run, KEEP).await;
        judge("signal the job", outcome, &err).map(drop)
    }

    /// Lists the zone's processes, as evidence.
    ///
    /// # Errors
    /// When the zone cannot tell.
    pub async fn ps(
        &self,
        deadline: Instant,
    ) -> Result<Vec<ProcessInfo>, InsideError> {
        let nonce = Nonce::new();
        let call = match &self.kind {
            Kind::Native => native::ps(&nonce),
            Kind::Shell { .. } => shell::ps(&nonce),
        };
        let run = self.start(call, nonce, None, deadline);
        let (outcome, out, err) = captured(run, KEEP_LIST).await;
        let outcome = judge("list processes", outcome, &err)?;
        Ok(match &self.kind {
            Kind::Native => outcome.record.processes,
            Kind::Shell { .. } => shell::parse_ps(&out.text()),
        })
    }

    fn start(
        &self,
        call: Call,
        nonce: Nonce,
        body: Option<Body>,
        deadline: Instant,
    ) -> Run {
        let args = ["-Q".to_owned(), self.worker.to_string()]
            .into_iter()
            .chain(call.args);
        let command = Command::new(Program::Zlogin, args);
        session::start(&self.carrier, command, nonce, call.head, body, deadline)
    }
}

impl Collecting {
    /// Waits for the end of the stream and says what was in it. Read the
    /// stream to its end first.
    ///
    /// # Errors
    /// When the zone failed on the way; the stream is not whole then.
    pub async fn ended(self) -> Result<Collected, InsideError> {
        // The other side must not wait for a reader that is not there.
        drop(self.tar);
        let what = self.what;
        let told = match self.telling.await {
            Ok(told) => told,
            Err(_) => {
                let source = session::Lost::Abandoned;
                return Err(InsideError::Lost { what, source });
            }
        };
        let outcome = match told {
            Told::Ended(outcome, err) => judge(what, *outcome, &err)?,
            Told::TooLarge => {
                let why = "the files are larger than is allowed".to_owned();
                return Err(InsideError::Failed { what, why });
            }
        };
        let mut skipped = self.skipped;
        skipped.extend(outcome.record.skipped);
        Ok(Collected {
            files: outcome.record.files.or(self.files).unwrap_or(0),
            bytes: outcome.record.bytes.unwrap_or(0),
            skipped,
        })
    }
}

/// How a stream of files ended.
#[derive(Debug)]
enum Told {
    Ended(Box<Outcome>, Captured),
    TooLarge,
}

/// What a tar stream of so many files may take: headers and long names, too.
fn budget(max_bytes: u64, files: u64) -> u64 {
    const PER_FILE: u64 = 8 << 10;
    const PADDING: u64 = 64 << 10;
    max_bytes
        .saturating_add(files.saturating_mul(PER_FILE))
        .saturating_add(PADDING)
}

/// Passes a stream on; false when there was more than its budget.
async fn pass(
    mut from: mpsc::Receiver<Bytes>,
    to: mpsc::Sender<Bytes>,
    budget: Option<u64>,
) -> bool {
    let mut left = budget.unwrap_or(u64::MAX);
    while let Some(chunk) = from.recv().await {
        match left.checked_sub(chunk.len() as u64) {
            Some(rest) => left = rest,
            None => return false,
        }
        // Nobody reads: the zone is not to wait for that.
        let _ = to.send(chunk).await;
    }
    true
}

async fn tell(
    mut stderr: mpsc::Receiver<Bytes>,
    mut ending: Ending,
    mut passing: tokio::task::JoinHandle<bool>,
) -> Told {
    let mut err = Captured::default();
    let mut within = None;
    let mut saying = true;
    while saying || within.is_none() {
        tokio::select! {
            passed = &mut passing, if within.is_none() => {
                within = Some(matches!(passed, Ok(true)));
                if within == Some(false) {
                    // Dropping the ending gives the rest of it up.
                    return Told::TooLarge;
                }
            }
            chunk = stderr.recv(), if saying => match chunk {
                Some(chunk) => err.take(&chunk, KEEP),
                None => saying = false,
            },
        }
    }
    Told::Ended(Box::new(ending.wait().await), err)
}

/// A constant command line and the data for its stdin.
pub(crate) struct Call {
    args: Vec<String>,
    head: Bytes,
}

async fn captured(mut run: Run, keep: usize) -> (Outcome, Captured, Captured) {
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            chunk = run.stdout.recv(), if out_open => match chunk {
                Some(chunk) => out.take(&chunk, keep),
                None => out_open = false,
            },
            chunk = run.stderr.recv(), if err_open => match chunk {
                Some(chunk) => err.take(&chunk, KEEP),
                None => err_open = false,
            },
        }
    }
    (run.ended().await, out, err)
}

fn judge(
    what: &'static str,
    outcome: Outcome,
    stderr: &Captured,
) -> Result<Outcome, InsideError> {
    let why = match outcome.ended {
        Ended::Exit(0) => return Ok(outcome),
        Ended::Exit(code) => format!("exit status {code}"),
        Ended::Signal { name, .. } => format!("killed by {name}"),
        Ended::Error { message, .. } => message,
        Ended::NoMarker(source) => {
            return Err(InsideError::Lost { what, source });
        }
    };
    let said = door::tail(stderr);
    let why = if said.is_empty() { why } else { format!("{why}: {said}") };
    Err(InsideError::Failed { what, why })
}
