//! DTrace in the global zone, over the carrier: one process a trace.
//!
//! It has begun once it says so, and is ended by closing its stdin (the gate
//! of a remote global zone makes a signal of that) and by INT where it is a
//! process of this machine; then it prints what it has. It must end before
//! the zone is halted, since it holds the zone's processes. Must not know
//! what is in a profile beyond asking for the fold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ntrace_protocol::syscalls::SyscallCounts;
use ntrace_protocol::trace::Tracer as Kind;
use ntrace_zones::{Carrier, Command, Exit, Process, Program, Reader, Worker};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::tracer::{
    Cpu, Labels, Running, StartError, Target, Trace, TraceError, Tracer, Window,
};

mod calls;
mod fold;
mod heard;

use heard::Heard;

/// A script, as it is installed beside the gate of a global zone.
#[derive(Debug, Clone, Copy)]
struct Script {
    /// Its name there.
    name: &'static str,
    text: &'static str,
}

/// Stacks.
const STACKS: Script = Script {
    name: "ntrace_cpu.d",
    text: include_str!("../../../scripts/smartos/dtrace/ntrace_cpu.d"),
};

/// System calls.
const CALLS: Script = Script {
    name: "ntrace_sys.d",
    text: include_str!("../../../scripts/smartos/dtrace/ntrace_sys.d"),
};

/// The rate that is written in the script of stacks.
const HZ: u32 = 97;

const WHAT: &str = "dtrace";

/// How long after its end a process's pipes may still bring something.
const DRAIN: Duration = Duration::from_secs(5);

/// DTrace.
#[derive(Debug, Clone)]
pub struct Dtrace {
    scripts: PathBuf,
}

impl Dtrace {
    /// With a directory for the scripts, where the global zone is here;
    /// beyond ssh the gate has it.
    ///
    /// # Errors
    /// A script cannot be written.
    pub fn new(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for script in [STACKS, CALLS] {
            let new = dir.join(script.name).with_extension("new");
            fs::write(&new, script.text)?;
            fs::rename(&new, dir.join(script.name))?;
        }
        Ok(Self { scripts: dir.to_owned() })
    }

    /// Begins to count the system calls of a zone.
    ///
    /// # Errors
    /// It cannot, and says why.
    pub async fn count(
        &self,
        worker: &Worker,
        deadline: Instant,
    ) -> Result<DtraceCalls, StartError> {
        let target = Target { worker, hz: None, deadline };
        begin(self, CALLS, &target).await.map(|traced| DtraceCalls { traced })
    }
}

impl Tracer for Dtrace {
    fn kind(&self) -> Kind {
        Kind::Dtrace
    }

    fn names_node(&self) -> bool {
        false
    }

    fn start<'a>(
        &'a self,
        target: Target<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, StartError>> {
        async move {
            let running = begin(self, STACKS, &target).await?;
            Ok(Box::new(running) as Box<dyn Running>)
        }
        .boxed()
    }
}

async fn begin(
    dtrace: &Dtrace,
    script: Script,
    target: &Target<'_>,
) -> Result<Traced, StartError> {
    let carrier = target.worker.carrier();
    let script = match &**carrier {
        Carrier::Local(_) => {
            dtrace.scripts.join(script.name).to_string_lossy().into_owned()
        }
        Carrier::Ssh(_) => script.name.to_owned(),
    };
    let zone = target.worker.uuid().to_string();
    let args = ["-s".to_owned(), script, zone];
    let command = Command::new(Program::Dtrace, args);
    let late = || StartError::Late { what: WHAT, said: String::new() };
    let process = timeout_at(target.deadline, carrier.spawn(&command))
        .await
        .map_err(|_| late())?
        .map_err(|source| StartError::Spawn { what: WHAT, source })?;
    let mut traced = Traced::attend(process, target.hz);
    tokio::select! {
        // Ready comes first: it may have ended since.
        biased;
        () = traced.shared.is_ready() => {}
        exit = &mut traced.ending => {
            let said = traced.said();
            let exit = exit.unwrap_or(Exit::Unknown);
            return Err(StartError::Ended { what: WHAT, exit, said });
        }
        () = sleep_until(target.deadline) => {
            let said = traced.said();
            return Err(StartError::Late { what: WHAT, said });
        }
    }
    Ok(traced)
}

/// What was heard, and whether it is ready.
#[derive(Default)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Notify,
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no holder of this lock panics")
    }

    async fn is_ready(&self) {
        loop {
            let changed = self.changed.notified();
            if self.heard().is_ready() {
                return;
            }
            changed.await;
        }
    }
}

/// A dtrace that runs.
struct Traced {
    shared: Arc<Shared>,
    stop: CancellationToken,
    ending: JoinHandle<Exit>,
    asked_hz: Option<u32>,
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The process goes with its task.
        self.ending.abort();
    }
}

