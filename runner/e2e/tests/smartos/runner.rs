//! make-runner, and make-worker in a zone of SmartOS, with fakes of its
//! tools.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::gate::{OTHER, WORKER};
use super::host::{Host, IMAGE, Said};
use super::zone::{calls, pretend};

const PARENT: &str = "192.0.2.1";
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaHostKey";

fn host() -> Host {
    let host = Host::new();
    pretend(&host);
    for dir in ["gz/var/ssh", "programs"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    let key = host.path("gz/var/ssh/ssh_host_ed25519_key.pub");
    fs::write(key, format!("{HOST_KEY} root@gz\n")).unwrap();
    for program in ["ntrace-runner", "ntrace-dispatcher"] {
        let path = host.path("programs").join(program);
        fs::write(&path, "#!/bin/sh\nenv\n").unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode).unwrap();
    }
    host
}

/// The stand-in has its own image, and not all of the properties.
fn options(host: &Host, more: &[&str]) -> Vec<String> {
    let manifest = host.path("runner.json");
    let text = r#"{
  "alias": "runner0",
  "hostname": "runner0",
  "image_uuid": "x",
  "autoboot": false,
  "max_physical_memory": 1024,
  "tags": { "ntrace": "runner" },
  "customer_metadata": {
    "parent": "192.0.2.99"
  }
}
"#;
    fs::write(&manifest, text).unwrap();
    let programs = host.path("programs").display().to_string();
    let manifest = manifest.display().to_string();
    let base = [
        "--manifest",
        &manifest,
        "--image",
        IMAGE,
        "--parent",
        PARENT,
        "--programs",
        &programs,
    ];
    base.iter().chain(more).map(|&word| word.to_owned()).collect()
}

fn make(host: &Host, more: &[&str]) -> Said {
    let options = options(host, more);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    host.must("make-runner", &options)
}

/// All that a finished runner VM is.
fn is_whole(host: &Host, uuid: &str) {
    let vm: serde_json::Value =
        serde_json::from_str(&host.vmadm(&["get", uuid])).unwrap();
    assert_eq!(vm["state"], "running");
    assert_eq!(vm["customer_metadata"]["parent"], PARENT);
    assert_eq!(host.vmadm(&["lookup"]).lines().count(), 1);
    let ssh = "zone/var/ntrace/.ssh";
    let known = host.read(&format!("{ssh}/known_hosts"));
    assert_eq!(known, format!("{PARENT} {HOST_KEY}\n"));
    let public = host.read(&format!("{ssh}/id_ed25519.pub"));
    let private = host.read(&format!("{ssh}/id_ed25519"));
    assert!(private.contains("OPENSSH PRIVATE KEY"));
    let blob = public.split(' ').nth(1).unwrap();
    for file in ["usbkey/config.inc", "root/.ssh"] {
        let keys = host.read(&format!("gz/{file}/authorized_keys"));
        let ours: Vec<&str> =
            keys.lines().filter(|line| line.contains(blob)).collect();
        assert_eq!(ours.len(), 1, "{keys}");
        assert!(ours[0].contains("restrict,command=\"/opt/custom/ntrace/"));
    }
    for program in
        ["bin/ntrace-runner", "bin/ntrace-dispatcher", "lib/ntrace-method"]
    {
        let file = host.path("zone/opt/ntrace").join(program);
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{program}");
    }
    assert!(!host.path("zone/opt/ntrace/new").exists());
}

#[test]
fn a_runner_is_made_whole_and_again_without_a_second_key() {
    let host = host();
    let workers = ["--worker", WORKER, "--worker", OTHER];
    let made = make(&host, &workers);
    let uuid = made.stdout.trim().to_owned();
    is_whole(&host, &uuid);
    assert_eq!(host.changes(), ["create", "start"]);
    let list = host.read("gz/opt/custom/ntrace/workers");
    assert!(list.contains(WORKER) && list.contains(OTHER), "{list}");
    let called = calls(&host);
    for wanted in [
        "useradd -g ntrace -d /var/ntrace -s /usr/bin/bash ntrace".to_owned(),
        "svccfg validate /opt/ntrace/smf/ntrace-runner.xml".to_owned(),
        "svccfg import /opt/ntrace/smf/ntrace-runner.xml".to_owned(),
        format!(
            "svccfg -s ntrace-runner setprop config/global_zone = astring: \
             \"ssh://root@{PARENT}\""
        ),
        format!(
            "svccfg -s ntrace-runner setprop config/worker = astring: \
             \"{WORKER},{OTHER}\""
        ),
        "svcadm refresh ntrace-runner".to_owned(),
        "svcadm enable ntrace-runner".to_owned(),
    ] {
        assert!(called.contains(&wanted), "{wanted}: {called:#?}");
    }
    assert!(!called.contains(&"svcadm enable ntrace-dispatcher".to_owned()));
    assert!(!called.contains(&"svcadm enable ntrace-tunnel".to_owned()));

    let key = host.read("zone/var/ntrace/.ssh/id_ed25519");
    let keys = host.read("gz/root/.ssh/authorized_keys");
    let again = make(&host, &[]);
    assert_eq!(again.stdout, made.stdout);
    assert_eq!(host.changes(), [""; 0]);
    assert_eq!(host.read("zone/var/ntrace/.ssh/id_ed25519"), key);
    assert_eq!(host.read("gz/root/.ssh/authorized_keys"), keys);
    let called = calls(&host);
    assert!(!called.iter().any(|call| call.starts_with("useradd")));
    // What was not said again stays.
    assert!(!called.iter().any(|call| call.contains("config/worker")));

    host.must("make-runner", &["--undo"]);
    assert_eq!(host.vmadm(&["lookup"]), "");
    assert_eq!(host.read("gz/root/.ssh/authorized_keys"), "");
    let undone = host.must("make-runner", &["--undo"]);
    assert_eq!(host.changes(), ["delete"]);
    assert!(undone.stderr.contains("already gone: VM"), "{undone:?}");
}

