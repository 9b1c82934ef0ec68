//! System calls by count: the file that a run leaves, and what its record
//! says of it.
//!
//! Must not know who counted, nor how. Invariant: where calls were to be
//! counted and were not, the record says why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::escape;
use crate::trace::MAX_SENTENCE;

/// Calls that a record names.
pub const MAX_FIRST: usize = 8;
/// The longest name of a call that is shown, in characters.
const MAX_NAME: usize = 40;

/// All calls of one repetition: what is in `trace/syscalls.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyscallCounts {
    /// The kind of machine, as `uname -m` prints it.
    pub arch: String,
    /// How many began.
    pub total: u64,
    /// How many ended with an error.
    pub errors: u64,
    /// How often the counter was not run, on the whole machine; 0 but for
    /// grave trouble.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// Each of them, the most frequent first.
    pub calls: Vec<SyscallCount>,
}

/// One system call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyscallCount {
    /// Its name.
    pub name: String,
    /// The table that it is of, where that is not the machine's own: `i386`,
    /// `x32`, `arm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abi: Option<String>,
    /// Its number in that table, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// How often it began.
    pub count: u64,
    /// How often it ended with an error.
    pub errors: u64,
}

/// What a run's record says of its system calls, over all repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyscallSummary {
    /// Why there are no counts, or not those of all repetitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How many began; absent if they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// How many ended with an error.
    #[serde(skip_serializing_if = "is_zero")]
    pub errors: u64,
    /// How often the counter was not run.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// How many different ones there were.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub kinds: u32,
    /// The most frequent ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<SyscallCount>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

impl fmt::Display for SyscallCount {
    /// The name, safe to show, and the table if it is not the usual one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| {
            escape(&text.chars().take(MAX_NAME).collect::<String>())
        };
        f.write_str(&short(&self.name))?;
        match &self.abi {
            Some(abi) => write!(f, " ({})", short(abi)),
            None => Ok(()),
        }
    }
}

impl SyscallCounts {
    /// Takes in the calls of another repetition.
    pub fn add(&mut self, other: &Self) {
        self.arch.clone_from(&other.arch);
        self.total = self.total.saturating_add(other.total);
        self.errors = self.errors.saturating_add(other.errors);
        self.missed = self.missed.saturating_add(other.missed);
        for more in &other.calls {
            let is_it = |call: &&mut SyscallCount| {
                (&call.name, &call.abi, call.number)
                    == (&more.name, &more.abi, more.number)
            };
            match self.calls.iter_mut().find(is_it) {
                Some(call) => {
                    call.count = call.count.saturating_add(more.count);
                    call.errors = call.errors.saturating_add(more.errors);
                }
                None => self.calls.push(more.clone()),
            }
        }
        self.calls.sort_by_key(|call| std::cmp::Reverse(call.count));
    }
}

impl SyscallSummary {
    /// They were not counted, and why.
    pub fn refused(why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..Self::default() }.bounded()
    }

    /// What was counted.
    pub fn of(counts: &SyscallCounts) -> Self {
        let kinds = u32::try_from(counts.calls.len()).unwrap_or(u32::MAX);
        Self {
            why: None,
            total: Some(counts.total),
            errors: counts.errors,
            missed: counts.missed,
            kinds,
            first: counts.calls.iter().take(MAX_FIRST).cloned().collect(),
        }
        .bounded()
    }

    /// The same within the bounds, and safe to show.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let short = |text: &str, most: usize| {
            escape(&text.chars().take(most).collect::<String>())
        };
        self.why = self.why.as_deref().map(|why| short(why, MAX_SENTENCE));
        if self.total.is_none() && self.why.is_none() {
            self.why = Some("the runner did not say why".to_owned());
        }
        self.first.truncate(MAX_FIRST);
        for call in &mut self.first {
            call.name = short(&call.name, MAX_NAME);
            call.abi = call.abi.as_deref().map(|abi| short(abi, MAX_NAME));
        }
        self
    }

    /// In one line: how many, and which.
    pub fn sentence(&self) -> String {
        let Some(total) = self.total else {
            let why = self.why.as_deref().unwrap_or("nobody says why");
            return format!("system calls were not counted: {}", escape(why));
        };
        let mut text = format!("{total} system calls");
        if self.errors > 0 {
            text.push_str(&format!(", {} of them failed", self.errors));
        }
        let named: Vec<String> = self
            .first
            .iter()
            .map(|call| format!("{call} {}", call.count))
            .collect();
        if !named.is_empty() {
            text.push_str(": ");
            text.push_str(&named.join(", "));
        }
        let more = (self.kinds as usize).saturating_sub(self.first.len());
        if more > 0 {
            text.push_str(&format!(" and {more} other kinds"));
        }
        if self.missed > 0 {
            text.push_str(&format!("; {} were missed", self.missed));
        }
        if let Some(why) = &self.why {
            text.push_str(&format!("; not all: {}", escape(why)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counts(calls: &[(&str, u64, u64)]) -> SyscallCounts {
        let calls: Vec<SyscallCount> = calls
            .iter()
            .map(|(name, count, errors)| SyscallCount {
                name: (*name).to_owned(),
                count: *count,
                errors: *errors,
                ..SyscallCount::default()
            })
            .collect();
        SyscallCounts {
            total: calls.iter().map(|call| call.count).sum(),
            errors: calls.iter().map(|call| call.errors).sum(),
            calls,
            ..SyscallCounts::default()
        }
    }

    #[test]
    fn repetitions_add_up() {
        let mut sum = SyscallCounts::default();
        sum.add(&counts(&[("read", 5, 1), ("write", 4, 0)]));
        sum.add(&counts(&[("write", 4, 2), ("read", 1, 0), ("mmap", 1, 0)]));
        assert_eq!(
            sum,
            counts(&[("write", 8, 2), ("read", 6, 1), ("mmap", 1, 0)])
        );
    }

    #[test]
    fn a_record_names_the_first_few() {
        let mut all = counts(&[("read", 9, 2), ("getpid", 7, 0)]);
        all.calls[1].abi = Some("i386".to_owned());
        let summary = SyscallSummary::of(&all);
        assert_eq!(
            summary.sentence(),
            "16 system calls, 2 of them failed: read 9, getpid (i386) 7"
        );
        let names: Vec<String> = (0..20).map(|n| format!("call{n}")).collect();
        let many: Vec<_> =
            names.iter().map(|name| (name.as_str(), 1, 0)).collect();
        let summary = SyscallSummary::of(&counts(&many));
        assert_eq!(summary.first.len(), MAX_FIRST);
        assert!(summary.sentence().ends_with("and 12 other kinds"));
    }

    #[test]
    fn what_was_not_counted_always_says_why() {
        let none = SyscallSummary::default().bounded();
        assert!(none.why.is_some() && none.total.is_none());
        let refused = SyscallSummary::refused("no \u{1b}right");
        assert_eq!(
            refused.sentence(),
            "system calls were not counted: no \\x1bright"
        );
    }

    #[test]
    fn a_foreign_record_is_kept_within_bounds() {
        let odd: SyscallSummary = serde_json::from_value(json!({
            "total": 1, "kinds": 7, "unknown": 1,
            "first": vec![json!({"name": "\u{1b}".repeat(999),
                "count": 3, "abi": "\n"}); 99],
        }))
        .unwrap();
        let odd = odd.bounded();
        assert_eq!(odd.first.len(), MAX_FIRST);
        assert!(!odd.sentence().contains(['\u{1b}', '\n']));
        assert!(odd.first[0].name.len() <= 4 * MAX_NAME);
    }
}
