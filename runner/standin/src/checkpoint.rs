//! Snapshots as a zone sees them: read-only trees at `/checkpoints/NAME`.
//!
//! Those that exist at a boot are mounted by process 1 (`mounts`). Here is
//! what a command does to a zone that is up: it goes into the zone's mounts
//! in a process of its own, which runs no program there and leaves at once.
//! The tree is mounted before it goes in, from directories that only the
//! host knows; inside it follows no name that the zone could have planted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags};

use crate::mounts;
use crate::names::SnapshotName;
use crate::place::{Owner, Place};
use crate::spec::Spec;
use crate::sys::{self, Forked};
use crate::zone::{Run, Snapshot};

/// Where a zone sees its snapshots.
pub(crate) const DIR: &str = "checkpoints";

/// A snapshot to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    /// Its name.
    pub name: SnapshotName,
    /// Its layers, topmost first; the last is the image.
    pub lowers: Vec<PathBuf>,
}

impl Checkpoint {
    /// Of a zone's snapshot.
    pub(crate) fn of(
        place: &Place,
        base: &Path,
        snapshot: &Snapshot,
    ) -> Checkpoint {
        let layers = snapshot.layers.iter().rev();
        let mut lowers: Vec<PathBuf> =
            layers.map(|id| place.layers().join(id)).collect();
        lowers.push(base.to_owned());
        Checkpoint { name: snapshot.name.clone(), lowers }
    }

    /// Its place below the zone's root.
    pub(crate) fn target(&self) -> PathBuf {
        target(&self.name)
    }
}

fn target(name: &SnapshotName) -> PathBuf {
    Path::new(DIR).join(name.as_str())
}

/// Whether a snapshot can be shown under its name: `.` and `..` are names of
/// snapshots, but not of directories.
pub(crate) fn has_place(name: &SnapshotName) -> bool {
    !matches!(name.as_str(), "." | "..")
}

/// The lowest layer of a zone, as a directory.
pub(crate) fn base_of(place: &Place, spec: &Spec) -> PathBuf {
    let base = place.images().join(&spec.base);
    if spec.host_image { base } else { base.join("root") }
}

/// Shows a snapshot in a zone that is up.
pub(crate) fn show(
    owner: Owner,
    run: &Run,
    checkpoint: &Checkpoint,
) -> io::Result<()> {
    if !has_place(&checkpoint.name) {
        return Ok(());
    }
    in_zone(run, |init| {
        let mount = if owner.is_root() {
            mounts::checkpoint(checkpoint, owner)?
        } else {
            // To mount is a right that only the zone's user namespace gives,
            // over a view of the host's directories that belongs to it.
            sys::setns(init.as_fd(), libc::CLONE_NEWUSER)?;
            sys::unshare(libc::CLONE_NEWNS)?;
            mounts::checkpoint(checkpoint, owner)?
        };
        sys::setns(init.as_fd(), libc::CLONE_NEWNS)?;
        mounts::put(Path::new("/"), &checkpoint.target(), &mount, owner)
    })
}

/// Takes a snapshot out of a zone that is up; no error if it is not there.
pub(crate) fn hide(
    owner: Owner,
    run: &Run,
    name: &SnapshotName,
) -> io::Result<()> {
    if !has_place(name) {
        return Ok(());
    }
    in_zone(run, |init| {
        let mut spaces = libc::CLONE_NEWNS;
        if !owner.is_root() {
            spaces |= libc::CLONE_NEWUSER;
        }
        sys::setns(init.as_fd(), spaces)?;
        mounts::take(&Path::new("/").join(target(name)))
    })
}

/// Does something in a process of its own that may enter the zone.
fn in_zone(
    run: &Run,
    work: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<()> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let pid = Pid::from_raw(run.init.pid).ok_or_else(gone)?;
    let init = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    if !run.init.alive() {
        return Err(gone());
    }
    match sys::fork()? {
        Forked::Child => {
            let code = match work(&init) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            sys::exit_now(code)
        }
        Forked::Parent(pid) => {
            let ended = sys::wait_child(pid, true)?;
            match ended.and_then(|ended| ended.code()) {
                Some(0) => Ok(()),
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => Err(io::Error::other("the way in broke off")),
            }
        }
    }
}
