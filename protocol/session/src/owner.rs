//! Whose connection it is: a person's, or a job's in a zone of this machine.
//!
//! Zones may share the host's network, and the control ports take commands
//! from whoever reaches them. So each local connection is traced back to the
//! process that holds its other end: one that lives in another pid namespace
//! than we do, or whose user is one of a zone's, is refused.
//!
//! What was found out is [`Facts`]; what follows from it is decided by a pure
//! function. The facts come from Linux's `sock_diag` and `/proc`; on other
//! systems nothing is known and nothing refused (zones there have addresses
//! of their own).

use std::net::SocketAddr;

/// Whether somebody may command us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As far as we can see it is no job.
    Fine,
    /// It is a job, or it hides who it is; with the reason.
    Zone(&'static str),
}

/// The first host user id of zones made by root, and how many there are, as
/// the Linux zones use them (docs/zones.md).
const ZONE_IDS: std::ops::Range<u32> = 200_000..265_536;

/// What is known of the other end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    /// The user that the socket belongs to.
    uid: u32,
    /// No process holds it any more.
    is_orphan: bool,
    /// Processes that hold it, in our pid namespace.
    holders_here: usize,
    /// Processes that hold it, in another pid namespace.
    holders_elsewhere: usize,
    /// Processes of that user into which we may not look, in our namespace.
    hidden_here: usize,
    /// The same in another pid namespace.
    hidden_elsewhere: usize,
    /// That user has zones: processes in another pid namespace that may have
    /// let go of the connection while we looked.
    has_zones: bool,
}

/// Judges a connection by its two addresses.
pub fn judge(peer: SocketAddr, own: SocketAddr) -> Verdict {
    #[cfg(target_os = "linux")]
    {
        linux::facts(peer, own).map_or(Verdict::Fine, decide)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (peer, own, decide);
        Verdict::Fine
    }
}

