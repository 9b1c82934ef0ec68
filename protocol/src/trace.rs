//! Traces: what may be asked for, what became of one, and the names under
//! which it is kept.
//!
//! Must not know how a tracer works, nor what is in a profile. Invariant: a
//! run that was to be traced and has no profile says why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::syscalls::SyscallSummary;
use crate::text::escape;

/// Samples a second at most: above it tracing costs more than it shows.
pub const MAX_HZ: u32 = 5000;
/// How often the traced command of one run may be repeated.
pub const MAX_REPEAT: u32 = 50;
/// The most warnings of a summary.
pub const MAX_WARNINGS: usize = 16;
/// The longest sentence of a summary, in characters.
pub const MAX_SENTENCE: usize = 300;
/// Below this share of the processor time used, and above its reverse, a
/// profile does not tell where the time went.
pub const HEALTHY: std::ops::RangeInclusive<f64> = 0.9..=1.1;
/// Fewer samples than this say nothing about health.
const FEW_SAMPLES: u64 = 30;

/// Under this only the runner stores: profiles and what was made of them.
pub const TRACE_DIR: &str = "trace";
/// Under this only the runner stores: what it saw before it ended a run.
pub const EVIDENCE_DIR: &str = "evidence";

/// What is to be traced. What is absent is for the next in line to say: the
/// request, then the repository's file, then the runner.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[serde(default, deny_unknown_fields)]
pub struct TraceOptions {
    /// What kind of profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Samples a second, 1 to [`MAX_HZ`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
    /// How often the traced command runs, 1 to [`MAX_REPEAT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<u32>,
    /// Whether system calls are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<bool>,
    /// Which tracer; the runner's choice if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracer: Option<Tracer>,
}

/// Why options cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTrace {
    /// The rate is out of bounds.
    #[error("hz is from 1 to {MAX_HZ}")]
    Hz,
    /// The repetition is out of bounds.
    #[error("repeat is from 1 to {MAX_REPEAT}")]
    Repeat,
    /// There is no such tracer.
    #[error("tracer is \"sample\", \"dtrace\" or \"perf\"")]
    Tracer,
}

impl TraceOptions {
    /// Checks the bounds.
    ///
    /// # Errors
    /// Which one is passed.
    pub fn check(&self) -> Result<(), BadTrace> {
        if self.hz.is_some_and(|hz| !(1..=MAX_HZ).contains(&hz)) {
            return Err(BadTrace::Hz);
        }
        if self.repeat.is_some_and(|n| !(1..=MAX_REPEAT).contains(&n)) {
            return Err(BadTrace::Repeat);
        }
        if matches!(self.tracer, Some(Tracer::Preload | Tracer::Other)) {
            return Err(BadTrace::Tracer);
        }
        Ok(())
    }

    /// These, and for what they leave open the others.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            profile: self.profile.or(others.profile),
            hz: self.hz.or(others.hz),
            repeat: self.repeat.or(others.repeat),
            syscalls: self.syscalls.or(others.syscalls),
            tracer: self.tracer.or(others.tracer),
        }
    }
}

/// The kind of profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Where processor time goes.
    Cpu,
    /// Nothing is traced.
    None,
}

/// What makes a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracer {
    /// The built-in sampler of Linux.
    Sample,
    /// DTrace in the global zone of SmartOS.
    Dtrace,
    /// Linux's perf.
    Perf,
    /// The job's own runtime, made to write a profile. Never asked for.
    Preload,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl fmt::Display for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sample => "sample",
            Self::Dtrace => "dtrace",
            Self::Perf => "perf",
            Self::Preload => "preload",
            Self::Other => "another tracer",
        })
    }
}

/// What became of a trace.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum TraceState {
    /// At least one profile is among the artefacts.
    Stored,
    /// None was asked for, or none can be had in this place.
    #[default]
    None,
    /// It was begun, and there is no profile.
    Failed,
}

impl TraceState {
    /// The state as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::None => "none",
            Self::Failed => "failed",
        }
    }
}

