//! System calls that have no safe wrapper in our libraries.
//!
//! Knows numbers and structures of the kernel, nothing of zones. Everything
//! here assumes a process with one thread: `fork` and `clone` without `exec`
//! are sound only so, and the programs of this crate start no thread.

#![expect(
    unsafe_code,
    reason = "fork, clone, setns and capset have no safe wrapper"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a fork one is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old process, with the pid of the new one.
    Parent(i32),
}

/// How a child ended, with what it and its own children used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// The raw status word of wait(2).
    pub status: i32,
    /// Processor time of user and kernel, in milliseconds.
    pub cpu_ms: u64,
    /// The user's part of it.
    pub user_ms: u64,
    /// Greatest resident size, in bytes.
    pub max_rss: u64,
}

impl Ended {
    /// The exit status, unless a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        libc::WIFEXITED(self.status).then(|| libc::WEXITSTATUS(self.status))
    }

    /// The signal that ended it, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        libc::WIFSIGNALED(self.status).then(|| libc::WTERMSIG(self.status))
    }

    /// Whether the kernel wrote a core image.
    pub(crate) fn core(&self) -> bool {
        libc::WCOREDUMP(self.status)
    }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn forked(pid: i64) -> io::Result<Forked> {
    match check(pid)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as i32)),
    }
}

/// fork(2).
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: one thread (module doc), so the child may run any code.
    forked(i64::from(unsafe { libc::fork() }))
}

/// clone(2) without shared memory: a fork with `CLONE_*` flags.
pub(crate) fn clone_process(flags: i32) -> io::Result<Forked> {
    let flags = i64::from(flags | libc::SIGCHLD);
    let no: i64 = 0;
    // SAFETY: no stack is given and memory is not shared, so it behaves as
    // fork; one thread (module doc).
    forked(unsafe { libc::syscall(libc::SYS_clone, flags, no, no, no, no) })
}

/// clone3(2) without shared memory: a fork with `CLONE_*` flags whose child
/// is in a group of the v2 hierarchy from its beginning, which nobody has to
/// wait for.
pub(crate) fn clone_into(
    group: BorrowedFd<'_>,
    flags: i32,
) -> io::Result<Forked> {
    /// The kernel's `struct clone_args`, as of Linux 5.7.
    #[repr(C)]
    #[derive(Default)]
    struct Args {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let args = Args {
        flags: u64::from(flags as u32) | CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group.as_raw_fd() as u64,
        ..Args::default()
    };
    let (at, size) = (&raw const args, size_of::<Args>());
    // SAFETY: the structure outlives the call; no stack is given and memory
    // is not shared, so it behaves as fork; one thread (module doc).
    forked(unsafe { libc::syscall(libc::SYS_clone3, at, size) })
}

/// setns(2) on a pidfd or a namespace file.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(i64::from(unsafe { libc::setns(fd.as_raw_fd(), flags) })).map(drop)
}

/// unshare(2).
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers; one thread, so nothing loses shared files.
    check(i64::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Ends the process at once: no destructors, no exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// execve(2). Returns only if it failed.
pub(crate) fn exec(
    path: &CStr,
    argv: &[CString],
    env: &[CString],
) -> io::Error {
    let pointers = |list: &[CString]| {
        let mut all: Vec<_> = list.iter().map(|one| one.as_ptr()).collect();
        all.push(std::ptr::null());
        all
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end in null and outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Closes every descriptor from `first` to `last`, both included.
fn close_range(first: u32, last: u32) {
    if first > last {
        return;
    }
    // SAFETY: callers are freshly forked processes that name here only
    // descriptors that they never touch again.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done < 0 {
        let top = last.min(65_536);
        for fd in first..=top {
            // SAFETY: as above.
            unsafe { libc::close(fd as i32) };
        }
    }
}

/// Closes all descriptors above 2 but those of `keep`.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> =
        keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        close_range(next, fd.wrapping_sub(1));
        next = fd + 1;
    }
    close_range(next, u32::MAX);
}

