//! perf, where it is installed: a second opinion on the built-in sampler.
//!
//! It records the events of the zone's cgroup from outside of the zone, so
//! only root may. It begins when it is told to and says that it has begun;
//! an interrupt ends it. Then `perf script` prints what was recorded. Must
//! not know what is in a profile beyond asking for it. Invariant: neither
//! process outlives the runner, and no recording outlives its trace.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ntrace_profile::import::PerfScript;
use ntrace_protocol::text::escape;
use ntrace_protocol::trace::Tracer as Kind;
use ntrace_sampler::{CARRIERS, DEFAULT_HZ, DEFAULT_STACK_BYTES, ZoneFiles};
use ntrace_zones::Exit;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::JoinHandle;
use tokio::time::{
    Instant, MissedTickBehavior, interval, sleep_until, timeout_at,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::node::CHECKOUT;
use crate::render;
use crate::tracer::{
    Cpu, Labels, Running, StartError, Target, Trace, TraceError, Tracer, Window,
};

mod child;
mod group;
mod here;
mod pids;
mod room;
mod script;
mod sys;

use child::{Child, Started};
use group::Group;
pub use here::NoPerf;
use pids::Pids;
use room::{Room, Rooms};

const WHAT: &str = "perf";

/// How often it is looked who is in the zone.
const LOOK: Duration = Duration::from_millis(20);

/// Pages of the rings of all processors, about.
const RINGS: usize = 16 << 10;

/// What is kept of what perf complains of.
const WORDS_MAX: u64 = 4 << 10;

/// Said of each process where there is no /proc.
const HARMLESS: &str = "cannot open maps";

/// Characters of it that a message shows.
const SHOWN: usize = 300;

/// perf.
#[derive(Clone, Debug)]
pub struct Perf {
    program: PathBuf,
    rooms: Arc<Rooms>,
}

impl Perf {
    /// Looks for perf in PATH. Its recordings go below a directory that
    /// nobody else uses; what is in it is removed.
    ///
    /// # Errors
    /// Why there are no traces by perf here.
    pub async fn find(dir: &Path) -> Result<Self, NoPerf> {
        let program = here::find().await?;
        Self::at(program, dir).map_err(|error| {
            let dir = dir.display();
            warn!(%dir, %error, "no directory for recordings of perf");
            NoPerf::NoRoom
        })
    }

    /// This very program, unasked, for recordings in that directory.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn at(program: PathBuf, dir: &Path) -> io::Result<Self> {
        let rooms = Arc::new(Rooms::open(dir.to_owned())?);
        Ok(Self { program, rooms })
    }

    /// Whether there could be traces by perf here; changes nothing.
    ///
    /// # Errors
    /// Why not.
    pub async fn look() -> Result<(), NoPerf> {
        here::find().await.map(drop)
    }
}

impl Tracer for Perf {
    fn kind(&self) -> Kind {
        Kind::Perf
    }

    fn names_node(&self) -> bool {
        true
    }

    fn start<'a>(
        &'a self,
        target: Target<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, StartError>> {
        async move {
            let running = begin(self, &target).await?;
            Ok(Box::new(running) as Box<dyn Running>)
        }
        .boxed()
    }
}

/// The zone, held from the start: a process 1 that is gone has neither.
struct Zone {
    files: ZoneFiles,
    user: OwnedFd,
    group: Group,
    /// The group as perf calls it.
    name: String,
}

async fn zone(target: &Target<'_>) -> Result<Zone, StartError> {
    let refused = |error: &dyn std::error::Error| {
        StartError::Refused(render::chain(error))
    };
    let vm = target.worker.object(target.deadline).await;
    let vm = vm.map_err(|error| refused(&error))?;
    let zone = ntrace_sampler::Target::from_vm(&vm);
    let zone = zone.map_err(|error| refused(&error))?;
    let path = zone.group.ok_or_else(|| {
        let text = "perf records by cgroup, and no cgroup for perf events \
                    can be had for the zone; ask for sample";
        StartError::Refused(text.to_owned())
    })?;
    let files = ZoneFiles::hold(zone.init).map_err(|error| refused(&error))?;
    let user = File::open(format!("/proc/{}/ns/user", zone.init))
        .map_err(|error| refused(&error))?;
    let group = Group::make(&path).map_err(|error| {
        let path = path.display();
        StartError::Refused(format!("cannot make the cgroup {path}: {error}"))
    })?;
    let name = group.name().ok_or_else(|| {
        let path = path.display();
        let text = format!("perf does not look for cgroups at {path}");
        StartError::Refused(text)
    })?;
    Ok(Zone { files, user: user.into(), group, name })
}

