//! The trash: what nobody needs is renamed there at once and deleted behind.
//!
//! Deleting is done by a process of its own with the lowest priority, at
//! most one at a time. What it deletes may have been written by a job, so
//! no name is followed that is not a real directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};

use crate::place::Place;
use crate::sys::{self, Forked};

/// Below this much free space deleting is not left to later.
const PRESSURE: u64 = 1 << 30;

/// How often the trash is emptied in one go while more comes in.
const ROUNDS: u32 = 100;

/// Directories deeper than this are moved up before they are emptied, so
/// that depth costs no descriptors.
const DEPTH: usize = 64;

/// Puts a file or a directory away.
pub(crate) fn discard(place: &Place, path: &Path) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = crate::clock::now_ms();
    let name = format!("{now}-{}-{count}", std::process::id());
    match fs::rename(path, place.trash().join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Starts deleting the trash behind our back, or does it here and now if
/// the disk is nearly full.
pub(crate) fn purge_behind(place: &Place) {
    if is_empty(place) {
        return;
    }
    // Who deletes already looks again before it ends.
    if lock(place).is_none() {
        return;
    }
    let free = rustix::fs::statvfs(place.trash())
        .map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize);
    if free < PRESSURE {
        purge(place);
        return;
    }
    match sys::fork() {
        Ok(Forked::Child) => {
            if let Ok(Forked::Child) = sys::fork() {
                let _ = rustix::process::setsid();
                sys::close_all_but(&[]);
                if let Ok(null) =
                    File::options().read(true).write(true).open("/dev/null")
                {
                    for fd in 0..3 {
                        let _ = sys::dup_onto(null.as_fd(), fd);
                    }
                }
                let _ = rustix::process::chdir("/");
                sys::scrub_arguments("zone-purge");
                sys::be_nice();
                purge(place);
            }
            sys::exit_now(0)
        }
        Ok(Forked::Parent(pid)) => drop(sys::wait_child(pid, true)),
        Err(_) => purge(place),
    }
}

/// Deletes all that is in the trash, unless another does.
///
/// Looks once more after it let the lock go: who came with something and
/// found the lock taken relies on that.
fn purge(place: &Place) {
    for _ in 0..ROUNDS {
        let Some(held) = lock(place) else { return };
        let Ok(trash) = open_dir(CWD, &place.trash()) else { return };
        if empty(&trash, &trash, 0, &|name| name == b".lock").is_err() {
            return;
        }
        drop(held);
        if is_empty(place) {
            return;
        }
    }
}

/// Whether nothing waits to be deleted.
fn is_empty(place: &Place) -> bool {
    let Ok(mut entries) = fs::read_dir(place.trash()) else { return true };
    !entries.any(|e| e.is_ok_and(|e| e.file_name() != ".lock"))
}

/// The right to delete, unless another has it.
fn lock(place: &Place) -> Option<File> {
    let path = place.trash().join(".lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, exclusive).ok().map(|()| file)
}

fn open_dir<Fd: AsFd>(at: Fd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags =
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Empties a directory; gives how many entries went.
fn empty(
    dir: &OwnedFd,
    top: &OwnedFd,
    depth: usize,
    spare: &dyn Fn(&[u8]) -> bool,
) -> rustix::io::Result<u64> {
    let mut count = 0;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if matches!(bytes, b"." | b"..") || spare(bytes) {
            continue;
        }
        count += 1;
        let is_dir = match entry.file_type() {
            FileType::Unknown => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::statat(dir, name, flags).is_ok_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                })
            }
            kind => kind == FileType::Directory,
        };
        if !is_dir {
            let done = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            retry_opened(dir, done, || {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())
            })?;
            continue;
        }
        if depth >= DEPTH {
            let up = format!("deep-{}-{count}", dir.as_raw_fd());
            rustix::fs::renameat(dir, name, top, up)?;
            continue;
        }
        let child = open_child(dir, bytes)?;
        empty(&child, top, depth + 1, &|_| false)?;
        drop(child);
        let remove = || rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        retry_opened(dir, remove(), remove)?;
    }
    Ok(count)
}

/// Opens a directory that its maker may have closed to everybody.
fn open_child(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let full = Mode::from_raw_mode(0o700);
    match open_dir(dir, path) {
        Err(rustix::io::Errno::ACCESS) => {
            rustix::fs::chmodat(dir, path, full, AtFlags::empty())?;
            open_dir(dir, path)
        }
        other => other,
    }
}

/// Tries again with the directory made writable, if that was the trouble.
fn retry_opened(
    dir: &OwnedFd,
    first: rustix::io::Result<()>,
    again: impl FnOnce() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match first {
        Err(rustix::io::Errno::ACCESS) => {
            rustix::fs::fchmod(dir, Mode::from_raw_mode(0o700))?;
            again()
        }
        other => other,
    }
}
