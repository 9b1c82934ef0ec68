//! Watching a command: its output, its clocks, and how it is ended.
//!
//! The streams are read by one future that goes on whatever else happens;
//! beside it run the clocks. A command that is to end is asked (TERM), then
//! killed, then its zone is halted; each step has a deadline.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use ntrace_protocol::Exit;
use ntrace_protocol::report::{Event, Stream};
use ntrace_tracers::Sample;
use ntrace_zones::{
    Ended as ZoneEnded, Ending, Inside, JobSpec, Run, Signal, Worker,
};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::evidence::Scene;
use super::keep::Keepsakes;
use super::limits::Plan;
use super::trace::Live;
use super::verdict::{Command, Ended};
use super::{chain, environment};
use crate::uplink::{RunOut, StopSignal, StopWhy};

/// How long a command has between TERM and KILL, unless who stops it says
/// otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// How long a signal may take to be delivered.
const DELIVER: Duration = Duration::from_secs(5);

/// How long after KILL the zone is halted.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// How long halting may take.
const HALT: Duration = Duration::from_secs(60);

/// How long after the halt the streams may still be open.
const AFTER_HALT: Duration = Duration::from_secs(10);

/// The longest that anything may run, where no limit is set at all.
const NEVER: Duration = Duration::from_secs(366 * 24 * 3600);

/// What is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) time: Option<Duration>,
    pub(super) silence: Option<Duration>,
    pub(super) output: Option<u64>,
    /// What earlier repetitions used of the time and of the output.
    pub(super) spent: Spent,
}

/// What a command has used of its limits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub(super) time: Duration,
    pub(super) output: u64,
}

impl Watch {
    /// For the command of a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            time: plan.time,
            silence: plan.silence,
            output: plan.output,
            spent: Spent::default(),
        }
    }
}

/// Where a command runs, and what looks at it.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) worker: &'a Worker,
    pub(super) inside: &'a Inside,
    pub(super) live: &'a Mutex<Live>,
    pub(super) keep: &'a Keepsakes,
    pub(super) sample: &'a Sample,
    pub(super) out: &'a RunOut,
}

/// A command that is over.
pub(super) struct Finished {
    pub(super) ended: Option<Ended>,
    pub(super) command: Command,
    pub(super) output_bytes: u64,
    pub(super) cpu_ms: Option<u64>,
    pub(super) user_ms: Option<u64>,
    pub(super) max_rss: Option<u64>,
}

impl Finished {
    /// A command that cannot be passed to a process.
    pub(super) fn not_started(why: String) -> Self {
        Self {
            command: Command::NotStarted(why),
            ..Self::unknown(String::new())
        }
    }

    fn unknown(why: String) -> Self {
        Self {
            ended: None,
            command: Command::Unknown(why),
            output_bytes: 0,
            cpu_ms: None,
            user_ms: None,
            max_rss: None,
        }
    }
}

/// What the reading side tells the clocks.
struct Progress {
    began: Instant,
    /// When something was last written, in milliseconds since the beginning.
    last_ms: AtomicU64,
    /// Bytes handed on.
    kept: AtomicU64,
    /// Bytes cut off, of stdout and of stderr.
    cut: [AtomicU64; 2],
    /// Bytes that our own disk did not take, likewise.
    lost: [AtomicU64; 2],
}

impl Progress {
    fn new(began: Instant) -> Self {
        Self {
            began,
            last_ms: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            cut: Default::default(),
            lost: Default::default(),
        }
    }

    fn wrote(&self) {
        let ms = self.began.elapsed().as_millis();
        self.last_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Relaxed);
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Relaxed))
    }

    fn kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    fn cut(&self) -> u64 {
        self.cut.iter().map(|cut| cut.load(Relaxed)).sum()
    }

    fn cut_of(&self, stream: Stream) -> &AtomicU64 {
        &self.cut[usize::from(stream == Stream::Stderr)]
    }

    fn lost_of(&self, stream: Stream) -> &AtomicU64 {
        &self.lost[usize::from(stream == Stream::Stderr)]
    }
}

impl<'a> Stage<'a> {
    fn scene(self) -> Scene<'a> {
        let Self { worker, inside, live, keep, sample, out } = self;
        Scene { worker, inside, live, keep, sample, out }
    }
}

