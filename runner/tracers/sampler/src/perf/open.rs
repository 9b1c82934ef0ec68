//! Opening events: on a cgroup from inside the zone's pid namespace, for
//! those who may; else by the job's first process, on itself, which hands
//! them out over a socket.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::{Pid, PidfdFlags};

use super::sys::{bytes_of, open_on_group};
use super::{Event, Settings, processors};
use crate::sys::{self, Forked};

/// Longest wait for another process's part in this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Descriptors in one packet.
const BATCH: usize = 64;

/// Events that could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The kernel refused.
    #[error("the kernel refuses perf events: {}", hint(.0))]
    Refused(#[source] io::Error),
    /// A step on the way failed.
    #[error("cannot {0}")]
    Step(&'static str, #[source] io::Error),
    /// The other process went away or said nothing.
    #[error("the process that opens the events went away")]
    Silent,
}

fn hint(error: &io::Error) -> String {
    let paranoid =
        std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
            .unwrap_or_default();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!(
            "{error}; kernel.perf_event_paranoid is {}, which must be 2 or \
             less for an ordinary user, and in a container its seccomp \
             profile must allow perf_event_open",
            paranoid.trim()
        ),
        Some(libc::ENOSYS) => {
            format!("{error}; this kernel was built without perf events")
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            format!("{error}; raise the limit on open files (ulimit -n)")
        }
        _ => error.to_string(),
    }
}

fn ring_error(error: io::Error) -> OpenError {
    let error = match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOMEM) => io::Error::other(format!(
            "{error}; all tracers of a user share what may be locked: raise \
             kernel.perf_event_mlock_kb or ulimit -l"
        )),
        _ => error,
    };
    OpenError::Step("map the ring of an event", error)
}

/// Opens one event a processor on a cgroup, so that its records carry the
/// pids of the zone whose process 1 is given. They are switched off.
pub(crate) fn on_group(
    settings: &Settings,
    group: &Path,
    init: i32,
) -> Result<Vec<Event>, OpenError> {
    let step = |what| move |error: io::Error| OpenError::Step(what, error);
    let group = File::open(group).map_err(step("open the cgroup"))?;
    let init = Pid::from_raw(init)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
        .and_then(|pid| {
            Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
        })
        .map_err(step("find process 1 of the zone"))?;
    let cpus = processors().map_err(step("list the processors"))?;
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| step("make a socket")(error.into()))?;
    // A child of a child: only what is forked after setns is inside.
    let between = match sys::fork().map_err(step("fork"))? {
        Forked::Child => {
            let inside = sys::enter_pid_namespace(init.as_fd())
                .and_then(|()| sys::fork());
            match inside {
                Ok(Forked::Child) => {
                    hand_out(settings, &group, &cpus, &theirs);
                    sys::exit_now(0)
                }
                Ok(Forked::Parent(_)) => sys::exit_now(0),
                Err(error) => {
                    say_error(&theirs, &error);
                    sys::exit_now(1)
                }
            }
        }
        Forked::Parent(pid) => pid,
    };
    drop(theirs);
    let _ = sys::wait_child(between, true);
    receive(&ours)
}

fn say_error(socket: &OwnedFd, error: &io::Error) {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    let text = format!("E{code}");
    // Without us the other side reads the end, which it takes for an error.
    let _ = rustix::net::send(socket, text.as_bytes(), SendFlags::NOSIGNAL);
}

fn hand_out(settings: &Settings, group: &File, cpus: &[u32], to: &OwnedFd) {
    let attr = settings.attr();
    let mut events = Vec::with_capacity(cpus.len());
    for cpu in cpus {
        match open_on_group(&attr, group.as_fd(), *cpu) {
            Ok(event) => events.push(event),
            // A processor that was switched off just now.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return say_error(to, &error),
        }
    }
    for batch in events.chunks(BATCH) {
        let batch: Vec<BorrowedFd<'_>> =
            batch.iter().map(AsFd::as_fd).collect();
        let mut room =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        ancillary.push(SendAncillaryMessage::ScmRights(&batch));
        let sent = rustix::net::sendmsg(
            to,
            &[IoSlice::new(b"F")],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        if let Err(error) = sent {
            return say_error(to, &error.into());
        }
    }
    // Without this the other side reads the end: an error there.
    let _ = rustix::net::send(to, b".", SendFlags::NOSIGNAL);
}

/// Has the process at the other end of a socket open the events on itself,
/// maps their rings, and lets it go on.
pub(crate) fn by_process(
    settings: &Settings,
    socket: &OwnedFd,
) -> Result<Vec<Event>, OpenError> {
    let step = |what| move |error: io::Error| OpenError::Step(what, error);
    let cpus = processors().map_err(step("list the processors"))?;
    let attr = bytes_of(&settings.attr());
    let mut packet = (attr.len() as u32).to_ne_bytes().to_vec();
    packet.extend(attr);
    packet.extend(cpus.iter().flat_map(|cpu| cpu.to_ne_bytes()));
    rustix::net::send(socket, &packet, SendFlags::NOSIGNAL)
        .map_err(|error| step("ask for events")(error.into()))?;
    let events = receive(socket)?;
    // If it is gone by now, nothing will be sampled, and the summary says so.
    let _ = rustix::net::send(socket, b"g", SendFlags::NOSIGNAL);
    Ok(events)
}

/// Receives events until the other side says that there are no more.
fn receive(socket: &OwnedFd) -> Result<Vec<Event>, OpenError> {
    let until = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polls = [PollFd::new(socket, PollFlags::IN)];
        match rustix::event::poll(&mut polls, Some(&left)) {
            Ok(0) => return Err(OpenError::Silent),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                return Err(OpenError::Step("wait for events", error.into()));
            }
        }
        let mut room =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut room);
        let mut text = [0_u8; 32];
        let got = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|error| OpenError::Step("receive events", error.into()))?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    events.push(Event::new(fd).map_err(ring_error)?);
                }
            }
        }
        match text.get(..got.bytes) {
            Some(b"F") => {}
            Some(b".") => return Ok(events),
            Some([b'E', code @ ..]) => {
                let code = String::from_utf8_lossy(code).parse();
                let code = code.unwrap_or(libc::EIO);
                let error = io::Error::from_raw_os_error(code);
                return Err(OpenError::Refused(error));
            }
            _ => return Err(OpenError::Silent),
        }
    }
}
