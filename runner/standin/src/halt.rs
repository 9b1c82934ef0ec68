//! Halting a zone, and mending what a dead one left.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::cgroup::Cgroups;
use crate::clock::Deadline;
use crate::condition::HALTING;
use crate::faults::{Fault, Faults};
use crate::names::ZoneId;
use crate::sys;
use crate::trash;
use crate::zone::{Process, Run, Zone, ZoneError};

/// Longest wait for the keeper to clean up after a halt.
const KEEPER_WAIT: Duration = Duration::from_secs(5);

/// How long those who entered a zone have to reap what they started there.
const REAP_WAIT: Duration = Duration::from_secs(1);

/// Longest wait for a soft stop; then the zone is halted.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// A halt that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HaltError {
    /// The zone's files.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// Something of the zone does not go away.
    #[error("unable to destroy zone")]
    Stuck,
}

fn pidfd(process: &Process) -> Option<std::os::fd::OwnedFd> {
    let pid = Pid::from_raw(process.pid)?;
    let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Only now is it certain that the descriptor is of that process.
    process.alive().then_some(fd)
}

fn signal(process: &Process, signal: Signal) {
    if let Some(fd) = pidfd(process) {
        let _ = rustix::process::pidfd_send_signal(fd, signal);
    }
}

fn wait_gone(process: &Process, wait: Duration) -> bool {
    let Some(fd) = pidfd(process) else { return !process.alive() };
    let deadline = Deadline::after(wait);
    while let Some(left) = deadline.left() {
        let left = rustix::event::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let flags = rustix::event::PollFlags::IN;
        let mut fds = [rustix::event::PollFd::new(&fd, flags)];
        if matches!(rustix::event::poll(&mut fds, Some(&left)), Ok(1..)) {
            return true;
        }
    }
    !process.alive()
}

/// Halts a zone at once. The caller holds its power lock.
pub(crate) fn halt(zone: &Zone) -> Result<(), HaltError> {
    let mut faults = Faults::of(zone);
    let stuck =
        faults.take(Fault::StuckDown) || faults.take(Fault::StuckShuttingDown);
    let Some(run) = zone.recorded_run() else {
        return if stuck { Err(HaltError::Stuck) } else { Ok(()) };
    };
    if let Some(hang) = faults.take_seconds("halt", "hang") {
        linger(zone, hang);
    }
    if faults.take(Fault::HaltFail) {
        return Err(HaltError::Stuck);
    }
    if run.alive() {
        signal(&run.init, Signal::KILL);
    }
    finish(zone, &run)?;
    if stuck { Err(HaltError::Stuck) } else { Ok(()) }
}

/// Takes its time over a halt, and lets others see that.
fn linger(zone: &Zone, hang: Duration) {
    if let Some(own) = Process::of(std::process::id() as i32) {
        let _ = zone.save_note(HALTING, &own);
    }
    std::thread::sleep(hang);
    let _ = std::fs::remove_file(zone.dir().join(HALTING));
}

/// Asks the zone's processes to end, then halts it.
pub(crate) fn stop(zone: &Zone) -> Result<(), HaltError> {
    if let Some(run) = zone.run() {
        signal(&run.keeper, Signal::TERM);
        wait_gone(&run.keeper, STOP_WAIT);
    }
    halt(zone)
}

/// Waits for the keeper to clean up, and does it where there is none.
fn finish(zone: &Zone, run: &Run) -> Result<(), HaltError> {
    if run.machine == crate::zone::machine_boot() {
        if !wait_gone(&run.keeper, REAP_WAIT) {
            free_unreaped(&run.init, &zone.id);
        }
        if !wait_gone(&run.keeper, KEEPER_WAIT) {
            signal(&run.keeper, Signal::KILL);
            wait_gone(&run.keeper, KEEPER_WAIT);
        }
        let gone = Deadline::after(KEEPER_WAIT).wait_until(
            Duration::from_millis(5),
            || {
                let alive = run.init.alive();
                if alive {
                    signal(&run.init, Signal::KILL);
                    free_unreaped(&run.init, &zone.id);
                }
                !alive
            },
        );
        if !gone {
            return Err(HaltError::Stuck);
        }
    }
    mend(zone);
    Ok(())
}

