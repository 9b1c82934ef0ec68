//! Counting: from the first descriptor to the last.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::arch::{Arch, Narrow};
use crate::btf::{self, Btf};
use crate::counts::Counts;
use crate::error::{self, CountError, step};
use crate::program::{self, FIELDS, Parts, SLOTS};
use crate::sys::{self, Map};
use crate::target::Target;

/// Processors that the kernel keeps memory for, whether they are there or
/// not.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// System calls of a group that are being counted. Dropping it ends it, as
/// the end of this process does.
#[derive(Debug)]
pub struct Counter {
    arch: Arch,
    /// Holds the programs at their places in the kernel.
    links: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
    counts: OwnedFd,
    cpus: usize,
    _group: Group,
}

/// The cgroup; gone with this value if it was made for it, unless something
/// still lives in it: then it goes with the zone.
#[derive(Debug)]
struct Group {
    open: File,
    own: Option<PathBuf>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(path) = &self.own {
            let _ = fs::remove_dir(path);
        }
    }
}

impl Group {
    fn open(path: &Path) -> Result<Self, CountError> {
        let refused = |source| match source {
            source if is_denied(&source) => {
                step("make a cgroup for the zone")(source)
            }
            source => CountError::Group { path: path.to_owned(), source },
        };
        let own = match fs::create_dir(path) {
            Ok(()) => Some(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => return Err(refused(error)),
        };
        match File::open(path) {
            Ok(open) => Ok(Self { open, own }),
            Err(error) => {
                if own.is_some() {
                    let _ = fs::remove_dir(path);
                }
                Err(refused(error))
            }
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

impl Counter {
    /// Begins to count: each call of the group that begins from now on.
    ///
    /// # Errors
    /// When the kernel does not permit or does not know it, which the error
    /// explains.
    pub fn start(target: &Target) -> Result<Self, CountError> {
        let arch = Arch::of_host().ok_or(CountError::Machine)?;
        let narrow = narrow(arch).ok_or(CountError::NoTypes)?;
        let cpus = fs::read_to_string(POSSIBLE)
            .and_then(|text| {
                count_cpus(&text).ok_or(io::ErrorKind::InvalidData.into())
            })
            .map_err(step("count the processors"))?;
        let value = SLOTS * FIELDS * 8;
        let map = step("make a map for counts");
        let counts = sys::create_map(Map::PerCpuArray, value, "ntrace_counts")
            .map_err(&map)?;
        let groups = sys::create_map(Map::CgroupArray, 4, "ntrace_group")
            .map_err(&map)?;
        let group = Group::open(&target.group)?;
        sys::put_group(groups.as_fd(), group.open.as_fd()).map_err(
            |source| match source.raw_os_error() {
                Some(libc::EBADF | libc::EINVAL) => {
                    CountError::OldGroup(target.group.clone())
                }
                _ => step("name the group to the kernel")(source),
            },
        )?;
        let parts = Parts {
            arch,
            narrow,
            groups: groups.as_raw_fd(),
            counts: counts.as_raw_fd(),
            not_of: target.not_of(),
        };
        let mut counter = Self {
            arch,
            links: Vec::new(),
            programs: Vec::new(),
            counts,
            cpus,
            _group: group,
        };
        // A call that fails is never counted as failed alone.
        for (name, code, place) in [
            ("ntrace_enter", program::enter(&parts), c"sys_enter"),
            ("ntrace_exit", program::exit(&parts), c"sys_exit"),
        ] {
            let program = sys::load(&code, name)
                .map_err(|(source, log)| error::program(source, &log))?;
            let link = sys::attach(program.as_fd(), place)
                .map_err(step("run a program at each system call"))?;
            counter.links.push(link);
            counter.programs.push(program);
        }
        Ok(counter)
    }

    /// Ends it, and gives what was counted.
    ///
    /// # Errors
    /// When the kernel does not give it.
    pub fn finish(mut self) -> Result<Counts, CountError> {
        self.links.clear();
        let words = (SLOTS * FIELDS) as usize;
        let words = sys::read_per_cpu(self.counts.as_fd(), words, self.cpus)
            .map_err(step("read the counts"))?;
        let missed = self.programs.iter().map(missed).sum();
        Ok(Counts::of(self.arch, &words, missed))
    }
}

/// How often the kernel could not run a program. Kernels before 5.12 do not
/// tell.
fn missed(program: &OwnedFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Where the running kernel says that a call is one of 32 bits. Its
/// description is long and never changes: it is read once.
fn narrow(arch: Arch) -> Option<Narrow> {
    static KNOWN: OnceLock<Option<Narrow>> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        if !arch.needs_types() {
            return arch.narrow(None);
        }
        let bytes = fs::read(btf::PATH).ok()?;
        arch.narrow(Btf::parse(&bytes).as_ref())
    })
}

/// The length of a list such as `0-3,8-11`.
fn count_cpus(list: &str) -> Option<usize> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        usize::checked_sub(last, first)?.checked_add(1)
    });
    ranges.sum::<Option<usize>>().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_by_ranges() {
        assert_eq!(count_cpus("0-1\n"), Some(2));
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3,8-11,15"), Some(9));
        for bad in ["", "\n", "3-1", "x", "0-"] {
            assert_eq!(count_cpus(bad), None, "{bad:?}");
        }
    }
}
