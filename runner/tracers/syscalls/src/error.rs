//! Why system calls cannot be counted, in words that say what to do.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::btf;

/// What is kept of the kernel's words on a program that it does not take.
const LOG_MAX: usize = 600;

/// System calls that are not counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// Of this machine's calls no table is known.
    #[error("system calls are known for x86_64 and aarch64 only")]
    Machine,
    /// 32-bit calls could not be told from others.
    #[error(
        "the kernel does not tell its types in {}: 32-bit calls could not be \
         told from others; it must be built with CONFIG_DEBUG_INFO_BTF",
        btf::PATH
    )]
    NoTypes,
    /// The group cannot be had.
    #[error("cannot open the cgroup {}", path.display())]
    Group {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The group is of the first version, which a program cannot ask for.
    #[error(
        "{} is a cgroup of version 1; counting needs the hierarchy of version \
         2, with the controller perf_event in it",
        .0.display()
    )]
    OldGroup(PathBuf),
    /// Not permitted.
    #[error(
        "the kernel does not permit to {what}: {source}; it needs root, or \
         CAP_BPF and CAP_PERFMON{more}"
    )]
    Forbidden {
        /// What was tried.
        what: &'static str,
        /// What is known beside.
        more: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel does not take the program.
    #[error("the kernel does not take the program that counts ({source}){log}")]
    Program {
        /// What the system said.
        source: io::Error,
        /// What its check of programs said, with a lead-in.
        log: String,
    },
    /// A step failed.
    #[error("cannot {what}{hint}")]
    Step {
        /// What was tried.
        what: &'static str,
        /// What may help, with a lead-in.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Sorts an error of a step.
pub(crate) fn step(what: &'static str) -> impl Fn(io::Error) -> CountError {
    move |source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            CountError::Forbidden { what, more: circumstances(), source }
        }
        Some(libc::ENOSYS) => CountError::Step {
            what,
            hint: "; this kernel was built without CONFIG_BPF_SYSCALL",
            source,
        },
        _ => CountError::Step { what, hint: "", source },
    }
}

/// An error of loading a program, with the words of the kernel's check.
pub(crate) fn program(source: io::Error, log: &[u8]) -> CountError {
    let is_refused = source.raw_os_error() == Some(libc::EPERM);
    if is_refused && log.is_empty() {
        return step("load a program")(source);
    }
    let mut log = last_words(&String::from_utf8_lossy(log));
    if !log.is_empty() {
        log.insert_str(0, ": ");
    }
    log.push_str(&circumstances());
    CountError::Program { source, log }
}

/// The end of a log, where the reason is, in one line.
fn last_words(log: &str) -> String {
    let log = log.trim_matches(['\0', '\n', ' ']);
    let skip = log.chars().count().saturating_sub(LOG_MAX);
    let tail: String = log.chars().skip(skip).collect();
    tail.replace('\n', " | ").escape_debug().to_string()
}

/// What forbids it, as far as the system tells.
fn circumstances() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    said(
        &read("/sys/kernel/security/lockdown"),
        &read("/proc/sys/kernel/unprivileged_bpf_disabled"),
    )
}

fn said(lockdown: &str, disabled: &str) -> String {
    let mut text = String::new();
    if lockdown.contains("[confidentiality]") {
        text.push_str("; the kernel is locked down for confidentiality");
    }
    let disabled = disabled.trim();
    if !disabled.is_empty() && disabled.bytes().all(|b| b.is_ascii_digit()) {
        text.push_str("; kernel.unprivileged_bpf_disabled is ");
        text.push_str(disabled);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_rights_says_which() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        let text = program(error, b"").to_string();
        assert!(text.contains("CAP_BPF and CAP_PERFMON"), "{text}");
        assert!(text.contains("load a program"), "{text}");
    }

    #[test]
    fn the_kernels_words_are_kept_short_and_safe() {
        let log = format!("{}\nR1 \u{1b}[2J bad\n\0\0", "x".repeat(5000));
        let error = io::Error::from_raw_os_error(libc::EACCES);
        let text = program(error, log.as_bytes()).to_string();
        assert!(text.contains("| R1") && !text.contains('\u{1b}'), "{text}");
        assert!(text.len() < 2 * LOG_MAX);
    }

    #[test]
    fn circumstances_are_told_where_they_are_known() {
        assert_eq!(said("", ""), "");
        let text = said("none integrity [confidentiality]\n", "2\n");
        assert!(text.contains("locked down") && text.ends_with("is 2"));
        assert_eq!(said("[none] integrity", "x"), "");
    }
}
