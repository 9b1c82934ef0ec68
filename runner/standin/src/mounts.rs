//! Assembles the file tree of a zone inside its own mount namespace.
//!
//! Runs as the zone's process 1 before anything of the zone runs. Must not
//! trust names below the zone's root: an earlier job may have put a symlink
//! there, so each target is reached component by component without
//! following any.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::checkpoint::{self, Checkpoint};
use crate::place::Owner;
use crate::sys;

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;

/// Device nodes that a zone has, with their numbers.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// A step of the assembly that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub(crate) struct MountError {
    step: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(
    step: impl Into<String>,
) -> impl FnOnce(E) -> MountError {
    |error| MountError { step: step.into(), source: error.into() }
}

/// A directory of the host shown in the zone.
#[derive(Debug, Clone)]
pub(crate) struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Path below the zone's root.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// All that a zone's file tree consists of.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Lower layers, topmost first; the last is the image.
    pub lowers: Vec<PathBuf>,
    /// The generation: has `up` and `work`, and serves as mount point.
    pub generation: PathBuf,
    /// Size of the writable layer, if that is to be in memory.
    pub upper_tmpfs: Option<u64>,
    /// Directories of the host.
    pub binds: Vec<Bind>,
    /// Snapshots to be shown.
    pub checkpoints: Vec<Checkpoint>,
    /// Bytes of `/tmp`.
    pub tmpfs: u64,
    /// As whom the zone is run.
    pub owner: Owner,
}

/// Mounts everything and makes it the root of this process.
pub(crate) fn enter(layout: &Layout) -> Result<(), MountError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)
        .map_err(failed("make mounts private"))?;
    let resolv = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    let binds = open_binds(layout)?;
    let devices = open_devices(layout.owner)?;
    let overlay = overlay(layout)?;
    attach(&overlay, CWD, &layout.generation)
        .map_err(failed("mount the root"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&layout.generation, flags, Mode::empty())
        .map_err(failed("open the root"))?;
    let tree = Tree { root, owner: layout.owner };
    tree.proc()?;
    tree.dev(devices)?;
    tree.run(&resolv)?;
    let options = format!("size={},mode=1777", layout.tmpfs);
    let tmp = tmpfs(&options).map_err(failed("make /tmp"))?;
    tree.put(Path::new("tmp"), &tmp)?;
    own(&tree.root, Path::new("tmp"), layout.owner)
        .map_err(failed("own /tmp"))?;
    tree.checkpoints(&layout.checkpoints)?;
    for (bind, mount) in layout.binds.iter().zip(&binds) {
        tree.put(&bind.target, mount)?;
    }
    tree.pivot()
}

fn overlay(layout: &Layout) -> Result<OwnedFd, MountError> {
    let step = "mount the overlay";
    let dir = layout.generation.clone();
    if let Some(size) = layout.upper_tmpfs {
        let options = format!("size={size},mode=700");
        let upper = tmpfs(&options).map_err(failed("make the upper tmpfs"))?;
        attach(&upper, CWD, &dir).map_err(failed("mount the upper tmpfs"))?;
        for name in ["up", "work"] {
            let path = dir.join(name);
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdir(&path, mode).map_err(failed(step))?;
            own(CWD, &path, layout.owner).map_err(failed(step))?;
        }
    }
    let fs = open_overlay(&layout.lowers).map_err(failed(step))?;
    for (key, path) in [("upperdir", "up"), ("workdir", "work")] {
        rustix::mount::fsconfig_set_string(&fs, key, dir.join(path))
            .map_err(failed(step))?;
    }
    rustix::mount::fsconfig_set_flag(&fs, "volatile").map_err(failed(step))?;
    if !layout.owner.is_root() {
        rustix::mount::fsconfig_set_flag(&fs, "userxattr")
            .map_err(failed(step))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(failed(step))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(failed(step))
}

/// Begins an overlay over layers, topmost first.
fn open_overlay(lowers: &[PathBuf]) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    let fs = open()?;
    let one_by_one = lowers.iter().try_for_each(|lower| {
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", lower.as_path())
    });
    if one_by_one.is_ok() {
        return Ok(fs);
    }
    // Before Linux 6.5 layers are named in one string.
    let fs = open()?;
    let text = |path: &PathBuf| path.to_string_lossy().replace(':', "\\:");
    let joined = lowers.iter().map(text).collect::<Vec<_>>().join(":");
    rustix::mount::fsconfig_set_string(&fs, "lowerdir", joined)?;
    Ok(fs)
}

