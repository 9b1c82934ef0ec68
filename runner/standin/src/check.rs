//! What would zones find on this machine? Tried, not read: a namespace is
//! entered and left with the process, a cgroup is made and removed.

use std::fs;

use serde_json::json;

use crate::cgroup::{Cgroups, Limits};
use crate::names::ZoneId;
use crate::place::Owner;
use crate::sys;

/// `zone-check`: prints one JSON object; always exits with 0, since to find
/// nothing is an answer too.
pub(crate) fn main() -> u8 {
    let is_root = Owner::current().is_root();
    let unheld = unheld();
    let answer = json!({
        "is_root": is_root,
        "namespaces": namespaces().err().map(|error| error.to_string()),
        "unheld": unheld,
    });
    println!("{answer}");
    0
}

/// The limits that a new zone's cgroups would not hold.
fn unheld() -> Vec<&'static str> {
    let limits =
        Limits { memory: 64 << 20, swap: 64 << 20, cpu_cap: None, pids: 64 };
    let (groups, means) = Cgroups::create(&ZoneId::random(), &limits);
    groups.remove();
    let all =
        [("memory", means.memory), ("cpu", means.cpu), ("pids", means.pids)];
    all.into_iter()
        .filter(|(_, means)| means != "cgroup")
        .map(|(name, _)| name)
        .collect()
}

/// Enters the namespaces that a zone is made of. Needs a single thread.
fn namespaces() -> std::io::Result<()> {
    sys::unshare(libc::CLONE_NEWUSER)?;
    // Without rights in the new namespace the rest is refused; some systems
    // grant the namespace and withhold these.
    let _ = fs::write("/proc/self/setgroups", "deny");
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC)
}
