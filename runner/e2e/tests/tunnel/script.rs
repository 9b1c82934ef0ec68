//! `scripts/tunnel.sh` builds one exact command, or refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of the repository's folder `scripts`.
pub(crate) fn scripts(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name)
}

fn tunnel(args: &[&str]) -> Output {
    Command::new("sh").arg(scripts("tunnel.sh")).args(args).output().unwrap()
}

#[track_caller]
fn prints(args: &[&str], parts: &[&str]) {
    let output = tunnel(&[&["--print"], args].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{args:?}: no {part:?} in {text}");
    }
}

#[track_caller]
fn refuses(args: &[&str], says: &str) {
    let output = tunnel(&[&["--print"], args].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert!(errors.contains(says), "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

const ALWAYS: &[&str] = &[
    "-N -T",
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ExitOnForwardFailure=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
];

#[test]
fn both_directions_are_bound_to_loopback() {
    prints(&["to-dispatcher", "nt@far.example"], ALWAYS);
    prints(
        &["to-dispatcher", "nt@far.example"],
        &["-L 127.0.0.1:9181:127.0.0.1:9181 -- nt@far.example"],
    );
    prints(
        &["--control", "9182", "to-runner", "far"],
        &[
            "-R 127.0.0.1:9181:127.0.0.1:9181",
            "-L 127.0.0.1:9182:127.0.0.1:9182",
        ],
    );
    prints(
        &["to-runner", "far", "--port", "7000:9181", "--control", "1:2"],
        &["-R 127.0.0.1:7000:127.0.0.1:9181", "-L 127.0.0.1:1:127.0.0.1:2"],
    );
}

#[test]
fn what_identifies_the_sides_is_passed_on() {
    let file = scripts("tunnel.sh");
    let file = std::fs::canonicalize(file).unwrap();
    let file = file.to_str().unwrap();
    let args = [
        "--identity",
        file,
        "--known-hosts",
        file,
        "--ssh-port",
        "2222",
        "--alive",
        "1",
        "to-dispatcher",
        "u@10.0.0.2",
    ];
    let identity = format!("-i {file} -o IdentitiesOnly=yes");
    let known = format!("-o UserKnownHostsFile={file}");
    prints(&args, &[&identity, &known, "-p 2222", "ServerAliveInterval=1"]);
}

#[test]
fn without_autossh_it_says_so_and_takes_ssh() {
    let output = Command::new("/bin/sh")
        .arg(scripts("tunnel.sh"))
        .args(["--print", "to-runner", "far"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ssh -N -T"), "{text}");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("not installed"), "{errors}");
}

#[test]
fn what_ssh_could_misread_is_refused() {
    for (args, says) in [
        (&["to-dispatcher", "-oProxyCommand=x"][..], "no option"),
        (&["to-dispatcher", "u@-oProxyCommand=x"], "host"),
        (&["to-dispatcher", "-l@host"], "no option"),
        (&["to-dispatcher", "@host"], "user"),
        (&["to-dispatcher", "a@b@c"], "user"),
        (&["to-dispatcher", ""], "host"),
        (&["to-dispatcher", "a b"], "host"),
        (&["to-dispatcher", "a\nb"], "host"),
        (&["to-dispatcher", "$(id)"], "host"),
        (&["to-dispatcher", "a;id"], "host"),
        (&["to-dispatcher", "h\u{f6}st"], "host"),
        (&["to-dispatcher"], "which host"),
        (&[], "to-dispatcher or to-runner"),
        (&["sideways", "host"], "direction"),
        (&["to-runner", "host", "more"], "too many"),
        (&["--port", "0", "to-runner", "h"], "from 1 to 65535"),
        (&["--port", "65536", "to-runner", "h"], "from 1 to 65535"),
        (&["--port", "1:2:3", "to-runner", "h"], "from 1 to 65535"),
        (&["--port", "12x", "to-runner", "h"], "from 1 to 65535"),
        (&["--port", "", "to-runner", "h"], "from 1 to 65535"),
        (&["--ssh-port", "1:2", "to-runner", "h"], "from 1 to 65535"),
        (&["--alive", "0", "to-runner", "h"], "from 1 to 3600"),
        (&["--control", "9182", "to-dispatcher", "h"], "to-runner"),
        (&["--identity", "/no/such", "to-runner", "h"], "cannot read"),
        (&["--identity", "-x", "to-runner", "h"], "path"),
        (&["--known-hosts", "/a b", "to-runner", "h"], "path"),
        (&["--known-hosts", "/a%h", "to-runner", "h"], "path"),
        (&["--identity"], "value"),
    ] {
        refuses(args, says);
    }
}

#[test]
fn help_is_for_people() {
    let output = tunnel(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("to-dispatcher [USER@]HOST"), "{text}");
    assert!(text.ends_with("TERM ends it.\n"), "{text}");
}
