//! Cgroups of a zone: limits, usage, sure death; v1, hybrid and v2.
//!
//! What works is found out by trying, at each boot. All directories of a
//! zone are named by its uuid below one parent, so that what a crash leaves
//! is found again. A limit on memory is written before anything enters.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Deadline;
use crate::names::ZoneId;
use crate::sys::{self, Forked};
use crate::zone::Means;

/// Controllers that a zone uses, where there are any.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];

/// A group for perf events that a tracer may make, and that whoever enters
/// the zone then enters too; there is none while nobody traces.
const TRACE: &str = "trace";

/// How long an emptied cgroup may take to become removable.
const REMOVE_WAIT: Duration = Duration::from_secs(2);

/// One cgroup of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// A v1 controller, `unified` (v2 without controllers, beside v1), `v2`
    /// (with controllers; has `init` and `job` below), or [`TRACE`].
    pub kind: String,
    /// Its directory.
    pub path: PathBuf,
}

/// Limits that cgroups can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes.
    pub memory: u64,
    /// Bytes of memory and swap together.
    pub swap: u64,
    /// Per cent of one processor.
    pub cpu_cap: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
}

/// What a zone has used in its present boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Processor time.
    pub cpu_ms: Option<u64>,
    /// Peak of memory in bytes.
    pub max_rss: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Forks refused by the limit.
    pub pids_hits: Option<u64>,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Controllers of v1; none for v2.
    v1: Option<Vec<String>>,
}

impl Group {
    /// The directory that a part of the zone is in, if this is a group of
    /// the v2 hierarchy. There is none in that of a tracer while nobody
    /// traces.
    fn unified(&self, part: Part) -> Option<PathBuf> {
        match (self.kind.as_str(), part) {
            ("v2", Part::Init) => Some(self.path.join("init")),
            ("v2", Part::Job) => Some(self.path.join("job")),
            ("unified", _) => Some(self.path.clone()),
            (TRACE, _) if !self.path.join("tasks").exists() => {
                Some(self.path.clone())
            }
            _ => None,
        }
    }
}

/// Which part of the zone a process belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Process 1, which must outlive a shortage of memory.
    Init,
    /// All else.
    Job,
}

/// Where a new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Born {
    /// In the zone's group of the v2 hierarchy.
    Inside,
    /// In its parent's groups.
    Outside,
}

/// The cgroups of one zone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    /// All of them.
    pub groups: Vec<Group>,
}

fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or(""));
        let v1 = match kind {
            Some("cgroup2") => None,
            Some("cgroup") => {
                Some(options.split(',').map(str::to_owned).collect())
            }
            _ => continue,
        };
        found.push(Hierarchy { mount: PathBuf::from(mount), v1 });
    }
    found
}

/// The parent of all zones' cgroups, as set or by default.
fn parent_name() -> String {
    let set = std::env::var("NTRACE_CGROUP").ok();
    let fits = |name: &String| {
        !name.is_empty() && !name.split('/').any(|part| part == "..")
    };
    set.filter(fits).unwrap_or_else(|| "ntrace".to_owned())
}

/// Directories below which the parent may be made, best first: the root of
/// the hierarchy, then the group that contains our own (delegation).
fn bases(hierarchy: &Hierarchy, own: &str) -> Vec<PathBuf> {
    let mut bases = vec![hierarchy.mount.clone()];
    if hierarchy.v1.is_none() {
        let line = own.lines().find_map(|line| line.strip_prefix("0::/"));
        if let Some(path) = line
            && let Some(above) = Path::new(path).parent()
        {
            bases.push(hierarchy.mount.join(above));
        }
    }
    bases
}

