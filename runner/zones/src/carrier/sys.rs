//! The one thing std cannot say: a child that keeps one more descriptor.
#![expect(
    unsafe_code,
    reason = "pre_exec runs between fork and exec; the closure only makes \
              one system call that is safe there"
)]

use std::os::fd::{BorrowedFd, RawFd};
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};

/// Lets the child of `command` inherit `fd` under the same number. The
/// caller keeps `fd` open until the child was spawned.
pub(super) fn inherit(command: &mut Command, fd: RawFd) {
    use std::os::unix::process::CommandExt as _;
    let keep = move || {
        // SAFETY: the descriptor is open in the parent until after spawn,
        // so it is open in the forked child.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl_setfd(fd, FdFlags::empty()).map_err(Into::into)
    };
    // SAFETY: fcntl is async-signal-safe and the closure allocates nothing.
    unsafe {
        command.pre_exec(keep);
    }
}