/// What a run's record says of its trace. Numbers are over all repetitions;
/// those that are not known are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceSummary {
    /// What became of it.
    pub state: TraceState,
    /// Why there is no profile; always there unless it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracer: Option<Tracer>,
    /// Samples a second of processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
    /// How many profiles are stored.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub profiles: u32,
    /// Samples taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Samples lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// How often the kernel slowed the sampling down.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled: u64,
    /// The share of frames that have a name, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_named: Option<f64>,
    /// Processor time that the traced command used, measured apart from the
    /// samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Samples ÷ rate ÷ processor time used: the health of the trace. 1 is
    /// perfect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_over_cpu: Option<f64>,
    /// Whether kernel frames are in it.
    pub kernel: bool,
    /// What is known of its system calls, if they were to be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<SyscallSummary>,
    /// What whoever reads it should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

/// What the health of a trace is in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The samples account for the processor time.
    Good,
    /// They do not.
    Poor,
    /// Too little was measured to say.
    Unknown,
}

impl TraceSummary {
    /// No trace, and why.
    pub fn none(why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..Self::default() }.bounded()
    }

    /// A trace that was begun and came to nothing, and why.
    pub fn failed(tracer: Tracer, why: impl Into<String>) -> Self {
        Self {
            state: TraceState::Failed,
            tracer: Some(tracer),
            why: Some(why.into()),
            ..Self::default()
        }
        .bounded()
    }

    /// The same with the health computed from samples, rate and processor
    /// time, if all of them are known.
    #[must_use]
    pub fn with_health(mut self) -> Self {
        self.samples_over_cpu = match (self.samples, self.hz, self.cpu_seconds)
        {
            (Some(samples), Some(hz), Some(cpu)) if hz > 0 && cpu > 0.0 => {
                Some(samples as f64 / f64::from(hz) / cpu)
            }
            _ => None,
        };
        self
    }

    /// Whether the samples account for the time used.
    pub fn health(&self) -> Health {
        let few = self.samples.is_none_or(|n| n < FEW_SAMPLES);
        let expected = self.hz.zip(self.cpu_seconds);
        let idle = expected
            .is_none_or(|(hz, cpu)| f64::from(hz) * cpu < FEW_SAMPLES as f64);
        match self.samples_over_cpu {
            Some(_) if few && idle => Health::Unknown,
            Some(share) if HEALTHY.contains(&share) => Health::Good,
            Some(_) => Health::Poor,
            None => Health::Unknown,
        }
    }

    /// The same within the bounds: sentences cut and made safe to show,
    /// numbers that are none left out, a reason wherever one is owed.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let short = |text: &str| {
            escape(&text.chars().take(MAX_SENTENCE).collect::<String>())
        };
        self.why = self.why.as_deref().map(short);
        if self.state != TraceState::Stored && self.why.is_none() {
            self.why = Some("the runner did not say why".to_owned());
        }
        self.warnings.truncate(MAX_WARNINGS);
        for warning in &mut self.warnings {
            *warning = short(warning);
        }
        self.syscalls = self.syscalls.map(SyscallSummary::bounded);
        let sane = |n: &f64| n.is_finite() && *n >= 0.0;
        self.share_named = self.share_named.filter(|n| sane(n) && *n <= 1.0);
        self.cpu_seconds = self.cpu_seconds.filter(sane);
        self.samples_over_cpu = self.samples_over_cpu.filter(sane);
        self
    }
}

/// A file of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFile {
    /// The profile, gzip'd pprof.
    Profile,
    /// The flame graph.
    FlameGraph,
    /// System calls by count.
    Syscalls,
}

impl TraceFile {
    fn base(self) -> &'static str {
        match self {
            Self::Profile => "cpu.pb.gz",
            Self::FlameGraph => "flamegraph.svg",
            Self::Syscalls => "syscalls.json",
        }
    }

    /// Its artefact's name in the given repetition, from 1.
    pub fn name(self, repetition: u32) -> String {
        match repetition {
            0 | 1 => format!("{TRACE_DIR}/{}", self.base()),
            n => format!("{TRACE_DIR}/{n}/{}", self.base()),
        }
    }

    /// The repetition, if the artefact of that name is such a file.
    pub fn repetition(self, name: &str) -> Option<u32> {
        let rest = name.strip_prefix(TRACE_DIR)?.strip_prefix('/')?;
        let Some((number, base)) = rest.split_once('/') else {
            return (rest == self.base()).then_some(1);
        };
        let number: u32 = number.parse().ok()?;
        let is_it = base == self.base() && number > 1;
        // Only the one way of writing it, so that no name is there twice.
        (is_it && self.name(number) == name).then_some(number)
    }
}

