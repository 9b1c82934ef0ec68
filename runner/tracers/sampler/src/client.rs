//! The parent's side: starts the sampler's process, asks it, and ends it.
//!
//! Blocking, with a deadline on each wait. Whatever the process does, the
//! parent goes on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::target::{How, Program, Target};
use crate::wire::{
    Answer, Ask, FinishOptions, LINE_MAX, ProcessStacks, Summary, Window,
};

/// The name under which an executable is the sampler.
pub(crate) const NAME: &str = "ntrace-sampler";

/// Longest wait for a sampler to be ready.
const ARM_WAIT: Duration = Duration::from_secs(15);

/// Longest wait for one that is ready to begin.
const GO_WAIT: Duration = Duration::from_secs(5);

/// Longest wait for the stacks of the last seconds.
const WINDOW_WAIT: Duration = Duration::from_secs(10);

/// Longest wait for the stacks of processes.
/// What is added to the time for stacks, for a process to begin and answer.
const STACKS_WAIT: Duration = Duration::from_secs(5);

/// Longest wait for a sampler to end by itself.
const END_WAIT: Duration = Duration::from_secs(2);

/// Longest profile that is accepted.
const PROFILE_MAX: u64 = 256 << 20;

/// What is kept of what the sampler says to stderr.
const STDERR_MAX: u64 = 4 << 10;

/// A sampler that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// Its program could not be started.
    #[error("cannot start the sampler")]
    Spawn(#[source] io::Error),
    /// It says why.
    #[error("{0}")]
    Refused(String),
    /// It died.
    #[error("the sampler died{0}")]
    Died(String),
    /// It took too long.
    #[error("the sampler did not answer within {0:?}")]
    Silent(Duration),
}

/// A profile, and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The profile in the format of pprof, compressed.
    pub pprof: Vec<u8>,
    /// How the trace went.
    pub summary: Summary,
}

/// A sampler that is ready and has seen nothing. Dropping it ends it.
#[derive(Debug)]
pub struct Armed {
    process: Process,
    how: How,
}

/// A sampler at work. Dropping it ends it without a profile.
#[derive(Debug)]
pub struct Running {
    process: Process,
    how: How,
}

/// Begins to sample a zone: what enters it from now on, or, for an ordinary
/// user, the next program that the zone's helper runs.
///
/// # Errors
/// When no way to sample is permitted, which the error explains.
pub fn start(target: &Target) -> Result<Running, SamplerError> {
    arm(target, ARM_WAIT)?.begin(GO_WAIT)
}

/// Makes ready to sample a zone all that takes time, and samples nothing
/// yet.
///
/// # Errors
/// When no way to sample is permitted, which the error explains, or it was
/// not ready in time.
pub fn arm(target: &Target, within: Duration) -> Result<Armed, SamplerError> {
    let mut process = Process::spawn(&target.program)?;
    process.ask(&Ask::Arm(target.order()))?;
    match process.answer(within.min(ARM_WAIT))?.0 {
        Answer::Armed(how) => Ok(Armed { process, how }),
        other => Err(unexpected(other)),
    }
}

impl Armed {
    /// The way that was chosen.
    #[must_use]
    pub fn how(&self) -> How {
        self.how
    }

    /// The pid of the sampler's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Begins, as [`start`].
    ///
    /// # Errors
    /// When the sampler died meanwhile, cannot begin, or does not answer.
    pub fn begin(mut self, within: Duration) -> Result<Running, SamplerError> {
        self.process.ask(&Ask::Go)?;
        match self.process.answer(within.min(GO_WAIT))?.0 {
            Answer::Started => {
                Ok(Running { process: self.process, how: self.how })
            }
            other => Err(unexpected(other)),
        }
    }
}

/// The stacks of a zone's processes as they are now, named by the zone's
/// pids, in this order; of all if none are named. The processes are stopped
/// for a moment. When the time is over, those that are left say so.
///
/// # Errors
/// When the zone could not be looked into at all. What could not be looked
/// at in it says so itself.
pub fn stacks_of(
    target: &Target,
    pids: &[u32],
    within: Duration,
) -> Result<Vec<ProcessStacks>, SamplerError> {
    let mut process = Process::spawn(&target.program)?;
    let ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    process.ask(&Ask::Stacks(target.order(), pids.to_vec(), ms))?;
    match process.answer(within + STACKS_WAIT)?.0 {
        Answer::Stacks(found) => Ok(found),
        other => Err(unexpected(other)),
    }
}