fn write(path: &Path, value: impl ToString) -> io::Result<()> {
    fs::write(path, value.to_string())
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

impl Cgroups {
    /// Makes the cgroups of a zone and sets its limits, as far as this user
    /// on this machine can; says which limits hold.
    pub(crate) fn create(id: &ZoneId, limits: &Limits) -> (Cgroups, Means) {
        let mountinfo =
            fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut made = Cgroups::default();
        for hierarchy in hierarchies(&mountinfo) {
            let kinds: Vec<&str> = match &hierarchy.v1 {
                None => vec!["unified"],
                Some(names) => CONTROLLERS
                    .into_iter()
                    .filter(|one| names.iter().any(|name| name == one))
                    .collect(),
            };
            if kinds.is_empty() {
                continue;
            }
            let at = bases(&hierarchy, &own).into_iter().find_map(|base| {
                let path = base.join(parent_name());
                make_parents(&base, &path).ok()?;
                let path = path.join(id.as_str());
                make(&path).ok().map(|()| path)
            });
            let Some(path) = at else { continue };
            if hierarchy.v1.is_none() && divide(&path).is_ok() {
                made.add("v2", path);
                continue;
            }
            for kind in kinds {
                made.add(kind, path.clone());
            }
        }
        made.forget_bystander();
        made.name_trace_group(id, &hierarchies(&mountinfo));
        let means = made.limit(limits);
        (made, means)
    }

    /// Beside v1 a v2 group has no controllers: it could only kill, which
    /// the end of process 1 does as well, and to enter it is slow.
    fn forget_bystander(&mut self) {
        let has_v1 = |g: &Group| CONTROLLERS.contains(&g.kind.as_str());
        if !self.groups.iter().any(has_v1) {
            return;
        }
        self.groups.retain(|group| {
            let is_bystander = group.kind == "unified";
            if is_bystander {
                let _ = fs::remove_dir(&group.path);
            }
            !is_bystander
        });
    }

    /// Says where a tracer may make a group for perf events: where that
    /// controller is, in v1 or, if there is none, in v2.
    fn name_trace_group(&mut self, id: &ZoneId, all: &[Hierarchy]) {
        let is_perf = |hierarchy: &&Hierarchy| {
            let names = hierarchy.v1.as_ref();
            names.is_some_and(|names| names.iter().any(|n| n == "perf_event"))
        };
        let found = all
            .iter()
            .find(is_perf)
            .or_else(|| all.iter().find(|hierarchy| hierarchy.v1.is_none()));
        let Some(found) = found else { return };
        let taken = |g: &Group| g.kind == "v2" || g.kind == "unified";
        if found.v1.is_none() && self.groups.iter().any(taken) {
            // The zone is in a group of this hierarchy already.
            return;
        }
        let path = found.mount.join(parent_name());
        let may = rustix::fs::Access::WRITE_OK;
        if make_parents(&found.mount, &path).is_ok()
            && rustix::fs::access(&path, may).is_ok()
        {
            self.add(TRACE, path.join(id.as_str()));
        }
    }

    /// The group of perf events, which may have to be made.
    pub(crate) fn trace_group(&self) -> Option<PathBuf> {
        let beside = self.path(TRACE).or_else(|| self.path("unified"));
        beside.map(Path::to_owned).or_else(|| self.job())
    }

    fn add(&mut self, kind: &str, path: PathBuf) {
        self.groups.push(Group { kind: kind.to_owned(), path });
    }

    fn path(&self, kind: &str) -> Option<&Path> {
        let group = self.groups.iter().find(|group| group.kind == kind)?;
        Some(&group.path)
    }

    fn job(&self) -> Option<PathBuf> {
        self.path("v2").map(|path| path.join("job"))
    }

    /// Sets the limits; says of each by what means it holds.
    pub(crate) fn limit(&self, limits: &Limits) -> Means {
        let word = |held: bool| {
            if held { "cgroup".to_owned() } else { "none".to_owned() }
        };
        Means {
            memory: word(self.limit_memory(limits)),
            cpu: word(self.limit_cpu(limits.cpu_cap)),
            pids: word(self.limit_pids(limits.pids)),
            disk: "none".to_owned(),
        }
    }

    fn limit_memory(&self, limits: &Limits) -> bool {
        if let Some(job) = self.job()
            && write(&job.join("memory.max"), limits.memory).is_ok()
        {
            // More swap than memory means nothing: vmadm's figure is both.
            let swap = limits.swap.saturating_sub(limits.memory);
            let _ = write(&job.join("memory.swap.max"), swap);
            return write(&job.join("memory.oom.group"), 1).is_ok();
        }
        let Some(group) = self.path("memory") else { return false };
        let both = group.join("memory.memsw.limit_in_bytes");
        // Raising needs the outer limit first, lowering the inner one.
        let _ = write(&both, limits.swap);
        let plain = group.join("memory.limit_in_bytes");
        let held = write(&plain, limits.memory).is_ok();
        let _ = write(&both, limits.swap);
        held
    }

    fn limit_cpu(&self, cap: Option<u64>) -> bool {
        const PERIOD: u64 = 100_000;
        let quota = cap.filter(|cap| *cap > 0).map(|cap| cap * PERIOD / 100);
        if let Some(job) = self.job() {
            let quota = quota.map_or("max".to_owned(), |q| q.to_string());
            let value = format!("{quota} {PERIOD}");
            if write(&job.join("cpu.max"), value).is_ok() {
                return true;
            }
        }
        let Some(group) = self.path("cpu") else { return false };
        let quota = quota.map_or(-1, |quota| quota as i64);
        write(&group.join("cpu.cfs_period_us"), PERIOD).is_ok()
            && write(&group.join("cpu.cfs_quota_us"), quota).is_ok()
    }

    fn limit_pids(&self, pids: u64) -> bool {
        [self.job().as_deref(), self.path("pids")]
            .into_iter()
            .flatten()
            .any(|group| write(&group.join("pids.max"), pids).is_ok())
    }

    /// Forks with `CLONE_*` flags, the child already in the zone's group of
    /// the v2 hierarchy where the kernel can do that. It enters the rest by
    /// [`Cgroups::enter`].
    pub(crate) fn fork(
        &self,
        part: Part,
        flags: i32,
    ) -> io::Result<(Forked, Born)> {
        let groups = self.groups.iter();
        let dir = groups.filter_map(|group| group.unified(part)).next();
        let dir = dir.and_then(|path| fs::File::open(path).ok());
        if let Some(dir) = dir
            && let Ok(forked) = sys::clone_into(dir.as_fd(), flags)
        {
            return Ok((forked, Born::Inside));
        }
        // An old kernel, a full group, one of v1: the slow way tells.
        Ok((sys::clone_process(flags)?, Born::Outside))
    }

    /// Moves the calling process in, which must have one thread.
    ///
    /// A v1 group is entered by the thread that writes `0` to `tasks`: any
    /// other way makes the kernel stop all forks and exits first, which waits
    /// for a grace period of 10 ms and more (kernel/cgroup/cgroup.c,
    /// `cgroup_procs_write_start`). v2 has no such door, but one can be born
    /// inside.
    pub(crate) fn enter(&self, part: Part, born: Born) -> io::Result<()> {
        for group in &self.groups {
            if let Some(path) = group.unified(part) {
                if born == Born::Inside {
                    continue;
                }
                let entered = write(&path.join("cgroup.procs"), 0);
                if group.kind != TRACE {
                    entered?;
                }
                continue;
            }
            let entered = write(&group.path.join("tasks"), 0);
            // Nobody traces, or the zone cannot be traced this way: no
            // reason to stay out.
            if group.kind != TRACE {
                entered?;
            }
        }
        Ok(())
    }

    /// What was used so far.
    pub(crate) fn used(&self) -> Used {
        if let Some(job) = self.job() {
            return Used {
                cpu_ms: field(&job.join("cpu.stat"), "usage_usec")
                    .map(|us| us / 1000),
                max_rss: number(&job.join("memory.peak")),
                oom_kills: field(&job.join("memory.events"), "oom_kill"),
                pids_hits: field(&job.join("pids.events"), "max"),
            };
        }
        let of = |kind: &str, file: &str| {
            self.path(kind).map(|path| path.join(file))
        };
        Used {
            cpu_ms: of("cpuacct", "cpuacct.usage")
                .and_then(|path| number(&path))
                .map(|ns| ns / 1_000_000),
            max_rss: of("memory", "memory.max_usage_in_bytes")
                .and_then(|path| number(&path)),
            oom_kills: of("memory", "memory.oom_control")
                .and_then(|path| field(&path, "oom_kill")),
            pids_hits: of("pids", "pids.events")
                .and_then(|path| field(&path, "max")),
        }
    }

    /// Kills whatever is inside, where the kernel can do that in one go.
    pub(crate) fn kill(&self) {
        for group in &self.groups {
            let _ = write(&group.path.join("cgroup.kill"), 1);
        }
    }

    /// Removes the cgroups; what is still busy is tried again for a while.
    /// Says whether all are gone.
    pub(crate) fn remove(&self) -> bool {
        let mut left = Vec::new();
        for group in &self.groups {
            if group.kind == "v2" {
                left.extend(["init", "job"].map(|sub| group.path.join(sub)));
            }
            left.push(group.path.clone());
        }
        Deadline::after(REMOVE_WAIT).wait_until(
            Duration::from_millis(2),
            || {
                left.retain(|path| {
                    let done = fs::remove_dir(path);
                    done.is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
                });
                left.is_empty()
            },
        )
    }

    /// The cgroups that bear the name of a zone, whoever made them.
    pub(crate) fn leftovers(id: &ZoneId) -> Cgroups {
        let mountinfo =
            fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Cgroups::default();
        for hierarchy in hierarchies(&mountinfo) {
            for base in bases(&hierarchy, &own) {
                let path = base.join(parent_name()).join(id.as_str());
                if !path.is_dir() {
                    continue;
                }
                let v2 = hierarchy.v1.is_none() && path.join("job").is_dir();
                found.add(if v2 { "v2" } else { "leftover" }, path);
            }
        }
        found
    }
}

/// Makes the parent of all zones, level by level below the base.
fn make_parents(base: &Path, path: &Path) -> io::Result<()> {
    let mut at = base.to_owned();
    let Ok(below) = path.strip_prefix(base) else { return make(path) };
    for part in below.components() {
        at.push(part);
        make(&at)?;
    }
    Ok(())
}

/// Splits a v2 group in `init` and `job` with the controllers switched on
/// all the way down; an error if this hierarchy has not got them.
fn divide(path: &Path) -> io::Result<()> {
    let wanted = "+memory +pids +cpu";
    let above = path.parent().map(Path::to_owned);
    let root = above.as_deref().and_then(Path::parent).map(Path::to_owned);
    let has = fs::read_to_string(path.join("cgroup.controllers"))?;
    if !["memory", "pids"].iter().all(|one| has.contains(one)) {
        for group in [root, above].into_iter().flatten() {
            write(&group.join("cgroup.subtree_control"), wanted)?;
        }
    }
    write(&path.join("cgroup.subtree_control"), wanted)?;
    make(&path.join("init"))?;
    make(&path.join("job"))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified_mounts_are_told_apart() {
        let text = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - \
                    cgroup cgroup rw,memory\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw - \
                    cgroup2 cgroup2 rw\n\
                    27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        let found = hierarchies(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].v1,
            Some(vec!["rw".to_owned(), "memory".to_owned()])
        );
        assert_eq!(found[1].v1, None);
        assert_eq!(found[1].mount, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_delegated_group_is_looked_for_beside_our_own() {
        let v2 = Hierarchy { mount: PathBuf::from("/c"), v1: None };
        let found = bases(&v2, "3:cpu:/x\n0::/user/ntrace/runner\n");
        assert_eq!(
            found,
            [PathBuf::from("/c"), PathBuf::from("/c/user/ntrace")]
        );
    }
}
