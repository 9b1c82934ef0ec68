//! The host's side of metadata: a socket that belongs to a zone's keeper.
//!
//! The keeper accepts and looks who it is: only the zone's root is heard.
//! Everybody else is hung up on before a byte is read. The rest is done by a
//! process of its own for each connection, so that a zone that talks slowly
//! holds up nobody; there are few at a time and each has a deadline. It
//! changes the state only while the zone is the one that asked: a put that
//! comes too late must not touch what a rollback brought back.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::{Answer, LINE_MAX, Request, SOCKET};
use crate::clock::Deadline;
use crate::place::make_dir;
use crate::sys::{self, Forked};
use crate::vmadm;
use crate::zone::{LockKind, Run, Zone};

/// How many connections are served at a time.
const SERVED_MAX: usize = 4;

/// How many wait for that.
const BACKLOG: i32 = 16;

/// How long a connection may take in all.
const SERVE_WAIT: Duration = Duration::from_secs(20);

/// Pause between two looks at something that cannot be waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// The directory that a zone sees as `/.zonecontrol`; made if missing.
pub(crate) fn control_dir(zone: &Zone) -> io::Result<PathBuf> {
    let dir = zone.dir().join("control");
    make_dir(&dir)?;
    Ok(dir)
}

/// The socket of one boot.
#[derive(Debug)]
pub(crate) struct Door {
    listener: OwnedFd,
    served: Vec<i32>,
}

impl Door {
    /// Makes the socket anew.
    pub(crate) fn open(zone: &Zone) -> io::Result<Door> {
        let dir = control_dir(zone)?;
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // By way of the descriptor, since the path may be too long for the
        // address of a socket.
        let handle = std::fs::File::open(&dir)?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
        rustix::net::bind(&listener, &SocketAddrUnix::new(short)?)?;
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, closed)?;
        let owner = zone.place.owner;
        if owner.is_root() {
            let (uid, gid) = owner.host_ids(0, 0);
            chown(&path, Some(uid), Some(gid))?;
            chown(&dir, Some(uid), Some(gid))?;
        }
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(Door { listener, served: Vec::new() })
    }

    /// What to wait for, unless enough is being served.
    pub(crate) fn listener(&self) -> Option<&OwnedFd> {
        (self.served.len() < SERVED_MAX).then_some(&self.listener)
    }

    /// When to come back for those that are being served.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        (!self.served.is_empty()).then_some(Duration::from_millis(20))
    }

    /// Forgets those that are done.
    pub(crate) fn reap(&mut self) {
        self.served
            .retain(|pid| matches!(sys::wait_child(*pid, false), Ok(None)));
    }

    /// Takes one connection, if it is the zone's root.
    pub(crate) fn accept(&mut self, zone: &Zone, run: &Run) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(peer) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        if !is_root_of(zone, run, peer.as_fd()) {
            return;
        }
        match sys::fork() {
            Ok(Forked::Child) => {
                // The locks and lifelines of the keeper are not ours.
                sys::close_all_but(&[peer.as_raw_fd()]);
                serve(zone, run, &peer);
                sys::exit_now(0)
            }
            Ok(Forked::Parent(pid)) => self.served.push(pid),
            Err(_) => {}
        }
    }
}

/// Whether a peer is root of the zone itself. Its uid does not say it where
/// the zone has one id only: there the job is told by its user namespace.
fn is_root_of(zone: &Zone, run: &Run, peer: BorrowedFd<'_>) -> bool {
    let owner = zone.place.owner;
    let Ok(who) = sockopt::socket_peercred(peer) else { return false };
    if who.uid.as_raw() != owner.host_ids(0, 0).0 {
        return false;
    }
    let space =
        |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let inside = space(run.init.pid).is_some()
        && space(run.init.pid) == space(who.pid.as_raw_nonzero().get());
    // The number may belong to another process by now, unless the one that
    // connected still lives.
    match sys::peer_process(peer) {
        Ok(pidfd) => inside && lives(&pidfd),
        Err(_) => inside && owner.is_root(),
    }
}

