//! `ntrace-runner check` over a real sshd: what is wrong with ssh is told
//! apart, each with its command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ntrace_e2e::{Setup, Stage};
use ntrace_testbed::{Login, Options, Sshd, needs_sshd};

use crate::check::{Said, check};

/// A global zone behind sshd: the stage's own vmadm and zlogin.
fn global_zone(stage: &Stage) -> (Sshd, Login) {
    let door = stage.path().join("door");
    let bin = stage.programs().dir().display().to_string();
    let text = format!(
        "#!/bin/sh\nexport NTRACE_ZONES='{}'\neval \"set -- \
         $SSH_ORIGINAL_COMMAND\"\nprogram=${{1##*/}}; shift\n\
         case $program in vmadm|zlogin) exec '{bin}'/$program \"$@\" ;; \
         esac\nexit 77\n",
        stage.zones.root.display()
    );
    fs::write(&door, text).unwrap();
    fs::set_permissions(&door, fs::Permissions::from_mode(0o755)).unwrap();
    let line = format!("exec {}", door.display());
    let login = Login::Forced(line.clone());
    (Sshd::start(Options::forced(&line)), login)
}

fn over_ssh(stage: &Stage, sshd: &Sshd, more: &[&str]) -> Said {
    let (identity, known) = (sshd.identity(), sshd.known_hosts());
    let address = sshd.address();
    let mut args = vec![
        "--global-zone",
        &address,
        "--identity",
        identity.to_str().unwrap(),
    ];
    if !more.contains(&"--known-hosts") {
        args.extend(["--known-hosts", known.to_str().unwrap()]);
    }
    args.extend(more);
    check(stage, &args)
}

#[tokio::test]
async fn faults_of_ssh_are_told_apart() {
    if !needs_sshd() {
        return;
    }
    let mut stage = Stage::start(Setup::workers(0)).await;
    // Nobody but us acts on the zones.
    stage.kill_runner();
    let uuid = stage.zones.create(&ntrace_e2e::zones::Zones::manifest());
    stage.workers.push(uuid.clone());
    stage.zones.must(&["start", &uuid], "");
    let (mut sshd, login) = global_zone(&stage);
    let worker = ["--worker", uuid.as_str()];

    let said = over_ssh(&stage, &sshd, &worker);
    assert_eq!(said.failed(), [""; 0], "{said:#?}");
    assert_eq!(said.state("vmadm"), "ok", "{said:#?}");
    assert_eq!(said.state("zlogin"), "ok", "{said:#?}");

    let nobody = stage.path().join("nobody");
    fs::write(&nobody, "").unwrap();
    let known = ["--known-hosts", nobody.to_str().unwrap()];
    let said = over_ssh(&stage, &sshd, &known);
    let mend = said.fails_only("global-zone", "host key is not known");
    assert!(mend.starts_with("ssh-keyscan -p"), "{mend}");

    sshd.set_login(Login::Denied);
    let said = over_ssh(&stage, &sshd, &[]);
    let mend = said.fails_only("global-zone", "does not take our key");
    assert!(mend.contains("setup-gz"), "{mend}");
    sshd.set_login(login);

    sshd.change_host_key();
    sshd.restart();
    let said = over_ssh(&stage, &sshd, &[]);
    let mend = said.fails_only("global-zone", "another one than before");
    assert!(mend.starts_with("ssh-keygen -f"), "{mend}");

    sshd.stop_all();
    let said = over_ssh(&stage, &sshd, &[]);
    let mend = said.fails_only("global-zone", "nobody listens");
    assert!(mend.starts_with("nc -vz 127.0.0.1"), "{mend}");
    stage.start_runner();
}
