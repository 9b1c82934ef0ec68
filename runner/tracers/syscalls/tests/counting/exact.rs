//! Counts are exact.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ntrace_syscalls::{Abi, Counter};

use crate::group::{Group, made, of, skip};

fn dd(count: u32) -> Vec<String> {
    let count = format!("count={count}");
    let words = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", &count];
    words.iter().chain(&["status=none"]).map(|w| (*w).to_owned()).collect()
}

fn words(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

#[test]
fn a_million_calls_are_counted_one_by_one() {
    let Some(group) = Group::new() else { return };
    let none = group.count(&words(&dd(0)));
    let all = group.count(&words(&dd(500_000)));
    for name in ["read", "write"] {
        assert_eq!(made(&all, name) - made(&none, name), 500_000, "{name}");
    }
    assert_eq!(all.total() - none.total(), 1_000_000);
    assert_eq!(all.missed, 0);
}

#[test]
fn what_others_do_is_not_counted() {
    let Some(group) = Group::new() else { return };
    let mut other = Command::new("dd")
        .args(["if=/dev/zero", "of=/dev/null", "bs=1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let none = group.count(&words(&dd(0)));
    let some = group.count(&words(&dd(3000)));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(some.total() - none.total(), 6000);
}

#[test]
fn children_are_counted_however_short_they_live() {
    let Some(group) = Group::new() else { return };
    let script = "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i + 1)); done";
    let counts = group.count(&["sh", "-c", script]);
    // Each, and the shell itself.
    assert_eq!(made(&counts, "execve"), 201);
    assert_eq!(made(&counts, "exit_group"), 201);
    let forks: u64 = ["clone", "clone3", "fork", "vfork"]
        .iter()
        .map(|name| made(&counts, name))
        .sum();
    assert_eq!(forks, 200);
}

#[test]
fn what_is_in_groups_below_is_counted() {
    let Some(group) = Group::new() else { return };
    let below = group.path.join("below");
    std::fs::create_dir(&below).unwrap();
    let inner = Group { path: below };
    let counter = Counter::start(&group.target()).unwrap();
    let none = counter_of(counter, &inner, 0);
    let counter = Counter::start(&group.target()).unwrap();
    let some = counter_of(counter, &inner, 700);
    assert_eq!(some - none, 1400);
}

fn counter_of(counter: Counter, inner: &Group, count: u32) -> u64 {
    let status = inner.command(&words(&dd(count))).status().unwrap();
    assert!(status.success());
    counter.finish().unwrap().total()
}

/// What strace counts: calls and errors by name.
fn by_strace(command: &[&str]) -> Option<BTreeMap<String, (u64, u64)>> {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("counts");
    // A shell before it, as the other way has one: it sets variables.
    let done = Command::new("sh")
        .args(["-c", "exec \"$@\"", "sh", "strace"])
        .args(["-c", "-f", "-U", "name,calls,errors", "-o"])
        .arg(&file)
        .args(command)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let Ok(text) = std::fs::read_to_string(&file) else {
        return skip(&format!("strace cannot be used here: {said}"));
    };
    assert!(done.status.success(), "{said}");
    let rows = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?.to_owned();
        let calls = fields.next()?.parse().ok()?;
        let errors = fields.next().map_or(Some(0), |n| n.parse().ok())?;
        Some((name, (calls, errors)))
    });
    Some(rows.filter(|(name, _)| name != "total").collect())
}

/// Calls of which the number depends neither on who is faster, parent or
/// child, nor on how a program comes into the group.
const TOLD: [&str; 14] = [
    "read",
    "write",
    "openat",
    "open",
    "execve",
    "mmap",
    "mprotect",
    "access",
    "faccessat",
    "fstat",
    "newfstatat",
    "statx",
    "getdents64",
    "arch_prctl",
];

#[test]
fn strace_counts_the_same() {
    let Some(group) = Group::new() else { return };
    let script = "for i in 1 2 3; do ls /nowhere-$i /etc >&-; cat /etc/passwd \
                  >/dev/null; done 2>/dev/null";
    for command in [words(&dd(500)), vec!["sh", "-c", script]] {
        let Some(strace) = by_strace(&command) else { return };
        let counts = group.count(&command);
        for name in TOLD {
            let expected = strace.get(name).copied().unwrap_or((0, 0));
            assert_eq!(of(&counts, Abi::Wide, name), expected, "{name}");
        }
        assert!(strace.get("read").is_some_and(|read| read.0 > 0));
    }
}
