//! What the descriptors of a zone's processes lead to: who holds the other
//! end of a pipe, and from where to where a socket goes.
//!
//! The tables of sockets are read from the zone's first process, so they are
//! those of its network. Bounded: a table that is too long is read in part.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use ntrace_protocol::text::escape;

use super::{Direction, Lead, OpenFile, Process};

/// Bytes of one table of sockets at most.
const TABLE: usize = 2 << 20;

/// The longest path of a socket.
const PATH: usize = 200;

/// Other ends of a pipe that are named at most.
const ENDS: usize = 3;

/// Says of each open pipe and socket where it leads to.
pub(super) fn lead(processes: &mut [Process], init: &Path) {
    let sockets = Sockets::of(init);
    let pipes = Pipes::of(processes);
    for process in processes {
        let pid = process.pid;
        for file in &mut process.files {
            let to = match numbered(&file.name) {
                Some(("socket", inode)) => {
                    let text = sockets.0.get(&inode).cloned();
                    text.map(|text| Lead { text, pids: Vec::new() })
                }
                Some(("pipe", inode)) => {
                    pipes.other_ends(inode, file.direction, pid)
                }
                _ => None,
            };
            file.leads_to = to;
        }
        gather(&mut process.files);
    }
}

/// Says of those that gather events of which others.
fn gather(files: &mut [OpenFile]) {
    for at in 0..files.len() {
        let watched = files.iter().filter(|other| {
            other.leads_to.is_some()
                && files[at].watches.contains(&other.number)
        });
        let all: Vec<String> = watched
            .map(|file| {
                let lead = file.leads_to.as_ref().map_or("", |l| &l.text);
                format!("file {} ({lead})", file.number)
            })
            .collect();
        if all.is_empty() {
            continue;
        }
        let more = match all.len().saturating_sub(ENDS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = all[..all.len().min(ENDS)].join(", ");
        let text = format!("watches {named}{more}");
        files[at].leads_to = Some(Lead { text, pids: Vec::new() });
    }
}

/// The kind and the number of a file like `pipe:[123]`.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let (kind, rest) = name.split_once(":[")?;
    Some((kind, rest.strip_suffix(']')?.parse().ok()?))
}

/// Who holds which end of which pipe.
struct Pipes(BTreeMap<u64, Vec<(u64, String, Direction)>>);

impl Pipes {
    fn of(processes: &[Process]) -> Self {
        let mut pipes: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for process in processes {
            for file in &process.files {
                let Some(("pipe", inode)) = numbered(&file.name) else {
                    continue;
                };
                let end = (process.pid, process.comm.clone(), file.direction);
                let ends = pipes.entry(inode).or_default();
                if !ends.contains(&end) {
                    ends.push(end);
                }
            }
        }
        Self(pipes)
    }

    /// Those that read what this one writes, or the other way round.
    fn other_ends(&self, inode: u64, own: Direction, pid: u64) -> Option<Lead> {
        let (verb, opposite) = match own {
            Direction::Reads => ("written", Direction::Writes),
            Direction::Writes => ("read", Direction::Reads),
            Direction::Both | Direction::Unknown => return None,
        };
        let ends = self.0.get(&inode)?;
        let others: Vec<_> = ends
            .iter()
            .filter(|(other, _, way)| {
                *other != pid && (*way == opposite || *way == Direction::Both)
            })
            .collect();
        let named = others.iter().take(ENDS);
        let named: Vec<String> = named
            .map(|(other, comm, _)| format!("pid {other} ({comm})"))
            .collect();
        if named.is_empty() {
            return None;
        }
        let more = match others.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(Lead {
            text: format!("{verb} by {}{more}", named.join(", ")),
            pids: others.iter().map(|(other, ..)| *other).collect(),
        })
    }
}

/// Where sockets lead to, by their number.
struct Sockets(HashMap<u64, String>);

impl Sockets {
    fn of(init: &Path) -> Self {
        let mut all = HashMap::new();
        let table = |name: &str| {
            super::proc::some_text(&init.join("net").join(name), TABLE)
        };
        for name in ["tcp", "tcp6", "udp", "udp6"] {
            let text = table(name).unwrap_or_default();
            all.extend(text.lines().filter_map(|line| internet(name, line)));
        }
        let text = table("unix").unwrap_or_default();
        all.extend(text.lines().filter_map(local));
        Self(all)
    }
}

/// A line of a table of internet sockets.
fn internet(table: &str, line: &str) -> Option<(u64, String)> {
    let kind = table.trim_end_matches('6');
    let mut fields = line.split_whitespace().skip(1);
    let near = address(fields.next()?)?;
    let far = address(fields.next()?)?;
    let state = fields.next()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let text = match state {
        "0A" => format!("{kind} {near}, listens"),
        _ if far.port() == 0 => format!("{kind} {near}"),
        _ => {
            let state = tcp_state(state).filter(|_| kind == "tcp");
            let state = state.map(|s| format!(", {s}")).unwrap_or_default();
            format!("{kind} {near} to {far}{state}")
        }
    };
    Some((inode, text))
}

