//! Tracing a run: which tracer, when it begins and ends, and what the record
//! says of it.
//!
//! Must not know how a tracer works. Invariant: nothing here fails a job;
//! where there is no trace, the record says why.

mod ahead;
mod live;
mod node;
mod syscalls;
mod tally;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ntrace_protocol::report::Event;
use ntrace_protocol::runner::Assignment;
use ntrace_protocol::trace::{TraceOptions, TraceSummary, Tracer as Kind};
use ntrace_tracers::{
    Additions, Choice, Chosen, Cpu, Dtrace, Labels, NoPerf, Perf, Preload,
    Sample, Target, Trace, Tracer, add, choose,
};
use ntrace_zones::Carrier;
use tokio::time::Instant;
use tracing::warn;

use super::keep::Keepsakes;
use super::{Place, chain};
use crate::uplink::{RunOut, StopSignal};
pub(super) use ahead::Ahead;
pub(super) use live::Live;
use syscalls::Syscalls;
use tally::Tally;

/// How long a tracer may take to begin.
const START: Duration = Duration::from_secs(20);

/// How long it may take to end and to fold what it saw.
const FINISH: Duration = Duration::from_secs(60);

/// The tracers of a runner.
#[derive(Debug)]
pub struct Tracers {
    choice: Choice,
    dtrace: Result<Dtrace, String>,
    sample: Sample,
    perf: Result<Perf, NoPerf>,
}

impl Tracers {
    /// What this runner can use; `data` is its own directory.
    pub async fn find(choice: Choice, data: &Path) -> Self {
        let dtrace = Dtrace::new(&data.join("tracers")).map_err(|e| chain(&e));
        let perf = Perf::find(&data.join("tracers/perf")).await;
        Self { choice, dtrace, sample: Sample::default(), perf }
    }

    /// The one that can tell stacks of what does not run.
    pub(super) fn sample(&self) -> &Sample {
        &self.sample
    }

    fn tracer(&self, kind: Kind) -> Result<Box<dyn Tracer>, String> {
        match kind {
            Kind::Dtrace => match &self.dtrace {
                Ok(dtrace) => Ok(Box::new(dtrace.clone())),
                Err(why) => Err(format!("cannot write its script: {why}")),
            },
            Kind::Sample => Ok(Box::new(self.sample.clone())),
            Kind::Perf => match &self.perf {
                Ok(perf) => Ok(Box::new(perf.clone())),
                Err(why) => Err(why.why().to_owned()),
            },
            kind => Err(format!("this runner has no tracer {kind}")),
        }
    }
}

/// What is done about tracing in one run.
pub(super) struct Traces {
    plan: Plan,
    options: TraceOptions,
    labels: Labels,
    tally: Tally,
    /// Node is asked for profiles of its own.
    preload: Option<Preload>,
    /// System calls are counted.
    syscalls: Option<Syscalls>,
}

enum Plan {
    /// By this one.
    Trace(Box<dyn Tracer>),
    /// By none that sees all; node may still tell of itself.
    Failed(Kind, String),
    /// Not at all.
    Unwanted(&'static str),
}

impl Traces {
    /// Decides for a run in a place.
    pub(super) fn plan(
        tracers: &Tracers,
        options: TraceOptions,
        place: &Place<'_>,
        assignment: &Assignment,
    ) -> Self {
        let facts = ntrace_tracers::Place {
            is_linux: place.vm.ntrace.is_some(),
            is_here: matches!(**place.worker.carrier(), Carrier::Local(_)),
            perf: tracers.perf.as_ref().map(drop).map_err(|why| *why),
        };
        let plan = match choose(tracers.choice, &options, facts) {
            Chosen::Take(kind) => match tracers.tracer(kind) {
                Ok(tracer) => Plan::Trace(tracer),
                Err(why) => Plan::Failed(kind, why),
            },
            Chosen::Unwanted(why) => Plan::Unwanted(why),
            Chosen::Impossible(kind, why) => Plan::Failed(kind, why.to_owned()),
        };
        Self {
            plan,
            options,
            labels: labels(assignment),
            tally: Tally::default(),
            preload: None,
            syscalls: Syscalls::plan(
                tracers.choice,
                &tracers.dtrace,
                &options,
                facts,
            ),
        }
    }

    /// Begins to count a repetition's system calls, if that is asked for.
    /// What traces must have begun: it may make the group that is counted.
    pub(super) async fn count(&mut self, place: &Place<'_>, out: &RunOut) {
        if let Some(syscalls) = &mut self.syscalls {
            syscalls.start(place, out).await;
        }
    }

