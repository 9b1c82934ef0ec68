//! What is left of a stage: processes, mounts, cgroups.
//!
//! A process belongs to a stage if its command line or environment names the
//! stage's directory, or if its mounts do (all in its zones).

use std::fs;
use std::path::{Path, PathBuf};

/// A process of this machine.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its pid.
    pub pid: u32,
    /// Its command line, words parted by spaces.
    pub line: String,
}

/// All processes, with their command lines; those that have ended but are
/// not yet waited for are no more.
pub fn processes() -> Vec<Found> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| !is_zombie(*pid))
        .filter_map(|pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            Some(Found { pid, line })
        })
        .collect()
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    after.is_empty() || after.starts_with(['Z', 'X'])
}

/// Processes whose command line contains a word.
pub fn with_word(word: &str) -> Vec<Found> {
    let own = std::process::id();
    processes()
        .into_iter()
        .filter(|found| found.pid != own && found.line.contains(word))
        .collect()
}

/// Processes that belong to what lies below a directory.
pub fn processes_of(dir: &Path) -> Vec<Found> {
    let own = std::process::id();
    let name = dir.to_str().expect("a stage's path is plain");
    let names = |pid: u32, file: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}"));
        let text = text.unwrap_or_default();
        String::from_utf8_lossy(&text).contains(name)
    };
    processes()
        .into_iter()
        .filter(|found| found.pid != own)
        .filter(|found| {
            found.line.contains(name)
                || names(found.pid, "environ")
                || names(found.pid, "mountinfo")
        })
        .collect()
}

/// Our own mounts that lie below a directory, or come from there.
pub fn mounts_of(dir: &Path) -> Vec<String> {
    let name = dir.to_str().expect("a stage's path is plain");
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
}

/// Cgroups whose names contain one of these words.
pub fn cgroups_of(words: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), words, &mut found, 0);
    found
}

/// Deeper than any cgroup of ours.
const DEEP: u32 = 8;

fn walk(dir: &Path, words: &[String], found: &mut Vec<PathBuf>, deep: u32) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    if deep > DEEP {
        return;
    }
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if words.iter().any(|word| name.contains(word)) {
            found.push(entry.path());
        }
        walk(&entry.path(), words, found, deep + 1);
    }
}
