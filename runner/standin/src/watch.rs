//! Limits that no cgroup holds: the keeper looks and judges.
//!
//! Memory is summed over the zone's processes, ten times a second. The
//! writable layer is counted by walking it, at a pace that costs at most a
//! twentieth of the time; between walks the free space of the host's file
//! system says whether a walk is due early. Must not act: a verdict is
//! carried out by the keeper.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::spec::{Spec, Upper};
use crate::zone::{Run, Zone};

const MEMORY_PACE: Duration = Duration::from_millis(100);
const DISK_PACE: Duration = Duration::from_millis(200);

/// A walk that took long is repeated after this many times its length.
const WALK_SHARE: u32 = 20;

/// Directories are followed this deep; what lies deeper is not counted, but
/// the free space of the host's file system still is.
const WALK_DEPTH: usize = 256;

/// The host's file system must keep this much free.
const RESERVE: u64 = 512 << 20;

/// A zone smaller than this is not to blame for a full disk.
const BLAME: u64 = 64 << 20;

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Within limits.
    Fine,
    /// More memory than allowed.
    Memory,
    /// More disk than allowed, or none left on the host.
    Disk,
}

/// Everything there is to watch.
#[derive(Debug)]
pub(crate) struct Watch {
    memory: Option<MemoryWatch>,
    disk: Option<DiskWatch>,
}

#[derive(Debug)]
struct MemoryWatch {
    proc: OwnedFd,
    limit: u64,
    next: Instant,
    peak: u64,
}

#[derive(Debug)]
struct DiskWatch {
    upper: OwnedFd,
    quota: u64,
    next: Instant,
    next_walk: Instant,
    bytes: Option<u64>,
    /// Free space of the host's file system at the last walk.
    free: u64,
    /// The same when the zone booted.
    free_at_boot: Option<u64>,
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

impl Watch {
    /// Prepares to watch a zone in which nothing ran yet.
    pub(crate) fn new(zone: &Zone, spec: &Spec, run: &Run) -> Watch {
        let now = Instant::now();
        let open = |path: std::path::PathBuf| {
            rustix::fs::open(path, dir_flags(), Mode::empty()).ok()
        };
        let memory = (run.limits.memory == "watched").then(|| {
            // The zone's own /proc: it lists nobody else's processes.
            let path = format!("/proc/{}/root/proc", run.init.pid);
            let limit = spec.limits.memory;
            open(path.into()).map(|proc| MemoryWatch {
                proc,
                limit,
                next: now,
                peak: 0,
            })
        });
        let disk = spec.quota.filter(|_| spec.upper == Upper::Disk).and_then(
            |quota| {
                let upper = open(zone.generation(run.generation).join("up"))?;
                Some(DiskWatch {
                    upper,
                    quota,
                    next: now,
                    next_walk: now,
                    bytes: None,
                    free: 0,
                    free_at_boot: None,
                })
            },
        );
        Watch { memory: memory.flatten(), disk }
    }

    /// Goes on with other limits; what was seen so far is kept.
    pub(crate) fn renew(&mut self, mut other: Watch) {
        if let (Some(old), Some(new)) = (&self.memory, &mut other.memory) {
            new.peak = old.peak;
            new.next = old.next;
        }
        if let (Some(old), Some(new)) = (&self.disk, &mut other.disk) {
            new.bytes = old.bytes;
            new.free_at_boot = old.free_at_boot;
        }
        *self = other;
    }

    /// How long until there is something to look at.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let now = Instant::now();
        let memory = self.memory.as_ref().map(|one| one.next);
        let disk = self.disk.as_ref().map(|one| one.next);
        [memory, disk]
            .into_iter()
            .flatten()
            .min()
            .map(|next| next.saturating_duration_since(now))
    }

    /// Looks at whatever is due.
    pub(crate) fn look(&mut self) -> Verdict {
        if self.memory.as_mut().is_some_and(MemoryWatch::over) {
            return Verdict::Memory;
        }
        if self.disk.as_mut().is_some_and(DiskWatch::over) {
            return Verdict::Disk;
        }
        Verdict::Fine
    }

    /// Size of the writable layer at the last walk.
    pub(crate) fn disk_bytes(&self) -> Option<u64> {
        self.disk.as_ref()?.bytes
    }

    /// Greatest sum of memory that was seen.
    pub(crate) fn peak_rss(&self) -> Option<u64> {
        self.memory.as_ref().map(|one| one.peak)
    }
}

