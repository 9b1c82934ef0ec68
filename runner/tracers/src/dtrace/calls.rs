//! What `ntrace_sys.d` prints: system calls by count. Pure.
//!
//! Names are all that is known of a call there; what is no line of the
//! script is left out.

use std::collections::BTreeMap;

use ntrace_protocol::syscalls::{SyscallCount, SyscallCounts};

/// The last line, without which the list is not whole.
const END: &str = "ntrace end";

/// Different calls at most; the system has some hundred.
const KINDS: usize = 2000;
/// The longest name.
const NAME: usize = 64;

/// Counts, and whether all was printed.
pub(super) fn read(text: &[u8]) -> (SyscallCounts, bool) {
    let text = String::from_utf8_lossy(text);
    let mut found: BTreeMap<(String, bool), (u64, u64)> = BTreeMap::new();
    for line in text.lines() {
        let Some((what, count, name)) = parts(line) else { continue };
        let (is_lx, is_error) = match what {
            "calls" => (false, false),
            "errors" => (false, true),
            "lx-calls" => (true, false),
            "lx-errors" => (true, true),
            _ => continue,
        };
        let key = (name.to_owned(), is_lx);
        if found.len() >= KINDS && !found.contains_key(&key) {
            continue;
        }
        let (calls, errors) = found.entry(key).or_default();
        let sum = if is_error { errors } else { calls };
        *sum = sum.saturating_add(count);
    }
    let mut calls: Vec<SyscallCount> = found
        .into_iter()
        .map(|((name, is_lx), (count, errors))| SyscallCount {
            name,
            abi: is_lx.then(|| "lx".to_owned()),
            number: None,
            count,
            errors,
        })
        .collect();
    calls.sort_by_key(|call| std::cmp::Reverse(call.count));
    let sum = |of: fn(&SyscallCount) -> u64| {
        calls.iter().map(of).fold(0, u64::saturating_add)
    };
    let counts = SyscallCounts {
        arch: "smartos".to_owned(),
        total: sum(|call| call.count),
        errors: sum(|call| call.errors),
        missed: 0,
        calls,
    };
    (counts, text.lines().any(|line| line == END))
}

fn parts(line: &str) -> Option<(&str, u64, &str)> {
    let mut parts = line.split(' ');
    let (what, count) = (parts.next()?, parts.next()?.parse().ok()?);
    let name = parts.next().filter(|name| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        !name.is_empty() && name.len() <= NAME && name.bytes().all(plain)
    })?;
    parts.next().is_none().then_some((what, count, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_errors_are_put_together_by_name() {
        let text = b"ntrace ready\n\ncalls 3 read\ncalls 70 write\n\
            errors 2 read\nlx-calls 5 read\nntrace end\n";
        let (counts, is_whole) = read(text);
        assert!(is_whole);
        assert_eq!((counts.total, counts.errors), (78, 2));
        let said: Vec<String> = counts
            .calls
            .iter()
            .map(|call| format!("{call} {} {}", call.count, call.errors))
            .collect();
        assert_eq!(said, ["write 70 0", "read (lx) 5 0", "read 3 2"]);
    }

    #[test]
    fn a_list_that_is_cut_or_foreign_is_not_whole() {
        let (counts, is_whole) = read(b"calls 3 read\ncalls 7");
        assert_eq!((counts.total, is_whole), (3, false));
        let odd = "calls x read\ncalls 1 \u{1b}[2J\ncalls 1 a b\nother 1 c\n\
            calls 18446744073709551615 d\ncalls 2 d\n";
        let (counts, _) = read(odd.as_bytes());
        assert_eq!(counts.calls.len(), 1);
        assert_eq!(counts.total, u64::MAX);
    }
}
