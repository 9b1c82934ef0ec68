//! What perf recorded, as a profile.
//!
//! `perf script` reads files that a job wrote: programs, and maps of what
//! runtimes compiled. So it runs in a cell of the zone's rights, in which it
//! sees the recording, the zone's files, and nothing of a zone's processes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use ntrace_profile::Profile;
use ntrace_profile::import::PerfScript;
use ntrace_sampler::ZoneFiles;
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::child::{self, Started};
use super::pids::Pids;
use super::room::Room;
use super::sys::{self, Cell};
use super::{Perf, WHAT, Words, here};
use crate::tracer::TraceError;

/// The recording's name in the cell.
const DATA: &str = "perf.data";

/// The name there of the kernel's symbols.
const KERNEL: &str = "kallsyms";

/// Bytes of the kernel's symbols at most.
const KERNEL_MAX: u64 = 64 << 20;

/// Bytes of one map, and of all of a zone's.
const MAP_MAX: u64 = 64 << 20;
const MAPS_MAX: u64 = 256 << 20;

/// Names in the zone's `/tmp` that are looked at.
const NAMES_MAX: usize = 100_000;

/// Puts what `perf script` is to read where it sees it.
pub(super) fn lay_out(
    room: &Room,
    zone: &ZoneFiles,
    pids: &Pids,
) -> io::Result<Vec<String>> {
    room.hand_over(DATA)?;
    let mut warnings = Vec::new();
    let kernel = File::open("/proc/kallsyms")
        .and_then(|names| room.copy(names, KERNEL, KERNEL_MAX));
    if let Err(error) = kernel {
        warnings.push(format!("no names of the kernel: {error}"));
        File::create(room.shelf().join(KERNEL))?;
    }
    let mut left = MAPS_MAX;
    for name in zone.names("/tmp", NAMES_MAX).unwrap_or_default() {
        let Some(inner) = owner(&name) else { continue };
        for host in pids.of(inner) {
            let Ok(map) = zone.open(format!("/tmp/{name}").as_ref()) else {
                continue;
            };
            let most = MAP_MAX.min(left);
            left -= room.copy(map, &format!("perf-{host}.map"), most)?;
        }
    }
    if left == 0 {
        let text = "the maps of compiled code are too long; names are missing";
        warnings.push(text.to_owned());
    }
    Ok(warnings)
}

/// The pid in the name of a map.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("perf-")?.strip_suffix(".map")?.parse().ok()
}

/// The cell for a zone.
pub(super) fn cell(
    room: &Room,
    zone: &ZoneFiles,
    user: &impl std::os::fd::AsFd,
) -> io::Result<Cell> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Cell {
        user: user.as_fd().try_clone_to_owned()?,
        root: zone.root().try_clone_to_owned()?,
        room: rustix::fs::open(room.shelf(), flags, Mode::empty())?,
    })
}

/// Runs `perf script` and reads what it prints. What it printed by the
/// deadline is good.
pub(super) async fn read(
    perf: &Perf,
    cell: Cell,
    room: Arc<Room>,
    mut script: PerfScript,
    deadline: Instant,
) -> Result<Profile, TraceError> {
    let mut command = here::command(&perf.program);
    command
        .args(["script", "--no-inline", "--force", "--show-lost-events"])
        .args(["-F", "comm,pid,tid,time,event,ip,sym,dso"])
        .args(["--symfs", "."])
        .arg(format!("--kallsyms=/tmp/{KERNEL}"))
        .arg(format!("--input=/tmp/{DATA}"));
    sys::confine(&mut command, cell);
    let started = child::start(command, room).await;
    let Started { mut child, mut stdout, stderr } = started.map_err(|why| {
        TraceError::Refused(format!("cannot start perf script: {why}"))
    })?;
    let words = Words::hear(stderr);
    let mut buffer = vec![0; 64 << 10];
    let late = loop {
        match timeout_at(deadline, stdout.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => script.feed(&buffer[..count]),
            // A stream that breaks has ended; the exit says more.
            Ok(Ok(0) | Err(_)) => break false,
            Err(_) => break true,
        }
    };
    let exit = timeout_at(deadline, child.ended()).await;
    child.kill();
    let mut profile = script.finish();
    match exit {
        Ok(exit) if exit.success() => {}
        Ok(exit) if !late => {
            let said = words.said().await;
            let why = format!("perf script ended with {exit}{said}");
            if profile.is_empty() {
                return Err(TraceError::Unreadable { what: WHAT, why });
            }
            profile.header.warn(format!("the trace is cut short: {why}"));
        }
        _ => {
            if profile.is_empty() {
                return Err(TraceError::Late { what: "perf script" });
            }
            let text = "perf script did not end in time; what came later in \
                        the run is missing";
            profile.header.warn(text);
        }
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_of_processes_are_maps() {
        assert_eq!(owner("perf-12.map"), Some(12));
        for name in ["perf-.map", "perf-1.map2", "x-1.map", "perf-1 .map"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
