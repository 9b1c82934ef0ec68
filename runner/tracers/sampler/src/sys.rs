//! System calls without a safe wrapper: forking into a pid namespace, and
//! looking at stopped threads. The sampler's process has one thread.

#![expect(
    unsafe_code,
    reason = "fork, setns, ptrace and process_vm_readv have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Which side of a fork one is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old process, with the pid of the new one.
    Parent(i32),
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// fork(2).
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: the process has one thread (module doc), so the child may run
    // any code.
    match check(i64::from(unsafe { libc::fork() }))? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as i32)),
    }
}

/// Ends the process at once: no destructors, no exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Puts the children of this process into the pid namespace of another.
pub(crate) fn enter_pid_namespace(of: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let done = unsafe { libc::setns(of.as_raw_fd(), libc::CLONE_NEWPID) };
    check(i64::from(done)).map(drop)
}

/// wait4(2) for one child; `None` if it has not ended (or stopped, if it is
/// traced) yet, else the status word.
pub(crate) fn wait_child(pid: i32, block: bool) -> io::Result<Option<i32>> {
    let mut status = 0;
    let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: the status outlives the call.
        let done = unsafe { libc::waitpid(pid, &raw mut status, options) };
        match check(i64::from(done)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a status word says that a traced thread stopped.
pub(crate) fn is_stop(status: i32) -> bool {
    libc::WIFSTOPPED(status)
}

/// Begins to trace a thread without stopping it, then asks it to stop.
pub(crate) fn seize(tid: i32) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: SEIZE and INTERRUPT take no pointers.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, none, none) })?;
    // SAFETY: as above.
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none) })
        .map(drop)
}

/// Lets a stopped thread go on, untraced.
pub(crate) fn release(tid: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: takes no pointers. A thread that died needs no release.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, none, none) };
}

/// The general registers of a stopped thread, as words.
pub(crate) fn registers(tid: i32) -> io::Result<Vec<u64>> {
    const NT_PRSTATUS: usize = 1;
    let mut words = vec![0_u64; 64];
    let mut room = libc::iovec {
        iov_base: words.as_mut_ptr().cast(),
        iov_len: words.len() * 8,
    };
    // SAFETY: the kernel writes at most `iov_len` bytes and then sets it to
    // what it wrote; both outlive the call.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_GETREGSET,
            tid,
            NT_PRSTATUS as *mut libc::c_void,
            &raw mut room,
        )
    })?;
    words.truncate(room.iov_len / 8);
    Ok(words)
}

/// Reads another process's memory; gives as much as is there.
pub(crate) fn read_memory(
    pid: i32,
    from: u64,
    room: &mut [u8],
) -> io::Result<usize> {
    let page = rustix::param::page_size();
    // One piece a page: a hole ends the answer, it does not refuse it.
    let mut remote = Vec::new();
    let (mut at, mut left) = (from, room.len());
    while left > 0 && remote.len() < 1024 {
        let piece = left.min(page - (at as usize) % page);
        remote.push(libc::iovec {
            iov_base: at as *mut libc::c_void,
            iov_len: piece,
        });
        at = at.wrapping_add(piece as u64);
        left -= piece;
    }
    let local =
        libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: the kernel checks the remote addresses in that process and
    // writes at most the room's length.
    let count = unsafe {
        libc::process_vm_readv(
            pid,
            &raw const local,
            1,
            remote.as_ptr(),
            remote.len() as u64,
            0,
        )
    };
    check(count as i64).map(|count| count as usize)
}

/// As many descriptors as this user may have: each file that was seen as
/// code is held open.
pub(crate) fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Limits the memory that this process may take.
pub(crate) fn limit_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the structure outlives the call. A lower limit that is there
    // already stays.
    unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) };
}

/// Asks for the processor a little earlier than the job, where allowed: a
/// full ring loses samples.
pub(crate) fn hurry() {
    // SAFETY: takes no pointers; refused without the right to.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -5) };
}

/// Forbids this process and its children to gain rights by exec.
pub(crate) fn forbid_new_rights() {
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
}