#[test]
fn an_interrupted_runner_goes_on_where_it_was() {
    for at in ["1 after", "zone 1 after", "zone 2 after", "zone 4 before"] {
        let host = host();
        let words = options(&host, &[]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut script = host.script("make-runner", &words);
        let output = script.env("KILL_AT", at).output().unwrap();
        assert!(output.status.code().is_none(), "{at}: {output:?}");
        let made = make(&host, &[]);
        is_whole(&host, made.stdout.trim());
    }
}

#[test]
fn a_dry_run_of_a_runner_changes_nothing() {
    let host = host();
    let before = [host.tree("gz"), host.tree("zone")];
    let said = make(&host, &["--dry-run", "--with-dispatcher"]);
    assert_eq!([host.tree("gz"), host.tree("zone")], before);
    assert_eq!(host.changes(), [""; 0]);
    assert_eq!(host.vmadm(&["lookup"]), "");
    for wanted in [
        "+ vmadm create <<EOF",
        "    \"parent\": \"192.0.2.1\"",
        "+ vmadm start UUID-OF-runner0   # if it is not running",
        "+ copy programs and services to /opt/ntrace of VM UUID-OF-runner0",
        "+ setup-gz --key (the key of VM UUID-OF-runner0) --name runner0",
    ] {
        assert!(said.stdout.lines().any(|line| line == wanted), "{said:?}");
    }
}

#[test]
fn another_address_of_the_global_zone_is_written_to_the_metadata() {
    let host = host();
    let made = make(&host, &[]);
    host.changes();
    let moved = make(&host, &["--parent", "192.0.2.77"]);
    assert_eq!(host.changes(), ["update"]);
    let vm = host.vmadm(&["get", made.stdout.trim()]);
    assert!(vm.contains("\"parent\": \"192.0.2.77\""), "{moved:?}");
    let known = host.read("zone/var/ntrace/.ssh/known_hosts");
    assert_eq!(known, format!("192.0.2.77 {HOST_KEY}\n"));
}

#[test]
fn a_tunnel_and_a_dispatcher_are_started_when_asked_for() {
    let host = host();
    make(
        &host,
        &["--with-dispatcher", "--tunnel", "to-dispatcher me@host.example"],
    );
    let called = calls(&host);
    for wanted in [
        "svccfg -s ntrace-tunnel setprop config/arguments = astring: \
         \"to-dispatcher me@host.example\"",
        "svcadm enable ntrace-dispatcher",
        "pkgin -y install autossh",
    ] {
        assert!(called.contains(&wanted.to_owned()), "{called:#?}");
    }
}

#[test]
fn a_zone_whose_service_failed_is_said_at_once() {
    let host = host();
    fs::write(host.path("zone/states"), "online\nmaintenance\n").unwrap();
    let words = options(&host, &[]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = host.run("make-runner", &words);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("svc:/x: maintenance"), "{said:?}");
    assert!(said.stderr.contains("is in maintenance, see above"), "{said:?}");
    fs::write(host.path("zone/states"), "online\noffline*\n").unwrap();
    let words = [words, vec!["--timeout", "1"]].concat();
    let said = host.run("make-runner", &words);
    assert!(said.stderr.contains("gave up waiting"), "{said:?}");
}

#[test]
fn a_smartos_worker_gets_its_user_and_packages_before_the_snapshot() {
    let host = host();
    let words = [
        "--manifest",
        "manifests/worker-linux.json",
        "--image",
        IMAGE,
        "--package",
        "nodejs",
        "--package",
        "gmake",
    ];
    host.must("make-worker", &words);
    assert_eq!(
        host.changes(),
        ["create", "start", "stop", "create-snapshot", "start"]
    );
    let called = calls(&host);
    for wanted in [
        "groupadd -g 1000 job",
        "useradd -u 1000 -g job -d /home/job -s /usr/bin/bash job",
        "svcadm disable -s svc:/network/ssh:default",
        "pkgin -y install nodejs gmake",
    ] {
        assert!(called.contains(&wanted.to_owned()), "{called:#?}");
    }
    assert!(host.path("zone/home/job").is_dir());
}

#[test]
fn bad_options_of_a_runner_are_refused() {
    let host = host();
    for bad in [
        &[][..],
        &["--parent", "gz"],
        &["--parent", "ssh://root@192.0.2.1"],
        &["--parent", PARENT, "--worker", "all"],
        &["--parent", PARENT, "--dispatcher", "here"],
        &["--parent", PARENT, "--tunnel", "$(id)"],
        &["--parent", PARENT, "--tunnel", "a'b"],
        &["--parent", PARENT, "--alias", "a;b"],
    ] {
        let said = host.run("make-runner", bad);
        assert_eq!(said.code, Some(2), "{bad:?}: {said:?}");
    }
    let said = host
        .run("make-runner", &["--parent", PARENT, "--programs", "/nowhere"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("no program ntrace-runner"), "{said:?}");
    assert_eq!(host.changes(), [""; 0]);
}