/// Runs a command to its end.
pub(super) async fn supervise(
    stage: Stage<'_>,
    spec: JobSpec,
    watch: Watch,
    stop: StopSignal,
) -> Finished {
    let Stage { inside, out, .. } = stage;
    let began = Instant::now();
    // The place gives up later than we do: we end commands ourselves.
    let run = match inside.run(&spec, began + NEVER) {
        Ok(run) => run,
        Err(error) => return Finished::unknown(chain(&error)),
    };
    let progress = Progress::new(began);
    let Run { stdout, stderr, ending } = run;
    let pumps = async {
        let spent = watch.spent.output;
        let limit = watch.output.map(|most| most.saturating_sub(spent));
        tokio::join!(
            pump(stdout, Stream::Stdout, &progress, limit, out),
            pump(stderr, Stream::Stderr, &progress, limit, out),
        )
    };
    let clocks = Clocks { stage, watch, began, progress: &progress };
    let ended = clocks.watch(pin!(pumps), stop).await;
    report_gaps(&progress, out).await;
    finish(ending, ended, &progress).await
}

/// Carries a stream to the spool; what is over the limit is counted.
async fn pump(
    mut from: mpsc::Receiver<Bytes>,
    stream: Stream,
    progress: &Progress,
    limit: Option<u64>,
    out: &RunOut,
) {
    while let Some(mut chunk) = from.recv().await {
        progress.wrote();
        let room = limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(progress.kept()));
        let length = chunk.len() as u64;
        if length > room {
            // Fits: it is less than the chunk's length.
            chunk.truncate(room as usize);
            progress.cut_of(stream).fetch_add(length - room, Relaxed);
        }
        progress.kept.fetch_add(chunk.len() as u64, Relaxed);
        if chunk.is_empty() {
            continue;
        }
        if let Err(error) = out.output(stream, chunk).await {
            // The run goes on; what is lost is said.
            warn!(error = chain(&error), "output could not be kept");
            progress.lost_of(stream).fetch_add(length.min(room), Relaxed);
        }
    }
}

async fn report_gaps(progress: &Progress, out: &RunOut) {
    for stream in [Stream::Stdout, Stream::Stderr] {
        let gaps = [
            (progress.cut_of(stream), "the limit of output was reached"),
            (progress.lost_of(stream), "the runner's disk did not take it"),
        ];
        for (count, why) in gaps {
            let bytes = count.load(Relaxed);
            if bytes > 0 {
                let why = why.to_owned();
                out.event(Event::Gap { stream, bytes, why }).await;
            }
        }
    }
}

async fn finish(
    mut ending: Ending,
    ended: Option<Ended>,
    progress: &Progress,
) -> Finished {
    let output_bytes = progress.kept() + progress.cut();
    let Ok(outcome) = timeout(AFTER_HALT, ending.wait()).await else {
        let why = "the zone did not say how the command ended".to_owned();
        return Finished { ended, output_bytes, ..Finished::unknown(why) };
    };
    let command = match outcome.ended {
        // An exit status has eight bits.
        ZoneEnded::Exit(code) => {
            Command::Exited(Exit::Code { code: (code & 0xff) as u8 })
        }
        ZoneEnded::Signal { name, core } => {
            Command::Exited(Exit::Signal { signal: name, core })
        }
        ZoneEnded::Error { message, .. } => Command::NotStarted(message),
        ZoneEnded::NoMarker(lost) => Command::Unknown(chain(&lost)),
    };
    let usage = outcome.usage;
    Finished {
        ended,
        command,
        output_bytes,
        cpu_ms: usage.map(|usage| usage.cpu_ms),
        user_ms: usage.and_then(|usage| usage.user_ms),
        max_rss: usage.map(|usage| usage.max_rss),
    }
}

/// Everything that can end a command from outside.
struct Clocks<'a> {
    stage: Stage<'a>,
    watch: Watch,
    began: Instant,
    progress: &'a Progress,
}

