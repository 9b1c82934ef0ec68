//! One run of a job in a clean worker: what is done, in which order, and
//! what it came to.
//!
//! Knows the driver, the source cache and where reports go; must not know
//! how workers are made clean, nor the dispatcher.
//! Invariant: exactly one `end` is reported, after everything else.

mod alone;
mod artefacts;
mod closing;
mod command;
mod environment;
mod evidence;
mod farewell;
mod keep;
mod limits;
mod running;
mod trace;
mod verdict;
mod work;

use std::time::Duration;

use ntrace_client::Backoff;
use ntrace_protocol::report::{Event, MAX_PARENTS, Phase};
use ntrace_protocol::runner::Assignment;
use ntrace_protocol::{Reason, Source, Usage};
use ntrace_source::{Cache, CommitId, Repository, SourceError, Tree};
use ntrace_zones::{Inside, Vm, VmUsage, Worker};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::uplink::{Job, RunOut, StopSignal, StopWhy};
use evidence::Seen;
pub use farewell::Farewell;
use keep::Keepsakes;
pub use limits::{Baseline, Policy};
use limits::{Plan, plan};
pub use trace::Tracers;
use trace::{Ahead, Traces};
use verdict::{Met, Verdict};
use work::Work;

/// How long a commit may take to be brought.
const FETCH: Duration = Duration::from_secs(600);

/// How often a fetch is tried when the network fails, and the first pause.
const FETCH_TRIES: u32 = 4;
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// How long the tree may take to go in.
const UNPACK: Duration = Duration::from_secs(300);

/// How long one question to vmadm may take.
const LOOK: Duration = Duration::from_secs(60);

/// What a run needs besides its place.
pub struct Context {
    /// Where commits come from.
    pub sources: Cache,
    /// Limits that the runner grants.
    pub policy: Policy,
    /// What traces the runs.
    pub tracers: Tracers,
}

/// A clean worker with nothing in it.
pub struct Place<'a> {
    /// The VM, in our hands.
    pub worker: &'a Worker,
    /// The way in.
    pub inside: &'a Inside,
    /// The VM as it was seen just now.
    pub vm: Vm,
    /// The VM's own limits.
    pub baseline: Baseline,
}

/// Runs a job. What is left to be told of it needs the place no more.
pub async fn execute(
    place: Place<'_>,
    job: Job,
    context: &Context,
) -> Farewell {
    let Job { assignment, out, stop } = job;
    info!(job = %assignment.id, run = %assignment.run_id, "run begins");
    let worker = place.worker.uuid();
    let mut run = Run {
        place,
        assignment: &assignment,
        out: &out,
        stop: stop.clone(),
        context,
        usage: Usage::default(),
        traces: None,
        keep: Keepsakes::default(),
        seen: Seen::default(),
    };
    let own = run.place.vm.ntrace.as_ref();
    let place = own.map(place_of);
    run.out.event(Event::Assigned { worker, place }).await;
    for text in own.into_iter().flat_map(|own| own.notes.clone()) {
        run.out.event(Event::Note { text }).await;
    }
    let verdict = run.attempt().await;
    let verdict = run.place.left_alone(verdict).await;
    let Run { usage, traces, keep, seen, .. } = run;
    info!(
        job = %assignment.id,
        run = %assignment.run_id,
        outcome = verdict.outcome.as_str(),
        reason = verdict.reason.map_or("", Reason::as_str),
        "run ended"
    );
    Farewell { out, stop, verdict, usage, traces, keep, seen }
}

/// What the record says of the place.
pub(crate) fn place_of(own: &ntrace_zones::Extension) -> Value {
    serde_json::json!({
        "userns": own.userns, "overlay": own.overlay,
        "network": own.network, "notes": own.notes,
        "limits": {
            "memory": own.limits.memory, "cpu": own.limits.cpu,
            "pids": own.limits.pids, "disk": own.limits.disk,
        },
    })
}

/// All that a run needs before its command.
struct Prepared {
    plan: Plan,
    work: Work,
    traces: Traces,
    ready: Ready,
}

/// What is ready for the first repetition before its turn; nothing if
/// something else runs before it.
#[derive(Default)]
struct Ready {
    /// The tracer.
    ahead: Ahead,
    /// What the place had used.
    before: Option<VmUsage>,
}

