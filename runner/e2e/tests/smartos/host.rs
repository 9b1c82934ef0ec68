//! A host in a directory: its files below a prefix, its VMs in the Linux
//! stand-in, and the scripts run against both.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ntrace_e2e::programs::Programs;
use tempfile::TempDir;

use super::gate::{repository, scripts};

/// Runs the real program; dies with its whole process group, script
/// included, before or after the call with the number in $KILL_AT.
const SHIM: &str = r#"#!/bin/sh
case ${1-} in
create | start | stop | create-snapshot | delete | update) ;;
*) exec "$REAL" "$@" ;;
esac
count=$(($(cat "$COUNT" 2>/dev/null || echo 0) + 1))
echo "$count" >"$COUNT"
echo "$1" >>"$COUNT.calls"
if [ "$KILL_AT" = "$count before" ]; then kill -KILL 0; fi
"$REAL" "$@"
code=$?
if [ "$KILL_AT" = "$count after" ]; then kill -KILL 0; fi
exit "$code"
"#;

/// The image of the stand-in that is always there.
pub(crate) const IMAGE: &str = "6e747261-6365-4000-8000-000000000001";

pub(crate) struct Host {
    dir: TempDir,
    programs: Programs,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let programs = Programs::built();
        let host = Self { dir, programs };
        for sub in ["bin", "zones", "gz/usbkey", "gz/root"] {
            fs::create_dir_all(host.path(sub)).unwrap();
        }
        host.install("vmadm", SHIM);
        for program in ["zlogin", "imgadm"] {
            let real = host.programs.path(program);
            std::os::unix::fs::symlink(real, host.path("bin").join(program))
                .unwrap();
        }
        host
    }

    /// Puts a program before all others in the scripts' PATH.
    pub(crate) fn install(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, script).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, program: &Path) -> Command {
        let path = format!(
            "{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.path("bin").display()
        );
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("gz/root"))
            .env("NTRACE_ZONES", self.path("zones"))
            .env("REAL", self.programs.path("vmadm"))
            .env("COUNT", self.path("count"))
            .env("KILL_AT", "never")
            .current_dir(repository())
            .stdin(Stdio::null());
        command
    }

    /// One of the scripts, with its own process group.
    pub(crate) fn script(&self, name: &str, args: &[&str]) -> Command {
        let mut command = self.command(&scripts().join(name));
        command
            .args(args)
            .arg("--prefix")
            .arg(self.path("gz"))
            .process_group(0);
        command
    }

    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Said {
        Said::from(self.script(name, args).output().unwrap())
    }

    /// Runs a script that must succeed.
    pub(crate) fn must(&self, name: &str, args: &[&str]) -> Said {
        let said = self.run(name, args);
        assert_eq!(said.code, Some(0), "{name} {args:?}: {said:?}");
        said
    }

    /// Asks the real vmadm.
    pub(crate) fn vmadm(&self, args: &[&str]) -> String {
        let mut command = self.command(&self.programs.path("vmadm"));
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{args:?} {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The changes that were made through vmadm since the last look.
    pub(crate) fn changes(&self) -> Vec<String> {
        let calls = self.path("count.calls");
        let text = fs::read_to_string(&calls).unwrap_or_default();
        let _ = fs::remove_file(calls);
        let _ = fs::remove_file(self.path("count"));
        text.lines().map(str::to_owned).collect()
    }

    /// Everything below a directory: names, modes and contents.
    pub(crate) fn tree(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path(name), &mut found);
        found.sort();
        found
    }
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            found.push(format!("{} {mode:o}", path.display()));
            walk(&path, found);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            found.push(format!("{} {mode:o} {text}", path.display()));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut command = self.command(&self.programs.path("vmadm"));
        let Ok(all) = command.arg("lookup").output() else { return };
        for uuid in String::from_utf8_lossy(&all.stdout).lines() {
            let mut command = self.command(&self.programs.path("vmadm"));
            let _ = command.args(["delete", uuid]).output();
        }
        let mut command = self.command(&self.programs.path("vmadm"));
        let _ = command.arg("gc").output();
    }
}

/// How a script ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
