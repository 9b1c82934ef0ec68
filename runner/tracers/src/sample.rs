//! The built-in sampler of Linux zones, behind the one trait.
//!
//! It is a process of its own that is asked by blocking calls; each is made
//! on a thread that may block. Must not know how it samples.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ntrace_protocol::trace::Tracer as Kind;
use ntrace_sampler::{How, ProcessStacks, SamplerError, Target as Zone};
use ntrace_zones::{Vm, Worker};
use serde_json::Value;
use tokio::time::Instant;

use crate::evidence::{Stacks, Thread};
use crate::render;
use crate::tracer::{
    Armed, Cpu, Labels, Running, StartError, Target, Trace, TraceError, Tracer,
    Window,
};

/// Where the sampler's program is.
pub use ntrace_sampler::Program;

/// The built-in sampler.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Where its program is; by default in this very executable.
    pub program: Program,
}

impl Sample {
    /// The present stacks of these processes of a zone, in this order,
    /// without a trace.
    ///
    /// # Errors
    /// The zone cannot be looked into; what cannot be looked into in it says
    /// so itself.
    pub async fn stacks_of(
        &self,
        vm: &Value,
        pids: &[u64],
        deadline: Instant,
    ) -> Result<Vec<Stacks>, TraceError> {
        let pids: Vec<u32> =
            pids.iter().filter_map(|pid| u32::try_from(*pid).ok()).collect();
        if pids.is_empty() {
            return Ok(Vec::new());
        }
        let zone = self
            .zone_of(vm)
            .map_err(|error| TraceError::Refused(render::chain(&error)))?;
        let left = deadline.saturating_duration_since(Instant::now());
        // The answer takes its time as well.
        let within = left * 3 / 4;
        let found =
            blocking(move || ntrace_sampler::stacks_of(&zone, &pids, within));
        Ok(found.await?.into_iter().map(stacks).collect())
    }

    async fn zone(
        &self,
        worker: &Worker,
        deadline: Instant,
    ) -> Result<Zone, StartError> {
        let refused = |error: &dyn std::error::Error| {
            StartError::Refused(render::chain(error))
        };
        let vm = worker.object(deadline).await.map_err(|e| refused(&e))?;
        self.zone_of(&vm).map_err(|e| refused(&e))
    }

    fn zone_of(&self, vm: &Value) -> Result<Zone, ntrace_sampler::TargetError> {
        let zone = Zone::from_vm(vm)?;
        Ok(Zone { program: self.program.clone(), ..zone })
    }
}

impl Tracer for Sample {
    fn kind(&self) -> Kind {
        Kind::Sample
    }

    fn names_node(&self) -> bool {
        true
    }

    fn start<'a>(
        &'a self,
        target: Target<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, StartError>> {
        async move {
            let zone = self.zone(target.worker, target.deadline).await?;
            let ready = Ready::of(zone, &target).await?;
            Box::new(ready).begin(target.deadline).await
        }
        .boxed()
    }

    fn arm<'a>(
        &'a self,
        target: Target<'a>,
        vm: &'a Vm,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Armed>>, StartError>> {
        async move {
            let zone = Zone { program: self.program.clone(), ..zone_seen(vm)? };
            let ready = Ready::of(zone, &target).await?;
            Ok(Some(Box::new(ready) as Box<dyn Armed>))
        }
        .boxed()
    }
}

/// The zone for the sampler, as a look at the VM told.
fn zone_seen(vm: &Vm) -> Result<Zone, StartError> {
    let trace = vm.ntrace.as_ref().and_then(|own| own.trace.clone());
    let trace = trace.unwrap_or_default();
    Zone::new(vm.pid, trace.group, trace.socket)
        .map_err(|error| StartError::Refused(render::chain(&error)))
}

/// A sampler that has yet to begin. Its process goes with it.
struct Ready {
    armed: Option<ntrace_sampler::Armed>,
    hz: u32,
}

impl Ready {
    async fn of(
        mut zone: Zone,
        target: &Target<'_>,
    ) -> Result<Self, StartError> {
        zone.hz = target.hz.unwrap_or(zone.hz);
        let hz = zone.hz;
        let within = target.deadline.saturating_duration_since(Instant::now());
        let armed = blocking(move || ntrace_sampler::arm(&zone, within))
            .await
            .map_err(|error| StartError::Refused(error.to_string()))?;
        Ok(Self { armed: Some(armed), hz })
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(armed) = self.armed.take() {
            let_go(armed);
        }
    }
}

