//! Two at once. Each pair is held back at the zone's lock until both have
//! looked at the zone, so that who comes second has seen what the first saw.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::fs::FlockOperation;

use super::bench::{Case, running, stopped};
use crate::bench::After;
use crate::host::{Host, Said, wait_until};
use serde_json::json;

pub(crate) const CASES: [Case; 4] = [
    Case {
        number: 29,
        given: running,
        steps: &[],
        then: |after| {
            let (first, second) =
                both(after, "power", &["rollback-snapshot", after.id, "clean"]);
            let done =
                format!("Rolled back snapshot clean for VM {}\n", after.id);
            let lost = format!(
                "first of 1 error: VM {} is already not 'running' \
                 (currently: running)\n",
                after.id
            );
            assert_eq!((first.code, first.err), (0, done));
            assert_eq!((second.code, second.err), (1, lost));
            assert_eq!(after.host.get(after.id)["state"], "running");
        },
    },
    Case {
        number: 30,
        given: stopped,
        steps: &[],
        then: |after| {
            let (first, second) = both(after, "power", &["start", after.id]);
            let done = format!("Successfully started VM {}\n", after.id);
            assert_eq!((first.code, first.err), (0, done.clone()));
            assert_eq!((second.code, second.err), (0, done));
            assert_eq!(after.host.get(after.id)["state"], "running");
        },
    },
    Case {
        number: 31,
        given: |host| host.bare(&json!({})),
        steps: &[],
        then: |after| {
            let (first, second) =
                both(after, "power", &["create-snapshot", after.id, "clean"]);
            let done = format!("Created snapshot clean for VM {}\n", after.id);
            let lost = "snapshot with name \"clean\" already exists.\n";
            assert_eq!((first.code, first.err), (0, done));
            assert_eq!((second.code, second.err.as_str()), (1, lost));
            let seen = after.host.get(after.id);
            assert_eq!(seen["snapshots"].as_array().unwrap().len(), 1);
        },
    },
    Case {
        number: 53,
        given: running,
        steps: &[],
        then: |after| {
            let (host, id) = (after.host, after.id);
            let line = "echo on > /root/on; exec sleep 600";
            let child = spawn(host, "zlogin", &[id, line]);
            wait_until("the command runs", || {
                host.root(id, "cat /root/on").out == "on\n"
            });
            host.ok(&["stop", "-F", id]);
            let said: Said = child.wait_with_output().unwrap().into();
            let quiet =
                Said { code: 0, out: String::new(), err: String::new() };
            assert_eq!(said, quiet);
        },
    },
];

fn spawn(host: &Host, program: &str, args: &[&str]) -> Child {
    host.command(program, args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a command twice at once; the one that did it comes first.
fn both(after: &After<'_>, lock: &str, args: &[&str]) -> (Said, Said) {
    let path = after.host.zone_dir(after.id).join(lock);
    let held = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let children = [(); 2].map(|()| spawn(after.host, "vmadm", args));
    wait_until("both wait for the lock", || {
        children.iter().all(|child| has_open(child.id(), &path))
    });
    drop(held);
    let [one, other] =
        children.map(|child| Said::from(child.wait_with_output().unwrap()));
    if one.code <= other.code { (one, other) } else { (other, one) }
}

fn has_open(pid: u32, path: &Path) -> bool {
    let dir = format!("/proc/{pid}/fd");
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries
        .flatten()
        .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path))
}
