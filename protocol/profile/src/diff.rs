//! What changed between two commits, and whether one may believe it.
//!
//! Functions are ranked by the CPU that they took *themselves*, absolute
//! before relative; what they took with their callees stands beside it.
//! With four runs or more of each commit the judgement is an exact rank
//! test per function, corrected for their number; with fewer, only large
//! changes are called, and only hints. A change also has to be large enough
//! to matter, and larger than what a machine drifts between two batches of
//! runs. Wall time is never looked at.

mod measure;
mod rank;
mod table;

use serde::Serialize;

use crate::frame::FrameKind;
use crate::profile::{Profile, Value};
use measure::{Function, Measured, Spent};

/// The rate of false discoveries that is accepted.
const FALSE_DISCOVERIES: f64 = 0.05;
/// A function with less of the CPU than this is not tested.
const TESTED_SHARE: f64 = 0.01;
/// A change of less than this part of all CPU is not called.
const FLOOR: f64 = 0.01;
/// A hint needs more: of a single run nobody knows the noise.
const HINT_FLOOR: f64 = 0.02;
/// How many standard deviations of noise a change needs at least.
const LEAST_Z: f64 = 3.3;
/// How likely the noise of counting, and of runs, may be to do the same to
/// any function of a comparison. The rank test alone would call one pair of
/// equal commits in twenty different.
const NOISE: f64 = 0.0001;
/// Between runs of one commit CPU time varies by 2 to 5 % as a whole; the
/// batches of two commits do not share it. A change of less than this part
/// of the function's own time is not called.
const DRIFT: f64 = 0.05;
/// No machine is steadier than this from run to run, whatever a few runs
/// happen to show.
const STEADY: f64 = 0.02;
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
    /// Functions, the largest change of their own first.
    pub rows: Vec<Row>,
    /// Functions that are not in `rows`, since they changed less.
    pub omitted: usize,
    /// The surest of all levels.
    pub level: Level,
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
    let judge = Judge::new(unit, base, new);
    let mut rows: Vec<Row> = measured
        .functions
        .iter()
        .map(|function| Row {
            function: measured.strings.get(function.name).to_owned(),
            kind: function.kind,
            own: judge.change(function, |spent| spent.own),
            inclusive: judge.change(function, |spent| spent.inclusive),
        })
        .collect();
    judge.call(&mut rows, |row| &mut row.own);
    judge.call(&mut rows, |row| &mut row.inclusive);
    rows.sort_by(|a, b| {
        let by = |change: fn(&Row) -> &Change| {
            change(b).delta.abs().total_cmp(&change(a).delta.abs())
        };
        by(|row| &row.own)
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

/// Knows the runs, and calls changes.
struct Judge {
    unit: Unit,
    runs: [usize; 2],
    total: Change,
    /// The larger mean of all CPU of a run.
    whole: f64,
}

impl Judge {
    fn new(unit: Unit, base: &[&Profile], new: &[&Profile]) -> Self {
        let runs = [base.len(), new.len()];
        let total = Change::default();
        let mut judge = Self { unit, runs, total, whole: 0.0 };
        let totals = |profiles: &[&Profile]| -> Vec<Value> {
            profiles.iter().map(|profile| profile.total()).collect()
        };
        let values = [totals(base), totals(new)];
        judge.total = judge.compare(&values);
        judge.whole = judge.total.base.max(judge.total.new);
        judge.total.level = judge.level(&judge.total, 1);
        judge
    }

    fn weight(&self, value: Value) -> u64 {
        match self.unit {
            Unit::Seconds => value.cpu_ns,
            Unit::Samples => value.samples,
        }
    }

    /// The values of a function in every run.
    fn change(&self, function: &Function, of: fn(&Spent) -> Value) -> Change {
        let values = [0, 1].map(|side: usize| {
            let mut values = vec![Value::default(); self.runs[side]];
            for spent in &function.spent[side] {
                values[spent.run as usize] = of(spent);
            }
            values
        });
        self.compare(&values)
    }

    fn compare(&self, values: &[Vec<Value>; 2]) -> Change {
        let weights = values.each_ref().map(|side| -> Vec<u64> {
            side.iter().map(|value| self.weight(*value)).collect()
        });
        let scale = match self.unit {
            Unit::Seconds => 1e9,
            Unit::Samples => 1.0,
        };
        let [base, new] = weights.each_ref().map(|side| mean(side) / scale);
        let delta = new - base;
        let relative = (base > 0.0).then(|| delta / base);
        let mut change =
            Change { base, new, delta, relative, ..Change::default() };
        // Until the whole is known nothing is too small to be tested.
        if base.max(new) < self.whole * TESTED_SHARE || base.max(new) <= 0.0 {
            return change;
        }
        if self.fewest() >= RUNS_LIKELY {
            change.p = Some(rank::rank_test(&weights[0], &weights[1]));
        }
        let z = z(values);
        let chance = if z > LEAST_Z { rank::two_sided(z) } else { 1.0 };
        change.p_noise = Some(chance);
        change
    }

    fn fewest(&self) -> usize {
        self.runs[0].min(self.runs[1])
    }

    /// Gives the tested rows their rate of false discoveries and level.
    fn call(&self, rows: &mut [Row], of: fn(&mut Row) -> &mut Change) {
        let mut tested: Vec<&mut Change> = rows
            .iter_mut()
            .map(of)
            .filter(|change| change.p_noise.is_some())
            .collect();
        let p: Vec<f64> =
            tested.iter().map(|change| change.p.unwrap_or(1.0)).collect();
        let q = rank::false_discovery(&p);
        let count = tested.len();
        for (change, q) in tested.iter_mut().zip(q) {
            change.q = change.p.map(|_| q);
            change.level = self.level(change, count);
        }
    }

    /// How sure a change is, which is one of so many that were tested.
    fn level(&self, change: &Change, tested: usize) -> Level {
        let size = change.delta.abs();
        let larger = change.base.max(change.new);
        let whole = self.whole.max(larger);
        let noise = change.p_noise.unwrap_or(1.0) * tested as f64;
        if noise > NOISE || size < whole * FLOOR || size < larger * DRIFT {
            return Level::NoDifference;
        }
        let q = change.q.or(change.p).unwrap_or(1.0);
        let beyond_chance = q <= FALSE_DISCOVERIES;
        match self.fewest() {
            RUNS_CHANGED.. if beyond_chance => Level::Changed,
            RUNS_LIKELY.. if beyond_chance => Level::Likely,
            RUNS_LIKELY.. => Level::NoDifference,
            _ if size >= whole * HINT_FLOOR => Level::Hint,
            _ => Level::NoDifference,
        }
    }
}

fn mean(values: &[u64]) -> f64 {
    let sum: f64 = values.iter().map(|value| *value as f64).sum();
    sum / values.len().max(1) as f64
}

/// By how many standard deviations the means of two groups of runs differ.
///
/// A run's noise is that of counting and that of one run against the next.
/// The latter is seen where there are enough runs, and is never taken for
/// less than `STEADY`; of few runs it is taken for `DRIFT`.
fn z(values: &[Vec<Value>; 2]) -> f64 {
    let [base, new] = values.each_ref().map(|side| {
        let counts: Vec<u64> = side.iter().map(|v| v.samples).collect();
        let runs = counts.len().max(1) as f64;
        let mean = mean(&counts);
        let (least, seen) = if counts.len() < RUNS_LIKELY {
            (DRIFT, 0.0)
        } else {
            let off = |count: &u64| (*count as f64 - mean).powi(2);
            let sum: f64 = counts.iter().map(off).sum();
            (STEADY, sum / (runs - 1.0))
        };
        let variance = seen.max(mean + (mean * least).powi(2));
        (mean, variance / runs)
    });
    let variance = base.1 + new.1;
    if variance <= 0.0 {
        return 0.0;
    }
    (new.0 - base.0).abs() / variance.sqrt()
}