impl Traced {
    fn attend(process: Process, asked_hz: Option<u32>) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let attending = attend(process, shared.clone(), stop.clone());
        let ending = tokio::spawn(attending);
        Self { shared, stop, ending, asked_hz }
    }

    fn said(&self) -> String {
        self.shared.heard().said()
    }

    async fn end(mut self, deadline: Instant) -> Result<Told, TraceError> {
        let is_early = self.ending.is_finished();
        self.stop.cancel();
        let exit = timeout_at(deadline, &mut self.ending).await;
        let mut warnings = self.shared.heard().warnings();
        if self.asked_hz.is_some_and(|hz| hz != HZ) {
            warnings.push(format!("dtrace samples {HZ} times a second"));
        }
        match exit {
            Ok(exit) => {
                let exit = exit.unwrap_or(Exit::Unknown);
                if is_early || !exit.success() {
                    let said = self.said();
                    let died = TraceError::Died { what: WHAT, exit, said };
                    if !self.shared.heard().has_stacks() {
                        return Err(died);
                    }
                    warnings.push(format!("the trace is cut short: {died}"));
                }
            }
            // What it printed by then is good.
            Err(_) => {
                if !self.shared.heard().has_stacks() {
                    return Err(TraceError::Late { what: WHAT });
                }
                warnings.push(
                    "dtrace did not end when it was asked to; the last \
                     seconds are missing"
                        .to_owned(),
                );
            }
        }
        let mut heard = self.shared.heard();
        Ok(Told { lost: heard.drops(), text: heard.take(), warnings })
    }
}

/// A zone whose system calls dtrace counts. Dropping it ends that. Unlike one
/// that takes stacks it holds no process of the zone, so it may outlive it.
pub struct DtraceCalls {
    traced: Traced,
}

impl DtraceCalls {
    /// Ends it, and gives what was counted, and what of it is missing.
    ///
    /// # Errors
    /// Nothing was counted, and why.
    pub async fn finish(
        self,
        deadline: Instant,
    ) -> Result<(SyscallCounts, Option<String>), TraceError> {
        let told = self.traced.end(deadline).await?;
        let (mut counts, is_whole) = calls::read(&told.text);
        counts.missed = told.lost;
        let mut missing = told.warnings;
        if !is_whole {
            missing.push("dtrace's list of calls is cut short".to_owned());
        }
        let missing = (!missing.is_empty()).then(|| missing.join("; "));
        Ok((counts, missing))
    }
}

/// What a dtrace said in all.
struct Told {
    text: Vec<u8>,
    lost: u64,
    warnings: Vec<String>,
}

impl Running for Traced {
    fn hz(&self) -> u32 {
        HZ
    }

    fn window(&mut self) -> BoxFuture<'_, Result<Window, TraceError>> {
        async {
            let (seconds, text) = self.shared.heard().last();
            let folded = fold::window(&text);
            Ok(Window { seconds, folded })
        }
        .boxed()
    }

    fn finish(
        self: Box<Self>,
        labels: Labels,
        _: Cpu,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Trace, TraceError>> {
        async move {
            let Told { text, lost, warnings } = self.end(deadline).await?;
            let folding = tokio::task::spawn_blocking(move || {
                fold::trace(&text, lost, warnings, &labels)
            });
            folding.await.map_err(|_| {
                let why = "folding it was cut off".to_owned();
                TraceError::Unreadable { what: WHAT, why }
            })
        }
        .boxed()
    }
}

/// Reads until the process is gone and its pipes are empty.
async fn attend(
    process: Process,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> Exit {
    let Process { stdin, stdout, stderr, mut handle } = process;
    let mut stdin = Some(stdin);
    let pumps = async {
        tokio::join!(
            pump(stdout, |bytes| {
                shared.heard().out(bytes, Instant::now());
                shared.changed.notify_one();
            }),
            pump(stderr, |bytes| shared.heard().err(bytes)),
        )
    };
    let mut pumps = std::pin::pin!(pumps);
    let mut has_more = true;
    let mut exit: Option<Exit> = None;
    let mut until = Instant::now();
    while has_more || exit.is_none() {
        tokio::select! {
            _ = &mut pumps, if has_more => has_more = false,
            ended = handle.wait(), if exit.is_none() => {
                exit = Some(ended.unwrap_or(Exit::Unknown));
                until = Instant::now() + DRAIN;
            }
            () = stop.cancelled(), if stdin.is_some() => {
                stdin = None;
                handle.interrupt();
            }
            () = sleep_until(until), if exit.is_some() => break,
        }
    }
    exit.unwrap_or(Exit::Unknown)
}

async fn pump(mut from: Reader, mut to: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    // A stream that breaks has ended; the exit says more.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        to(&buffer[..length]);
    }
}
