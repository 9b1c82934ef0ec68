//! Test beds: a real OpenSSH server on loopback.
//!
//! For tests only. An [`Sshd`] has a port, keys and files of its own, so any
//! number of them stand beside each other and beside the machine's own. It
//! must not know what is reached through it.
//! Invariant: when it is dropped, its server and their sessions are gone.
//! Commands that were started through it are for the test to end, as a real
//! sshd leaves them too.

use std::path::PathBuf;

mod keys;
mod options;
mod process;
mod sshd;
mod wait;

pub use options::{Login, Options};
pub use sshd::Sshd;
pub use wait::{DEADLINE, eventually};

/// Whether there is an sshd to be had; if not, says so loudly.
///
/// ```no_run
/// if !ntrace_testbed::needs_sshd() {
///     return;
/// }
/// let sshd = ntrace_testbed::Sshd::start(ntrace_testbed::Options::free());
/// println!("{}", sshd.address());
/// ```
#[must_use]
pub fn needs_sshd() -> bool {
    for name in ["sshd", "ssh", "ssh-keygen"] {
        if find(name).is_none() {
            eprintln!("SKIPPED: {name} is not installed");
            return false;
        }
    }
    true
}

/// Where a program is. sshd insists on being called by its whole path.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).collect::<Vec<_>>();
    let more = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from);
    dirs.into_iter()
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|file| file.is_absolute() && file.is_file())
}
