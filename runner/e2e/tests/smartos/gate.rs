//! A gate with its files in a directory of its own, and fake programs that
//! write down how they were called.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A VM on the list, with two snapshots to go back to.
pub(crate) const WORKER: &str = "c0ffee00-1111-4222-8333-444455556666";
/// A VM on the list, without a word on snapshots.
pub(crate) const OTHER: &str = "c0ffee00-1111-4222-8333-444455556667";
/// A VM that is not on the list.
pub(crate) const STRANGER: &str = "c0ffee00-1111-4222-8333-444455556668";
/// The one script that the sandbox's zones may be given.
pub(crate) const SCRIPT: &str = "exec /bin/sh -c 'echo '\\''hi!'\\''\nid'";

/// Writes down its name and arguments, then does as it is told.
const FAKE: &str = r#"#!/bin/sh
{ printf '%s\037' "${0##*/}" "$@"; printf '\036'; } >>"$RECORD"
env >"$RECORD.env"
if [ -e "$RECORD.do" ]; then . "$RECORD.do"; fi
"#;

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub(crate) fn scripts() -> PathBuf {
    repository().join("scripts/smartos")
}

/// The shells of this machine that the gate must run under.
pub(crate) fn shells() -> Vec<Vec<&'static str>> {
    [
        &["/bin/dash"][..],
        &["/bin/bash", "--posix"],
        &["/bin/busybox", "sh"],
        &["/bin/ksh93"],
    ]
    .into_iter()
    .filter(|shell| {
        let there = Path::new(shell[0]).exists();
        if !there {
            ntrace_e2e::skip(&format!("{} is not installed", shell[0]));
        }
        there
    })
    .map(<[_]>::to_vec)
    .collect()
}

/// How a call of the gate ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What was run for it: program and arguments.
    pub(crate) ran: Vec<Vec<String>>,
}

pub(crate) struct Gate {
    dir: TempDir,
    shell: Vec<&'static str>,
}

impl Gate {
    pub(crate) fn new(shell: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gate = Self { dir, shell: shell.to_vec() };
        for sub in ["etc", "etc/dtrace", "bin", "cwd"] {
            fs::create_dir(gate.path(sub)).unwrap();
            gate.mode(sub, 0o755);
        }
        for program in ["vmadm", "zlogin", "dtrace"] {
            gate.write(&format!("bin/{program}"), FAKE);
            gate.mode(&format!("bin/{program}"), 0o755);
        }
        gate.write(
            "etc/workers",
            &format!("# workers\n{WORKER}\tclean a:b% # two\n\n{OTHER}"),
        );
        let quoted = SCRIPT.replace('\'', "'\\''");
        gate.write(
            "etc/gate-calls",
            &format!(
                "name_call() {{ case $1 in '{quoted}') call=it ;; esac; }}"
            ),
        );
        gate.write("etc/dtrace/ntrace_cpu.d", "BEGIN {}\n");
        let at = |name: &str| gate.path(name).display().to_string();
        let programs = format!(
            "# of the test\nvmadm {}\nzlogin {}\ndtrace {}\nenv RECORD={}\n",
            at("bin/vmadm"),
            at("bin/zlogin"),
            at("bin/dtrace"),
            at("record")
        );
        gate.write("etc/programs", &programs);
        gate
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        self.mode(name, 0o644);
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.path(name), mode).unwrap();
    }

    /// What the fake programs do besides writing themselves down.
    pub(crate) fn programs_do(&self, script: &str) {
        self.write("record.do", script);
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8(log).unwrap()
    }

    /// The environment of the last program that ran.
    pub(crate) fn environment(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("record.env")).unwrap();
        let mut lines: Vec<String> = text
            .lines()
            // A shell sets these by itself.
            .filter(|line| !line.starts_with("PWD=") && !line.starts_with("_="))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    /// The gate as sshd starts it, with a hostile environment.
    pub(crate) fn command(&self, given: Option<&[u8]>) -> Command {
        let mut command = Command::new(self.shell[0]);
        command
            .args(&self.shell[1..])
            .arg(scripts().join("ntrace-gate"))
            .arg("--etc")
            .arg(self.path("etc"))
            .arg("--log")
            .arg(self.path("log"))
            .args(["--key", "runner0"])
            .env_clear()
            .env("SSH_CONNECTION", "192.0.2.7 5000 192.0.2.1 22")
            .env("LC_ALL", "C.UTF-8")
            .env("IFS", "aeiou/")
            .env("PATH", "/nonexistent")
            .env("VMADM_DEBUG_LEVEL", "debug")
            .env("CDPATH", "/")
            .current_dir(self.path("cwd"))
            .stdin(Stdio::null());
        if let Some(given) = given {
            command.env("SSH_ORIGINAL_COMMAND", OsStr::from_bytes(given));
        }
        command
    }

    pub(crate) fn run_command(&self, mut command: Command) -> Answer {
        let _ = fs::remove_file(self.path("record"));
        let output = command.output().unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            ran: self.ran(),
        }
    }

    pub(crate) fn ran(&self) -> Vec<Vec<String>> {
        let record = fs::read(self.path("record")).unwrap_or_default();
        let record = String::from_utf8(record).unwrap();
        record
            .split_terminator('\x1e')
            .map(|call| {
                call.split_terminator('\x1f').map(str::to_owned).collect()
            })
            .collect()
    }

    pub(crate) fn run(&self, given: &[u8]) -> Answer {
        self.run_command(self.command(Some(given)))
    }
}

/// Words as the ssh library writes them for the remote side.
pub(crate) fn quoted(words: &[&str]) -> Vec<u8> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=/,.+".contains(&b);
    let one = |word: &&str| {
        if !word.is_empty() && word.bytes().all(plain) {
            return (*word).to_owned();
        }
        let inner: String = word
            .chars()
            .map(|c| match c {
                '\'' | '!' => format!("'\\{c}'"),
                c => c.to_string(),
            })
            .collect();
        format!("'{inner}'")
    };
    let words: Vec<String> = words.iter().map(one).collect();
    words.join(" ").into_bytes()
}
