//! Which changes may be believed.
//!
//! A machine that is busier for one batch of runs slows down all of a
//! program alike, by far more than counting does. So a function is held
//! against the rest of the program in the same run: their ratio does not
//! know how fast the machine was. The function that stands out most is
//! called first and then left out of the rest, so that what did not change
//! is not blamed for it. What has no rest to be held against, a program of
//! one function, is judged by its CPU alone, with a larger margin; and so
//! is what changed by more than a machine does.

use super::measure::{Function, Measured};
use super::test::{Found, Runs, less, sum};
use super::{Change, Level, RUNS_CHANGED, RUNS_LIKELY, Row, Unit, rank};
use crate::profile::{Profile, Value};

/// The rate of false discoveries that is accepted.
const FALSE_DISCOVERIES: f64 = 0.05;
/// A function with less of the CPU than this is not tested.
const TESTED_SHARE: f64 = 0.01;
/// A change of less than this part of all CPU is not called.
const FLOOR: f64 = 0.01;
/// A hint needs more: of a single run nobody knows the noise.
const HINT_FLOOR: f64 = 0.02;
/// How likely the noise of counting, and of runs, may be to do the same to
/// any function of a comparison. The rank test alone would call one pair of
/// equal commits in twenty different.
const NOISE: f64 = 0.0005;
/// Below this part of itself a function is not called: so much may change
/// from batch to batch in it alone, by where things lie in memory.
const OWN_DRIFT: f64 = 0.025;
/// The same for what has no rest to be held against.
const DRIFT: f64 = 0.12;
/// Where all functions changed by this much alike, it is told.
const ALIKE: f64 = 0.05;
/// Nothing but a change does this much to a whole program.
const BEYOND_DRIFT: f64 = 0.5;
/// A rest of less than this part of all CPU is none.
const REST: f64 = 0.15;
/// Functions that are called at most.
const MAX_CALLED: usize = 64;

/// Knows the runs, and calls changes.
pub(super) struct Judge {
    unit: Unit,
    totals: Runs,
    /// The CPU of all functions that were not called.
    quiet: Runs,
    /// The larger mean of all CPU of a run, in the unit.
    whole: f64,
    /// All CPU of a run.
    pub(super) total: Change,
    /// By function, whether it was called.
    called: Vec<bool>,
    /// What the runs' CPU as a whole does alike, though nothing was called.
    pub(super) alike: Option<f64>,
}

impl Judge {
    pub(super) fn new(unit: Unit, base: &[&Profile], new: &[&Profile]) -> Self {
        let totals = [base, new].map(|profiles| -> Vec<Value> {
            profiles.iter().map(|profile| profile.total()).collect()
        });
        let total = change(unit, &totals);
        Self {
            unit,
            quiet: totals.clone(),
            totals,
            whole: total.base.max(total.new),
            total,
            called: Vec::new(),
            alike: None,
        }
    }

    /// Judges functions, in the order of `measured`, and the whole. `loud`
    /// is asked, once it is known which functions were called, how much of
    /// the CPU of others was spent in those.
    pub(super) fn judge(
        &mut self,
        rows: &mut [Row],
        measured: &Measured,
        loud: impl FnOnce(&[bool], &[usize]) -> Vec<Runs>,
    ) {
        self.called = vec![false; rows.len()];
        let own: Vec<(usize, Runs)> = self.tested(rows, measured, false);
        let surest = self.call_own(rows, &own);
        let all: Vec<(usize, Runs)> = self.tested(rows, measured, true);
        let which: Vec<usize> = all.iter().map(|(at, _)| *at).collect();
        let loud = match surest {
            Level::NoDifference => Vec::new(),
            _ => loud(&self.called, &which),
        };
        self.call_inclusive(rows, &all, &loud, surest);
        self.call_total(surest);
    }

    /// Gives rows their values; those with enough of the CPU are tested.
    fn tested(
        &self,
        rows: &mut [Row],
        measured: &Measured,
        is_inclusive: bool,
    ) -> Vec<(usize, Runs)> {
        let mut tested = Vec::new();
        for (at, function) in measured.functions.iter().enumerate() {
            let part = self.runs(function, is_inclusive);
            let found = change(self.unit, &part);
            if found.base.max(found.new) >= self.whole * TESTED_SHARE
                && found.base.max(found.new) > 0.0
            {
                tested.push((at, part));
            }
            let row = &mut rows[at];
            match is_inclusive {
                true => row.inclusive = found,
                false => row.own = found,
            }
        }
        tested
    }