/// Mounts a snapshot, not yet anywhere.
pub(crate) fn checkpoint(
    checkpoint: &Checkpoint,
    owner: Owner,
) -> io::Result<OwnedFd> {
    // An overlay of one layer is that layer.
    if let [only] = checkpoint.lowers.as_slice() {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = rustix::mount::open_tree(CWD, only, flags)?;
        sys::mount_attributes(mount.as_fd(), NOSUID | NODEV | RDONLY)?;
        return Ok(mount);
    }
    let fs = open_overlay(&checkpoint.lowers)?;
    if !owner.is_root() {
        rustix::mount::fsconfig_set_flag(&fs, "userxattr")?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(&fs, flags, attributes)?)
}

/// Attaches a mount below a root that somebody else may write to.
pub(crate) fn put(
    root: &Path,
    target: &Path,
    mount: &OwnedFd,
    owner: Owner,
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let tree = Tree { root, owner };
    tree.put(target, mount).map_err(|error| error.source)
}

/// Takes a mount and its mount point away; no error if they are not there.
pub(crate) fn take(target: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(rustix::fs::rmdir(target)?),
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes hold of what is to be bound while host paths can still be walked,
/// closed parents included.
fn open_binds(layout: &Layout) -> Result<Vec<OwnedFd>, MountError> {
    let open = |bind: &Bind| {
        let step = || failed(format!("bind {}", bind.source.display()));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = rustix::mount::open_tree(CWD, &bind.source, flags)
            .map_err(|error| step()(error.into()))?;
        let read_only = if bind.read_only { RDONLY } else { 0 };
        sys::mount_attributes(mount.as_fd(), NOSUID | NODEV | read_only)
            .map_err(step())?;
        Ok(mount)
    };
    layout.binds.iter().map(open).collect()
}

/// An ordinary user cannot make device nodes, but bind those of the host.
fn open_devices(owner: Owner) -> Result<Vec<OwnedFd>, MountError> {
    if owner.is_root() {
        return Ok(Vec::new());
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let open = |(name, _, _): &(&str, u32, u32)| {
        let path = Path::new("/dev").join(name);
        rustix::mount::open_tree(CWD, &path, flags)
            .map_err(failed(format!("bind {}", path.display())))
    };
    DEVICES.iter().map(open).collect()
}

fn attach<Fd: AsFd>(
    mount: &OwnedFd,
    at: Fd,
    path: &Path,
) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", at, path, flags)
}

fn own<Fd: AsFd>(at: Fd, path: &Path, owner: Owner) -> rustix::io::Result<()> {
    if !owner.is_root() {
        return Ok(());
    }
    let (uid, gid) = owner.host_ids(0, 0);
    rustix::fs::chownat(
        at,
        path,
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// A new file system of a kind that needs no source; options as in fstab.
fn filesystem(
    kind: &str,
    options: &str,
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => {
                rustix::mount::fsconfig_set_string(&fs, key, value)?;
            }
            None => rustix::mount::fsconfig_set_flag(&fs, option)?,
        }
    }
    rustix::mount::fsconfig_create(&fs)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn tmpfs(options: &str) -> rustix::io::Result<OwnedFd> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    filesystem("tmpfs", options, attributes)
}

/// The zone's tree while it is being put together.
struct Tree {
    root: OwnedFd,
    owner: Owner,
}

impl Tree {
    /// Reaches a directory below the root, making what is missing.
    fn reach(&self, path: &Path) -> Result<OwnedFd, MountError> {
        let step =
            || failed(format!("make the mount point /{}", path.display()));
        let flags = OFlags::PATH
            | OFlags::DIRECTORY
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let mut at = self.root.try_clone().map_err(step())?;
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => Path::new(name),
                Component::RootDir | Component::CurDir => continue,
                _ => {
                    return Err(step()(io::Error::other(
                        "path leaves the zone",
                    )));
                }
            };
            let opened = rustix::fs::openat(&at, name, flags, Mode::empty());
            at = match opened {
                Err(rustix::io::Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&at, name, mode)
                        .and_then(|()| own(&at, name, self.owner))
                        .and_then(|()| {
                            rustix::fs::openat(&at, name, flags, Mode::empty())
                        })
                        .map_err(|error| step()(error.into()))?
                }
                other => other.map_err(|error| step()(error.into()))?,
            };
        }
        Ok(at)
    }

    /// Attaches a mount at a directory below the root.
    fn put(&self, path: &Path, mount: &OwnedFd) -> Result<(), MountError> {
        let at = self.reach(path)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", &at, "", flags)
            .map_err(failed(format!("mount /{}", path.display())))
    }

    fn proc(&self) -> Result<(), MountError> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount =
            filesystem("proc", "", attributes).map_err(failed("make /proc"))?;
        self.put(Path::new("proc"), &mount)
    }

    fn dev(&self, nodes: Vec<OwnedFd>) -> Result<(), MountError> {
        let step = || failed("fill /dev");
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = filesystem("tmpfs", "size=1m,mode=755", attributes)
            .map_err(step())?;
        self.put(Path::new("dev"), &mount)?;
        let dev = self.reach(Path::new("dev"))?;
        own(&self.root, Path::new("dev"), self.owner).map_err(step())?;
        let mode = Mode::from_raw_mode(0o666);
        for (name, major, minor) in DEVICES {
            if self.owner.is_root() {
                let number = rustix::fs::makedev(major, minor);
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(&dev, name, kind, mode, number)
                    .and_then(|()| {
                        rustix::fs::chmodat(&dev, name, mode, AtFlags::empty())
                    })
                    .map_err(step())?;
            } else {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&dev, name, flags, mode).map_err(step())?;
            }
        }
        for ((name, _, _), node) in DEVICES.iter().zip(&nodes) {
            attach(node, &dev, Path::new(name)).map_err(step())?;
        }
        for (target, name) in [
            ("pts/ptmx", "ptmx"),
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
        ] {
            rustix::fs::symlinkat(target, &dev, name).map_err(step())?;
        }
        let pts = filesystem(
            "devpts",
            "newinstance,ptmxmode=0666,mode=620",
            attributes,
        )
        .map_err(failed("make /dev/pts"))?;
        self.put(Path::new("dev/pts"), &pts)?;
        let shm = tmpfs("mode=1777").map_err(failed("make /dev/shm"))?;
        self.put(Path::new("dev/shm"), &shm)
    }

    /// Shows the snapshots; one that cannot be shown is left out, as in the
    /// original.
    fn checkpoints(&self, all: &[Checkpoint]) -> Result<(), MountError> {
        let step = || failed("fill /checkpoints");
        let dir = tmpfs("size=256k,mode=755").map_err(step())?;
        let path = Path::new(checkpoint::DIR);
        self.put(path, &dir)?;
        own(&self.root, path, self.owner).map_err(step())?;
        for one in all {
            if let Ok(mount) = checkpoint(one, self.owner) {
                let _ = self.put(&one.target(), &mount);
            }
        }
        Ok(())
    }

    fn run(&self, resolv: &[u8]) -> Result<(), MountError> {
        let step = || failed("fill /run");
        let mount = tmpfs("size=64m,mode=755").map_err(step())?;
        let path = Path::new("run");
        self.put(path, &mount)?;
        own(&self.root, path, self.owner).map_err(step())?;
        let run = self.reach(path)?;
        let (open, closed) =
            (Mode::from_raw_mode(0o1777), Mode::from_raw_mode(0o644));
        rustix::fs::mkdirat(&run, "lock", open)
            .and_then(|()| {
                rustix::fs::chmodat(&run, "lock", open, AtFlags::empty())
            })
            .map_err(step())?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&run, "resolv.conf", flags, closed)
            .map_err(step())?;
        rustix::io::write(&file, resolv).map_err(step())?;
        Ok(())
    }

    /// Makes the tree the root and lets go of the host's.
    fn pivot(&self) -> Result<(), MountError> {
        rustix::process::fchdir(&self.root)
            .map_err(failed("enter the root"))?;
        rustix::process::pivot_root(".", ".")
            .map_err(failed("change the root"))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)
            .map_err(failed("let go of the host's root"))?;
        rustix::process::chdir("/").map_err(failed("enter the new root"))
    }
}

/// Makes the zone's view of kernel settings read-only. Needed where the
/// job's user owns them, as in a zone of one id.
pub(crate) fn close_settings() -> Result<(), MountError> {
    let path = "/proc/sys";
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, path, flags)
        .map_err(failed("close /proc/sys"))?;
    sys::mount_attributes(mount.as_fd(), RDONLY)
        .map_err(failed("close /proc/sys"))?;
    attach(&mount, CWD, Path::new(path)).map_err(failed("close /proc/sys"))
}
