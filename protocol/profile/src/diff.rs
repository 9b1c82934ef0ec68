//! What changed between two commits, and whether one may believe it.
//!
//! Functions are ranked by the CPU that they took *themselves*, absolute
//! before relative; what they took with their callees stands beside it.
//! With four runs or more of each commit the judgement is an exact rank
//! test per function, corrected for their number; with fewer, only large
//! changes are called, and only hints. A change also has to be large enough
//! to matter, and has to stand out of the rest of the program, which the
//! machine slows down alike. Wall time is never looked at.

mod judge;
mod measure;
mod rank;
mod table;
mod test;

use serde::Serialize;

use crate::frame::FrameKind;
use crate::profile::Profile;
use judge::Judge;
use measure::Measured;

/// Runs of each commit for the strongest word.
const RUNS_CHANGED: usize = 8;
/// Runs of each commit for a test at all.
const RUNS_LIKELY: usize = 4;
/// Rows that are kept.
const MAX_ROWS: usize = 1000;

/// How sure it is that something changed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize,
)]
pub enum Level {
    /// Nothing that stands out of the noise.
    #[default]
    #[serde(rename = "no difference seen")]
    NoDifference,
    /// Large, but from too few runs to know.
    #[serde(rename = "hint")]
    Hint,
    /// Tested, from four to seven runs of each.
    #[serde(rename = "likely")]
    Likely,
    /// Tested, from eight runs of each or more.
    #[serde(rename = "changed")]
    Changed,
}

impl Level {
    /// The words for it.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoDifference => "no difference seen",
            Self::Hint => "hint",
            Self::Likely => "likely",
            Self::Changed => "changed",
        }
    }
}

/// A measure of both commits; means over their runs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Change {
    /// Of the base.
    pub base: f64,
    /// Of the new commit.
    pub new: f64,
    /// New less base.
    pub delta: f64,
    /// Part of the base; `null` when the base is 0.
    pub relative: Option<f64>,
    /// The probability that noise of counting and of runs does as much, for
    /// what has enough of the CPU to be tested.
    pub p_noise: Option<f64>,
    /// The probability by the rank test, where there are enough runs.
    pub p: Option<f64>,
    /// The rate of false discoveries if this is called, where tested.
    pub q: Option<f64>,
    /// How sure it is.
    pub level: Level,
}

/// A function of both commits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub function: String,
    /// What kind of code it is.
    pub kind: FrameKind,
    /// In the function itself.
    pub own: Change,
    /// With all that it called.
    pub inclusive: Change,
}

/// One commit of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Commit {
    /// `owner/name`, or empty.
    pub repository: String,
    /// The commit's digits, or empty.
    pub commit: String,
    /// Runs that were compared.
    pub runs: usize,
    /// Samples of all runs.
    pub samples: u64,
    /// Samples that were lost, of all runs.
    pub lost: u64,
}

/// What the numbers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds of CPU.
    Seconds,
    /// Samples; when a profile does not know its rate.
    Samples,
}

/// What changed between two commits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// What it is compared with.
    pub base: Commit,
    /// What is compared.
    pub new: Commit,
    /// What the numbers count.
    pub unit: Unit,
    /// All CPU of a run.
    pub total: Change,
    /// Functions: those that are called by their own CPU, then the others;
    /// the largest change of their own first.
    pub rows: Vec<Row>,
    /// Functions that are not in `rows`, since they changed less.
    pub omitted: usize,
    /// The surest of all levels.
    pub level: Level,
    /// The part by which all CPU changed where all functions changed alike,
    /// as on a slower machine: then none is called.
    pub alike: Option<f64>,
    /// What one should know before believing it.
    pub notes: Vec<String>,
}

/// Compares the runs of two commits.
pub fn diff(base: &[&Profile], new: &[&Profile]) -> Diff {
    let timed = |p: &&&Profile| p.is_empty() || p.total().cpu_ns > 0;
    let unit = match base.iter().chain(new).all(|p| timed(&p)) {
        true => Unit::Seconds,
        false => Unit::Samples,
    };
    let mut measured = Measured::default();
    for (side, profiles) in [base, new].into_iter().enumerate() {
        for (run, profile) in (0..).zip(profiles) {
            measured.add(side, run, profile);
        }
    }
    let mut rows: Vec<Row> = measured
        .functions
        .iter()
        .map(|function| Row {
            function: measured.strings.get(function.name).to_owned(),
            kind: function.kind,
            own: Change::default(),
            inclusive: Change::default(),
        })
        .collect();
    let mut judge = Judge::new(unit, base, new);
    judge.judge(&mut rows, &measured, |called, which| {
        measured.spent_in([base, new], called, which)
    });
    rows.sort_by(|a, b| {
        let by = |change: fn(&Row) -> &Change| {
            change(b).delta.abs().total_cmp(&change(a).delta.abs())
        };
        let is_called = |row: &Row| row.own.level > Level::NoDifference;
        is_called(b)
            .cmp(&is_called(a))
            .then(by(|row| &row.own))
            .then(by(|row| &row.inclusive))
            .then_with(|| a.function.cmp(&b.function))
    });
    let levels = rows.iter().map(|row| row.own.level.max(row.inclusive.level));
    let level = levels.max().unwrap_or_default().max(judge.total.level);
    let omitted = rows.len().saturating_sub(MAX_ROWS);
    rows.truncate(MAX_ROWS);
    Diff {
        base: commit(base),
        new: commit(new),
        unit,
        total: judge.total,
        rows,
        omitted,
        level,
        alike: judge.alike,
        notes: notes(base, new),
    }
}

fn commit(profiles: &[&Profile]) -> Commit {
    let header = profiles.first().map(|p| p.header.clone());
    let header = header.unwrap_or_default();
    let samples = |p: &&Profile| p.total().samples;
    Commit {
        repository: header.repository,
        commit: header.commit,
        runs: profiles.len(),
        samples: profiles.iter().map(samples).sum(),
        lost: profiles.iter().map(|p| p.header.lost).sum(),
    }
}

/// What one should know before believing a comparison.
fn notes(base: &[&Profile], new: &[&Profile]) -> Vec<String> {
    let mut notes = Vec::new();
    let fewest = base.len().min(new.len());
    if fewest < RUNS_LIKELY {
        notes.push(format!(
            "{fewest} run{} of a commit can give hints only; \
             repeat it {RUNS_CHANGED} times to be sure",
            if fewest == 1 { "" } else { "s" },
        ));
    }
    let all = || base.iter().chain(new).map(|profile| &profile.header);
    let first = all().next();
    if all().any(|header| Some(header.hz) != first.map(|f| f.hz)) {
        notes.push("the rates of sampling differ".to_owned());
    }
    if all().any(|header| Some(&header.tracer) != first.map(|f| &f.tracer)) {
        notes.push("the tracers differ".to_owned());
    }
    for (word, side) in [("base", base), ("new", new)] {
        if side.iter().all(|profile| profile.is_empty()) {
            notes.push(format!("the {word} commit has no samples"));
        }
    }
    notes
}