impl Clocks<'_> {
    /// Waits until the streams are at their end; ends the command if a
    /// clock says so, and says why.
    async fn watch<F: Future>(
        &self,
        mut pumps: Pin<&mut F>,
        mut stop: StopSignal,
    ) -> Option<Ended> {
        let why = tokio::select! {
            // It may have written too much and ended before that was seen.
            _ = &mut pumps => {
                let limit = self.watch.output;
                let limit = limit.filter(|_| self.progress.cut() > 0);
                return limit.map(Ended::Output);
            }
            why = self.reason_to_end(&mut stop) => why,
        };
        let (ended, grace) = match why {
            Why::Dropped => {
                // Nobody wants to know any more.
                self.stage.live.lock().await.drop_it();
                self.halt_during(&mut pumps).await;
                return Some(Ended::Asked);
            }
            Why::Asked(grace) => (Ended::Asked, grace),
            Why::Limit(ended) => (ended, GRACE),
        };
        let asked = self.ask_to_end(ended);
        if let Some(()) = during(&mut pumps, asked).await {
            return Some(ended);
        }
        if timeout(grace, &mut pumps).await.is_ok() {
            return Some(ended);
        }
        let killed = self.signal(Signal::Kill);
        if let Some(()) = during(&mut pumps, killed).await {
            return Some(ended);
        }
        if timeout(AFTER_KILL, &mut pumps).await.is_err() {
            self.halt_during(&mut pumps).await;
        }
        Some(ended)
    }

    async fn halt_during<F: Future>(&self, pumps: &mut Pin<&mut F>) {
        let halt = async {
            let Stage { worker, live, .. } = self.stage;
            live.lock().await.end_before_halt().await;
            let halted = worker.halt(Instant::now() + HALT).await;
            if let Err(error) = halted {
                // The reset that follows halts again, and tells.
                warn!(error = chain(&error), "cannot halt a worker");
            }
        };
        if during(pumps, halt).await.is_none() {
            // What the streams still held has come by now, or never will.
            let _ = timeout(AFTER_HALT, pumps.as_mut()).await;
        }
    }

    async fn reason_to_end(&self, stop: &mut StopSignal) -> Why {
        let time = self.watch.time.unwrap_or(NEVER);
        let left = time.saturating_sub(self.watch.spent.time);
        tokio::select! {
            stopped = stop.stopped() => match stopped.why {
                StopWhy::Asked => Why::Asked(stopped.grace),
                StopWhy::Dropped => Why::Dropped,
            },
            () = sleep_until(self.began + left) => {
                Why::Limit(Ended::Timeout(time))
            }
            limit = self.silence() => Why::Limit(Ended::Silence(limit)),
            limit = self.too_much() => Why::Limit(Ended::Output(limit)),
        }
    }

    /// Ends when nothing was written for the limit.
    async fn silence(&self) -> Duration {
        let Some(limit) = self.watch.silence else {
            return std::future::pending().await;
        };
        loop {
            let end = self.progress.last() + limit;
            if Instant::now() >= end {
                return limit;
            }
            sleep_until(end).await;
        }
    }

    /// Ends when output had to be cut.
    async fn too_much(&self) -> u64 {
        let Some(limit) = self.watch.output else {
            return std::future::pending().await;
        };
        const LOOK: Duration = Duration::from_millis(50);
        while self.progress.cut() == 0 {
            tokio::time::sleep(LOOK).await;
        }
        limit
    }

    /// Evidence first where a clock ran out, then TERM.
    async fn ask_to_end(&self, ended: Ended) {
        if matches!(ended, Ended::Timeout(_) | Ended::Silence(_)) {
            self.stage.scene().gather().await;
        }
        self.signal(Signal::Term).await;
    }

    async fn signal(&self, signal: Signal) {
        let deadline = Instant::now() + DELIVER;
        let sent = self
            .stage
            .inside
            .kill(&environment::user(), signal, deadline)
            .await;
        if let Err(error) = sent {
            // The next step is harder, so this is only worth a line.
            warn!(error = chain(&error), "cannot signal a job");
        }
    }
}

enum Why {
    Asked(Duration),
    Dropped,
    Limit(Ended),
}

/// Does something while the streams are read on. Some: the streams ended.
async fn during<F: Future>(
    pumps: &mut Pin<&mut F>,
    action: impl Future<Output = ()>,
) -> Option<()> {
    tokio::select! {
        () = action => None,
        _ = pumps.as_mut() => Some(()),
    }
}
