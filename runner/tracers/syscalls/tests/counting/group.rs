//! A cgroup for each test, and programs in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use ntrace_syscalls::{Abi, Counter, Counts, Target};

/// Moves itself into the cgroup, then is the program.
const ENTER: &str = "echo 0 >\"$0/cgroup.procs\"; exec \"$@\"";

pub(crate) struct Group {
    pub(crate) path: PathBuf,
}

impl Group {
    /// None, and said so, where a test cannot make one.
    pub(crate) fn new() -> Option<Group> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return skip("only root may count");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup2 ").then_some(())?;
            left.split(' ').nth(4)
        });
        let Some(mount) = mount else {
            return skip("there is no cgroup hierarchy of version 2");
        };
        let name = format!(
            "ntrace-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = Path::new(mount).join(name);
        match fs::create_dir(&path) {
            Ok(()) => Some(Group { path }),
            Err(error) => skip(&format!("cannot make a cgroup: {error}")),
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target { group: self.path.clone(), init: None }
    }

    /// A program that will run inside. The shell is told where it is, so
    /// that it makes one attempt to run it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let (program, args) = words.split_first().unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let mut found = std::env::split_paths(&path)
            .map(|dir| dir.join(program))
            .filter(|path| path.is_file());
        let mut command = Command::new("sh");
        command
            .args(["-c", ENTER])
            .arg(&self.path)
            .arg(found.next().unwrap())
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Counts a program.
    pub(crate) fn count(&self, words: &[&str]) -> Counts {
        let counter = Counter::start(&self.target()).unwrap();
        let status = self.command(words).status().unwrap();
        assert!(status.success(), "{words:?}: {status}");
        counter.finish().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

pub(crate) fn skip<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

/// How often a call was made, and how often it failed.
pub(crate) fn of(counts: &Counts, abi: Abi, name: &str) -> (u64, u64) {
    let is_it =
        |call: &&ntrace_syscalls::Call| call.abi == abi && call.name == name;
    let found = counts.calls.iter().find(is_it);
    found.map_or((0, 0), |call| (call.count, call.errors))
}

/// How often a call of the machine's own table was made.
pub(crate) fn made(counts: &Counts, name: &str) -> u64 {
    of(counts, Abi::Wide, name).0
}