fn lives(pidfd: &OwnedFd) -> bool {
    let mut polls = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut polls, Some(&now)), Ok(0))
}

/// Waits until a descriptor is ready; false once the time is over.
pub(super) fn wait_ready(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Deadline,
) -> bool {
    loop {
        let Some(left) = deadline.left() else { return false };
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polls = [PollFd::from_borrowed_fd(fd, flags)];
        match rustix::event::poll(&mut polls, Some(&left)) {
            Ok(1..) => return true,
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Reads up to a newline; none if the peer left or took too long.
pub(super) fn read_line(
    peer: BorrowedFd<'_>,
    deadline: Deadline,
) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut piece = [0_u8; 4096];
    while wait_ready(peer, PollFlags::IN, deadline) {
        match rustix::io::read(peer, &mut piece) {
            Ok(0) => return None,
            Ok(count) => line.extend_from_slice(&piece[..count]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return None,
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            return Some(line);
        }
        if line.len() > LINE_MAX {
            return None;
        }
    }
    None
}

/// Writes a whole line; false if the peer left or took too long.
pub(super) fn write_line(
    peer: BorrowedFd<'_>,
    line: &[u8],
    deadline: Deadline,
) -> bool {
    let mut left: &[u8] = &[line, b"\n"].concat();
    while !left.is_empty() && wait_ready(peer, PollFlags::OUT, deadline) {
        let flags = rustix::net::SendFlags::NOSIGNAL;
        match rustix::net::send(peer, left, flags) {
            Ok(count) => left = &left[count..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return false,
        }
    }
    left.is_empty()
}

fn serve(zone: &Zone, run: &Run, peer: &OwnedFd) {
    let deadline = Deadline::after(SERVE_WAIT);
    let Some(line) = read_line(peer.as_fd(), deadline) else { return };
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => {
            attend(zone, run, request, deadline).unwrap_or_else(Answer::failed)
        }
        Err(error) => Answer::failed(error.to_string()),
    };
    if let Ok(line) = serde_json::to_vec(&answer) {
        write_line(peer.as_fd(), &line, deadline);
    }
}

fn attend(
    zone: &Zone,
    run: &Run,
    request: Request,
    deadline: Deadline,
) -> Result<Answer, String> {
    let metadata = || {
        let disk = zone.disk().map_err(|error| error.to_string());
        disk.map(|disk| disk.metadata)
    };
    Ok(match request {
        Request::List => super::keys(&metadata()?),
        Request::Get { key } if key.is_of_host() => {
            let object =
                vmadm::object_of(zone).map_err(|error| error.to_string())?;
            super::read_of_host(&object, &key)
        }
        Request::Get { key } => super::read(&metadata()?, &key),
        Request::Put { key, value } => {
            change(zone, run, &key, Some(value), deadline)?
        }
        Request::Delete { key } => change(zone, run, &key, None, deadline)?,
    })
}

fn change(
    zone: &Zone,
    run: &Run,
    key: &super::Key,
    value: Option<String>,
    deadline: Deadline,
) -> Result<Answer, String> {
    let mut lock = None;
    deadline.wait_until(PAUSE, || {
        lock = zone.try_lock(LockKind::Config).ok().flatten();
        lock.is_some() || !run.alive()
    });
    // Whoever holds the lock now may have rolled the zone back under us.
    let ours = zone.run().is_some_and(|now| now.boot_id == run.boot_id);
    if lock.is_none() || !ours {
        return Err("the zone is busy, try again".to_owned());
    }
    let mut disk = zone.disk().map_err(|error| error.to_string())?;
    super::write(&mut disk.metadata, key, value)?;
    zone.save_disk(&disk).map_err(|error| error.to_string())?;
    Ok(Answer::Done)
}
