//! What bpf(2) tells of the programs that the kernel holds.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const PROG_GET_FD_BY_ID: i32 = 13;

/// Whether the kernel holds a program of this number.
pub(crate) fn is_loaded(id: u32) -> bool {
    let mut attr = [id, 0, 0, 0];
    // SAFETY: the attributes are four words, of which this command reads
    // the first three; they outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_GET_FD_BY_ID,
            attr.as_mut_ptr(),
            size_of_val(&attr),
        )
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        return false;
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    true
}