async fn begin(
    perf: &Perf,
    target: &Target<'_>,
) -> Result<Recording, StartError> {
    let zone = zone(target).await?;
    let hz = rate(target.hz);
    let spawn = |source| StartError::Spawn { what: WHAT, source };
    let allowed = perf.rooms.allowance().map_err(spawn)?;
    let room = Arc::new(perf.rooms.take().map_err(spawn)?);
    let control = Control::new().map_err(spawn)?;
    let mut command = here::command(&perf.program);
    command
        .args(["record", "-F", &hz.to_string(), "-m", &ring()])
        .arg(format!("--call-graph=dwarf,{DEFAULT_STACK_BYTES}"))
        .args(["-k", "mono", "-a", "-e", "cpu-clock", "-G", &zone.name])
        // Nobody is in the group yet, so there is nobody to tell of; and
        // nothing is kept beside the recording.
        .args(["--synth=no", "--no-bpf-event", "-B", "-N"])
        .arg(format!("--max-size={}M", (allowed >> 20).max(1)))
        .args(["--delay=-1", &control.argument()])
        .arg("-o")
        .arg(room.recording());
    let Control { tell, hear, theirs, .. } = control;
    let control = (tell, hear);
    sys::tie(&mut command, theirs);
    let started = child::start(command, room.clone()).await;
    let Started { child, stdout, stderr } = started.map_err(spawn)?;
    // It says nothing there, but must not meet a closed pipe.
    let words = Words::hear_both(stdout, stderr);
    let mut recording = Recording {
        perf: perf.clone(),
        stop: CancellationToken::new(),
        pids: None,
        began: SystemTime::now(),
        clock: Instant::now(),
        allowed,
        child,
        control,
        words,
        room,
        zone: Arc::new(zone),
        hz,
    };
    recording.switch_on(target.deadline).await?;
    recording.follow();
    Ok(recording)
}

/// The rate that perf will have: the kernel has a limit.
fn rate(asked: Option<u32>) -> u32 {
    let path = "/proc/sys/kernel/perf_event_max_sample_rate";
    let most = std::fs::read_to_string(path).ok();
    let most = most.and_then(|text| text.trim().parse().ok());
    let most = most.unwrap_or(20_000_u32).clamp(1, 20_000);
    asked.unwrap_or(DEFAULT_HZ).clamp(1, most)
}

/// Pages of each processor's ring, a power of two. What does not fit while
/// perf is kept waiting is lost.
fn ring() -> String {
    let processors = std::thread::available_parallelism();
    let processors = processors.map_or(1, std::num::NonZero::get);
    let pages = (RINGS / processors).clamp(256, 2048);
    // Not more than asked for: rounded down.
    (1 << pages.ilog2()).to_string()
}

/// The pipes by which perf is told to begin, and says that it did.
struct Control {
    tell: Sender,
    hear: Receiver,
    /// The other ends: its orders, its answers.
    theirs: Vec<OwnedFd>,
    numbers: (i32, i32),
}

impl Control {
    fn new() -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let (orders, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        let (hear, answers) = pipe_with(PipeFlags::CLOEXEC)?;
        let numbers = (orders.as_raw_fd(), answers.as_raw_fd());
        Ok(Self {
            tell: Sender::from_owned_fd(tell)?,
            hear: Receiver::from_owned_fd(hear)?,
            theirs: vec![orders, answers],
            numbers,
        })
    }

    fn argument(&self) -> String {
        format!("--control=fd:{},{}", self.numbers.0, self.numbers.1)
    }
}

/// What perf complains of.
struct Words(JoinHandle<String>);

impl Words {
    fn hear(from: Receiver) -> Self {
        Self(tokio::spawn(hear(from)))
    }

    fn hear_both(out: Receiver, err: Receiver) -> Self {
        Self(tokio::spawn(async {
            let (mut one, two) = tokio::join!(hear(err), hear(out));
            one.push_str(&two);
            one
        }))
    }

    /// Its words, with a lead-in; to be asked once it has ended.
    async fn said(self) -> String {
        let soon = Instant::now() + Duration::from_secs(1);
        let heard = timeout_at(soon, self.0).await;
        let text = heard.ok().and_then(Result::ok).unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() {
            return String::new();
        }
        let shown: String = words.join(" ").chars().take(SHOWN).collect();
        format!("; it said: {}", escape(&shown))
    }
}

/// Keeps the first lines, each of them once, and goes on reading.
async fn hear(from: Receiver) -> String {
    let mut lines = BufReader::new(from);
    let mut words = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        // A longer line is taken for several.
        let mut piece = (&mut lines).take(WORDS_MAX);
        match piece.read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return words,
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        // What its reader cannot find in a cell is no trouble.
        let is_new = text != HARMLESS && !words.contains(text);
        if is_new && words.len() + text.len() < WORDS_MAX as usize {
            words.push_str(text);
            words.push('\n');
        }
    }
}