fn unexpected(answer: Answer) -> SamplerError {
    SamplerError::Refused(match answer {
        Answer::Failed(why) => why,
        _ => "the sampler answered something else than was asked".to_owned(),
    })
}

impl Running {
    /// The way that was chosen.
    #[must_use]
    pub fn how(&self) -> How {
        self.how
    }

    /// The pid of the sampler's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The stacks of the last seconds.
    ///
    /// # Errors
    /// When the sampler died or does not answer.
    pub fn window(&mut self) -> Result<Window, SamplerError> {
        self.process.ask(&Ask::Window)?;
        match self.process.answer(WINDOW_WAIT)?.0 {
            Answer::Window(window) => Ok(window),
            other => Err(unexpected(other)),
        }
    }

    /// Stops sampling and waits for the profile.
    ///
    /// # Errors
    /// When the sampler died, does not answer, or could not make a profile.
    pub fn finish(
        mut self,
        options: FinishOptions,
        within: Duration,
    ) -> Result<Trace, SamplerError> {
        let ms = within.as_millis().min(86_400_000) as u64;
        self.process.ask(&Ask::Finish(options, ms))?;
        match self.process.answer(within)? {
            (Answer::Trace(_, summary), pprof) => {
                Ok(Trace { pprof, summary: *summary })
            }
            (other, _) => Err(unexpected(other)),
        }
    }
}

type Said = io::Result<(Answer, Vec<u8>)>;

/// The sampler's process. It ends with this value.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Its end is the sampler's end.
    stdin: Option<ChildStdin>,
    answers: Receiver<Said>,
}

impl Process {
    fn spawn(program: &Program) -> Result<Process, SamplerError> {
        let mut command = match program {
            Program::Embedded => Command::new("/proc/self/exe"),
            Program::File(path) => Command::new(path),
        };
        let mut child = command
            .arg0(NAME)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(SamplerError::Spawn)?;
        let stdin = child.stdin.take().expect("stdin was set to a pipe");
        let stdout = child.stdout.take().expect("stdout was set to a pipe");
        // One answer waits at most: each request is answered before the next.
        let (sender, answers) = sync_channel(1);
        std::thread::Builder::new()
            .name("sampler-answers".to_owned())
            .spawn(move || {
                let mut stdout = BufReader::new(stdout);
                loop {
                    let said = read_answer(&mut stdout);
                    let over = said.is_err();
                    if sender.send(said).is_err() || over {
                        return;
                    }
                }
            })
            .map_err(SamplerError::Spawn)?;
        Ok(Process { child, stdin: Some(stdin), answers })
    }

    fn ask(&mut self, ask: &Ask) -> Result<(), SamplerError> {
        let mut line = serde_json::to_vec(ask)
            .map_err(|error| SamplerError::Refused(error.to_string()))?;
        line.push(b'\n');
        let sent = match &mut self.stdin {
            Some(stdin) => stdin.write_all(&line),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        // What it said before it died is a better reason than a broken pipe.
        match sent {
            Ok(()) => Ok(()),
            Err(_) => match self.answers.recv_timeout(Duration::from_secs(1)) {
                Ok(Ok((Answer::Failed(why), _))) => {
                    Err(SamplerError::Refused(why))
                }
                _ => Err(self.obituary()),
            },
        }
    }

    fn answer(
        &mut self,
        within: Duration,
    ) -> Result<(Answer, Vec<u8>), SamplerError> {
        match self.answers.recv_timeout(within) {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                Err(self.obituary())
            }
            Err(RecvTimeoutError::Timeout) => Err(SamplerError::Silent(within)),
        }
    }

    fn obituary(&mut self) -> SamplerError {
        let _ = self.child.kill();
        let status = self.child.wait();
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Its words are a help, not a need.
            let _ = stderr.take(STDERR_MAX).read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let text = text.trim().escape_debug().to_string();
        let status = status.map(|status| format!(" ({status})"));
        let status = status.unwrap_or_default();
        SamplerError::Died(match text.as_str() {
            "" => status,
            text => format!("{status}: {text}"),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It tidies up after itself when its input ends.
        self.stdin = None;
        let until = Instant::now() + END_WAIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn read_answer(from: &mut BufReader<ChildStdout>) -> Said {
    let mut line = Vec::new();
    from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer: Answer = serde_json::from_slice(&line)?;
    let mut bytes = Vec::new();
    if let Answer::Trace(length, _) = &answer {
        if *length > PROFILE_MAX {
            return Err(io::Error::other("the profile is too long"));
        }
        from.take(*length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != *length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((answer, bytes))
}
