//! Which pid of the zone is which pid of this machine.
//!
//! perf records the machine's, runtimes name their maps by the zone's. What
//! has died cannot be asked any more, so the group is looked at while it
//! lives.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// Pairs that are remembered; a zone of more processes than this has no
/// names for what the later ones compiled.
const PAIRS_MAX: usize = 200_000;

/// The pairs.
#[derive(Debug, Default)]
pub(super) struct Pids {
    alive: HashSet<u32>,
    /// By the zone's number: who had it, in turn.
    pairs: HashMap<u32, Vec<u32>>,
    count: usize,
}

impl Pids {
    /// Looks at who is in the group now.
    pub(super) fn look(&mut self, group: &Path) {
        let Ok(text) = fs::read_to_string(group.join("cgroup.procs")) else {
            return;
        };
        self.take(&text, |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            innermost(&status.ok()?)
        });
    }

    fn take(&mut self, procs: &str, inner: impl Fn(u32) -> Option<u32>) {
        let now: HashSet<u32> =
            procs.lines().filter_map(|line| line.parse().ok()).collect();
        for host in now.difference(&self.alive) {
            if self.count >= PAIRS_MAX {
                break;
            }
            if let Some(inner) = inner(*host) {
                self.pairs.entry(inner).or_default().push(*host);
                self.count += 1;
            }
        }
        self.alive = now;
    }

    /// The pids of this machine that had a pid of the zone.
    pub(super) fn of(&self, inner: u32) -> &[u32] {
        self.pairs.get(&inner).map_or(&[], Vec::as_slice)
    }
}

/// The pid in the innermost namespace, by `/proc/PID/status`.
fn innermost(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zones_pids_are_remembered_after_their_end() {
        let mut pids = Pids::default();
        let inner = |pid| Some(pid - 1000);
        pids.take("1007\n1008\n", inner);
        pids.take("1008\n", inner);
        pids.take("", inner);
        assert_eq!(pids.of(7), [1007]);
        assert_eq!(pids.of(8), [1008]);
        // Another process that got the zone's number again.
        pids.take("2007\n", |_| Some(7));
        assert_eq!(pids.of(7), [1007, 2007]);
        assert!(pids.of(9).is_empty());
        assert_eq!(innermost("Name:\tx\nNSpid:\t99\t5\t3\n"), Some(3));
        assert_eq!(innermost("Name:\tx\n"), None);
    }
}