/// A perf that records.
struct Recording {
    perf: Perf,
    child: Child,
    /// Open as long as it runs: without us it ends with an error.
    control: (Sender, Receiver),
    words: Words,
    zone: Arc<Zone>,
    room: Arc<Room>,
    /// Follows who is in the zone, until it is stopped.
    pids: Option<JoinHandle<Pids>>,
    stop: CancellationToken,
    began: SystemTime,
    clock: Instant,
    allowed: u64,
    hz: u32,
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Recording {
    /// Has it begin, and waits until it says that it has.
    async fn switch_on(&mut self, deadline: Instant) -> Result<(), StartError> {
        let (tell, hear) = &mut self.control;
        // A perf that reads no orders does not answer either.
        let _ = timeout_at(deadline, tell.write_all(b"enable\n")).await;
        let mut answer = [0; 16];
        let is_on = tokio::select! {
            read = hear.read(&mut answer) => match read {
                Ok(count) => answer[..count].starts_with(b"ack"),
                Err(_) => false,
            },
            () = sleep_until(deadline) => {
                self.child.kill();
                let said = self.said().await;
                return Err(StartError::Late { what: WHAT, said });
            }
        };
        if is_on {
            return Ok(());
        }
        // The pipe ended: so did perf, or it does so now.
        self.child.kill();
        let exit = self.child.ended().await;
        let said = self.said().await;
        Err(StartError::Ended { what: WHAT, exit, said })
    }

    async fn said(&mut self) -> String {
        let none = Words(tokio::spawn(async { String::new() }));
        std::mem::replace(&mut self.words, none).said().await
    }

    fn follow(&mut self) {
        let (zone, stop) = (self.zone.clone(), self.stop.clone());
        self.pids = Some(tokio::spawn(async move {
            let mut pids = Pids::default();
            let mut tick = interval(LOOK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pids.look(zone.group.path());
                tokio::select! {
                    () = stop.cancelled() => return pids,
                    _ = tick.tick() => {}
                }
            }
        }));
    }

    /// Ends it, and says what was wrong with its end.
    async fn end(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<String>, TraceError> {
        let is_early = self.child.exit().is_some() | !self.child.interrupt();
        let ended = timeout_at(deadline, self.child.ended()).await;
        let Ok(exit) = ended else {
            self.child.kill();
            return Err(TraceError::Late { what: WHAT });
        };
        // It ends itself by the signal that it was sent.
        let interrupted = Exit::Signal(2);
        if !is_early && (exit.success() || exit == interrupted) {
            return Ok(None);
        }
        if exit.success() {
            return Ok(Some(format!(
                "the trace is cut short: perf stopped at its limit of {} MiB",
                self.allowed >> 20
            )));
        }
        let said = self.said().await;
        Err(TraceError::Died { what: WHAT, exit, said })
    }

    async fn finish(
        mut self,
        labels: Labels,
        deadline: Instant,
    ) -> Result<Trace, TraceError> {
        let now = Instant::now();
        let whole = deadline.saturating_duration_since(now);
        let cut_short = self.end(now + whole / 2).await;
        self.stop.cancel();
        let duration = self.clock.elapsed();
        let pids = match self.pids.take() {
            Some(pids) => pids.await.unwrap_or_default(),
            None => Pids::default(),
        };
        let cut_short = cut_short?;
        let (room, zone) = (self.room.clone(), self.zone.clone());
        let laying = tokio::task::spawn_blocking(move || {
            let warnings = script::lay_out(&room, &zone.files, &pids)?;
            let cell = script::cell(&room, &zone.files, &zone.user)?;
            Ok((warnings, cell))
        });
        let laid: io::Result<_> = match laying.await {
            Ok(laid) => laid,
            Err(_) => Err(io::Error::other("it was cut off")),
        };
        let (warnings, cell) = laid.map_err(|error| {
            TraceError::Refused(format!("cannot read the recording: {error}"))
        })?;
        let mut header = render::header(WHAT, self.hz, &labels);
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH);
        header.start_ns = began.map_or(0, nanoseconds);
        header.duration_ns = nanoseconds(duration);
        header.kernel = true;
        for warning in warnings.into_iter().chain(cut_short) {
            header.warn(warning);
        }
        let script = PerfScript::new(header, CHECKOUT).without(&CARRIERS);
        // A little is kept for the drawing.
        let until = deadline - whole / 10;
        let room = self.room.clone();
        let profile = script::read(&self.perf, cell, room, script, until).await;
        let profile = profile?;
        let drawing =
            tokio::task::spawn_blocking(move || render::trace(&profile));
        drawing.await.map_err(|_| {
            let why = "drawing it was cut off".to_owned();
            TraceError::Unreadable { what: WHAT, why }
        })
    }
}

/// A span is not 500 years long.
fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Running for Recording {
    fn hz(&self) -> u32 {
        self.hz
    }

    fn window(&mut self) -> BoxFuture<'_, Result<Window, TraceError>> {
        let text = "perf tells nothing before its end; sample tells the last \
                    seconds";
        async { Err(TraceError::Refused(text.to_owned())) }.boxed()
    }

    fn finish(
        self: Box<Self>,
        labels: Labels,
        _: Cpu,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Trace, TraceError>> {
        (*self).finish(labels, deadline).boxed()
    }
}