struct Run<'a> {
    place: Place<'a>,
    assignment: &'a Assignment,
    out: &'a RunOut,
    stop: StopSignal,
    context: &'a Context,
    usage: Usage,
    /// How its traces went, once the command was begun.
    traces: Option<Traces>,
    /// What the runner itself made of this run.
    keep: Keepsakes,
    /// Whether it was looked at before it was ended.
    seen: Seen,
}

impl Run<'_> {
    async fn attempt(&mut self) -> Verdict {
        let mut stop = self.stop.clone();
        let prepared = tokio::select! {
            biased;
            _ = stop.stopped() => Err(Verdict::stopped()),
            prepared = self.prepare() => prepared,
        };
        let Prepared { plan, work, traces, ready } = match prepared {
            Ok(prepared) => prepared,
            Err(verdict) => return verdict,
        };
        if let Some(setup) = work.setup.clone()
            && let Err(verdict) = self.set_up(&plan, &work, &setup).await
        {
            return verdict;
        }
        let (verdict, traces) = self.run(&plan, &work, traces, ready).await;
        self.traces = Some(traces);
        self.collect(&plan, &work, &verdict).await;
        verdict
    }

    /// Brings everything in place; nothing of the user's runs yet.
    async fn prepare(&mut self) -> Result<Prepared, Verdict> {
        self.out.event(Event::Phase { phase: Phase::Preparing }).await;
        let began = Instant::now();
        let tree = match &self.assignment.spec.source {
            Some(source) => Some(self.fetch(source).await?),
            None => None,
        };
        self.phase("source", began);
        let began = Instant::now();
        // The tree goes in while it is read for what to run; a tree in which
        // nothing is to be run has then gone in for nothing.
        let (prepared, used, ()) = tokio::join!(
            self.make_ready(tree.as_ref()),
            self.fill(tree.as_ref()),
            self.tell_parents(tree.as_ref()),
        );
        let mut prepared = prepared?;
        let used = used?;
        if prepared.work.setup.is_none() {
            prepared.ready.before = Some(used);
        }
        self.phase("unpack", began);
        Ok(prepared)
    }

    /// Decides what to run, and makes the tracer ready. What a set-up runs
    /// would be taken for the command, so with one the tracer comes later.
    async fn make_ready(
        &self,
        tree: Option<&Tree>,
    ) -> Result<Prepared, Verdict> {
        let (plan, work) = self.decide(tree).await?;
        let asked = self.assignment.spec.trace.unwrap_or_default();
        let options = asked.or(&work.trace);
        let tracers = &self.context.tracers;
        let traces =
            Traces::plan(tracers, options, &self.place, self.assignment);
        let mut ready = Ready::default();
        if work.setup.is_none() {
            ready.ahead = traces.arm(&self.place).await;
        }
        Ok(Prepared { plan, work, traces, ready })
    }

    /// Puts the tree into the place; gives what the place has used by then.
    async fn fill(&self, tree: Option<&Tree>) -> Result<VmUsage, Verdict> {
        self.unpack(tree).await?;
        Ok(self.used().await)
    }

    /// Says which commits come before this one, so that whoever compares
    /// runs needs no repository. Not to know it harms no run.
    async fn tell_parents(&self, tree: Option<&Tree>) {
        let Some(tree) = tree else { return };
        let parents = match tree.parents(MAX_PARENTS).await {
            Ok(parents) => parents,
            Err(error) => {
                warn!(error = chain(&error), "cannot read a commit's parents");
                return;
            }
        };
        let parents = parents.iter().filter_map(|id| id.as_str().parse().ok());
        self.out.event(Event::Source { parents: parents.collect() }).await;
    }

    /// What to run, and within which limits.
    async fn decide(
        &self,
        tree: Option<&Tree>,
    ) -> Result<(Plan, Work), Verdict> {
        let spec = &self.assignment.spec;
        let refuse = |why: String| Verdict::failed(Reason::Recipe, why);
        let mut work = Work::find(spec, tree).await.map_err(refuse)?;
        work.env.extend(spec.env.clone());
        self.out
            .event(Event::Recipe {
                setup: work.setup.clone(),
                run: work.shown.clone(),
                origin: work.origin.clone(),
            })
            .await;
        let asked = spec.limits.clone().or(&work.limits);
        let Place { vm, baseline, .. } = &self.place;
        let plan =
            plan(&asked, &self.context.policy, baseline, vm).map_err(refuse)?;
        for text in &plan.notes {
            self.out.event(Event::Note { text: text.clone() }).await;
        }
        self.limit(&plan).await?;
        Ok((plan, work))
    }

    async fn fetch(&self, source: &Source) -> Result<Tree, Verdict> {
        let bad = |error: ntrace_source::BadName| {
            Verdict::failed(Reason::Source, chain(&error))
        };
        let Source { owner, repo, commit } = source;
        let repository =
            Repository::new(owner.as_str(), repo.as_str()).map_err(bad)?;
        let commit: CommitId = commit.as_str().parse().map_err(bad)?;
        let deadline = Instant::now() + FETCH;
        let mut backoff = Backoff::new(FETCH_PAUSE, FETCH_PAUSE * 8);
        let mut tries = 0;
        loop {
            tries += 1;
            let sources = &self.context.sources;
            let error =
                match sources.ensure(&repository, &commit, deadline).await {
                    Ok(tree) => return Ok(tree),
                    Err(error) => error,
                };
            let pause = backoff.pause();
            let is_over = tries >= FETCH_TRIES
                || Instant::now() + pause >= deadline
                || !error.is_worth_another_try();
            if is_over {
                return Err(no_source(&error));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn limit(&self, plan: &Plan) -> Result<(), Verdict> {
        if plan.vm == ntrace_zones::VmLimits::default() {
            return Ok(());
        }
        let deadline = Instant::now() + LOOK;
        self.place
            .worker
            .limit(plan.vm, deadline)
            .await
            .map(drop)
            .map_err(|error| Verdict::lost(Reason::Zone, chain(&error)))
    }

    async fn unpack(&self, tree: Option<&Tree>) -> Result<(), Verdict> {
        let deadline = Instant::now() + UNPACK;
        let inside = self.place.inside;
        let (user, dir) = (environment::user(), environment::dir());
        let unpacked = match tree {
            Some(tree) => {
                let tar = tree.archive(deadline).map_err(|error| {
                    Verdict::failed(Reason::Source, chain(&error))
                })?;
                inside.unpack_first(&user, &dir, tar, deadline).await
            }
            None => {
                let tar = environment::EMPTY_TAR;
                inside.unpack_first(&user, &dir, tar, deadline).await
            }
        };
        match unpacked {
            Ok(()) => Ok(()),
            // A tree that does not fit the place's disk is the user's.
            Err(error) if self.met().await.disk => Err(Verdict::failed(
                Reason::DiskFull,
                format!("the tree does not fit: {}", chain(&error)),
            )),
            Err(error) => Err(Verdict::lost(Reason::Zone, chain(&error))),
        }
    }

    /// Adds to the time that a phase took.
    fn phase(&mut self, name: &str, began: Instant) {
        let ms = u64::try_from(began.elapsed().as_millis());
        let ms = ms.unwrap_or(u64::MAX);
        let sum = self.usage.phases_ms.entry(name.to_owned()).or_default();
        *sum = sum.saturating_add(ms);
    }

    /// What the place has counted so far; empty where it counts nothing.
    async fn used(&self) -> VmUsage {
        if self.place.vm.ntrace.is_none() {
            return VmUsage::default();
        }
        let deadline = Instant::now() + LOOK;
        match self.place.worker.look(deadline).await {
            Ok(vm) => vm.ntrace.and_then(|own| own.usage).unwrap_or_default(),
            Err(error) => {
                warn!(error = chain(&error), "cannot read what a run used");
                VmUsage::default()
            }
        }
    }

    async fn met(&self) -> Met {
        let used = self.used().await;
        let watched = u64::from(used.memory_killed.unwrap_or(false));
        Met {
            memory: used.oom_kills.unwrap_or(0).max(watched),
            disk: used.disk_killed.unwrap_or(false),
            pids: used.pids_hits.unwrap_or(0),
        }
    }
}

/// A commit that is not there is the user's; a full disk of ours is not.
fn no_source(error: &SourceError) -> Verdict {
    let sentence = chain(error);
    match error {
        SourceError::DiskFull { .. }
        | SourceError::NoGit { .. }
        | SourceError::Disk { .. } => Verdict::lost(Reason::Zone, sentence),
        _ => Verdict::failed(Reason::Source, sentence),
    }
}

/// Waits until nobody wants the run any more.
async fn dropped(stop: &mut StopSignal) {
    let stopped = stop.stopped().await;
    if stopped.why != StopWhy::Dropped {
        std::future::pending::<()>().await;
    }
}

/// An error with all of its causes, on one line, safe to show.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    ntrace_protocol::text::escape_lines(&text)
}
