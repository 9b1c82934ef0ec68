//! Processes of a server, found by their parents in `/proc`.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A process as far as it matters here.
struct Seen {
    pid: u32,
    parent: u32,
    name: String,
}

/// All processes that are there.
fn all() -> Vec<Seen> {
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name may hold blanks and brackets: it ends at the last one.
            let (front, back) = stat.rsplit_once(") ")?;
            let (_, name) = front.split_once(" (")?;
            let mut words = back.split(' ');
            let state = words.next()?;
            let parent = words.next()?.parse().ok()?;
            let is_there = !matches!(state, "Z" | "X");
            is_there.then(|| Seen { pid, parent, name: name.to_owned() })
        })
        .collect()
}

/// The processes of sshd that serve connections of the server `root`.
pub(crate) fn sessions(root: u32) -> Vec<u32> {
    let all = all();
    let mut found = vec![root];
    // A session may be a child of another one.
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        let children = all
            .iter()
            .filter(|seen| seen.parent == parent)
            .filter(|seen| seen.name.starts_with("sshd"))
            .map(|seen| seen.pid);
        found.extend(children);
    }
    found.split_off(1)
}

/// Sends a signal; a process that is gone is as good.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process is there and no zombie.
pub(crate) fn is_there(pid: u32) -> bool {
    all().iter().any(|seen| seen.pid == pid)
}