/// Takes over a descriptor that was inherited under a number, if it is open.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes no pointers and gives a new descriptor.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    check(i64::from(copy))?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes a descriptor over that this process was given under a number; it
/// will not survive exec.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let done = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    check(i64::from(done))?;
    // SAFETY: it is open, and by the contract of this function nobody else
    // in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// perf_event_open(2) on the calling process and one processor, with the
/// attributes as raw bytes, whose length they carry.
pub(crate) fn perf_event_open(
    attr: &mut [u8],
    cpu: u32,
) -> io::Result<OwnedFd> {
    // PERF_ATTR_SIZE_VER0; the kernel reads as much as the field says.
    const SIZE_MIN: usize = 64;
    let told = attr.get(4..8).map(|b| [b[0], b[1], b[2], b[3]]);
    let told = told.map_or(0, u32::from_ne_bytes) as usize;
    if told != attr.len() || told < SIZE_MIN {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the kernel reads `told` bytes, which are there, and writes at
    // most the size field.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_mut_ptr(),
            0,
            cpu,
            -1,
            // PERF_FLAG_FD_CLOEXEC
            8_u64,
        )
    };
    let fd = check(fd)?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes `to` a copy of `from` that survives exec.
pub(crate) fn dup_onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if from.as_raw_fd() == to {
        // SAFETY: takes no pointers.
        let done = unsafe { libc::fcntl(to, libc::F_SETFD, 0) };
        return check(i64::from(done)).map(drop);
    }
    // SAFETY: takes no pointers; `to` is one of 0 to 3 at every caller.
    check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// Empties the list of further groups; an error where the map forbids it.
pub(crate) fn clear_groups() -> io::Result<()> {
    // SAFETY: a count of 0 reads nothing.
    let done = unsafe { libc::setgroups(0, std::ptr::null()) };
    check(i64::from(done)).map(drop)
}

/// Sets real, effective and saved ids, group first.
pub(crate) fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(i64::from(unsafe { libc::setresgid(gid, gid, gid) }))?;
    // SAFETY: takes no pointers.
    check(i64::from(unsafe { libc::setresuid(uid, uid, uid) })).map(drop)
}

/// Gives up the bounding set: no exec brings a capability back. To be done
/// while one still has the right to.
pub(crate) fn drop_bounding_set() {
    for cap in 0..64 {
        // SAFETY: takes no pointers. An unknown number ends the list.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0) };
        if done < 0 {
            break;
        }
    }
}

/// Gives up each capability that this process has.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) };
    // Version 3 of the header, this process, three empty sets of 64 bits.
    let header: [u32; 2] = [0x2008_0522, 0];
    let data = [0_u32; 6];
    // SAFETY: header and data have the layout of version 3.
    let done = unsafe {
        libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr())
    };
    check(done).map(drop)
}

/// Forbids this process and its children to gain rights by exec.
pub(crate) fn forbid_new_rights() -> io::Result<()> {
    // SAFETY: takes no pointers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    check(i64::from(done)).map(drop)
}

/// Whether others of the same owner may look into this process.
pub(crate) fn set_dumpable(yes: bool) {
    // SAFETY: takes no pointers; cannot fail with 0 or 1.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, i32::from(yes), 0, 0, 0) };
}

/// Sets soft and hard limit of one resource.
pub(crate) fn set_limit(resource: u32, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure outlives the call.
    let done = unsafe { libc::setrlimit(resource, &raw const limit) };
    check(i64::from(done)).map(drop)
}

/// The hard limit of one resource.
pub(crate) fn hard_limit(resource: u32) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    limit.rlim_max
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// mount_setattr(2) on a whole tree of mounts: sets the attributes `set`.
pub(crate) fn mount_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
) -> io::Result<()> {
    let attr = MountAttr { set, clear: 0, propagation: 0, userns: 0 };
    // SAFETY: path and structure outlive the call; the size is the one of
    // the structure's first version.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(done).map(drop)
}

