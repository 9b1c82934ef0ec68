//! Watching a command: its output and its clocks.
//!
//! The streams are read by one future that goes on whatever else happens;
//! beside it run the clocks.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use ntrace_protocol::Exit;
use ntrace_protocol::report::{Event, Stream};
use ntrace_tracers::Sample;
use ntrace_zones::{Ended as ZoneEnded, Ending, Inside, JobSpec, Run, Worker};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::chain;
use super::closing::{AFTER_HALT, Closing};
use super::evidence::{Scene, Seen};
use super::keep::Keepsakes;
use super::limits::Plan;
use super::trace::Live;
use super::verdict::{Command, Ended};
use crate::uplink::{RunOut, StopSignal};

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
    /// What was seen of it before it was ended.
    pub(super) seen: Seen,
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

    /// A command of a run that was to end before it began.
    fn not_begun() -> Self {
        let why = "it was stopped before".to_owned();
        Self { ended: Some(Ended::Asked), ..Self::not_started(why) }
    }

    fn unknown(why: String) -> Self {
        Self {
            ended: None,
            seen: Seen::NotBegun,
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
    pub(super) fn scene(self) -> Scene<'a> {
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
    if stop.get().is_some() {
        return Finished::not_begun();
    }
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
    let (ended, seen) = clocks.watch(pin!(pumps), stop).await;
    report_gaps(&progress, out).await;
    Finished { seen, ..finish(ending, ended, &progress).await }
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
        seen: Seen::Begun,
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
    /// clock or a person says so. Says why, and what was seen of it.
    async fn watch<F: Future>(
        &self,
        mut pumps: Pin<&mut F>,
        mut stop: StopSignal,
    ) -> (Option<Ended>, Seen) {
        let seen = Seen::Begun;
        let why = tokio::select! {
            // It may have written too much and ended before that was seen.
            _ = &mut pumps => {
                let limit = self.watch.output;
                let limit = limit.filter(|_| self.progress.cut() > 0);
                return (limit.map(Ended::Output), seen);
            }
            why = self.reason_to_end(&mut stop) => why,
        };
        let closing = Closing { stage: self.stage, pumps, stop, seen };
        (Some(why), closing.end(why).await)
    }

    async fn reason_to_end(&self, stop: &mut StopSignal) -> Ended {
        let time = self.watch.time.unwrap_or(NEVER);
        let left = time.saturating_sub(self.watch.spent.time);
        tokio::select! {
            _ = stop.stopped() => Ended::Asked,
            () = sleep_until(self.began + left) => Ended::Timeout(time),
            limit = self.silence() => Ended::Silence(limit),
            limit = self.too_much() => Ended::Output(limit),
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
}