    fn runs(&self, function: &Function, is_inclusive: bool) -> Runs {
        [0, 1].map(|side: usize| {
            let mut values = vec![Value::default(); self.totals[side].len()];
            for spent in &function.spent[side] {
                values[spent.run as usize] = match is_inclusive {
                    true => spent.inclusive,
                    false => spent.own,
                };
            }
            values
        })
    }

    /// Calls functions by their own CPU, the one that stands out most
    /// first; gives the surest level.
    fn call_own(&mut self, rows: &mut [Row], own: &[(usize, Runs)]) -> Level {
        let mut surest = Level::NoDifference;
        for rank in 1..=MAX_CALLED {
            let Some((n, change)) = self.next_own(rows, own, rank) else {
                break;
            };
            let (at, part) = &own[n];
            surest = surest.max(change.level);
            rows[*at].own = change;
            self.called[*at] = true;
            self.quiet = less(&self.quiet, part);
        }
        self.tell_chances(rows, own);
        surest
    }

    /// Of those that were not called yet the one that stands out most.
    fn next_own(
        &self,
        rows: &[Row],
        own: &[(usize, Runs)],
        rank: usize,
    ) -> Option<(usize, Change)> {
        let mut best: Option<(f64, usize, Change)> = None;
        for (n, (at, part)) in own.iter().enumerate() {
            if self.called[*at] {
                continue;
            }
            let mut change = rows[*at].own;
            let found = self.against_own(part);
            if best.is_some_and(|(z, ..)| z >= found.z)
                || !self.stands_out(&change, &found, own.len())
            {
                continue;
            }
            let p = found.p(self.fewest());
            let q = (p * own.len() as f64 / rank as f64).min(1.0);
            change.level = self.level(p, q);
            if change.level > Level::NoDifference {
                change.p_noise = Some(found.noise);
                (change.p, change.q) = (Some(p), Some(q));
                best = Some((found.z, n, change));
            }
        }
        best.map(|(_, n, change)| (n, change))
    }

    /// Gives all that were tested their chances.
    fn tell_chances(&self, rows: &mut [Row], own: &[(usize, Runs)]) {
        for (at, part) in own {
            let change = &mut rows[*at].own;
            if !self.called[*at] {
                let found = self.against_own(part);
                change.p_noise = Some(found.noise);
                change.p = Some(found.p(self.fewest()));
            }
            if self.fewest() < RUNS_LIKELY {
                (change.p, change.q) = (None, None);
            }
        }
        if self.fewest() < RUNS_LIKELY {
            return;
        }
        let p = |(at, _): &(usize, Runs)| rows[*at].own.p.unwrap_or(1.0);
        let p: Vec<f64> = own.iter().map(p).collect();
        for ((at, _), q) in own.iter().zip(rank::false_discovery(&p)) {
            let change = &mut rows[*at].own;
            // What it was called by, or better.
            change.q = Some(change.q.map_or(q, |called| called.min(q)));
        }
    }

    fn against_own(&self, part: &Runs) -> Found {
        self.against_rest(part, &less(&self.quiet, part), DRIFT)
    }

    /// A part held against a rest; by itself where there is no rest, with
    /// this margin, or where it changed beyond all drift.
    fn against_rest(&self, part: &Runs, rest: &Runs, margin: f64) -> Found {
        let alone = Found::alone(self.unit, part);
        if !self.is_enough(rest) {
            // A rest that only became small says nothing.
            return match self.is_enough(&less(&self.totals, part)) {
                true => alone.beyond(BEYOND_DRIFT),
                false => alone.beyond(margin),
            };
        }
        let against = Found::against(self.unit, part, rest).beyond(OWN_DRIFT);
        let alone = alone.beyond(BEYOND_DRIFT);
        if alone.is_beyond && !against.is_beyond { alone } else { against }
    }

    fn is_enough(&self, rest: &Runs) -> bool {
        [0, 1].iter().all(|side: &usize| {
            let all = sum(self.unit, &self.totals[*side]);
            let rest = sum(self.unit, &rest[*side]);
            rest > 0.0 && rest >= all * REST
        })
    }

