//! A state root of its own for each test, the programs on it, and a check
//! that nothing of it is left at the end.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const NONCE: &str = "0123456789abcdef0123456789abcdef";

/// What a program said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) struct Host {
    pub(crate) dir: TempDir,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let path = match program {
            "vmadm" => env!("CARGO_BIN_EXE_vmadm"),
            "imgadm" => env!("CARGO_BIN_EXE_imgadm"),
            _ => env!("CARGO_BIN_EXE_zlogin"),
        };
        let mut command = Command::new(path);
        command
            .args(args)
            .env("NTRACE_ZONES", self.state())
            .env("SECRET_OF_CALLER", "hush-hush")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn vmadm(&self, args: &[&str]) -> Said {
        self.command("vmadm", args).output().unwrap().into()
    }

    pub(crate) fn zlogin(&self, args: &[&str]) -> Said {
        self.command("zlogin", args).output().unwrap().into()
    }

    pub(crate) fn feed(
        &self,
        program: &str,
        args: &[&str],
        input: &[u8],
    ) -> Output {
        let mut child = self
            .command(program, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    pub(crate) fn ok(&self, args: &[&str]) -> Said {
        let said = self.vmadm(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said
    }

    /// Creates a zone that is down, with a snapshot `clean`.
    pub(crate) fn zone(&self, more: &Value) -> String {
        let id = self.bare(more);
        self.ok(&["create-snapshot", &id, "clean"]);
        id
    }

    /// Creates a zone that is down, without any snapshot.
    pub(crate) fn bare(&self, more: &Value) -> String {
        let mut payload = serde_json::json!({
            "image_uuid": ntrace_standin::HOST_IMAGE,
            "alias": "worker0",
            "autoboot": false,
            "max_physical_memory": 512,
            "max_lwps": 300,
            "quota": 1,
            "tmpfs": 64,
        });
        for (key, value) in more.as_object().unwrap() {
            payload[key] = value.clone();
        }
        let text = payload.to_string();
        let said: Said =
            self.feed("vmadm", &["create"], text.as_bytes()).into();
        assert_eq!(said.code, 0, "{said:?}");
        said.err.trim().rsplit(' ').next().unwrap().to_owned()
    }

    /// The same, running.
    pub(crate) fn running(&self, more: &Value) -> String {
        let id = self.zone(more);
        self.ok(&["start", &id]);
        id
    }

    pub(crate) fn get(&self, id: &str) -> Value {
        let said = self.ok(&["get", id]);
        serde_json::from_str(&said.out).unwrap()
    }

    /// Runs a shell line as the zone's root.
    pub(crate) fn root(&self, id: &str, line: &str) -> Said {
        self.zlogin(&[id, line])
    }

    pub(crate) fn request(&self, line: &str, user: &str) -> String {
        serde_json::json!({
            "nonce": NONCE,
            "user": user,
            "cwd": "/home/job",
            "argv": ["sh", "-c", line],
            "env": {"PATH": "/usr/bin:/bin"},
            "env_clear": true,
        })
        .to_string()
            + "\n"
    }

    /// Runs a shell line as the job; gives what it said and its status.
    pub(crate) fn job(&self, id: &str, line: &str) -> (Said, Value) {
        self.helper(id, "run", self.request(line, "job").as_bytes())
    }

    pub(crate) fn helper(
        &self,
        id: &str,
        verb: &str,
        input: &[u8],
    ) -> (Said, Value) {
        let args = [id, "/native/zone-job", verb];
        let said: Said = self.feed("zlogin", &args, input).into();
        let marker = format!("\u{1e}ntrace-status {NONCE} ");
        let status =
            said.err.rsplit_once(&marker).map_or(Value::Null, |(_, text)| {
                serde_json::from_str(text).unwrap_or(Value::Null)
            });
        (said, status)
    }

    pub(crate) fn keeper(&self, id: &str) -> i32 {
        let path = self.state().join("zones").join(id).join("run.json");
        let run: Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        run["keeper"]["pid"].as_i64().unwrap() as i32
    }

    pub(crate) fn zone_dir(&self, id: &str) -> PathBuf {
        self.state().join("zones").join(id)
    }

    pub(crate) fn faults(&self, id: &str, text: &str) {
        std::fs::write(self.zone_dir(id).join("faults"), text).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for id in self.vmadm(&["lookup"]).out.lines() {
            let _ = std::fs::remove_file(self.zone_dir(id).join("faults"));
            self.vmadm(&["delete", id]);
        }
        let trash = self.state().join("trash");
        wait_until("the trash is emptied", || {
            self.vmadm(&["gc"]);
            names(&trash).iter().all(|name| name == ".lock")
        });
        if !std::thread::panicking() {
            wait_until("no process is left", || {
                processes_below(self.dir.path()).is_empty()
            });
        }
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Processes of this machine that were started with that state root.
pub(crate) fn processes_below(dir: &Path) -> Vec<i32> {
    let wanted = dir.display().to_string();
    let mut found = Vec::new();
    for name in names(Path::new("/proc")) {
        let Ok(pid) = name.parse::<i32>() else { continue };
        let root = std::fs::read(format!("/proc/{pid}/environ"));
        let root = root.unwrap_or_default();
        if String::from_utf8_lossy(&root).contains(&wanted)
            && pid != std::process::id() as i32
        {
            found.push(pid);
        }
    }
    found
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
        state.is_some_and(|rest| !rest.starts_with('Z'))
    })
}

pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Directories of cgroups that bear the name of a zone.
pub(crate) fn cgroups_of(id: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, id: &str, depth: u8, found: &mut Vec<PathBuf>) {
        if depth == 0 {
            return;
        }
        for name in names(dir) {
            let path = dir.join(&name);
            if !path.is_dir() || path.is_symlink() {
                continue;
            }
            if name == id {
                found.push(path);
            } else {
                walk(&path, id, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), id, 4, &mut found);
    found
}

pub(crate) fn reap(mut child: Child) -> i32 {
    child.wait().unwrap().code().unwrap_or(-1)
}
