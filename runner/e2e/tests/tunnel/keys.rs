//! The settings for sshd and the lines for `authorized_keys` that
//! docs/operations.md names let the tunnel through, and nothing else.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use ntrace_e2e::{DEADLINE, eventually};
use ntrace_testbed::{Options, Sshd};

use crate::tunnel::{Plan, Tunnel, needs_autossh, port};

/// The documentation's own words.
fn operations() -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    fs::read_to_string(docs.join("operations.md")).unwrap()
}

/// A server as documented, with the documented line for this direction; for
/// the ports of the dispatcher and of the runner these two.
fn server(direction: &str, dispatcher: u16, runner: u16) -> Sshd {
    let text = operations();
    let end = format!("({direction})");
    let line = text.lines().find(|line| line.ends_with(&end)).unwrap();
    let (options, _) = line.split_once(" ssh-ed25519").unwrap();
    let options = options
        .replace("127.0.0.1:9181", &format!("127.0.0.1:{dispatcher}"))
        .replace("127.0.0.1:9182", &format!("127.0.0.1:{runner}"));
    let (_, settings) = text.split_once("in `sshd_config`:").unwrap();
    let settings = settings.split("```").nth(1).unwrap();
    assert!(settings.contains("ClientAliveInterval"), "{settings}");
    let lines = settings.lines().filter(|line| !line.is_empty());
    Sshd::start(lines.fold(Options::limited(&options), Options::line))
}

/// Sends back what comes; stands for a dispatcher or a runner.
fn echo() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
            thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    });
    port
}

/// Whether the echo is behind this port.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"ntrace")?;
        let mut back = [0; 6];
        stream.read_exact(&mut back)?;
        Ok(&back == b"ntrace")
    };
    ask().unwrap_or(false)
}

fn ssh(sshd: &Sshd, args: &[&str]) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-T", "-o", "BatchMode=yes"])
        .args(["-o", "IdentitiesOnly=yes", "-o", "ControlPath=none"])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", sshd.known_hosts().display()))
        .arg("-i")
        .arg(sshd.identity())
        .args(["-p", &sshd.port().to_string()])
        .args(["-o", "ExitOnForwardFailure=yes"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What comes of ssh with these arguments. It always ends: the forced
/// command does, whatever is forwarded.
fn said(sshd: &Sshd, args: &[&str]) -> Output {
    let place = format!("{}@127.0.0.1", sshd.user());
    ssh(sshd, &[args, &[place.as_str(), "echo", "in"]].concat())
        .output()
        .unwrap()
}

#[track_caller]
fn is_not_forwarded(sshd: &Sshd, what: &str) {
    let output = said(sshd, &["-R", what]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(255), "{what}: {errors}");
    assert!(errors.contains("forwarding failed"), "{what}: {errors}");
}

/// No command, no other port in either direction.
fn nothing_else_is_let_through(sshd: &Sshd) {
    let output = said(sshd, &[]);
    assert_eq!(output.status.code(), Some(1), "false was run: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let other = echo();
    let out = said(sshd, &["-W", &format!("127.0.0.1:{other}")]);
    assert!(!out.status.success(), "{out:?}");
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(errors.contains("prohibited"), "{errors}");
    is_not_forwarded(sshd, &format!("127.0.0.1:{}:127.0.0.1:{other}", port()));
    is_not_forwarded(sshd, &format!("0.0.0.0:{}:127.0.0.1:{other}", port()));
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Neither a socket of the account is reached nor one made.
fn no_unix_socket_is_let_through(sshd: &Sshd) {
    let (near, far) = (sshd.path().join("near"), sshd.path().join("far"));
    let secret = UnixListener::bind(&far).unwrap();
    secret.set_nonblocking(true).unwrap();
    let pair = format!("{}:{}", near.display(), far.display());
    let place = format!("{}@127.0.0.1", sshd.user());
    let child = ssh(sshd, &["-N", "-L", &pair, &place]).spawn().unwrap();
    let _child = Killed(child);
    let mut stream =
        eventually("ssh listens", DEADLINE, || UnixStream::connect(&near).ok());
    // It is closed as soon as the server has refused.
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let read = stream.read(&mut [0; 16]);
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    let met = secret.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(met, Err(ErrorKind::WouldBlock), "the socket was reached");
    let made = sshd.path().join("made");
    is_not_forwarded(sshd, &format!("{}:{}", made.display(), far.display()));
}

#[test]
fn the_documented_key_to_a_dispatcher_opens_its_port_and_no_more() {
    if !needs_autossh() {
        return;
    }
    let far = echo();
    let sshd = server("to-dispatcher", far, port());
    let near = port();
    let direction = "to-dispatcher";
    let plan = Plan { direction, near, far, alive: 5, more: &[], at: None };
    let _tunnel = Tunnel::start(&sshd, &plan);
    eventually("the tunnel stands", DEADLINE, || answers(near).then_some(()));
    nothing_else_is_let_through(&sshd);
    no_unix_socket_is_let_through(&sshd);
}

#[test]
fn the_documented_key_to_a_runner_opens_two_ports_and_no_more() {
    if !needs_autossh() {
        return;
    }
    let (dispatcher, runner) = (echo(), echo());
    let (near, control) = (port(), port());
    let sshd = server("to-runner", near, runner);
    let both = format!("{control}:{runner}");
    let plan = Plan {
        direction: "to-runner",
        near,
        far: dispatcher,
        alive: 5,
        more: &["--control", &both],
        at: None,
    };
    let _tunnel = Tunnel::start(&sshd, &plan);
    for port in [near, control] {
        eventually("the tunnel stands", DEADLINE, || {
            answers(port).then_some(())
        });
    }
    nothing_else_is_let_through(&sshd);
    no_unix_socket_is_let_through(&sshd);
}
