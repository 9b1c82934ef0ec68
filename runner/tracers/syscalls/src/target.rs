//! Whose calls are counted.

use std::path::PathBuf;

/// A group of processes, and whose calls in it do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The cgroup, of version 2; it is made if it is not there, and removed
    /// in the end if it was made.
    pub group: PathBuf,
    /// The host's pid of process 1 of the zone. What runs as its user, or as
    /// ours, serves the job and is none of it, if the job is another user.
    pub init: Option<i32>,
}

impl Target {
    /// The users whose calls do not count, by the host's numbers: the zone's
    /// root, and who enters the zone to become it.
    pub(crate) fn not_of(&self) -> Vec<u32> {
        let about = |init: i32, name: &str| {
            std::fs::read_to_string(format!("/proc/{init}/{name}")).ok()
        };
        let root = self.init.and_then(|init| {
            root_of(&about(init, "status")?, &about(init, "uid_map")?)
        });
        let Some(root) = root else { return Vec::new() };
        let own = rustix::process::geteuid().as_raw();
        let mut users = vec![root, own];
        users.dedup();
        users
    }
}

/// The zone's root, if the zone has other users.
fn root_of(status: &str, uid_map: &str) -> Option<u32> {
    let counts = uid_map
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    if counts.sum::<u64>() < 2 {
        return None;
    }
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zones_root_does_not_count_where_it_is_not_the_job() {
        let status = "Name:\tinit\nUid:\t100000\t100000\t100000\t100000\n";
        let range = "         0     100000      65536\n";
        assert_eq!(root_of(status, range), Some(100_000));
        let single = "         0       1000          1\n";
        assert_eq!(root_of(status, single), None);
        assert_eq!(root_of("", range), None);
    }
}
