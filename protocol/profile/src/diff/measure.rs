//! How much CPU each function took in each run.

use super::test::Runs;
use crate::frame::FrameKind;
use crate::profile::{Profile, Value};
use crate::strings::{StringId, Strings};

/// What one run spent in a function.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) run: u32,
    pub(super) own: Value,
    pub(super) inclusive: Value,
}

/// A function, in all runs of both commits.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) name: StringId,
    pub(super) kind: FrameKind,
    /// By side; only runs in which it was seen.
    pub(super) spent: [Vec<Spent>; 2],
}

/// All functions of all runs.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) strings: Strings,
    pub(super) functions: Vec<Function>,
    /// The function of each name.
    by_name: Vec<u32>,
    /// By profile, as they were added, and frame: which function, if any.
    maps: Vec<Vec<u32>>,
}

const NONE: u32 = u32::MAX;

impl Measured {
    /// Takes up one run of one side.
    pub(super) fn add(&mut self, side: usize, run: u32, profile: &Profile) {
        // By the profile's frames: which function, if any.
        let functions: Vec<u32> = profile
            .frame_ids()
            .map(|id| {
                let view = profile.view(id);
                match view.kind {
                    FrameKind::Process => NONE,
                    // Addresses without names differ in each run.
                    FrameKind::Unknown if view.name.starts_with("0x") => {
                        self.function("[unknown]", view.kind)
                    }
                    kind => self.function(view.name, kind),
                }
            })
            .collect();
        let mut spent = vec![Spent::default(); self.functions.len()];
        // The last sample in which a function was counted: a function that
        // calls itself is counted once a stack.
        let mut counted = vec![0_u32; self.functions.len()];
        for (stamp, sample) in (1..).zip(profile.samples()) {
            let mut leaf = true;
            for frame in profile.leaf_first(sample.stack) {
                let at = functions[frame.0 as usize];
                if at == NONE {
                    continue;
                }
                let at = at as usize;
                if leaf {
                    spent[at].own.add(sample.value);
                    leaf = false;
                }
                if counted[at] != stamp {
                    counted[at] = stamp;
                    spent[at].inclusive.add(sample.value);
                }
            }
        }
        self.maps.push(functions);
        for (function, spent) in self.functions.iter_mut().zip(spent) {
            if spent.inclusive != Value::default() {
                function.spent[side].push(Spent { run, ..spent });
            }
        }
    }

    /// How much of the CPU of some functions was spent in any of those that
    /// were called, by run. The profiles are those that were added, in the
    /// same order.
    pub(super) fn spent_in(
        &self,
        sides: [&[&Profile]; 2],
        called: &[bool],
        which: &[usize],
    ) -> Vec<Runs> {
        let none = sides.map(|side| vec![Value::default(); side.len()]);
        let mut all: Vec<Runs> = vec![none; which.len()];
        let mut place = vec![NONE; self.functions.len()];
        for (n, at) in (0..).zip(which) {
            place[*at] = n;
        }
        let mut maps = self.maps.iter();
        for (side, profiles) in sides.into_iter().enumerate() {
            for (run, profile) in profiles.iter().enumerate() {
                let map = maps.next().expect("it was added");
                let mut seen = vec![0_u32; which.len()];
                for (stamp, sample) in (1..).zip(profile.samples()) {
                    let mut known = profile
                        .leaf_first(sample.stack)
                        .map(|frame| map[frame.0 as usize])
                        .filter(|at| *at != NONE)
                        .peekable();
                    let leaf = known.peek();
                    if !leaf.is_some_and(|leaf| called[*leaf as usize]) {
                        continue;
                    }
                    for at in known {
                        let n = place[at as usize] as usize;
                        // Whoever calls itself is counted once.
                        if n < which.len() && seen[n] != stamp {
                            seen[n] = stamp;
                            all[n][side][run].add(sample.value);
                        }
                    }
                }
            }
        }
        all
    }

    fn function(&mut self, name: &str, kind: FrameKind) -> u32 {
        let name = self.strings.intern(name);
        let at = name.0 as usize;
        if self.by_name.len() <= at {
            self.by_name.resize(at + 1, NONE);
        }
        if self.by_name[at] == NONE {
            self.by_name[at] = self.functions.len() as u32;
            let spent = [Vec::new(), Vec::new()];
            self.functions.push(Function { name, kind, spent });
        }
        self.by_name[at]
    }
}
