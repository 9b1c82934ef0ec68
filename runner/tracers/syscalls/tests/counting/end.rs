//! Nothing is left, however it ends; and who may not count is told.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ntrace_syscalls::{CountError, Counter, Target};

use crate::group::{Group, skip};
use crate::sys::is_loaded;

/// A user id that nobody has.
const NOBODY_ELSE: u32 = 61_874;

/// The programs that a process holds.
fn programs(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let of_one = |text: String| {
        let mut lines = text.lines();
        let id = lines.find_map(|line| line.strip_prefix("prog_id:"))?;
        id.trim().parse().ok()
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(of_one)
        .collect()
}

/// The example that counts until its input ends.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().and_then(Path::parent).unwrap();
    target.join("examples/count")
}

#[test]
fn the_programs_die_with_the_process_that_holds_them() {
    let Some(group) = Group::new() else { return };
    let mut child = Command::new(example())
        .arg(&group.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "counting\n");
    let found = programs(child.id());
    assert!(found.len() >= 2, "{found:?}");
    assert!(found.iter().all(|id| is_loaded(*id)));
    child.kill().unwrap();
    child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while found.iter().any(|id| is_loaded(*id)) {
        assert!(Instant::now() < until, "a program is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_counter_that_is_dropped_leaves_nothing() {
    let Some(group) = Group::new() else { return };
    let own = Target { group: group.path.join("own"), init: None };
    let counter = Counter::start(&own).unwrap();
    assert!(own.group.is_dir());
    let found = programs(std::process::id());
    assert!(!found.is_empty());
    drop(counter);
    assert!(!own.group.exists());
    let until = Instant::now() + Duration::from_secs(60);
    while found.iter().any(|id| is_loaded(*id)) {
        assert!(Instant::now() < until, "a program is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_ordinary_user_is_told_what_it_needs() {
    let Some(group) = Group::new() else { return };
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    let program = dir.path().join("count");
    fs::copy(example(), &program).unwrap();
    let done = Command::new(&program)
        .arg(&group.path)
        .uid(NOBODY_ELSE)
        .gid(NOBODY_ELSE)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success(), "{said}");
    assert!(said.contains("CAP_BPF and CAP_PERFMON"), "{said}");
}

#[test]
fn a_group_of_the_first_version_is_refused_in_words() {
    if !rustix::process::geteuid().is_root() {
        let _: Option<()> = skip("only root may count");
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup ").then_some(())?;
        left.split(' ').nth(4)
    });
    let Some(mount) = mount else {
        let _: Option<()> = skip("there is no hierarchy of version 1");
        return;
    };
    let target = Target { group: PathBuf::from(mount), init: None };
    let refused = Counter::start(&target).unwrap_err();
    assert!(matches!(refused, CountError::OldGroup(_)), "{refused}");
}
