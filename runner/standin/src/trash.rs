//! The trash: what nobody needs is renamed there at once and deleted behind.
//!
//! Deleting is done by a process of its own with the lowest priority, at
//! most one at a time. What it deletes may have been written by a job, so
//! no name is followed that is not a real directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, DirEntry, FileType, FlockOperation, Mode, OFlags,
};

use crate::place::Place;
use crate::sys::{self, Forked};

/// Below this much free space deleting is not left to later.
const PRESSURE: u64 = 1 << 30;

/// How often the trash is emptied in one go while more comes in.
const ROUNDS: u32 = 100;

/// Directories deeper than this are moved up before they are emptied, so
/// that depth costs no descriptors.
const DEPTH: usize = 64;

/// A name that nothing in the trash has.
fn new_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = crate::clock::now_ms();
    format!("{now}-{}-{count}", std::process::id())
}

/// Puts a file or a directory away.
pub(crate) fn discard(place: &Place, path: &Path) -> io::Result<()> {
    match fs::rename(path, place.trash().join(new_name())) {
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

/// Deletes all that is in the trash, unless another does. What cannot be
/// deleted stays until the next time, and the rest goes all the same.
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

/// Empties a directory as far as that can be done; the first error at the
/// end.
fn empty(
    dir: &OwnedFd,
    top: &OwnedFd,
    depth: usize,
    spare: &dyn Fn(&[u8]) -> bool,
) -> rustix::io::Result<()> {
    let mut all = Ok(());
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || spare(name) {
            continue;
        }
        all = all.and(remove(dir, top, depth, &entry));
    }
    all
}

/// Removes an entry of a directory, with all below it.
fn remove(
    dir: &OwnedFd,
    top: &OwnedFd,
    depth: usize,
    entry: &DirEntry,
) -> rustix::io::Result<()> {
    let name = entry.file_name();
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
        let unlink = || rustix::fs::unlinkat(dir, name, AtFlags::empty());
        return retry_opened(dir, unlink(), unlink);
    }
    if depth >= DEPTH {
        return rustix::fs::renameat(dir, name, top, new_name());
    }
    let child = open_child(dir, name.to_bytes())?;
    empty(&child, top, depth + 1, &|_| false)?;
    drop(child);
    let remove = || rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
    retry_opened(dir, remove(), remove)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a directory that nobody can remove, for as long as this lives.
    struct Busy(std::path::PathBuf);

    impl Busy {
        fn make(at: &Path) -> Option<Busy> {
            let flags = rustix::mount::MountFlags::empty();
            let made = rustix::mount::mount("tmpfs", at, "tmpfs", flags, None);
            made.ok().map(|()| Busy(at.to_owned()))
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(&self.0, flags);
        }
    }

    #[test]
    fn what_cannot_be_deleted_does_not_keep_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/x/y", "b/x/y", "c/x/y", "d/x/y"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("file"), "text").unwrap();
        }
        let Some(busy) = Busy::make(&dir.path().join("b/x/y")) else {
            eprintln!("SKIPPED: only root can make a mount that is in the way");
            return;
        };
        let top = open_dir(CWD, dir.path()).unwrap();
        let left = || -> Vec<_> {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        assert!(empty(&top, &top, 0, &|_| false).is_err());
        assert_eq!(left(), ["b"]);
        drop(busy);
        assert_eq!(empty(&top, &top, 0, &|_| false), Ok(()));
        assert!(left().is_empty());
    }

    #[test]
    fn a_tree_deeper_than_one_pass_goes_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_dir(CWD, dir.path()).unwrap();
        let mut at = open_dir(CWD, dir.path()).unwrap();
        for _ in 0..300 {
            let mode = Mode::from_raw_mode(0o700);
            rustix::fs::mkdirat(&at, "deep", mode).unwrap();
            at = open_dir(&at, Path::new("deep")).unwrap();
        }
        drop(at);
        let mut rounds = 0;
        while fs::read_dir(dir.path()).unwrap().count() > 0 {
            empty(&top, &top, 0, &|_| false).unwrap();
            rounds += 1;
            assert!(rounds < 200, "it is not emptied");
        }
    }
}
