//! The way to the global zone over a real sshd, whose forced command is the
//! gate of `scripts/smartos`, and behind it the stand-in.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ntrace_testbed::{Options, Sshd};

use crate::programs::Programs;

/// The gate and its files, as an operator sets them up.
const SCRIPTS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/smartos");

/// An sshd with the gate behind it.
#[derive(Debug)]
pub struct Gate {
    /// The server.
    pub sshd: Sshd,
    etc: PathBuf,
}

impl Gate {
    /// Sets it up for zones below `zones`, with its files below `dir`.
    ///
    /// # Panics
    /// A file cannot be written, or sshd does not start.
    pub fn start(dir: &Path, zones: &Path, programs: &Programs) -> Self {
        let etc = dir.join("gate");
        let mut make = fs::DirBuilder::new();
        make.mode(0o755).create(&etc).expect("the stage's directory is ours");
        let copy = |name: &str, mode: u32| {
            let to = etc.join(name);
            let from = Path::new(SCRIPTS).join(name);
            fs::copy(from, &to).expect("the gate's files are in the source");
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))
                .expect("the file is ours");
        };
        copy("ntrace-gate", 0o755);
        copy("gate-calls", 0o644);
        let lines = format!(
            "vmadm {}\nzlogin {}\nenv NTRACE_ZONES={}\n",
            programs.path("vmadm").display(),
            programs.path("zlogin").display(),
            zones.display()
        );
        write(&etc.join("programs"), &lines);
        write(&etc.join("workers"), "");
        let command = format!(
            "exec {etc}/ntrace-gate --etc {etc} --key e2e --log {etc}/log",
            etc = etc.display()
        );
        Self { sshd: Sshd::start(Options::forced(&command)), etc }
    }

    /// Lets the runner act on a VM.
    ///
    /// # Panics
    /// The list cannot be written.
    pub fn list(&self, uuid: &str, snapshots: &str) {
        write(&self.etc.join("workers"), &format!("{uuid} {snapshots}\n"));
    }

    /// What the runner is told.
    #[must_use]
    pub fn runner_args(&self) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        vec![
            "--global-zone".to_owned(),
            self.sshd.address(),
            "--identity".to_owned(),
            path(self.sshd.identity()),
            "--known-hosts".to_owned(),
            path(self.sshd.known_hosts()),
        ]
    }

    /// What the gate let through and what it refused.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.etc.join("log")).unwrap_or_default()
    }
}

/// Adds lines to a file that nobody else may write.
fn write(path: &Path, lines: &str) {
    let mut options = fs::File::options();
    options.create(true).append(true).mode(0o644);
    options
        .open(path)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .expect("the gate's directory is ours");
}
