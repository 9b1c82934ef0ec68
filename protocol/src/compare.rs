//! Looking at traces: which one is meant, in which format, and how two sides
//! differ.
//!
//! Must not know how a profile is read or drawn.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::id::{JobId, JobRef, RunId, WorkerUuid};
use crate::name::{Commit, Owner, Repo};
use crate::spec::Source;
use crate::text::quote;
use crate::trace::Tracer;
use crate::unit::Timestamp;

/// The most rows of a difference.
pub const MAX_ROWS: u32 = 500;
/// Rows of a difference unless the caller says otherwise.
pub const ROWS: u32 = 30;

/// Traces that a caller names: a job's id or a prefix of it, a run's id, or
/// all done runs of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceRef {
    /// A job or a run.
    Id(JobRef),
    /// A commit.
    Commit(Source),
}

impl FromStr for TraceRef {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        let Some((repository, commit)) = text.split_once('@') else {
            return text.parse().map(Self::Id).map_err(|_| refused(text));
        };
        let (owner, repo) =
            repository.split_once('/').ok_or_else(|| refused(text))?;
        let on_id = |error: WireError| error.on("id");
        Ok(Self::Commit(Source {
            owner: owner.parse::<Owner>().map_err(on_id)?,
            repo: repo.parse::<Repo>().map_err(on_id)?,
            commit: commit.parse::<Commit>().map_err(on_id)?,
        }))
    }
}

fn refused(text: &str) -> WireError {
    WireError::invalid(
        "id",
        format!(
            "{} names no trace: give a job's id or at least its first 8 \
             characters, a run's id, or owner/repo@commit",
            quote(text)
        ),
    )
}

impl fmt::Display for TraceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Commit(Source { owner, repo, commit }) => {
                write!(f, "{owner}/{repo}@{commit}")
            }
        }
    }
}

/// What a profile can be had as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The profile itself: gzip'd pprof.
    Pprof,
    /// A line for each stack, root first, `;` between frames, then a count.
    Folded,
    /// For speedscope.app.
    Speedscope,
    /// For profiler.firefox.com.
    Firefox,
    /// A flame graph.
    Svg,
    /// A flame graph of the new side; red is more, blue is less than in the
    /// base.
    DiffSvg,
    /// A flame graph of the base, which shows what is gone.
    DiffSvgBase,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pprof,
        Self::Folded,
        Self::Speedscope,
        Self::Firefox,
        Self::Svg,
        Self::DiffSvg,
        Self::DiffSvgBase,
    ];

    /// The format as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pprof => "pprof",
            Self::Folded => "folded",
            Self::Speedscope => "speedscope",
            Self::Firefox => "firefox",
            Self::Svg => "svg",
            Self::DiffSvg => "diff-svg",
            Self::DiffSvgBase => "diff-svg-base",
        }
    }

    /// What a file of it is called after a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Pprof => "pb.gz",
            Self::Folded => "folded",
            Self::Speedscope => "speedscope.json",
            Self::Firefox => "firefox.json",
            Self::Svg => "svg",
            Self::DiffSvg => "diff.svg",
            Self::DiffSvgBase => "diff-base.svg",
        }
    }

    /// What kind of document it is.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Pprof => "application/gzip",
            Self::Folded => "text/plain; charset=utf-8",
            Self::Speedscope | Self::Firefox => "application/json",
            Self::Svg | Self::DiffSvg | Self::DiffSvgBase => "image/svg+xml",
        }
    }

    /// Whether it takes two sides.
    pub fn is_difference(self) -> bool {
        matches!(self, Self::DiffSvg | Self::DiffSvgBase)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        let found = Self::ALL.into_iter().find(|f| f.as_str() == text);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            WireError::invalid(
                "format",
                format!("{} is no format; there are {all}", quote(text)),
            )
        })
    }
}

/// A document that was made of traces: what `flame` and `export` answer
/// before its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// A name for a file.
    pub name: String,
    /// What kind it is.
    pub mime: String,
    /// Its size.
    pub bytes: u64,
    /// The hash of its content, in hex.
    pub sha256: String,
    /// The side that it shows.
    pub of: Side,
    /// The other side, of a difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// What whoever looks at it should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The runs that one side is made of, and what they come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Its runs, newest first.
    pub runs: Vec<SideRun>,
    /// The commit, unless there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How many profiles it has.
    pub profiles: u32,
    /// Samples in all of them.
    pub samples: u64,
    /// Processor time in all of them, in seconds.
    pub cpu_seconds: f64,
}

/// One run of a side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideRun {
    /// Its job.
    pub job: JobId,
    /// The run.
    pub run_id: RunId,
    /// When the job was submitted.
    pub submitted: Timestamp,
    /// In which worker it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerUuid>,
    /// What traced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracer: Option<Tracer>,
    /// Samples a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
}

/// The side to compare with, and why this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Why it was chosen.
    pub why: String,
    /// It.
    #[serde(flatten)]
    pub side: Side,
}

/// How sure a difference is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No difference seen.
    None,
    /// One of few runs hints at it.
    Hint,
    /// Some runs agree on it.
    Likely,
    /// Enough runs agree on it.
    Changed,
}

impl Level {
    /// The level in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "no difference seen",
            Self::Hint => "hint",
            Self::Likely => "likely",
            Self::Changed => "changed",
        }
    }
}

/// What a measure counts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds of processor time.
    #[default]
    Seconds,
    /// Samples, where a profile does not know its rate.
    Samples,
}

/// A measure of both sides, for one run of the command.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// In the base.
    pub base: f64,
    /// In the new side.
    pub new: f64,
    /// How sure it is that they differ.
    pub level: Level,
    /// The chance of such a difference where there is none, corrected for
    /// the number of functions; absent where it was not tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<f64>,
}

/// A function in both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffRow {
    /// Its name.
    pub name: String,
    /// Time in it.
    #[serde(rename = "self")]
    pub own: Measure,
    /// Time in it and in what it calls.
    pub inclusive: Measure,
}

/// How two sides differ: what `diff` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffView {
    /// What it is compared with.
    pub base: Base,
    /// What is compared.
    pub new: Side,
    /// What the measures count.
    #[serde(default)]
    pub unit: Unit,
    /// All processor time.
    pub total: Measure,
    /// Functions by the size of the change in their own time.
    pub rows: Vec<DiffRow>,
    /// How many more functions there are.
    pub left_out: u64,
    /// What whoever reads it should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One link of the chain that `why` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyStep {
    /// When, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Timestamp>,
    /// What, in a sentence.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0f16cfe0d6a3b8e87229c91bee901fad5dae9878";

    #[test]
    fn a_trace_is_named_by_job_run_or_commit() {
        let commit = format!("dscape/nano@{SHA}");
        for good in [
            "0192d3a4",
            "0192d3a4-5b6c-7d8e-9f00-112233445566",
            commit.as_str(),
        ] {
            let read: TraceRef = good.parse().unwrap();
            assert_eq!(read.to_string(), good);
        }
        for bad in [
            "",
            "short",
            "nano",
            "dscape/nano",
            "dscape/nano@HEAD",
            "@",
            "a@b@c",
            "../x/y@0f16",
            "--help",
        ] {
            let error = bad.parse::<TraceRef>().unwrap_err();
            assert_eq!(error.field.as_deref(), Some("id"), "{bad}");
        }
    }

    #[test]
    fn a_format_has_one_name() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
            let written = serde_json::to_value(format).unwrap();
            assert_eq!(written, format.as_str());
        }
        let error = "SVG".parse::<Format>().unwrap_err();
        assert!(error.message.contains("pprof, folded"));
    }
}
