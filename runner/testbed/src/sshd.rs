//! One OpenSSH server.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::options::{Login, Options};
use crate::wait::eventually;
use crate::{find, keys, process};

/// How often another port is tried, should somebody be faster.
const PORTS: u32 = 20;

/// A real OpenSSH server on 127.0.0.1, with one key that may log in as
/// whoever runs the tests.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    options: Options,
    user: String,
    port: u16,
    server: Option<Child>,
}

impl Sshd {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// It does not start. Ask [`crate::needs_sshd`] first.
    #[must_use]
    pub fn start(options: Options) -> Self {
        // Root's sshd will have it, and makes it only as a service.
        if rustix::process::geteuid().is_root() {
            let mut make = fs::DirBuilder::new();
            let _ = make.recursive(true).mode(0o755).create("/run/sshd");
        }
        let dir = tempfile::Builder::new()
            .prefix("sshd")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .expect("the temporary directory takes another");
        let user = user_name();
        let mut sshd = Self { dir, options, user, port: 0, server: None };
        keys::make(&sshd.file("host_key"));
        keys::make(&sshd.file("user_key"));
        for _ in 0..PORTS {
            sshd.port = free_port();
            sshd.write_files();
            if sshd.try_start() {
                return sshd;
            }
        }
        panic!("sshd does not start:\n{}", sshd.log());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::write(&path, text).expect("the server's directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .expect("the file is ours");
    }

    fn write_files(&self) {
        let host_key = self.file("host_key");
        self.write("known_hosts", &keys::known_hosts(&host_key, self.port));
        self.set_login(self.options.login.clone());
        let mut config: Vec<String> = self.options.lines.clone();
        config.push(format!("Port {}", self.port));
        config.push(format!("HostKey {}", host_key.display()));
        let keys = self.file("authorized_keys");
        config.push(format!("AuthorizedKeysFile {}", keys.display()));
        // The login files of whoever runs the tests are no part of them, and
        // may be slow.
        config.push(format!("SetEnv HOME={}", self.dir.path().display()));
        let fixed = [
            "ListenAddress 127.0.0.1",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "PrintLastLog no",
            "LogLevel VERBOSE",
        ];
        config.extend(fixed.map(str::to_owned));
        self.write("sshd_config", &(config.join("\n") + "\n"));
    }

    /// False: it ended at once, which a taken port explains.
    fn try_start(&mut self) -> bool {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .expect("the server's directory is ours");
        let mut child = Command::new(find("sshd").expect("it was asked for"))
            .args(["-D", "-e", "-f"])
            .arg(self.file("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd can be started");
        let port = self.port;
        let is_up = eventually("sshd listens", || {
            if child.try_wait().expect("the child is ours").is_some() {
                return Some(false);
            }
            let to = (Ipv4Addr::LOCALHOST, port);
            TcpStream::connect(to).is_ok().then_some(true)
        });
        if is_up {
            self.server = Some(child);
        }
        is_up
    }

    /// `ssh://USER@127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("ssh://{}@127.0.0.1:{}", self.user, self.port)
    }

    /// The user that the key logs in as: whoever runs the tests.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's directory, for files of the test; removed at the end.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The private key that may log in.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.file("user_key")
    }

    /// The file with the server's host key.
    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        self.file("known_hosts")
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.file("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Changes what the key may do; counts from the next connection on.
    pub fn set_login(&self, login: Login) {
        let text = keys::authorized(&self.file("user_key"), &login);
        self.write("authorized_keys", &text);
    }

    /// Gives the server another host key, of which `known_hosts` does not
    /// know; counts from the next start on.
    pub fn change_host_key(&self) {
        keys::make(&self.file("host_key"));
    }

    /// Ends the server, not its sessions.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // A child that was not waited for keeps its pid.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts it again, on the same port. A server that runs is ended first.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.stop();
        // A connection of somebody else may just hold the port.
        eventually("sshd starts again", || self.try_start().then_some(()));
    }

    /// The pids of the processes that serve connections.
    #[must_use]
    pub fn sessions(&self) -> Vec<u32> {
        let server = self.server.as_ref();
        server.map_or_else(Vec::new, |child| process::sessions(child.id()))
    }

    /// Cuts all connections at once, as a lost network does. What was run
    /// through them goes on.
    pub fn cut(&self) {
        let pids = self.sessions();
        for pid in &pids {
            process::signal(*pid, Signal::KILL);
        }
        eventually("the sessions are gone", || {
            let is_gone = !pids.iter().any(|pid| process::is_there(*pid));
            is_gone.then_some(())
        });
    }

    /// Cuts all connections and ends the server.
    pub fn stop_all(&mut self) {
        self.cut();
        self.stop();
    }

    /// Stops server and sessions in their tracks: connections stay open and
    /// say nothing.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let server = self.server.as_ref().map(Child::id);
        for pid in server.into_iter().chain(self.sessions()) {
            process::signal(pid, signal);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Stopped, it makes no more of them while they are counted.
        if let Some(server) = &self.server {
            process::signal(server.id(), Signal::STOP);
        }
        for pid in self.sessions() {
            process::signal(pid, Signal::KILL);
        }
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

fn user_name() -> String {
    let output = Command::new("id").arg("-un").output().expect("id is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