impl MemoryWatch {
    fn over(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + MEMORY_PACE;
        let mut sum = self.sum(resident);
        if sum > self.limit {
            // Shared pages were counted once for each process: count fair
            // shares before judging.
            sum = self.sum(|proc, pid| {
                proportional(proc, pid).or_else(|| unshared(proc, pid))
            });
        }
        self.peak = self.peak.max(sum);
        sum > self.limit
    }

    fn sum(&self, of: impl Fn(&OwnedFd, &str) -> Option<u64>) -> u64 {
        let Ok(entries) = Dir::read_from(&self.proc) else { return 0 };
        let mut sum = 0;
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.bytes().all(|byte| byte.is_ascii_digit()) && name != "1" {
                sum += of(&self.proc, name).unwrap_or(0);
            }
        }
        sum
    }
}

fn read_small(proc: &OwnedFd, pid: &str, file: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("{pid}/{file}");
    let fd = rustix::fs::openat(proc, path, flags, Mode::empty()).ok()?;
    let mut text = vec![0_u8; 4096];
    let count = rustix::io::read(&fd, &mut text[..]).ok()?;
    text.truncate(count);
    String::from_utf8(text).ok()
}

fn pages(proc: &OwnedFd, pid: &str) -> Option<(u64, u64)> {
    let text = read_small(proc, pid, "statm")?;
    let mut fields = text.split(' ').skip(1);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let size = rustix::param::page_size() as u64;
    Some((next()? * size, next()? * size))
}

fn resident(proc: &OwnedFd, pid: &str) -> Option<u64> {
    pages(proc, pid).map(|(resident, _)| resident)
}

fn unshared(proc: &OwnedFd, pid: &str) -> Option<u64> {
    pages(proc, pid).map(|(resident, shared)| resident.saturating_sub(shared))
}

fn proportional(proc: &OwnedFd, pid: &str) -> Option<u64> {
    let text = read_small(proc, pid, "smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kib << 10)
}

impl DiskWatch {
    fn over(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + DISK_PACE;
        let Ok(host) = rustix::fs::fstatvfs(&self.upper) else { return false };
        let free = host.f_bavail * host.f_frsize;
        let known = self.bytes.unwrap_or(0);
        // Others write to that file system too: a drop only hastens a walk.
        let dropped = self.free.saturating_sub(free);
        let due = now >= self.next_walk
            || known + dropped > self.quota
            || (free < RESERVE && dropped > BLAME);
        if due {
            let bytes = size_of_tree(&self.upper);
            let took = now.elapsed();
            self.next_walk = now + (took * WALK_SHARE).max(DISK_PACE);
            self.free = free;
            self.bytes = Some(bytes);
        }
        let bytes = self.bytes.unwrap_or(0);
        // Files that were removed while open are in no directory.
        let at_boot = *self.free_at_boot.get_or_insert(free);
        let blame = bytes.max(at_boot.saturating_sub(free)) > BLAME;
        bytes > self.quota || (free < RESERVE && blame)
    }
}

/// Bytes on disk of a tree that others change meanwhile. Follows no links.
pub(crate) fn size_of_tree(root: &OwnedFd) -> u64 {
    let mut sum = 0;
    let mut stack: Vec<(OwnedFd, Dir)> = Vec::new();
    let open_root = root.try_clone().ok().and_then(|fd| {
        let dir = Dir::read_from(&fd).ok()?;
        Some((fd, dir))
    });
    stack.extend(open_root);
    while let Some((at, entries)) = stack.last_mut() {
        let Some(entry) = entries.next() else {
            stack.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let Ok(stat) = rustix::fs::statat(&*at, name, flags) else { continue };
        // Each name of a file counts for its share.
        sum += stat.st_blocks as u64 * 512 / at_least_one(stat.st_nlink);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            continue;
        }
        sum += 4096;
        if stack.len() >= WALK_DEPTH {
            continue;
        }
        let opened = {
            let Some((at, _)) = stack.last() else { continue };
            rustix::fs::openat(at, name, dir_flags(), Mode::empty())
        };
        if let Ok(fd) = opened
            && let Ok(dir) = Dir::read_from(&fd)
        {
            stack.push((fd, dir));
        }
    }
    sum
}

/// A count that is as wide as the processor has it.
fn at_least_one(count: impl Into<u64>) -> u64 {
    count.into().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_with_its_depths_and_without_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("big"), vec![1_u8; 1 << 20]).unwrap();
        std::fs::hard_link(deep.join("big"), dir.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("out")).unwrap();
        let fd =
            rustix::fs::open(dir.path(), dir_flags(), Mode::empty()).unwrap();
        let size = size_of_tree(&fd);
        assert!((1 << 20..(1 << 20) + 65_536).contains(&size), "{size}");
    }
}