    /// Whether noise does this seldom enough, and it is large enough.
    fn stands_out(
        &self,
        change: &Change,
        found: &Found,
        tested: usize,
    ) -> bool {
        let least = match self.fewest() {
            RUNS_LIKELY.. => FLOOR * self.whole,
            _ => HINT_FLOOR * self.whole,
        };
        // What it is once the machine's speed is taken out of it, and what
        // was measured, have to agree.
        found.is_beyond
            && found.noise * tested as f64 <= NOISE
            && found.by.abs() >= least
            && change.delta.abs() >= least
            && (found.by > 0.0) == (change.delta > 0.0)
    }

    /// The level of what stands out.
    fn level(&self, p: f64, q: f64) -> Level {
        match self.fewest() {
            RUNS_CHANGED.. if q <= FALSE_DISCOVERIES => Level::Changed,
            // So few runs cannot give a chance that survives a correction
            // for many functions: that is left to the noise.
            RUNS_LIKELY.. if p <= FALSE_DISCOVERIES => Level::Likely,
            RUNS_LIKELY.. => Level::NoDifference,
            _ => Level::Hint,
        }
    }

    /// Calls functions by what they called: for what was called in them,
    /// and for what changed in them alike.
    fn call_inclusive(
        &self,
        rows: &mut [Row],
        all: &[(usize, Runs)],
        loud: &[Runs],
        surest: Level,
    ) {
        let none: Runs = self
            .totals
            .each_ref()
            .map(|side| vec![Value::default(); side.len()]);
        let mut tests = Vec::new();
        for (n, (at, part)) in all.iter().enumerate() {
            let loud = loud.get(n).unwrap_or(&none);
            let change = &mut rows[*at].inclusive;
            let by_called = self.against_rest(loud, &self.quiet, DRIFT);
            let in_called = surest > Level::NoDifference
                && self.stands_out(change, &by_called, 1);
            let quiet = less(part, loud);
            let found = match in_called {
                true => by_called,
                false => {
                    let rest = less(&self.quiet, &quiet);
                    self.against_rest(&quiet, &rest, BEYOND_DRIFT)
                }
            };
            change.p_noise = Some(found.noise);
            if self.fewest() >= RUNS_LIKELY {
                change.p = Some(found.p(self.fewest()));
            }
            tests.push((*at, in_called, found));
        }
        let p = |(at, ..): &(usize, bool, Found)| {
            rows[*at].inclusive.p.unwrap_or(1.0)
        };
        let p: Vec<f64> = tests.iter().map(p).collect();
        let q = rank::false_discovery(&p);
        for (((at, in_called, found), p), q) in tests.iter().zip(p).zip(q) {
            let change = &mut rows[*at].inclusive;
            change.q = change.p.map(|_| q);
            let multiple = if *in_called { 1 } else { all.len() };
            if self.stands_out(change, found, multiple) {
                let level = self.level(p, q);
                change.level = match in_called {
                    true => level.min(surest),
                    false => level,
                };
            }
        }
    }

    /// Calls the whole for what was called in it, or beyond all drift.
    fn call_total(&mut self, surest: Level) {
        let mut total = self.total;
        let loud = less(&self.totals, &self.quiet);
        let alone = Found::alone(self.unit, &self.totals);
        let p = alone.p(self.fewest());
        total.p_noise = Some(alone.noise);
        total.p = (self.fewest() >= RUNS_LIKELY).then_some(p);
        let by_called = self.against_rest(&loud, &self.quiet, DRIFT);
        if surest > Level::NoDifference {
            if self.stands_out(&total, &by_called, 1) {
                total.level = surest;
            }
        } else if self.stands_out(&total, &alone.beyond(BEYOND_DRIFT), 1) {
            total.level = self.level(p, p);
        } else if self.stands_out(&total, &alone.beyond(ALIKE), 1)
            && self.level(p, p) > Level::Hint
        {
            self.alike = total.relative;
        }
        self.total = total;
    }

    fn fewest(&self) -> usize {
        self.totals[0].len().min(self.totals[1].len())
    }
}

/// The means of both sides.
fn change(unit: Unit, part: &Runs) -> Change {
    let scale = match unit {
        Unit::Seconds => 1e9,
        Unit::Samples => 1.0,
    };
    let [base, new] = part
        .each_ref()
        .map(|side| sum(unit, side) / side.len().max(1) as f64 / scale);
    let delta = new - base;
    let relative = (base > 0.0).then(|| delta / base);
    Change { base, new, delta, relative, ..Change::default() }
}
