//! One part of the CPU, held against another or by itself: by how much it
//! changed, and how likely noise does as much.

use super::{RUNS_LIKELY, Unit, rank};
use crate::profile::Value;

/// How many standard deviations of noise a change needs at least.
const LEAST_Z: f64 = 3.3;
/// From run to run a function varies by this much at least against the rest
/// of its program, whatever a few runs happen to show.
const STEADY: f64 = 0.01;
/// The same of CPU that is held against nothing.
const STEADY_ALONE: f64 = 0.02;
/// Between runs of one commit CPU time varies by 2 to 5 % as a whole. It is
/// taken for this where there are too few runs to see it.
const UNSEEN: f64 = 0.05;

/// A part of the CPU in each run, by side.
pub(super) type Runs = [Vec<Value>; 2];

/// What was found out about a part.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// By how much it changed, in the unit, for one run; as it would be had
    /// the machine been as fast for both sides, where that is known.
    pub(super) by: f64,
    /// The same as a part of the larger side.
    share: f64,
    /// In standard deviations of noise.
    pub(super) z: f64,
    /// How likely noise does as much.
    pub(super) noise: f64,
    /// Whether it changed by more than drift does.
    pub(super) is_beyond: bool,
    /// What the rank test is over.
    ranked: [Vec<u64>; 2],
}

impl Found {
    /// A part held against the rest of its program, run by run.
    pub(super) fn against(unit: Unit, part: &Runs, rest: &Runs) -> Self {
        let of = |side: usize| Ratio::new(unit, &part[side], &rest[side]);
        let (base, new) = (of(0), of(1));
        let shared = (base.part + new.part) / (base.rest + new.rest).max(1.0);
        // Of both together: the few runs of one side scatter by chance.
        let expected = base.expected(shared) + new.expected(shared);
        let variance = expected.max(base.seen + new.seen);
        let by = new.ratio - base.ratio;
        let larger = new.ratio.max(base.ratio);
        let ranked = [0, 1].map(|side: usize| {
            part[side]
                .iter()
                .zip(&rest[side])
                .map(|(part, rest)| {
                    let rest = weight(unit, *rest).max(1) as f64;
                    (weight(unit, *part) as f64 / rest * 1e9) as u64
                })
                .collect()
        });
        Self::new(by, larger, variance, base.speed(unit), ranked)
    }

    /// A part by itself.
    pub(super) fn alone(unit: Unit, part: &Runs) -> Self {
        let of = |side: &Vec<Value>| {
            let counts: Vec<f64> =
                side.iter().map(|value| value.samples as f64).collect();
            let runs = counts.len().max(1) as f64;
            let mean = counts.iter().sum::<f64>() / runs;
            let (steady, seen) = match counts.len() {
                RUNS_LIKELY.. => (STEADY_ALONE, spread(&counts, mean)),
                _ => (UNSEEN, 0.0),
            };
            let least = mean + (mean * steady).powi(2);
            (mean, seen.max(least) / runs)
        };
        let (base, new) = (of(&part[0]), of(&part[1]));
        let ranked = part.each_ref().map(|side| -> Vec<u64> {
            side.iter().map(|value| weight(unit, *value)).collect()
        });
        let (by, larger) = (new.0 - base.0, new.0.max(base.0));
        let each = value_of_a_sample(unit, part);
        Self::new(by, larger, base.1 + new.1, each, ranked)
    }

    fn new(
        by: f64,
        larger: f64,
        variance: f64,
        scale: f64,
        ranked: [Vec<u64>; 2],
    ) -> Self {
        let z = match variance > 0.0 {
            true => by.abs() / variance.sqrt(),
            false => 0.0,
        };
        let noise = if z > LEAST_Z { rank::two_sided(z) } else { 1.0 };
        let share = if larger > 0.0 { by.abs() / larger } else { 0.0 };
        let by = by * scale;
        Self { by, share, z, noise, is_beyond: true, ranked }
    }

    /// The same, knowing how much drift does.
    pub(super) fn beyond(&self, drift: f64) -> Self {
        Self { is_beyond: self.share >= drift, ..self.clone() }
    }

    /// The chance by the rank test; 1 where there are too few runs.
    pub(super) fn p(&self, fewest: usize) -> f64 {
        match fewest {
            RUNS_LIKELY.. => rank::rank_test(&self.ranked[0], &self.ranked[1]),
            _ => 1.0,
        }
    }
}

/// A part and the rest of one side, over all runs.
struct Ratio {
    /// In samples.
    part: f64,
    rest: f64,
    ratio: f64,
    runs: f64,
    /// The variance of the ratio that the runs show.
    seen: f64,
    steady: f64,
    /// The rest of one run, in the unit.
    mean_rest: f64,
}

impl Ratio {
    fn new(unit: Unit, part: &[Value], rest: &[Value]) -> Self {
        let runs = part.len().max(1) as f64;
        let count = |all: &[Value]| -> f64 {
            all.iter().map(|value| value.samples as f64).sum()
        };
        let (all_part, all_rest) = (sum(unit, part), sum(unit, rest));
        let ratio = all_part / all_rest.max(1.0);
        let mean_rest = all_rest / runs;
        let off: Vec<f64> = part
            .iter()
            .zip(rest)
            .map(|(part, rest)| {
                let expected = ratio * weight(unit, *rest) as f64;
                weight(unit, *part) as f64 - expected
            })
            .collect();
        let (steady, seen) = match part.len() {
            RUNS_LIKELY.. => {
                (STEADY, spread(&off, 0.0) / mean_rest.max(1.0).powi(2) / runs)
            }
            _ => (UNSEEN, 0.0),
        };
        let (part, rest) = (count(part), count(rest));
        Self { part, rest, ratio, runs, seen, steady, mean_rest }
    }

    /// The noise of counting and of runs in the ratio, if both sides share
    /// one.
    fn expected(&self, shared: f64) -> f64 {
        let counting = (shared + shared * shared) / self.rest.max(1.0);
        counting + (self.steady * shared).powi(2) / self.runs
    }

    /// What a ratio of one is of one run, in seconds or samples.
    fn speed(&self, unit: Unit) -> f64 {
        match unit {
            Unit::Seconds => self.mean_rest / 1e9,
            Unit::Samples => self.mean_rest,
        }
    }
}

fn value_of_a_sample(unit: Unit, part: &Runs) -> f64 {
    let all = part.iter().flatten();
    let (mut samples, mut ns) = (0.0, 0.0);
    for value in all {
        samples += value.samples as f64;
        ns += value.cpu_ns as f64;
    }
    match unit {
        Unit::Seconds if samples > 0.0 => ns / samples / 1e9,
        _ => 1.0,
    }
}

/// The variance around this mean.
fn spread(values: &[f64], mean: f64) -> f64 {
    let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    sum / (values.len() as f64 - 1.0).max(1.0)
}

fn weight(unit: Unit, value: Value) -> u64 {
    match unit {
        Unit::Seconds => value.cpu_ns,
        Unit::Samples => value.samples,
    }
}

/// The sum of all runs, in nanoseconds or samples.
pub(super) fn sum(unit: Unit, runs: &[Value]) -> f64 {
    runs.iter().map(|value| weight(unit, *value) as f64).sum()
}

/// One part without another, which is in it.
pub(super) fn less(all: &Runs, part: &Runs) -> Runs {
    [0, 1].map(|side: usize| {
        all[side]
            .iter()
            .zip(&part[side])
            .map(|(all, part)| Value {
                samples: all.samples.saturating_sub(part.samples),
                cpu_ns: all.cpu_ns.saturating_sub(part.cpu_ns),
            })
            .collect()
    })
}