    /// Makes the tracer of the first repetition ready while nothing of the
    /// user's runs, in a place that was looked at just now.
    pub(super) async fn arm(&self, place: &Place<'_>) -> Ahead {
        let Plan::Trace(tracer) = &self.plan else { return Ahead::Nothing };
        let target = self.target(place);
        let deadline = target.deadline;
        Ahead::of(tracer.arm(target, &place.vm), deadline).await
    }

    fn target<'a>(&self, place: &Place<'a>) -> Target<'a> {
        Target {
            worker: place.worker,
            hz: self.options.hz,
            deadline: Instant::now() + START,
        }
    }

    /// How often the command is to run.
    pub(super) fn repetitions(&self) -> u32 {
        self.options.repeat.unwrap_or(1).max(1)
    }

    /// Begins the trace of a repetition. Somebody who wants the run ended
    /// does not wait for it.
    pub(super) async fn start(
        &mut self,
        ahead: Ahead,
        place: &Place<'_>,
        repetition: u32,
        out: &RunOut,
        stop: &mut StopSignal,
    ) -> Live {
        let mut live = Live::none();
        let names_node = match &self.plan {
            Plan::Unwanted(_) => return live,
            Plan::Failed(_, why) => {
                let why = why.clone();
                out.event(Event::TraceFailed { why: why.clone() }).await;
                live.fail(why);
                false
            }
            Plan::Trace(tracer) => {
                let target = self.target(place);
                let deadline = target.deadline;
                let starting = ahead.begin(tracer.start(target), deadline);
                let started = tokio::select! {
                    biased;
                    _ = stop.stopped() => return live,
                    started = starting => started,
                };
                match started {
                    Ok(running) => {
                        out.event(Event::TraceStarted {
                            tracer: tracer.kind(),
                            hz: running.hz(),
                            repetition,
                        })
                        .await;
                        live = Live::of(running, self.labels.clone());
                        tracer.names_node()
                    }
                    Err(error) => {
                        let why = chain(&error);
                        let event = Event::TraceFailed { why: why.clone() };
                        out.event(event).await;
                        live.fail(why);
                        false
                    }
                }
            }
        };
        if !names_node {
            self.preload = node::put(place.inside, repetition).await;
        }
        live
    }

    /// What the job's environment gets, once the trace has begun.
    pub(super) fn add_to(&self, env: &mut BTreeMap<String, String>) {
        match (&self.plan, &self.preload) {
            (Plan::Unwanted(_), _) => {}
            (_, Some(preload)) => add(env, Additions::Preload(&preload.file())),
            (Plan::Trace(tracer), None) if tracer.names_node() => {
                add(env, Additions::PerfMaps);
            }
            _ => {}
        }
    }

    /// Ends the trace of a repetition and keeps what it gave.
    pub(super) async fn finish(
        &mut self,
        live: Live,
        place: &Place<'_>,
        repetition: u32,
        cpu: Cpu,
        out: &RunOut,
        keep: &Keepsakes,
    ) {
        if let Some(syscalls) = &mut self.syscalls {
            syscalls.finish(repetition, keep).await;
        }
        if matches!(self.plan, Plan::Unwanted(_)) {
            return;
        }
        let hz = live.hz();
        let deadline = Instant::now() + FINISH;
        let was_running = live.is_running();
        let got = live.finish(cpu, deadline).await;
        if let (Err(why), true) = (&got, was_running) {
            out.event(Event::TraceFailed { why: why.clone() }).await;
        }
        let node = match self.preload.take() {
            Some(preload) => {
                node::fetch(place.inside, &preload, &self.labels).await
            }
            None => Ok(None),
        };
        let node = node.unwrap_or_else(|why| {
            warn!(why, "node's own profiles cannot be read");
            self.tally.warn(format!("node's own profiles: {why}"));
            None
        });
        self.tally.take(keep, repetition, hz, cpu.total, got, node);
    }

    /// A file of this run did not get to the dispatcher.
    pub(super) fn missing(&mut self, name: &str, why: &str) {
        self.tally.missing(name, why);
    }

    /// What the record says.
    pub(super) fn summary(self) -> TraceSummary {
        let summary = match self.plan {
            Plan::Unwanted(why) => TraceSummary::none(why),
            Plan::Failed(kind, _) => self.tally.summary(kind),
            Plan::Trace(tracer) => self.tally.summary(tracer.kind()),
        };
        let syscalls = self.syscalls.map(|syscalls| syscalls.summary());
        TraceSummary { syscalls, ..summary }
    }
}

fn labels(assignment: &Assignment) -> Labels {
    let source = assignment.spec.source.as_ref();
    Labels {
        repository: source.map(|s| format!("{}/{}", s.owner, s.repo)),
        commit: source.map(|s| s.commit.to_string()),
        run_id: assignment.run_id.to_string(),
    }
}

/// What one repetition gave, or why it gave nothing.
type Got = Result<Trace, String>;
