//! `zone-job kill` and `zone-job ps`: the processes of the zone.

use std::os::unix::fs::MetadataExt;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Nonce, close_stdin, failed};
use crate::signals;
use crate::sys;

/// Processes that are listed; further ones are counted.
const LISTED_MAX: usize = 500;

/// Bytes of a command line that are shown.
const COMMAND_MAX: usize = 300;

/// The request of `kill`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kill {
    pub nonce: Nonce,
    signal: String,
}

/// The request of `ps`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub nonce: Nonce,
}

fn pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// Whether a process is one of those that serve the job from outside of it:
/// process 1, a zone-job, or one that is just entering.
fn is_helper(pid: i32) -> bool {
    if pid == 1 || pid == std::process::id() as i32 {
        return true;
    }
    let exe = |who: &str| {
        std::fs::metadata(format!("/proc/{who}/exe"))
            .map(|meta| (meta.dev(), meta.ino()))
    };
    match (exe(&pid.to_string()), exe("self")) {
        (Ok(one), Ok(own)) => one == own,
        // Root of the zone may look at all but those of the host.
        (Err(error), _) => {
            error.kind() == std::io::ErrorKind::PermissionDenied
                && status(pid, "Uid:").is_some_and(|uid| uid.starts_with('0'))
        }
        _ => false,
    }
}

fn status(pid: i32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

/// Signals every process of the job.
pub(super) fn kill(request: &Kill) -> Value {
    close_stdin();
    let Some(signal) = signals::number(&request.signal) else {
        return failed(format!("no signal {:?}", request.signal));
    };
    let mut count = 0;
    for pid in pids() {
        if !is_helper(pid) && sys::kill(pid, signal).is_ok() {
            count += 1;
        }
    }
    json!({ "code": 0, "signalled": count })
}

/// Lists the processes of the zone.
pub(super) fn list() -> Value {
    close_stdin();
    let all = pids();
    let shown: Vec<Value> =
        all.iter().take(LISTED_MAX).filter_map(|pid| one(*pid)).collect();
    json!({
        "code": 0,
        "processes": shown,
        "unlisted": all.len().saturating_sub(LISTED_MAX),
    })
}

fn one(pid: i32) -> Option<Value> {
    let kib = |text: Option<String>| {
        let text = text?;
        let number: u64 = text.split(' ').next()?.parse().ok()?;
        Some(number << 10)
    };
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let state = status(pid, "State:")?;
    let mut command = read("cmdline").unwrap_or_default();
    if command.is_empty() {
        command = status(pid, "Name:")?.into_bytes();
    }
    command.truncate(COMMAND_MAX);
    while command.last() == Some(&0) {
        command.pop();
    }
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .map(|word| word.escape_ascii().to_string())
        .collect();
    let wchan = read("wchan")
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .filter(|text| !text.is_empty() && text != "0");
    let number = |field: &str| status(pid, field)?.parse::<i64>().ok();
    Some(json!({
        "pid": pid,
        "ppid": number("PPid:"),
        "state": state.chars().next().map(String::from),
        "threads": number("Threads:"),
        "wchan": wchan,
        "rss": kib(status(pid, "VmRSS:")),
        "argv": words,
    }))
}