/// Removes what a boot left whose keeper died before it could. Does nothing
/// to a zone that is up.
pub(crate) fn mend(zone: &Zone) {
    let Some(run) = zone.recorded_run() else { return };
    if run.alive() || run.keeper.alive() {
        return;
    }
    let cgroups = Cgroups { groups: run.cgroups };
    cgroups.kill();
    cgroups.remove();
    if run.machine == crate::zone::machine_boot() {
        let _ = std::fs::remove_file(zone.dir().join("run.json"));
    }
}

/// Lets go of processes of a dying zone that nobody reaps.
///
/// Process 1 cannot end before each process of its namespace was reaped,
/// and one that entered from outside is reaped by its host-side parent. If
/// that parent does not do it (it is stopped, say), it is killed.
pub(crate) fn free_unreaped(init: &Process, zone: &ZoneId) {
    let namespace =
        |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = namespace(std::process::id() as i32) else { return };
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Some(parent) = unreaped_in(pid, init, zone) else { continue };
        if parent > 1 && namespace(parent).as_ref() == Some(&own) {
            let _ = sys::kill(parent, libc::SIGKILL);
        }
    }
}

/// If `pid` is a zombie one level below us whose parent is outside its pid
/// namespace: that parent.
fn unreaped_in(pid: i32, init: &Process, zone: &ZoneId) -> Option<i32> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(path).ok()?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    };
    if !field("State:")?.starts_with('Z') || pid == init.pid {
        return None;
    }
    // A zombie has lost its namespace links; its pids in each namespace stay.
    if field("NSpid:")?.split_whitespace().count() < 2 {
        return None;
    }
    let parent: i32 = field("PPid:")?.parse().ok()?;
    // The parent must be a zlogin into this very zone.
    let words = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let mut words = words.split(|byte| *byte == 0);
    let program = words.next()?;
    let ours = program.ends_with(b"zlogin")
        && words.any(|word| word == zone.as_str().as_bytes());
    (parent != init.pid && ours).then_some(parent)
}

/// Cleans up everything that no living zone owns: dead boots, generations
/// and layers that no state names, half-made zones.
pub(crate) fn collect_garbage(
    place: &crate::place::Place,
) -> Result<(), ZoneError> {
    for zone in Zone::all(place)? {
        let _power = zone.lock(crate::zone::LockKind::Power)?;
        let _config = zone.lock(crate::zone::LockKind::Config)?;
        sweep(&zone);
    }
    for entry in std::fs::read_dir(place.zones()).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        // Drafts are named by the process that makes them.
        let maker = name
            .strip_prefix(".new-")
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<i32>().ok());
        if maker.is_some_and(|pid| Process::of(pid).is_none()) {
            let _ = trash::discard(place, &entry.path());
        }
    }
    trash::purge_behind(place);
    Ok(())
}

/// Mends one zone and discards what its state does not name. The caller
/// holds both locks.
pub(crate) fn sweep(zone: &Zone) {
    mend(zone);
    let Ok(disk) = zone.disk() else { return };
    if crate::snapshot::settle(zone, &disk).is_err() {
        return;
    }
    if zone.recorded_run().is_none() {
        let left = Cgroups::leftovers(&zone.id);
        left.kill();
        left.remove();
    }
    let discard = |path: std::path::PathBuf| -> io::Result<()> {
        trash::discard(&zone.place, &path)
    };
    for entry in std::fs::read_dir(zone.dir()).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("gen-").map(str::parse::<u64>);
        if matches!(number, Some(Ok(number)) if number != disk.generation) {
            let _ = discard(entry.path());
        }
    }
    let needed = disk.needed();
    let own = format!("{}.", zone.id);
    for entry in std::fs::read_dir(zone.place.layers()).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&own) && !needed.contains(&name.as_str()) {
            let _ = discard(entry.path());
        }
    }
}
