//! What vmadm, zlogin and the metadata programs answer, case by case, as
//! written down for the original: exit status, stdout, stderr and the state
//! afterwards.
//!
//! The cases are numbered 1 to 57 and stand in tables by subject. One test
//! runs them all, says how many hold, and names each that Linux cannot show.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../host/mod.rs"]
mod host;

mod bench;
mod create;
mod faults;
mod list;
mod metadata;
mod more;
mod power;
mod races;
mod snapshots;
mod zlogin;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bench::Case;
use host::Host;

/// How many cases there are.
const CASES: u8 = 57;

/// What cannot be shown here, and why.
const NOT_SHOWN: [(u8, &str); 2] = [
    (43, "not root: root is not needed here, so nothing is refused"),
    (45, "a snapshot made past vmadm: there is no other way to make one"),
];

/// The tables, each with a state root of its own.
const SUBJECTS: [(&str, &[Case]); 7] = [
    ("snapshots", &snapshots::CASES),
    ("power", &power::CASES),
    ("races", &races::CASES),
    ("list", &list::CASES),
    ("create", &create::CASES),
    ("zlogin", &zlogin::CASES),
    ("metadata", &metadata::CASES),
];

/// Runs a table; says of each case whether it holds.
fn run(cases: &[Case]) -> Vec<(u8, bool)> {
    let host = Host::new();
    let mut held = Vec::new();
    for case in cases {
        let done = catch_unwind(AssertUnwindSafe(|| case.check(&host)));
        held.push((case.number, done.is_ok()));
        bench::clear(&host);
    }
    held
}

#[test]
fn each_case_that_linux_can_show_holds() {
    let mut held: BTreeMap<u8, bool> = BTreeMap::new();
    std::thread::scope(|scope| {
        let groups: Vec<_> = SUBJECTS
            .iter()
            .map(|(subject, cases)| {
                std::thread::Builder::new()
                    .name((*subject).to_owned())
                    .spawn_scoped(scope, || run(cases))
                    .unwrap()
            })
            .collect();
        for group in groups {
            for (number, holds) in group.join().unwrap() {
                // A case of two rows holds if both do.
                *held.entry(number).or_insert(true) &= holds;
            }
        }
    });
    let good = held.values().filter(|holds| **holds).count();
    println!("{good} of {CASES} cases hold");
    for (number, why) in NOT_SHOWN {
        println!("case {number} cannot be shown on Linux: {why}");
        assert!(!held.contains_key(&number), "case {number} is both");
    }
    let missing: Vec<u8> = (1..=CASES)
        .filter(|n| NOT_SHOWN.iter().all(|(not, _)| not != n))
        .filter(|n| held.get(n) != Some(&true))
        .collect();
    assert_eq!(missing, [0_u8; 0], "these cases do not hold");
    assert_eq!(good + NOT_SHOWN.len(), usize::from(CASES));
}