/// What a state other than the usual one means to whoever looks for what
/// hangs.
fn tcp_state(code: &str) -> Option<&'static str> {
    Some(match code {
        "02" => "still connecting",
        "08" => "closed by the other side",
        "04" | "05" => "closed by this side",
        _ => return None,
    })
}

/// An address as the kernel writes it: 32-bit words as they are in memory.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = host.get(at..at + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let host = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(host, port))
}

/// A line of the table of sockets without a network.
fn local(line: &str) -> Option<(u64, String)> {
    const LISTENS: u32 = 0x1_0000;
    let mut fields = line.split_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let inode = fields.nth(2)?.parse().ok()?;
    let path: String = fields.next().unwrap_or("").chars().take(PATH).collect();
    let mut text = match path.is_empty() {
        true => "unix".to_owned(),
        false => format!("unix {}", escape(&path)),
    };
    if flags & LISTENS != 0 {
        text.push_str(", listens");
    }
    Some((inode, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_say_from_where_to_where() {
        let of = |state: &str, near: &str, far: &str| {
            let rest = "00000000:00000000 00:00000000 00000000 0 0 77 1 0";
            let line = format!("   0: {near} {far} {state} {rest}");
            internet("tcp", &line).unwrap()
        };
        let (near, none) = ("0100007F:23DD", "00000000:0000");
        assert_eq!(
            of("0A", near, none),
            (77, "tcp 127.0.0.1:9181, listens".to_owned())
        );
        let far = "0200000A:1538";
        assert_eq!(
            of("01", near, far).1,
            "tcp 127.0.0.1:9181 to 10.0.0.2:5432"
        );
        assert_eq!(
            of("02", near, far).1,
            "tcp 127.0.0.1:9181 to 10.0.0.2:5432, still connecting"
        );
        assert_eq!(
            of("0A", "00000000000000000000000001000000:0050", none).1,
            "tcp [::1]:80, listens"
        );
        assert_eq!(internet("tcp", "  sl  local_address rem_address"), None);
        assert_eq!(internet("udp", "0: 01:02 zz"), None);
    }

    #[test]
    fn a_local_socket_shows_its_path_and_nothing_of_a_terminal() {
        let line =
            "ffff: 00000002 00000000 00010000 0001 01 20342 /tmp/\u{1b}x";
        assert_eq!(
            local(line),
            Some((20342, "unix /tmp/\\x1bx, listens".to_owned()))
        );
        let line = "ffff: 00000003 00000000 00000000 0001 03 20343";
        assert_eq!(local(line), Some((20343, "unix".to_owned())));
        assert_eq!(local("Num RefCount Protocol Flags Type St Inode"), None);
    }

    #[test]
    fn who_waits_for_events_says_of_what() {
        let file = |number: u32, lead: Option<&str>| OpenFile {
            number,
            leads_to: lead
                .map(|text| Lead { text: text.to_owned(), ..Lead::default() }),
            ..OpenFile::default()
        };
        let mut files =
            vec![file(3, None), file(4, Some("tcp a")), file(5, Some("tcp b"))];
        files[0].watches = vec![4, 9];
        gather(&mut files);
        let text = files[0].leads_to.clone().unwrap().text;
        assert_eq!(text, "watches file 4 (tcp a)");
        assert_eq!(files[1].leads_to.clone().unwrap().text, "tcp a");
    }

    #[test]
    fn a_pipe_says_who_is_at_its_other_end() {
        let file = |direction| OpenFile {
            number: 1,
            name: "pipe:[5]".to_owned(),
            direction,
            ..OpenFile::default()
        };
        let process = |pid, direction| Process {
            pid,
            comm: format!("p{pid}"),
            files: vec![file(direction)],
            ..Process::default()
        };
        let mut processes: Vec<_> =
            (10..16).map(|pid| process(pid, Direction::Reads)).collect();
        processes.push(process(7, Direction::Writes));
        lead(&mut processes, Path::new("/nowhere"));
        let to = |at: usize| processes[at].files[0].leads_to.clone().unwrap();
        assert_eq!(to(0).text, "written by pid 7 (p7)");
        assert_eq!(to(0).pids, [7]);
        let readers = "read by pid 10 (p10), pid 11 (p11), pid 12 (p12) and \
                       3 more";
        assert_eq!(to(6).text, readers);
        assert_eq!(to(6).pids.len(), 6);
        let mut alone = [process(7, Direction::Writes)];
        lead(&mut alone, Path::new("/nowhere"));
        assert_eq!(alone[0].files[0].leads_to, None);
    }
}
