//! A tunnel as `scripts/tunnel.sh` makes it, for tests that break it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ntrace_e2e::{DEADLINE, eventually, skip};
use ntrace_testbed::Sshd;
use rustix::process::{Pid, Signal, kill_process};

use crate::script::scripts;

/// How a tunnel is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    /// `to-dispatcher` or `to-runner`.
    pub(crate) direction: &'a str,
    /// The port at the runner's side.
    pub(crate) near: u16,
    /// The dispatcher's port.
    pub(crate) far: u16,
    /// Seconds between ssh's signs of life.
    pub(crate) alive: u32,
    /// More words for tunnel.sh.
    pub(crate) more: &'a [&'a str],
    /// Another host and port than the server's own.
    pub(crate) at: Option<(&'a str, u16)>,
}

/// A running tunnel.
pub(crate) struct Tunnel {
    child: Child,
    log: std::path::PathBuf,
}

impl Tunnel {
    /// Starts one through this server.
    pub(crate) fn start(sshd: &Sshd, plan: &Plan<'_>) -> Self {
        let own = ("127.0.0.1", sshd.port());
        let (host, ssh_port) = plan.at.unwrap_or(own);
        let known = sshd.path().join("known-here");
        let text = fs::read_to_string(sshd.known_hosts()).unwrap();
        let (_, key) = text.split_once(' ').unwrap();
        fs::write(&known, format!("[{host}]:{ssh_port} {key}")).unwrap();
        let log = sshd.path().join("tunnel-log");
        let out = File::create(&log).unwrap();
        let child = Command::new("sh")
            .arg(scripts("tunnel.sh"))
            .args(["--ssh-port", &ssh_port.to_string()])
            .args(["--alive", &plan.alive.to_string()])
            .args(["--port", &format!("{}:{}", plan.near, plan.far)])
            .arg("--identity")
            .arg(sshd.identity())
            .arg("--known-hosts")
            .arg(known)
            .args(plan.more)
            .arg(plan.direction)
            .arg(format!("{}@{host}", sshd.user()))
            .env("AUTOSSH_DEBUG", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// The pid of its ssh, once there is one besides `old`.
    pub(crate) fn ssh(&self, old: Option<u32>) -> u32 {
        let parent = self.child.id();
        eventually("the tunnel has an ssh", DEADLINE, || {
            children(parent)
                .into_iter()
                .find(|(pid, name)| name == "ssh" && Some(*pid) != old)
                .map(|(pid, _)| pid)
        })
    }

    /// Kills its ssh, as a crash would; answers which one that was.
    pub(crate) fn kill_ssh(&self) -> u32 {
        let ssh = self.ssh(None);
        signal(ssh, Signal::KILL);
        ssh
    }

    /// All that it has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let ssh: Vec<_> = children(self.child.id());
        signal(self.child.id(), Signal::TERM);
        let began = std::time::Instant::now();
        let mut has_ended = false;
        while !has_ended && began.elapsed() < DEADLINE {
            has_ended = self.child.try_wait().is_ok_and(|s| s.is_some());
            std::thread::sleep(Duration::from_millis(10));
        }
        if !has_ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- tunnel\n{}", self.said());
            return;
        }
        assert!(has_ended, "TERM does not end the tunnel");
        for (pid, name) in ssh {
            eventually("its ssh ends with it", DEADLINE, || {
                let now = fs::read_to_string(format!("/proc/{pid}/comm"));
                now.map_or(true, |now| now.trim() != name).then_some(())
            });
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It may just have ended, which is as good.
    let _ = kill_process(pid.expect("a process has a pid"), signal);
}

/// Children of a process, with their names.
fn children(parent: u32) -> Vec<(u32, String)> {
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    dir.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (front, back) = stat.rsplit_once(") ")?;
            let (_, name) = front.split_once(" (")?;
            let mut words = back.split(' ');
            let state = words.next()?;
            let its: u32 = words.next()?.parse().ok()?;
            let is_child = its == parent && state != "Z";
            is_child.then(|| (pid, name.to_owned()))
        })
        .collect()
}

/// Whether autossh and sshd are here; says so loudly if not.
pub(crate) fn needs_autossh() -> bool {
    let found = Command::new("autossh").arg("-V").output();
    if found.is_err() {
        skip("autossh is not installed");
        return false;
    }
    ntrace_testbed::needs_sshd()
}

/// A port that nobody has, and that the system gives to nobody by itself.
pub(crate) fn port() -> u16 {
    eventually("there is a free port", DEADLINE, || {
        let port = fastrand::u16(20_000..32_000);
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    })
}