impl Armed for Ready {
    fn begin(
        mut self: Box<Self>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Box<dyn Running>, StartError>> {
        async move {
            let armed = self.armed.take().expect("it is taken only here");
            let (how, hz) = (armed.how(), self.hz);
            let within = deadline.saturating_duration_since(Instant::now());
            let running = blocking(move || armed.begin(within))
                .await
                .map_err(|error| StartError::Refused(error.to_string()))?;
            let sampling = Sampling { running: Some(running), how, hz };
            Ok(Box::new(sampling) as Box<dyn Running>)
        }
        .boxed()
    }
}

/// Ends a sampler's process. Its end is waited for, which is nothing for a
/// thread that serves others.
fn let_go<T: Send + 'static>(sampler: T) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(sampler));
    }
}

/// A sampler at work. It is away while it is being asked.
struct Sampling {
    running: Option<ntrace_sampler::Running>,
    how: How,
    hz: u32,
}

impl Drop for Sampling {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let_go(running);
        }
    }
}

impl Sampling {
    async fn ask<T: Send + 'static>(
        &mut self,
        question: impl FnOnce(
            &mut ntrace_sampler::Running,
        ) -> Result<T, SamplerError>
        + Send
        + 'static,
    ) -> Result<T, TraceError> {
        let mut running = self.running.take().ok_or_else(gone)?;
        let (running, answer) = blocking(move || {
            let answer = question(&mut running);
            Ok((running, answer))
        })
        .await?;
        self.running = Some(running);
        answer.map_err(|error| TraceError::Refused(render::chain(&error)))
    }
}

fn gone() -> TraceError {
    TraceError::Refused("the sampler did not answer an earlier question".into())
}

impl Running for Sampling {
    fn hz(&self) -> u32 {
        self.hz
    }

    fn window(&mut self) -> BoxFuture<'_, Result<Window, TraceError>> {
        async {
            let window = self.ask(ntrace_sampler::Running::window).await?;
            // A span of seconds is small and not negative.
            let seconds = window.seconds.round() as u32;
            Ok(Window { seconds, folded: window.folded })
        }
        .boxed()
    }

    fn finish(
        mut self: Box<Self>,
        labels: Labels,
        cpu: Cpu,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Trace, TraceError>> {
        async move {
            let running = self.running.take().ok_or_else(gone)?;
            let how = self.how;
            let millis = |time: Duration| {
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            };
            let options = ntrace_sampler::FinishOptions {
                user_cpu_ms: cpu.user.map(millis),
                owner: None,
                repository: labels.repository,
                commit: labels.commit,
                run: Some(labels.run_id),
            };
            let within = deadline.saturating_duration_since(Instant::now());
            blocking(move || {
                let trace = running.finish(options, within);
                Ok(trace.map(|trace| traced(trace, how, cpu)))
            })
            .await?
            .map_err(|error| TraceError::Refused(render::chain(&error)))?
        }
        .boxed()
    }
}

fn traced(
    trace: ntrace_sampler::Trace,
    how: How,
    cpu: Cpu,
) -> Result<Trace, TraceError> {
    let ntrace_sampler::Trace { pprof, summary } = trace;
    let mut warnings = summary.warnings;
    warnings.extend(unresolved(&summary.unresolved));
    Ok(Trace {
        flame_graph: render::flame_graph(&pprof, "the sampler")?,
        profile: pprof,
        samples: summary.samples,
        lost: summary.lost,
        throttled: summary.throttled,
        share_named: Some(summary.share_named),
        cpu: match how {
            How::Group => Some(Duration::from_millis(summary.cpu_ms)),
            // The kernel's part cannot be sampled.
            How::Inherit => cpu.user,
        },
        kernel: summary.kernel,
        warnings,
    })
}

/// Files without names in one sentence.
fn unresolved(files: &[String]) -> Option<String> {
    let first = files.first()?;
    Some(match files.len() {
        1 => format!("no names from {first}"),
        n => format!("no names from {n} files, such as {first}"),
    })
}

fn stacks(found: ProcessStacks) -> Stacks {
    let mut refused = found.refused;
    let threads = found.threads.into_iter().map(|thread| {
        refused = refused.take().or(thread.refused);
        Thread {
            tid: 0,
            host: u32::try_from(thread.tid).unwrap_or(0),
            comm: thread.comm,
            state: thread.state.chars().next(),
            wchan: thread.wchan,
            frames: thread.frames,
            ..Thread::default()
        }
    });
    let threads = threads.collect();
    Stacks { pid: u64::from(found.pid), refused, threads }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SamplerError> + Send + 'static,
) -> Result<T, TraceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(TraceError::Refused(render::chain(&error))),
        Err(_) => Err(TraceError::Refused("it was cut off".to_owned())),
    }
}
