//! Summing up the traces of a run.
//!
//! Pure but for the keeping of files.

use std::time::Duration;

use ntrace_protocol::trace::{
    TRACE_DIR, TraceFile, TraceState, TraceSummary, Tracer as Kind,
};
use ntrace_tracers::{Preload, Trace};

use super::Got;
use crate::job::keep::Keepsakes;

/// What all repetitions gave.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sum: TraceSummary,
    /// Named shares, to be weighed by samples.
    named: f64,
    weight: f64,
    /// Some profile was had from node alone.
    is_node_only: bool,
    failures: Vec<String>,
}

impl Tally {
    pub(super) fn warn(&mut self, text: String) {
        if !self.sum.warnings.contains(&text) {
            self.sum.warnings.push(text);
        }
    }

    /// Takes what a repetition gave. Node's own profile stands beside the
    /// trace, or in its place where there is none.
    pub(super) fn take(
        &mut self,
        keep: &Keepsakes,
        repetition: u32,
        hz: Option<u32>,
        cpu: Option<Duration>,
        got: Got,
        node: Option<Trace>,
    ) {
        match (got, node) {
            (Ok(trace), node) => {
                self.add(keep, repetition, hz, cpu, trace);
                if let Some(node) = node {
                    self.keep_node(keep, repetition, node);
                }
            }
            (Err(why), Some(node)) => {
                self.warn(format!("only node's own profile: {why}"));
                self.is_node_only = true;
                let hz = Some(Preload::HZ);
                // Node samples by the wall clock, so its samples say
                // nothing about processor time.
                self.add(keep, repetition, hz, None, node);
            }
            (Err(why), None) => self.failures.push(why),
        }
    }

    fn add(
        &mut self,
        keep: &Keepsakes,
        repetition: u32,
        hz: Option<u32>,
        cpu: Option<Duration>,
        trace: Trace,
    ) {
        let file = TraceFile::Profile.name(repetition);
        if !keep.put(&file, trace.profile) {
            let why = "the traces of this run take too much room".to_owned();
            return self.failures.push(why);
        }
        if !trace.flame_graph.is_empty() {
            let name = TraceFile::FlameGraph.name(repetition);
            keep.put(&name, trace.flame_graph);
        }
        let cpu = trace.cpu.or(cpu);
        let sum = &mut self.sum;
        sum.profiles += 1;
        sum.hz = sum.hz.or(hz);
        *sum.samples.get_or_insert(0) += trace.samples;
        sum.lost += trace.lost;
        sum.throttled += trace.throttled;
        sum.kernel |= trace.kernel;
        if let Some(cpu) = cpu {
            *sum.cpu_seconds.get_or_insert(0.0) += cpu.as_secs_f64();
        }
        if let Some(share) = trace.share_named {
            let weight = (trace.samples as f64).max(1.0);
            self.named += share * weight;
            self.weight += weight;
        }
        for warning in trace.warnings {
            self.warn(warning);
        }
    }

    fn keep_node(&mut self, keep: &Keepsakes, repetition: u32, node: Trace) {
        let name = |base: &str| match repetition {
            0 | 1 => format!("{TRACE_DIR}/node/{base}"),
            n => format!("{TRACE_DIR}/{n}/node/{base}"),
        };
        keep.put(&name("cpu.pb.gz"), node.profile);
        keep.put(&name("flamegraph.svg"), node.flame_graph);
        self.warn(format!(
            "node's own names are in {TRACE_DIR}/node/flamegraph.svg"
        ));
    }

    /// A file that was kept here did not get to the dispatcher.
    pub(super) fn missing(&mut self, name: &str, why: &str) {
        if TraceFile::Profile.repetition(name).is_some() {
            self.sum.profiles = self.sum.profiles.saturating_sub(1);
            self.failures.push(format!("{name} could not be sent: {why}"));
        } else {
            self.warn(format!("{name} could not be sent: {why}"));
        }
    }

    /// What the record says.
    pub(super) fn summary(mut self, kind: Kind) -> TraceSummary {
        let kind = match self.is_node_only {
            true => Kind::Preload,
            false => kind,
        };
        let first = self.failures.first().cloned();
        if self.sum.profiles == 0 {
            let why = first.unwrap_or_else(|| "nothing was run".to_owned());
            let failed = TraceSummary::failed(kind, why);
            let warnings = self.sum.warnings;
            return TraceSummary { warnings, ..failed }.bounded();
        }
        if let Some(why) = first {
            let count = self.failures.len();
            self.warn(format!("{count} repetitions have no trace: {why}"));
        }
        let share_named = (self.weight > 0.0).then(|| self.named / self.weight);
        TraceSummary {
            state: TraceState::Stored,
            tracer: Some(kind),
            share_named,
            ..self.sum
        }
        .with_health()
        .bounded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(samples: u64, share: f64) -> Trace {
        Trace {
            profile: vec![1],
            flame_graph: vec![2],
            samples,
            share_named: Some(share),
            ..Trace::default()
        }
    }

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    #[test]
    fn repetitions_add_up() {
        let (mut tally, keep) = (Tally::default(), Keepsakes::default());
        tally.take(&keep, 1, Some(100), SECOND, Ok(trace(100, 1.0)), None);
        tally.take(&keep, 2, Some(100), SECOND, Ok(trace(100, 0.5)), None);
        let summary = tally.summary(Kind::Sample);
        assert_eq!(summary.state, TraceState::Stored);
        assert_eq!(summary.profiles, 2);
        assert_eq!(summary.samples, Some(200));
        assert_eq!(summary.share_named, Some(0.75));
        assert_eq!(summary.samples_over_cpu, Some(1.0));
        assert!(summary.warnings.is_empty());
    }

    #[test]
    fn node_stands_beside_a_trace_or_in_its_place() {
        let (mut tally, keep) = (Tally::default(), Keepsakes::default());
        let node = Some(trace(5, 1.0));
        tally.take(&keep, 1, Some(97), SECOND, Ok(trace(9, 1.0)), node);
        let summary = tally.summary(Kind::Dtrace);
        assert_eq!(summary.tracer, Some(Kind::Dtrace));
        assert_eq!((summary.samples, summary.profiles), (Some(9), 1));
        assert!(summary.warnings[0].contains("trace/node"));

        let (mut tally, keep) = (Tally::default(), Keepsakes::default());
        let why = Err("no right".to_owned());
        tally.take(&keep, 1, None, SECOND, why, Some(trace(5, 1.0)));
        let summary = tally.summary(Kind::Dtrace);
        assert_eq!(summary.tracer, Some(Kind::Preload));
        assert_eq!(summary.samples_over_cpu, None);
        assert!(summary.warnings[0].contains("no right"));
    }

    #[test]
    fn what_is_not_there_says_why() {
        let (mut tally, keep) = (Tally::default(), Keepsakes::default());
        tally.take(&keep, 1, None, None, Err("it died".to_owned()), None);
        let summary = tally.summary(Kind::Sample);
        assert_eq!(summary.state, TraceState::Failed);
        assert_eq!(summary.why.as_deref(), Some("it died"));

        let mut tally = Tally::default();
        tally.take(&keep, 1, None, None, Ok(trace(1, 1.0)), None);
        tally.missing("trace/cpu.pb.gz", "the disk is full");
        let summary = tally.summary(Kind::Sample);
        assert_eq!(summary.state, TraceState::Failed);
        assert!(summary.why.unwrap().contains("the disk is full"));
    }
}
