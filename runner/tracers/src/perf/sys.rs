//! What std cannot say of a child: that it dies with us, and in which
//! namespaces it lives.
//!
//! All runs between fork and exec: nothing here allocates.

#![expect(
    unsafe_code,
    reason = "pre_exec runs between fork and exec; the closures only make \
              system calls, with what was made ready before"
)]

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change,
};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, fchdir, getpid, getppid,
    set_parent_process_death_signal, setpriority_process, setrlimit,
};
use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, move_into_link_name_space,
    set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid, unshare_unsafe,
};

/// Memory that the reader of hostile files may take. Bytes.
const MEMORY_MAX: u64 = 2 << 30;

/// The child is killed when the thread that started it ends, and keeps these
/// descriptors, under the numbers that they have here.
pub(super) fn tie(command: &mut Command, keep: Vec<OwnedFd>) {
    let parent = getpid();
    let prepare = move || {
        for fd in &keep {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        // A little earlier than the job, where allowed: a full ring loses
        // samples.
        let _ = setpriority_process(None, -5);
        die_with(parent)
    };
    // SAFETY: the closure makes system calls only.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before it could be heard of.
    if getppid() != Some(parent) {
        return Err(Errno::SRCH.into());
    }
    Ok(())
}

/// Where a child lives that reads what a job wrote.
#[derive(Debug)]
pub(super) struct Cell {
    /// The zone's user namespace: the child has the zone's rights, not ours.
    pub(super) user: OwnedFd,
    /// Its directory: the root of the zone.
    pub(super) root: OwnedFd,
    /// What it sees as `/tmp`.
    pub(super) room: OwnedFd,
}

/// The child lives in a cell: without network, without /proc, in mounts of
/// its own, as the zone's root, who is nobody here.
pub(super) fn confine(command: &mut Command, cell: Cell) {
    let parent = getpid();
    let prepare = move || {
        let user = Some(LinkNameSpaceType::User);
        move_into_link_name_space(cell.user.as_fd(), user)?;
        // Refused in a zone of one id, which has no groups to lose.
        let _ = set_thread_groups(&[]);
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        // The directory of a process moves into its new mounts with it; a
        // descriptor would stay in the old ones.
        fchdir(&cell.room)?;
        let alone = UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS;
        // SAFETY: descriptors stay shared with nobody: this is a fork.
        unsafe { unshare_unsafe(alone) }?;
        let private =
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        mount_change(c"/", private)?;
        mount_bind(c".", c"/tmp")?;
        fchdir(&cell.root)?;
        let flags = MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        mount(c"none", c"/proc", c"tmpfs", flags, None)?;
        let most =
            |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(Resource::Data, most(MEMORY_MAX))?;
        setrlimit(Resource::Core, most(0))?;
        set_no_new_privs(true)?;
        // Last: a change of ids takes it back.
        die_with(parent)
    };
    // SAFETY: the closure makes system calls only.
    unsafe {
        command.pre_exec(prepare);
    }
}
