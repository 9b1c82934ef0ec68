//! setup-gz on the files of a host.

use std::collections::BTreeSet;
use std::fs;

use super::gate::{OTHER, WORKER, repository};
use super::host::Host;

const KEY: &str = "ssh-ed25519 \
    AAAAC3NzaC1lZDI1NTE5AAAAILMjcHWxHnNs/1dlNlwFJJfvU+pmSLdyKYTgUA61/yrW";
const OPERATOR: &str = "ssh-rsa AAAAB3NzaC1yc2E= operator@desk";
const KEPT: &str = "gz/usbkey/config.inc/authorized_keys";
const LIVE: &str = "gz/root/.ssh/authorized_keys";

fn host() -> Host {
    let host = Host::new();
    fs::write(host.path("key.pub"), format!("{KEY} me@runner\n")).unwrap();
    fs::create_dir(host.path("gz/usbkey/config.inc")).unwrap();
    // Without a newline at the end, as people leave them.
    fs::write(host.path(KEPT), OPERATOR).unwrap();
    fs::write(host.path("gz/usbkey/config"), "admin_nic=00:11").unwrap();
    host
}

fn key(host: &Host) -> String {
    host.path("key.pub").display().to_string()
}

fn line(name: &str) -> String {
    format!(
        "restrict,command=\"/opt/custom/ntrace/ntrace-gate --key {name}\" \
         {KEY} ntrace:{name}"
    )
}

#[test]
fn the_key_outlasts_a_boot_and_others_stay() {
    let host = host();
    host.must("setup-gz", &["--key", &key(&host), "--worker", WORKER]);
    let ours = line("runner0");
    assert_eq!(host.read(KEPT), format!("{OPERATOR}\n{ours}\n"));
    assert_eq!(host.read(LIVE), format!("{ours}\n"));
    assert_eq!(
        host.read("gz/usbkey/config"),
        "admin_nic=00:11\nroot_authorized_keys_file=authorized_keys\n"
    );
    let gate = fs::read(host.path("gz/opt/custom/ntrace/ntrace-gate")).unwrap();
    let source = repository().join("scripts/smartos/ntrace-gate");
    assert_eq!(gate, fs::read(source).unwrap());

    let before = host.tree("gz");
    let again =
        host.must("setup-gz", &["--key", &key(&host), "--worker", WORKER]);
    assert_eq!(host.tree("gz"), before);
    assert!(!again.stderr.contains("wrote"), "{again:?}");
}

#[test]
fn a_new_key_takes_the_place_of_the_old_and_undo_takes_it_away() {
    let host = host();
    let untouched = [host.path("gz/usbkey/config")];
    host.must("setup-gz", &["--key", &key(&host), "--name", "a.b"]);
    let other = KEY.replace("ILMj", "ILMk");
    fs::write(host.path("key.pub"), &other).unwrap();
    let options = ["--key", &key(&host), "--name", "a.b", "--from", "10.0.0.9"];
    host.must("setup-gz", &options);
    // Not the same name, though a pattern would match it.
    host.must("setup-gz", &["--key", &key(&host), "--name", "aXb"]);
    let live = host.read(LIVE);
    assert_eq!(live.lines().count(), 2, "{live}");
    assert!(live.starts_with("from=\"10.0.0.9\",restrict,command="), "{live}");
    // Without a word on it the restriction stays, as at an upgrade.
    host.must("setup-gz", &options[..4]);
    let lines = |text: &str| -> BTreeSet<String> {
        text.lines().map(str::to_owned).collect()
    };
    assert_eq!(lines(&host.read(LIVE)), lines(&live));
    host.must("setup-gz", &[&options[..5], &["*"]].concat());
    assert!(host.read(LIVE).contains("from=\"*\",restrict,"));

    let said = host.must("setup-gz", &["--undo", "--name", "a.b"]);
    assert!(said.stderr.contains("so it stays"), "{said:?}");
    assert_eq!(host.read(LIVE).lines().count(), 1);
    assert!(host.path("gz/opt/custom/ntrace").exists());
    host.must("setup-gz", &["--undo", "--name", "aXb"]);
    assert_eq!(host.read(LIVE), "");
    assert_eq!(host.read(KEPT), format!("{OPERATOR}\n"));
    assert!(!host.path("gz/opt/custom/ntrace").exists());
    assert!(untouched[0].exists());
    let said = host.must("setup-gz", &["--undo", "--name", "aXb"]);
    assert!(said.stderr.contains("already gone"), "{said:?}");
}

