//! The test bed itself, with the ssh program as its client.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::{Command, Output};

use ntrace_testbed::{Login, Options, Sshd, eventually, needs_sshd};

fn ssh(sshd: &Sshd, words: &str) -> Output {
    let known = sshd.known_hosts();
    Command::new("ssh")
        .args(["-n", "-T", "-F", "none", "-o", "BatchMode=yes"])
        .args(["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known.display()))
        .arg("-i")
        .arg(sshd.identity())
        .arg(sshd.address())
        .arg(words)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_free_key_runs_what_is_asked_for() {
    if !needs_sshd() {
        return;
    }
    let sshd = Sshd::start(Options::free().line("MaxSessions 3"));
    let output = ssh(&sshd, "echo hello; exit 3");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(output.stdout, b"hello\n");
    assert!(sshd.log().contains("Accepted publickey"));
}

#[test]
fn a_forced_command_takes_the_place_of_what_is_asked_for() {
    if !needs_sshd() {
        return;
    }
    let line = "echo \"forced: $SSH_ORIGINAL_COMMAND\"";
    let sshd = Sshd::start(Options::forced(line));
    let output = ssh(&sshd, "/bin/rm -rf x");
    assert_eq!(output.stdout, b"forced: /bin/rm -rf x\n");
    sshd.set_login(Login::Denied);
    assert_eq!(ssh(&sshd, "true").status.code(), Some(255));
}

#[test]
fn a_stopped_server_comes_back_on_its_port_and_with_its_key() {
    if !needs_sshd() {
        return;
    }
    let mut sshd = Sshd::start(Options::free());
    sshd.stop();
    assert_eq!(ssh(&sshd, "true").status.code(), Some(255));
    sshd.restart();
    assert!(ssh(&sshd, "true").status.success());
    sshd.change_host_key();
    sshd.restart();
    let output = ssh(&sshd, "true");
    assert!(said(&output).contains("Host key verification failed"));
}

#[test]
fn cut_sessions_leave_their_commands() {
    if !needs_sshd() {
        return;
    }
    let sshd = Sshd::start(Options::free());
    let mark = sshd.path().join("mark");
    let (began, go) = (sshd.path().join("began"), sshd.path().join("go"));
    let script = format!(
        "echo x >{}; until [ -e {} ]; do sleep 0.05; done; echo x >{}",
        began.display(),
        go.display(),
        mark.display()
    );
    std::thread::scope(|scope| {
        let client = scope.spawn(|| ssh(&sshd, &script));
        eventually("the command runs", || began.exists().then_some(()));
        sshd.cut();
        assert_eq!(client.join().unwrap().status.code(), Some(255));
    });
    std::fs::write(&go, "").unwrap();
    eventually("the command went on", || mark.exists().then_some(()));
}

#[test]
fn nothing_is_left_of_a_dropped_server() {
    if !needs_sshd() {
        return;
    }
    let sshd = Sshd::start(Options::free());
    let path = sshd.path().to_owned();
    drop(sshd);
    assert!(!path.exists());
    let config = path.join("sshd_config").display().to_string();
    eventually("all its processes are gone", || {
        let mut all = std::fs::read_dir("/proc").unwrap();
        let is_left = all.any(|entry| {
            let line = entry.unwrap().path().join("cmdline");
            let line = std::fs::read(line).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&config)
        });
        (!is_left).then_some(())
    });
}
