//! The part of a run in which the user's own code runs: set-up, the command
//! as often as it is to run, and the bringing home of what was left.
//!
//! Limits are of the run as a whole: repetitions share the time and the
//! output. The first repetition that fails is the last, and its end is the
//! run's.

use std::collections::BTreeMap;
use std::time::Duration;

use ntrace_protocol::Reason;
use ntrace_protocol::report::{Event, Outcome, Phase};
use ntrace_tracers::Cpu;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::command::{self, Finished, Stage, Watch};
use super::limits::Plan;
use super::trace::{Live, Traces};
use super::verdict::{Facts, Verdict, judge};
use super::work::Work;
use super::{Ready, Run, artefacts, chain, dropped, environment};

impl Run<'_> {
    pub(super) async fn set_up(
        &mut self,
        plan: &Plan,
        work: &Work,
        setup: &str,
    ) -> Result<(), Verdict> {
        self.out.event(Event::Setup { begins: true }).await;
        let argv = environment::shell(setup);
        let watch = Watch { time: plan.setup_time, ..Watch::of(plan) };
        let env = environment::variables(self.assignment, &work.env);
        let began = Instant::now();
        let live = Mutex::new(Live::none());
        let finished = self.supervise(argv, env, plan, watch, &live).await;
        self.seen = self.seen.max(finished.seen);
        self.phase("setup", began);
        self.out.event(Event::Setup { begins: false }).await;
        let facts = self.facts(finished).await;
        let verdict = judge(&facts, "the set-up");
        match (verdict.outcome, verdict.reason) {
            (Outcome::Done, _) => Ok(()),
            (_, Some(Reason::Exit | Reason::Signal)) => {
                let reason = Some(Reason::Setup);
                Err(Verdict { reason, ..verdict })
            }
            _ => Err(verdict),
        }
    }

    /// Runs the command, traced, as often as it is to run.
    pub(super) async fn run(
        &mut self,
        plan: &Plan,
        work: &Work,
        mut traces: Traces,
        mut ready: Ready,
    ) -> (Verdict, Traces) {
        self.out.event(Event::Phase { phase: Phase::Running }).await;
        let mut watch = Watch::of(plan);
        let count = traces.repetitions();
        let mut repetition = 1;
        loop {
            let which = (repetition, std::mem::take(&mut ready));
            let (verdict, finished) =
                self.repeat(plan, work, watch, &mut traces, which).await;
            watch.spent.time += finished.elapsed;
            watch.spent.output += finished.output_bytes;
            let is_last = repetition == count;
            if is_last || verdict.outcome != Outcome::Done {
                self.usage.wall_ms = self.usage.phases_ms.get("run").copied();
                self.usage.output_bytes = Some(watch.spent.output);
                return (verdict.of_repetition(repetition, count), traces);
            }
            repetition += 1;
        }
    }

    async fn repeat(
        &mut self,
        plan: &Plan,
        work: &Work,
        watch: Watch,
        traces: &mut Traces,
        (repetition, ready): (u32, Ready),
    ) -> (Verdict, Ran) {
        let began = Instant::now();
        let mut stop = self.stop.clone();
        let (live, before) = tokio::join!(
            traces.start(
                ready.ahead,
                &self.place,
                repetition,
                self.out,
                &mut stop
            ),
            async {
                match ready.before {
                    Some(before) => before,
                    None => self.used().await,
                }
            },
        );
        traces.count(&self.place, self.out).await;
        self.phase("trace", began);
        let live = Mutex::new(live);
        let mut env = environment::variables(self.assignment, &work.env);
        traces.add_to(&mut env);
        let began = Instant::now();
        let argv = work.argv.clone();
        let finished = self.supervise(argv, env, plan, watch, &live).await;
        let elapsed = began.elapsed();
        self.seen = self.seen.max(finished.seen);
        self.phase("run", began);
        let after = self.used().await;
        let cpu = after.cpu_ms.zip(before.cpu_ms);
        let cpu = cpu.map(|(after, before)| after.saturating_sub(before));
        let cpu = cpu.or(finished.cpu_ms);
        if let Some(ms) = cpu {
            *self.usage.cpu_ms.get_or_insert(0) += ms;
        }
        let rss = after.max_rss.or(finished.max_rss);
        self.usage.max_rss = self.usage.max_rss.max(rss);
        let began = Instant::now();
        let cpu = Cpu {
            total: cpu.map(Duration::from_millis),
            user: finished.user_ms.map(Duration::from_millis),
        };
        let live = live.into_inner();
        traces
            .finish(live, &self.place, repetition, cpu, self.out, &self.keep)
            .await;
        self.phase("trace", began);
        let ran = Ran { elapsed, output_bytes: finished.output_bytes };
        (judge(&self.facts(finished).await, "the command"), ran)
    }

    async fn supervise(
        &self,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        plan: &Plan,
        watch: Watch,
        live: &Mutex<Live>,
    ) -> Finished {
        let spec = match environment::spec(argv, env) {
            Ok(spec) => spec,
            Err(error) => return Finished::not_started(chain(&error)),
        };
        let spec = match plan.pids {
            Some(limit) => spec.with_pids(limit),
            None => spec,
        };
        let stage = Stage {
            worker: self.place.worker,
            inside: self.place.inside,
            live,
            keep: &self.keep,
            sample: self.context.tracers.sample(),
            out: self.out,
        };
        command::supervise(stage, spec, watch, self.stop.clone()).await
    }

    async fn facts(&self, finished: Finished) -> Facts {
        Facts {
            ended: finished.ended,
            command: finished.command,
            met: self.met().await,
        }
    }

    /// Brings artefacts home. What cannot be had is noted; it does not
    /// change the verdict.
    pub(super) async fn collect(
        &mut self,
        plan: &Plan,
        work: &Work,
        verdict: &Verdict,
    ) {
        self.out.event(Event::Phase { phase: Phase::Collecting }).await;
        if work.artefacts.is_empty() || verdict.outcome == Outcome::Lost {
            return;
        }
        let began = Instant::now();
        let mut stop = self.stop.clone();
        let collect =
            artefacts::collect(self.place.inside, plan, work, self.out);
        let notes = tokio::select! {
            notes = collect => notes,
            () = dropped(&mut stop) => Vec::new(),
        };
        self.phase("collect", began);
        for text in notes {
            self.out.event(Event::Note { text }).await;
        }
    }
}

/// What a repetition used.
struct Ran {
    elapsed: Duration,
    output_bytes: u64,
}