/// Whether an artefact's name is for the runner alone. A job's own file of
/// such a name could be taken for its trace, so the runner does not send it.
pub fn is_reserved(name: &str) -> bool {
    let name = name.strip_prefix("./").unwrap_or(name);
    let first = name.split('/').next().unwrap_or(name);
    // Somebody may fetch artefacts to a disk that knows no case.
    [TRACE_DIR, EVIDENCE_DIR].iter().any(|dir| first.eq_ignore_ascii_case(dir))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_request_leaves_open_the_repository_says() {
        let asked = TraceOptions { hz: Some(49), ..TraceOptions::default() };
        let wished: TraceOptions =
            serde_json::from_value(json!({"profile": "cpu", "hz": 99}))
                .unwrap();
        let both = asked.or(&wished);
        assert_eq!((both.profile, both.hz), (Some(Profile::Cpu), Some(49)));
    }

    #[test]
    fn options_have_bounds() {
        for (options, is_good) in [
            (json!({}), true),
            (json!({"hz": 1, "repeat": 50, "tracer": "dtrace"}), true),
            (json!({"hz": 0}), false),
            (json!({"hz": 5001}), false),
            (json!({"repeat": 0}), false),
            (json!({"repeat": 51}), false),
            (json!({"tracer": "preload"}), false),
            (json!({"tracer": "strace"}), false),
        ] {
            let read: TraceOptions =
                serde_json::from_value(options.clone()).unwrap();
            assert_eq!(read.check().is_ok(), is_good, "{options}");
        }
        let unknown = json!({"herz": 1});
        assert!(serde_json::from_value::<TraceOptions>(unknown).is_err());
    }

    #[test]
    fn a_trace_that_is_not_there_always_says_why() {
        let summary = TraceSummary::default().bounded();
        assert!(summary.why.is_some());
        let long = TraceSummary::failed(Tracer::Sample, "\u{1b}".repeat(900));
        let why = long.why.unwrap();
        assert!(!why.contains('\u{1b}') && why.len() <= 4 * MAX_SENTENCE);
        let odd = TraceSummary {
            share_named: Some(f64::NAN),
            cpu_seconds: Some(-1.0),
            warnings: vec!["w".to_owned(); 100],
            ..TraceSummary::none("off")
        }
        .bounded();
        assert_eq!((odd.share_named, odd.cpu_seconds), (None, None));
        assert_eq!(odd.warnings.len(), MAX_WARNINGS);
    }

    #[test]
    fn health_is_samples_over_rate_over_cpu() {
        let of = |samples, cpu| {
            TraceSummary {
                samples: Some(samples),
                hz: Some(100),
                cpu_seconds: Some(cpu),
                ..TraceSummary::default()
            }
            .with_health()
        };
        assert_eq!(of(200, 2.0).samples_over_cpu, Some(1.0));
        assert_eq!(of(200, 2.0).health(), Health::Good);
        assert_eq!(of(100, 2.0).health(), Health::Poor);
        assert_eq!(of(0, 2.0).health(), Health::Poor);
        assert_eq!(of(3, 0.01).health(), Health::Unknown);
        assert_eq!(of(5, 0.0).samples_over_cpu, None);
    }

    #[test]
    fn files_of_repetitions_have_one_name_each() {
        let file = TraceFile::Profile;
        assert_eq!(file.name(1), "trace/cpu.pb.gz");
        assert_eq!(file.name(2), "trace/2/cpu.pb.gz");
        for n in [1, 2, 50] {
            assert_eq!(file.repetition(&file.name(n)), Some(n));
        }
        for other in [
            "cpu.pb.gz",
            "trace/1/cpu.pb.gz",
            "trace/02/cpu.pb.gz",
            "trace/+2/cpu.pb.gz",
            "trace/2/x/cpu.pb.gz",
            "trace/flamegraph.svg",
            "trace2/cpu.pb.gz",
        ] {
            assert_eq!(file.repetition(other), None, "{other}");
        }
    }

    #[test]
    fn a_job_cannot_name_a_file_like_a_trace() {
        for bad in ["trace", "trace/cpu.pb.gz", "./trace/x", "Evidence/a"] {
            assert!(is_reserved(bad), "{bad}");
        }
        for good in ["traces/a", "a/trace/b", "evidence.txt", "coverage/x"] {
            assert!(!is_reserved(good), "{good}");
        }
    }
}
