//! The zones of a stage, through `vmadm` as an operator would.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::process::command;
use crate::setup::Who;

/// The zones below one state directory.
#[derive(Clone, Debug)]
pub struct Zones {
    /// The state directory.
    pub root: PathBuf,
    vmadm: PathBuf,
    zlogin: PathBuf,
    env: Vec<(OsString, OsString)>,
    who: Who,
}

impl Zones {
    /// The zones below `root`, by these programs.
    pub fn new(
        root: PathBuf,
        programs: &crate::programs::Programs,
        env: Vec<(OsString, OsString)>,
        who: Who,
    ) -> Self {
        let vmadm = programs.dir().join("vmadm");
        let zlogin = programs.dir().join("zlogin");
        Self { root, vmadm, zlogin, env, who }
    }

    /// The manifest of a ready worker.
    ///
    /// # Panics
    /// It is not there, or no JSON.
    pub fn manifest() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../manifests/worker-linux.json");
        let text = std::fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).expect("the manifest is JSON")
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = command(program, &self.env, self.who);
        command.args(args);
        command
    }

    /// Runs vmadm.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn vmadm(&self, args: &[&str], stdin: &str) -> Output {
        run(self.command(&self.vmadm, args), stdin)
    }

    /// Runs vmadm, which must succeed; answers its standard output.
    ///
    /// # Panics
    /// It fails.
    pub fn must(&self, args: &[&str], stdin: &str) -> String {
        let output = self.vmadm(args, stdin);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "vmadm {args:?}: {stderr}");
        format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
    }

    /// Runs a command in a zone as its root.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn zlogin(&self, uuid: &str, args: &[&str]) -> Output {
        let mut command = self.command(&self.zlogin, &["-Q", uuid]);
        command.args(args);
        run(command, "")
    }

    /// Makes a worker with the snapshot `clean`; answers its UUID.
    ///
    /// # Panics
    /// vmadm refuses.
    pub fn create(&self, manifest: &Value) -> String {
        let said = self.must(&["create"], &manifest.to_string());
        let uuid = said
            .split_once("Successfully created VM ")
            .and_then(|(_, rest)| rest.get(..36))
            .unwrap_or_else(|| panic!("vmadm create said: {said}"))
            .to_owned();
        self.must(&["create-snapshot", &uuid, "clean"], "");
        uuid
    }

    /// The UUIDs of all.
    pub fn all(&self) -> Vec<String> {
        let said = self.must(&["lookup"], "");
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// What vmadm knows of one.
    ///
    /// # Panics
    /// There is none such.
    pub fn get(&self, uuid: &str) -> Value {
        let output = self.vmadm(&["get", uuid], "");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "vmadm get {uuid}: {error}: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// The directory of one.
    pub fn dir(&self, uuid: &str) -> PathBuf {
        self.root.join("zones").join(uuid)
    }

    /// Sets fault switches of one; the empty text clears them.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn faults(&self, uuid: &str, switches: &str) {
        let path = self.dir(uuid).join("faults");
        std::fs::write(path, switches).expect("the zone's directory is there");
    }

    /// Ends and deletes all. What cannot be deleted is told.
    pub fn clear(&self) -> Vec<String> {
        let mut told = Vec::new();
        if !self.root.join("zones").exists() {
            return told;
        }
        let found = self.vmadm(&["lookup"], "");
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        for uuid in found.split_whitespace() {
            // A switch that a test left would hold it.
            let _ = std::fs::remove_file(self.dir(uuid).join("faults"));
            let output = self.vmadm(&["delete", uuid], "");
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                told.push(format!("cannot delete {uuid}: {why}"));
            }
        }
        // An addition of Linux: what was put aside goes now.
        let _ = self.vmadm(&["gc"], "");
        told
    }
}

fn run(mut command: Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut pipe = child.stdin.take().expect("it was asked for");
    // A program that does not read it says why by itself.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    child.wait_with_output().expect("the child is ours to wait for")
}