/// Switches the loopback interface of this network namespace on.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: takes no pointers, gives a new descriptor.
    let raw = unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    };
    check(i64::from(raw))?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the structure outlives the call.
    let done = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    check(i64::from(done)).map(drop)
}

/// Blocks the signals and gives a descriptor from which they are read.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set outlives both calls.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
    check(i64::from(fd))?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all zeros is a valid value; sigemptyset then defines it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours; unknown numbers are refused, not stored.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: as above.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// Signal handling as a fresh program expects it: defaults, none blocked.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no code; KILL and STOP refuse, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = signal_set(&[]);
    // SAFETY: the set outlives the call.
    unsafe {
        libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        )
    };
}

/// Ignores the signals from now on.
pub(crate) fn ignore_signals(signals: &[i32]) {
    for signal in signals {
        // SAFETY: SIG_IGN installs no code.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// kill(2): `-1` names every process that one may signal, but oneself.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(i64::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// wait4(2) for one child, or any with `-1`; `None` if none ended yet.
pub(crate) fn wait_child(pid: i32, block: bool) -> io::Result<Option<Ended>> {
    let mut status = 0;
    let options = if block { 0 } else { libc::WNOHANG };
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: status and usage outlive the call.
        let done = unsafe {
            libc::wait4(pid, &raw mut status, options, &raw mut usage)
        };
        match check(i64::from(done)) {
            Ok(0) => return Ok(None),
            Ok(_) => {
                let ms = |t: libc::timeval| {
                    t.tv_sec as u64 * 1000 + t.tv_usec as u64 / 1000
                };
                return Ok(Some(Ended {
                    status,
                    cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
                    user_ms: ms(usage.ru_utime),
                    max_rss: usage.ru_maxrss as u64 * 1024,
                }));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The process that made the connection of a unix socket; needs Linux 6.5.
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: i32 = 77;
    let mut raw: RawFd = -1;
    let mut size = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: value and size outlive the call and agree.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &raw mut size,
        )
    };
    check(i64::from(done))?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Overwrites this process's own arguments and environment in memory, so
/// that what is forked from here on does not carry them into a zone.
pub(crate) fn scrub_arguments(name: &str) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    let Some((_, rest)) = stat.rsplit_once(") ") else { return };
    let fields: Vec<usize> =
        rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    // Fields 48 to 51 of proc(5); the first after the name is number 3.
    let at = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let (args, args_end, env, env_end) = (at(48), at(49), at(50), at(51));
    if args == 0 || args_end < args || env == 0 || env_end < env {
        return;
    }
    let room = args_end - args;
    let mut text = vec![0_u8; room];
    let shown = name.len().min(room.saturating_sub(1));
    text[..shown].copy_from_slice(&name.as_bytes()[..shown]);
    // SAFETY: the kernel put both areas on this process's stack and says
    // where; they stay mapped and writable for the life of the process. The
    // strings in them stay terminated, since all bytes become zero. No
    // reference to them is alive: std copies on each access.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), args as *mut u8, room);
        std::ptr::write_bytes(env as *mut u8, 0, env_end - env);
    }
    if let Ok(name) = CString::new(name) {
        // SAFETY: the kernel copies at most 16 bytes of a terminated string.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }
}

/// Lowest claim on processor and disk, for work that nobody waits for.
pub(crate) fn be_nice() {
    // SAFETY: both take no pointers. 3 << 13 is the idle class of ioprio.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13);
    }
}

/// Real user and group of this process.
pub(crate) fn own_ids() -> (u32, u32) {
    // SAFETY: both cannot fail and take no pointers.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Sets the mask of file modes.
pub(crate) fn umask(mask: u32) {
    // SAFETY: cannot fail, takes no pointers.
    unsafe { libc::umask(mask) };
}
