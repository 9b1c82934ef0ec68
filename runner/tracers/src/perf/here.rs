//! Whether perf is on this machine, and can be used.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ntrace_zones::Exit;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::child;

/// The oldest perf that can be told when to begin (`--control`).
const OLDEST: Version = Version(5, 10);

/// How long perf may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there are no traces by perf here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPerf {
    /// It is not in PATH.
    Missing,
    /// It does not say its version.
    Broken,
    /// It cannot do what is needed.
    Old,
    /// The runner is not root.
    Ordinary,
    /// The runner's directory for recordings cannot be used.
    NoRoom,
}

impl NoPerf {
    /// The reason, and what to ask for instead.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Missing => {
                "perf is not installed where the runner is; install it (on \
                 Debian: linux-perf), or ask for sample"
            }
            Self::Broken => {
                "perf is there but does not say its version (is there one \
                 for this kernel?); ask for sample"
            }
            Self::Old => "perf is older than 5.10; ask for sample",
            Self::Ordinary => {
                "perf records by cgroup, which only root may; ask for \
                 sample, which an ordinary user may have too"
            }
            Self::NoRoom => {
                "the runner's directory for recordings cannot be used; see \
                 its log, or ask for sample"
            }
        }
    }
}

/// Major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// From `perf version 6.1.187` or `perf version 6.8.12-amd64`.
    fn parse(said: &str) -> Option<Self> {
        let rest = said.trim().strip_prefix("perf version ")?;
        let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

/// Looks for perf in PATH and asks it for its version.
pub(super) async fn find() -> Result<PathBuf, NoPerf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let program = in_path(&path).ok_or(NoPerf::Missing)?;
    let version = version(&program).await.ok_or(NoPerf::Broken)?;
    if version < OLDEST {
        return Err(NoPerf::Old);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(NoPerf::Ordinary);
    }
    Ok(program)
}

fn in_path(path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("perf"))
        .find(|program| {
            let may = rustix::fs::Access::EXEC_OK;
            program.is_file() && rustix::fs::access(program, may).is_ok()
        })
}

async fn version(program: &Path) -> Option<Version> {
    let deadline = Instant::now() + PATIENCE;
    let mut command = command(program);
    command.arg("--version");
    super::sys::tie(&mut command, Vec::new());
    let mut started = child::start(command, ()).await.ok()?;
    let mut said = Vec::new();
    let mut out = started.stdout.take(4 << 10);
    timeout_at(deadline, out.read_to_end(&mut said)).await.ok()?.ok()?;
    let exit = timeout_at(deadline, started.child.ended()).await.ok()?;
    match exit {
        Exit::Code(0) => Version::parse(&String::from_utf8_lossy(&said)),
        _ => None,
    }
}

/// perf without anything of our environment or of anybody's settings.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        // Some distributions have a script that looks for the kernel's own.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("HOME", "/nonexistent")
        .env("PERF_CONFIG_NOSYSTEM", "1")
        .env("PERF_CONFIG_NOGLOBAL", "1")
        .current_dir("/");
    command
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn versions_of_all_spellings_are_read() {
        let parse = |text| Version::parse(text);
        assert_eq!(parse("perf version 6.1.187\n"), Some(Version(6, 1)));
        assert_eq!(parse("perf version 5.4.86-x"), Some(Version(5, 4)));
        assert_eq!(parse("perf version 6.8-rc1"), Some(Version(6, 8)));
        assert_eq!(parse("perf version x"), None);
        assert_eq!(parse("WARNING: perf not found for kernel 6.5"), None);
        assert!(Version(5, 4) < OLDEST && Version(6, 1) > OLDEST);
    }

    #[tokio::test]
    async fn only_a_program_in_an_absolute_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let perf = dir.path().join("perf");
        let path = env::join_paths(["".as_ref(), dir.path()]).unwrap();
        assert_eq!(in_path(&path), None);
        let put = |text: &str, mode| {
            fs::write(&perf, text).unwrap();
            fs::set_permissions(&perf, fs::Permissions::from_mode(mode))
                .unwrap();
        };
        put("#!/bin/sh\necho perf version 5.4.1\n", 0o755);
        assert_eq!(in_path(&path), Some(perf.clone()));
        assert_eq!(version(&perf).await, Some(Version(5, 4)));
        put("#!/bin/sh\necho perf not found for kernel 9; exit 2\n", 0o755);
        assert_eq!(version(&perf).await, None);
    }
}