fn decide(facts: Facts) -> Verdict {
    if ZONE_IDS.contains(&facts.uid) {
        return Verdict::Zone("the connection belongs to a user of a zone");
    }
    if facts.is_orphan {
        return Verdict::Zone(
            "its process has closed it already, so nobody can tell whose it \
             was; keep the connection open until the answer comes",
        );
    }
    if facts.uid == 0 {
        // No process of a zone has the host's user 0.
        return Verdict::Fine;
    }
    if facts.holders_elsewhere > 0 {
        return Verdict::Zone("its process lives in another pid namespace");
    }
    if facts.holders_here > 0 {
        return Verdict::Fine;
    }
    if facts.hidden_elsewhere > 0 || facts.has_zones {
        return Verdict::Zone(
            "it belongs to a user who has zones, and which process it is \
             cannot be seen from here; run it as the same user, or as root",
        );
    }
    if facts.hidden_here > 0 {
        // An sshd that carries a tunnel, for one.
        return Verdict::Fine;
    }
    Verdict::Zone("its process has gone already")
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::io::{Error, ErrorKind, Result};
    use std::net::{IpAddr, SocketAddr};
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, sendto,
        socket,
    };

    use super::Facts;

    /// How long the kernel has for its answer; it gives it at once.
    const ANSWER: Duration = Duration::from_secs(1);

    /// A socket as the kernel knows it.
    struct Socket {
        uid: u32,
        inode: u32,
    }

    /// What can be found out; none if the other end is not on this machine.
    pub(super) fn facts(peer: SocketAddr, own: SocketAddr) -> Option<Facts> {
        let Ok(socket) = diagnose(peer, own) else {
            // The kernel knows our own end of it, so it would know a local
            // one, too: that one has gone already.
            let is_local = peer.ip().is_loopback() || peer.ip() == own.ip();
            let has_gone = is_local && diagnose(own, peer).is_ok();
            let gone = Facts { is_orphan: true, ..Facts::default() };
            return has_gone.then_some(gone);
        };
        let mut facts = Facts {
            uid: socket.uid,
            is_orphan: socket.inode == 0,
            ..Facts::default()
        };
        if socket.inode != 0 && socket.uid != 0 {
            scan(&mut facts, socket.inode);
        }
        if facts.holders_here + facts.holders_elsewhere == 0 {
            facts.has_zones = has_zones(facts.uid);
        }
        Some(facts)
    }

    /// Whether a process of that user lives in a pid namespace below ours.
    fn has_zones(uid: u32) -> bool {
        let Ok(processes) = fs::read_dir("/proc") else { return true };
        processes.flatten().any(|process| {
            let path = process.path();
            user_of(&path) == Some(uid) && is_nested(&path)
        })
    }

    /// Looks through the processes of the socket's user.
    fn scan(facts: &mut Facts, inode: u32) {
        let wanted = PathBuf::from(format!("socket:[{inode}]"));
        let here = fs::read_link("/proc/self/ns/pid").ok();
        let Ok(processes) = fs::read_dir("/proc") else { return };
        for process in processes.flatten() {
            let path = process.path();
            let is_pid = process
                .file_name()
                .to_str()
                .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
            // A process that hides from us shows as root's; its status tells.
            if !is_pid || user_of(&path) != Some(facts.uid) {
                continue;
            }
            match holds(&path, &wanted) {
                Ok(false) => {}
                Ok(true) => {
                    let ns = fs::read_link(path.join("ns/pid")).ok();
                    if ns.is_some() && ns == here {
                        facts.holders_here += 1;
                    } else {
                        facts.holders_elsewhere += 1;
                    }
                }
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    if is_nested(&path) {
                        facts.hidden_elsewhere += 1;
                    } else {
                        facts.hidden_here += 1;
                    }
                }
                // It has ended meanwhile.
                Err(_) => {}
            }
        }
    }

    fn user_of(process: &Path) -> Option<u32> {
        let owner = fs::metadata(process).ok()?.uid();
        if owner != 0 {
            return Some(owner);
        }
        let status = fs::read_to_string(process.join("status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Whether the process has the socket open. The newest descriptors are
    /// looked at first: a connection that was just made is among them.
    fn holds(process: &Path, wanted: &Path) -> Result<bool> {
        let fds = process.join("fd");
        let mut names: Vec<u32> = fs::read_dir(&fds)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        names.sort_unstable();
        Ok(names.iter().rev().any(|fd| {
            fs::read_link(fds.join(fd.to_string()))
                .is_ok_and(|target| target == wanted)
        }))
    }

    /// Whether the process lives in a pid namespace below ours.
    fn is_nested(process: &Path) -> bool {
        let status = fs::read_to_string(process.join("status"));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
        line.is_some_and(|pids| pids.split_whitespace().count() > 1)
    }

    // The numbers of linux/sock_diag.h and linux/inet_diag.h.
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const HEADER: usize = 16;
    const REQUEST: usize = 56;
    /// Where uid and inode stand in the answer's body.
    const UID_AT: usize = HEADER + 64;
    const INODE_AT: usize = HEADER + 68;

    /// Asks the kernel for the socket whose own address is `peer` and whose
    /// other end is `own`.
    fn diagnose(peer: SocketAddr, own: SocketAddr) -> Result<Socket> {
        let diag = socket(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            Some(netlink::SOCK_DIAG),
        )?;
        rustix::net::sockopt::set_socket_timeout(
            &diag,
            rustix::net::sockopt::Timeout::Recv,
            Some(ANSWER),
        )?;
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        sendto(&diag, &request(peer, own), SendFlags::empty(), &kernel)?;
        let mut answer = [0_u8; 1024];
        let (length, _) = recv(&diag, &mut answer[..], RecvFlags::empty())?;
        let answer = &answer[..length];
        let kind = answer.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
        match (kind, u32_at(answer, UID_AT), u32_at(answer, INODE_AT)) {
            (Some(SOCK_DIAG_BY_FAMILY), Some(uid), Some(inode)) => {
                Ok(Socket { uid, inode })
            }
            _ => Err(Error::from(ErrorKind::NotFound)),
        }
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(four.try_into().ok()?))
    }

    /// A `nlmsghdr` and an `inet_diag_req_v2` that names one TCP socket.
    fn request(peer: SocketAddr, own: SocketAddr) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + REQUEST);
        let length = (HEADER + REQUEST) as u32;
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        out.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        out.extend_from_slice(&[0; 8]);
        let family = match peer.ip() {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        const TCP: u8 = 6;
        out.extend_from_slice(&[family.as_raw() as u8, TCP, 0, 0]);
        out.extend_from_slice(&u32::MAX.to_ne_bytes());
        out.extend_from_slice(&peer.port().to_be_bytes());
        out.extend_from_slice(&own.port().to_be_bytes());
        for addr in [peer.ip(), own.ip()] {
            let mut sixteen = [0_u8; 16];
            match addr {
                IpAddr::V4(v4) => sixteen[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => sixteen = v6.octets(),
            }
            out.extend_from_slice(&sixteen);
        }
        // Any interface; and no cookie to compare with.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[0xff; 8]);
        out
    }

    #[cfg(test)]
    mod tests {
        use std::net::{TcpListener, TcpStream};

        use super::*;

        #[test]
        fn the_kernel_names_the_owner_of_a_connection() {
            for addr in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(listener) = TcpListener::bind(addr) else {
                    eprintln!("SKIPPED {addr}: not on this machine");
                    continue;
                };
                let own = listener.local_addr().unwrap();
                let stream = TcpStream::connect(own).unwrap();
                let (_server, peer) = listener.accept().unwrap();
                let socket = diagnose(peer, own).unwrap();
                let uid = rustix::process::geteuid().as_raw();
                assert_eq!(socket.uid, uid);
                let mut facts = Facts { uid, ..Facts::default() };
                scan(&mut facts, socket.inode);
                assert_eq!(facts.holders_here, 1, "{facts:?}");
                drop(stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_refused_and_people_are_not() {
        let user = Facts { uid: 1000, ..Facts::default() };
        let fine = |facts| decide(facts) == Verdict::Fine;
        assert!(fine(Facts { holders_here: 1, ..user }));
        assert!(fine(Facts { hidden_here: 1, ..user }), "a tunnel's sshd");
        assert!(fine(Facts { uid: 0, ..user }));
        assert!(!fine(Facts { uid: 201_000, holders_here: 1, ..user }));
        assert!(!fine(Facts { holders_elsewhere: 1, ..user }));
        assert!(!fine(Facts { holders_here: 1, holders_elsewhere: 1, ..user }));
        assert!(!fine(Facts { hidden_elsewhere: 1, hidden_here: 1, ..user }));
        assert!(!fine(Facts { is_orphan: true, uid: 0, ..user }));
        // A job that lets go while we look is not taken for a tunnel.
        assert!(!fine(Facts { hidden_here: 1, has_zones: true, ..user }));
        assert!(!fine(user), "nobody holds it");
    }
}