#[test]
fn the_list_of_vms_is_kept_without_doubles() {
    let host = host();
    host.must("setup-gz", &["--worker", WORKER, "--worker", OTHER]);
    let two = ["--worker", WORKER, "--snapshot", "a:b"];
    host.must("setup-gz", &two);
    let list = host.read("gz/opt/custom/ntrace/workers");
    let lines: Vec<&str> = list.lines().skip(1).collect();
    assert_eq!(lines, [format!("{OTHER} clean"), format!("{WORKER} a:b")]);
    // Listed again, as make-runner does: it keeps its snapshot.
    host.must("setup-gz", &["--worker", WORKER]);
    assert_eq!(host.read("gz/opt/custom/ntrace/workers"), list);
    host.must("setup-gz", &["--forget", OTHER]);
    let list = host.read("gz/opt/custom/ntrace/workers");
    assert!(!list.contains(OTHER) && list.contains(WORKER), "{list}");
}

#[test]
fn a_dry_run_prints_every_change_and_makes_none() {
    let host = host();
    let before = host.tree("gz");
    let options = ["--key", &key(&host), "--worker", WORKER, "--dry-run"];
    let said = host.must("setup-gz", &options);
    assert_eq!(host.tree("gz"), before);
    let gz = host.path("gz").display().to_string();
    let said = said.stdout.replace(&gz, "");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("+ ")), "{said}");
    for wanted in [
        "+ mkdir -p /opt/custom/ntrace",
        "+ write /opt/custom/ntrace/gate-calls (mode 0644)",
        "+ write /opt/custom/ntrace/ntrace-gate (mode 0755)",
        "+ write /opt/custom/ntrace/workers (mode 0644)",
        "+ write /usbkey/config.inc/authorized_keys (mode 0600)",
        "+ write /usbkey/config (mode 0644)",
        "+ write /root/.ssh/authorized_keys (mode 0600)",
    ] {
        let count = lines.iter().filter(|line| **line == wanted).count();
        assert_eq!(count, 1, "{wanted}: {said}");
    }
    // What was said is done, no more and no less.
    host.must("setup-gz", &options[..4]);
    host.must("setup-gz", &options[..4]);
    let after = host.must("setup-gz", &options);
    assert_eq!(after.stdout, "");
}

#[test]
fn another_file_of_keys_is_respected() {
    let host = host();
    fs::write(
        host.path("gz/usbkey/config"),
        "root_authorized_keys_file=\"my_keys\"\n",
    )
    .unwrap();
    host.must("setup-gz", &["--key", &key(&host)]);
    let kept = host.read("gz/usbkey/config.inc/my_keys");
    assert_eq!(kept, format!("{}\n", line("runner0")));
    assert_eq!(host.read(KEPT), OPERATOR);
    assert_eq!(host.read("gz/usbkey/config").lines().count(), 1);
}

#[test]
fn what_is_no_key_or_no_host_is_refused() {
    let host = host();
    let before = host.tree("gz");
    for bad in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 $(id)",
        "command=\"x\" ssh-ed25519 AAAA",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ] {
        fs::write(host.path("bad.pub"), bad).unwrap();
        let file = host.path("bad.pub").display().to_string();
        let said = host.run("setup-gz", &["--key", &file, "--dry-run"]);
        assert_eq!(said.code, Some(1), "{bad:?}: {said:?}");
    }
    for bad in [
        &["--from", "\"x"][..],
        &["--from", "a b"],
        &["--name", "a\"b"],
        &["--worker", "all"],
        &["--worker", "C0FFEE00-1111-4222-8333-444455556666"],
        &["--undo", "--key", "x"],
        &["--key"],
        &["--what"],
    ] {
        let said = host.run("setup-gz", bad);
        assert_eq!(said.code, Some(2), "{bad:?}: {said:?}");
    }
    assert_eq!(host.tree("gz"), before);
    fs::remove_dir_all(host.path("gz/usbkey")).unwrap();
    let said = host.run("setup-gz", &["--key", &key(&host)]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("would forget the key"), "{said:?}");
}
