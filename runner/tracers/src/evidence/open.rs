//! The descriptors of a process: what they are, what they were opened for,
//! and on which of them a thread waits.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::proc::{clean, text};
use super::{Bounds, Direction, OpenFile};

/// Numbers of system calls whose first argument is a descriptor and which may
/// wait: read, write and their like, accept, connect, send, receive, ioctl,
/// fcntl, flock, fsync, waits for events.
#[cfg(target_arch = "x86_64")]
const ON_A_FILE: &[u32] = &[
    0, 1, 16, 17, 18, 19, 20, 42, 43, 44, 45, 46, 47, 72, 73, 74, 75, 232, 281,
    288, 295, 296, 299, 307, 441,
];
#[cfg(target_arch = "aarch64")]
const ON_A_FILE: &[u32] = &[
    22, 25, 29, 32, 63, 64, 65, 66, 67, 68, 69, 70, 82, 83, 202, 203, 206, 207,
    211, 212, 242, 243, 269, 441,
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ON_A_FILE: &[u32] = &[];

/// The open files of a process.
pub(super) fn files(path: &Path, bounds: Bounds) -> Vec<OpenFile> {
    let Ok(entries) = fs::read_dir(path.join("fd")) else {
        return Vec::new();
    };
    let mut files: Vec<OpenFile> = entries
        .flatten()
        .take(bounds.files)
        .take_while(|_| Instant::now() < bounds.deadline)
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_link(entry.path()).ok()?;
            let name = clean(name.to_string_lossy().into_owned());
            let mut file = OpenFile { number, name, ..OpenFile::default() };
            let info = || text(&path.join(format!("fdinfo/{number}")));
            if file.name.starts_with("pipe:") {
                file.direction =
                    info().map(|i| direction(&i)).unwrap_or_default();
            } else if file.name.ends_with("[eventpoll]") {
                file.watches = info().map(|i| watches(&i)).unwrap_or_default();
            }
            Some(file)
        })
        .collect();
    files.sort_unstable_by_key(|file| file.number);
    files
}

/// Whose events a descriptor gathers.
fn watches(info: &str) -> Vec<u32> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
    lines
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

/// What a descriptor was opened for; the flags are octal.
fn direction(info: &str) -> Direction {
    let line = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok());
    match flags.map(|flags| flags & 3) {
        Some(0) => Direction::Reads,
        Some(1) => Direction::Writes,
        Some(2) => Direction::Both,
        _ => Direction::Unknown,
    }
}

/// The descriptor of the system call that a thread is in, as the kernel tells
/// the call: its number, then its arguments.
pub(super) fn waits_on(call: &str) -> Option<u32> {
    let mut fields = call.split(' ');
    let number: u32 = fields.next()?.parse().ok()?;
    if !ON_A_FILE.contains(&number) {
        return None;
    }
    let first = fields.next()?.strip_prefix("0x")?;
    u32::from_str_radix(first, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_descriptor_is_read() {
        assert_eq!(direction("pos:\t0\nflags:\t0100001\n"), Direction::Writes);
        assert_eq!(direction("flags:\t02\n"), Direction::Both);
        assert_eq!(direction("pos:\t0\n"), Direction::Unknown);
        let info = "flags:\t02\ntfd:       19 events:       19 data: 1\n\
                    tfd: 7 events: 1 data: 2\ntfd: x\n";
        assert_eq!(watches(info), [19, 7]);
    }

    #[test]
    fn a_call_on_a_descriptor_names_it_and_others_do_not() {
        let read = ON_A_FILE[0];
        assert_eq!(waits_on(&format!("{read} 0x1f 0x7ff 0x1")), Some(31));
        assert_eq!(waits_on("9999 0x1f 0x7ff"), None);
        assert_eq!(waits_on("running"), None);
        assert_eq!(waits_on("-1 0x7ff 0x1"), None);
    }
}
