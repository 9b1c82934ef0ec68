//! make-worker against the real zones of the stand-in.

use super::host::{Host, IMAGE};

const MANIFEST: &str = "manifests/worker-linux.json";

fn make<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--manifest", MANIFEST, "--image", IMAGE], more].concat()
}

/// The steps, in the one right order.
const STEPS: [&str; 5] =
    ["create", "start", "stop", "create-snapshot", "start"];

/// One VM, running, with the one snapshot.
fn is_whole(host: &Host) -> bool {
    let all = host.vmadm(&["list", "-p", "-H", "-o", "uuid,state"]);
    let Some((uuid, state)) = all.trim().split_once(':') else { return false };
    let vm: serde_json::Value =
        serde_json::from_str(&host.vmadm(&["get", uuid])).unwrap();
    let snapshots = vm["snapshots"].as_array().unwrap();
    state == "running"
        && snapshots.len() == 1
        && snapshots[0]["name"] == "clean"
        && vm["tags"]["ntrace"] == "worker"
}

#[test]
fn a_worker_is_made_once_and_removed_once() {
    let host = Host::new();
    host.must("setup-gz", &[]);
    let made = host.must("make-worker", &make(&[]));
    assert_eq!(host.changes(), STEPS);
    assert!(is_whole(&host), "{made:?}");
    let uuid = made.stdout.trim().to_owned();
    assert_eq!(uuid.len(), 36);
    let list = "gz/opt/custom/ntrace/workers";
    assert!(host.read(list).ends_with(&format!("\n{uuid} clean\n")));

    let again = host.must("make-worker", &make(&[]));
    assert_eq!(again.stdout, made.stdout);
    assert_eq!(host.changes(), [""; 0], "nothing to do: {again:?}");

    host.must("make-worker", &["--undo"]);
    assert_eq!(host.changes(), ["delete"]);
    assert_eq!(host.vmadm(&["lookup"]), "");
    assert!(!host.read(list).contains(&uuid));
    let undone = host.must("make-worker", &["--undo"]);
    assert_eq!(host.changes(), [""; 0]);
    assert!(undone.stderr.contains("already gone"), "{undone:?}");
}

#[test]
fn a_dry_run_says_every_step_and_changes_nothing() {
    let host = Host::new();
    host.must("setup-gz", &[]);
    let before = host.tree("gz");
    let said = host.must("make-worker", &make(&["--dry-run", "--alias", "w1"]));
    assert_eq!(host.changes(), [""; 0]);
    assert_eq!(host.vmadm(&["lookup"]), "");
    assert_eq!(host.tree("gz"), before);
    let steps: Vec<&str> = said
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("+ vmadm "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(steps, STEPS, "{said:?}");
    assert!(said.stdout.contains("\"alias\": \"w1\""), "{said:?}");
    assert!(said.stdout.ends_with("\nUUID-OF-w1\n"), "{said:?}");
}

#[test]
fn an_interrupted_one_goes_on_where_it_was() {
    // Between create and start, while it boots and is provisioned, between
    // stop and snapshot, and before the last start.
    for at in ["1 after", "2 after", "3 after", "4 before", "5 before"] {
        let host = Host::new();
        let mut script = host.script("make-worker", &make(&[]));
        let output = script.env("KILL_AT", at).output().unwrap();
        assert!(output.status.code().is_none(), "{at}: {output:?}");
        let said = host.must("make-worker", &make(&[]));
        assert!(is_whole(&host), "{at}: {said:?}");
        host.must("make-worker", &["--undo"]);
        assert_eq!(host.vmadm(&["lookup"]), "");
    }
}

#[test]
fn a_snapshot_is_taken_after_provisioning_and_of_a_stopped_vm() {
    let host = Host::new();
    let script = host.path("provision.sh");
    std::fs::write(&script, "echo made >/etc/ntrace-was-here; sleep 0\n")
        .unwrap();
    let script = script.display().to_string();
    let made = host.must("make-worker", &make(&["--provision", &script]));
    let uuid = made.stdout.trim();
    // A rollback brings back what was provisioned.
    host.vmadm(&["rollback-snapshot", uuid, "clean"]);
    let zlogin = host.path("bin/zlogin");
    let output = std::process::Command::new(zlogin)
        .args(["-Q", uuid, "cat /etc/ntrace-was-here"])
        .env("NTRACE_ZONES", host.path("zones"))
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"made\n", "{output:?}");
}

#[test]
fn a_failed_provisioning_takes_no_snapshot() {
    let host = Host::new();
    for (script, why) in [
        ("echo no >&2; false\necho on\n", "fails"),
        ("kill -9 $$\n", "is killed, which zlogin reports as 0"),
        ("exit 0\n", "ends before its end"),
    ] {
        let path = host.path("provision.sh");
        std::fs::write(&path, script).unwrap();
        let path = path.display().to_string();
        let said = host.run("make-worker", &make(&["--provision", &path]));
        assert_eq!(said.code, Some(1), "{why}: {said:?}");
        assert!(said.stderr.contains("cannot run provision.sh"), "{said:?}");
        assert!(!host.changes().contains(&"create-snapshot".to_owned()));
    }
}

#[test]
fn a_foreign_vm_is_neither_used_nor_deleted() {
    let host = Host::new();
    let manifest = format!(r#"{{"alias":"worker0","image_uuid":"{IMAGE}"}}"#);
    let file = host.path("foreign.json");
    std::fs::write(&file, manifest).unwrap();
    host.vmadm(&["create", "-f", &file.display().to_string()]);
    for args in [make(&[]), make(&["--undo"])] {
        let said = host.run("make-worker", &args);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("by these scripts"), "{said:?}");
    }
    assert_eq!(host.changes(), [""; 0]);
    assert_eq!(host.vmadm(&["lookup"]).lines().count(), 1);
}

#[test]
fn bad_options_are_refused_before_anything_is_done() {
    let host = Host::new();
    for bad in [
        &["--alias", "a b"][..],
        &["--alias", "-x"],
        &["--alias", "a|b"],
        &["--alias", ""],
        &["--alias"],
        &["--memory", "lots"],
        &["--memory", "0"],
        &["--quota", "1\"}"],
        &["--ip", "192.0.2.1"],
        &["--ip", "192.0.2.1/24"],
        &["--gateway", "192.0.2.1"],
        &["--resolver", "$(id)"],
        &["--nic-tag", "a/b"],
        &["--image", "../x"],
        &["--snapshot", "a b"],
        &["--snapshot", "-x"],
        &["--package", "-y"],
        &["--package", "a;id"],
        &["--shiny"],
        &["worker1"],
    ] {
        let said = host.run("make-worker", bad);
        assert_eq!(said.code, Some(2), "{bad:?}: {said:?}");
        assert!(!said.stderr.is_empty());
    }
    // The manifest has no place for a vlan.
    let said = host.run("make-worker", &make(&["--cpu-cap", "300"]));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("has no place for 300"), "{said:?}");
    assert_eq!(host.changes(), [""; 0]);
}
