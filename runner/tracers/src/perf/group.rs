//! The zone's group for perf events, made for a trace, and what perf calls
//! it.
//!
//! perf takes a group's path below the hierarchy that it finds by itself:
//! that of perf events in v1, or else v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A group, removed with this value if it was made for it. One that still
/// has processes goes with its zone.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    is_ours: bool,
}

impl Group {
    /// Makes the group unless it is there.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { path, is_ours: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Self { path, is_ours: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What perf calls it; none if perf looks elsewhere.
    pub(super) fn name(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        name(&self.path, &mounts)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn name(path: &Path, mounts: &str) -> Option<String> {
    let name = path.strip_prefix(hierarchy(mounts)?).ok()?.to_str()?;
    // A comma would end it; what begins with a dash would be an option.
    let is_plain = !name.is_empty() && !name.contains(',');
    (is_plain && !name.starts_with('-')).then(|| name.to_owned())
}

/// Where perf looks, by the lines of `/proc/mounts`.
fn hierarchy(mounts: &str) -> Option<&str> {
    let mut v2 = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if kind == "cgroup" && options.split(',').any(|o| o == "perf_event") {
            return Some(at);
        }
        if kind == "cgroup2" && v2.is_none() {
            v2 = Some(at);
        }
    }
    v2
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "\
proc /proc proc rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0
";

    #[test]
    fn a_group_is_named_below_the_hierarchy_that_perf_finds() {
        let at = |path: &str, mounts: &str| name(Path::new(path), mounts);
        let unified = "/sys/fs/cgroup/unified/ntrace/u";
        assert_eq!(at(unified, V2).as_deref(), Some("ntrace/u"));
        let both = format!(
            "{V2}cgroup /sys/fs/cgroup/pe cgroup rw,cpuset,perf_event 0 0\n"
        );
        assert_eq!(at(unified, &both), None);
        let v1 = at("/sys/fs/cgroup/pe/ntrace/u", &both);
        assert_eq!(v1.as_deref(), Some("ntrace/u"));
        assert_eq!(at("/sys/fs/cgroup/unified", V2), None);
        assert_eq!(at("/sys/fs/cgroup/unified/a,b", V2), None);
        assert_eq!(at("/sys/fs/cgroup/unified/-x", V2), None);
        assert_eq!(at(unified, ""), None);
    }

    #[test]
    fn a_group_that_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(Group::make(dir.path()).unwrap());
        assert!(dir.path().exists());
        let new = dir.path().join("new");
        drop(Group::make(&new).unwrap());
        assert!(!new.exists());
    }
}
