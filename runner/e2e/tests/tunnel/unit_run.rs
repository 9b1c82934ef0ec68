//! What the systemd units start: their own lines, with their own
//! environment, as their own user. There is no systemd in it, so what it
//! forbids a service is not tried here.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntrace_client::{Dispatcher, RunnerControl};
use ntrace_e2e::process::{Process, Start};
use ntrace_e2e::programs::Programs;
use ntrace_e2e::{Who, is_root, skip, until};
use ntrace_testbed::{Options, Sshd};

use crate::script::scripts;
use crate::tunnel::{needs_autossh, port};

/// Stands for the user `ntrace`: ssh refuses a user without a name.
const NOBODY: u32 = 65_534;

/// What of a unit says how it is started.
struct Unit {
    name: &'static str,
    words: Vec<String>,
    env: Vec<(String, String)>,
    who: Who,
    /// May do nothing that its caller may not.
    is_bound: bool,
}

/// A machine's directories, below one of ours.
struct Host {
    dir: tempfile::TempDir,
    programs: Programs,
}

impl Host {
    fn new() -> Self {
        let open = fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        let programs = Programs::built().for_everybody(dir.path());
        let host = Self { dir, programs };
        fs::create_dir(host.at("etc")).unwrap();
        fs::copy(scripts("tunnel.sh"), host.at("tunnel.sh")).unwrap();
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of settings, as the operator writes it.
    fn settings(&self, name: &str, line: &str) {
        fs::write(self.at("etc").join(name), line).unwrap();
    }

    /// The paths of a unit are those of this host.
    fn here(&self, text: &str) -> String {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        text.replace("/usr/local/bin", &path(self.programs.dir()))
            .replace("/usr/local/libexec/ntrace", &path(self.dir.path()))
            .replace("/etc/ntrace", &path(&self.at("etc")))
            .replace("/var/lib", &path(self.dir.path()))
    }

    /// Reads a unit as systemd does, as far as our units go.
    fn unit(&self, name: &'static str) -> Unit {
        let file = scripts("systemd").join(format!("ntrace-{name}.service"));
        let text = self.here(&fs::read_to_string(file).unwrap());
        let mut unit = Unit {
            name,
            words: Vec::new(),
            env: Vec::new(),
            who: Who::Us,
            is_bound: false,
        };
        let mut line_to_start = String::new();
        for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
            match key {
                "User" => unit.who = Who::Ordinary(NOBODY),
                "Environment" => unit.set(value),
                "EnvironmentFile" => {
                    let file =
                        fs::read_to_string(value.trim_start_matches('-'));
                    file.unwrap().lines().for_each(|line| unit.set(line));
                }
                "StateDirectory" => self.own(value, unit.who),
                "NoNewPrivileges" => unit.is_bound = value == "yes",
                "ExecStart" => value.clone_into(&mut line_to_start),
                _ => {}
            }
        }
        for word in line_to_start.split(' ') {
            match word.strip_prefix('$') {
                // A variable alone becomes as many words as it holds.
                Some(name) => {
                    let value = unit.env.iter().find(|(key, _)| key == name);
                    let words = value.unwrap().1.split_whitespace();
                    unit.words.extend(words.map(str::to_owned));
                }
                None => unit.words.push(word.to_owned()),
            }
        }
        unit
    }

    fn own(&self, name: &str, who: Who) {
        let dir = self.at(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        if let Who::Ordinary(id) = who {
            chown(dir, Some(id), Some(id)).unwrap();
        }
    }

    fn start(&self, unit: &Unit) -> Process {
        let is_root = unit.who == Who::Us;
        let (user, home) = match is_root {
            true => ("root", "/root"),
            // As that of a user whose home nobody made.
            false => ("nobody", "/nonexistent"),
        };
        let own = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"),
            ("LANG", "C.UTF-8"),
            ("USER", user),
            ("LOGNAME", user),
            ("HOME", home),
            ("SHELL", "/usr/sbin/nologin"),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let env = own.into_iter().chain(unit.env.iter().cloned());
        let mut words: Vec<OsString> = Vec::new();
        if unit.is_bound {
            words.extend(["setpriv".into(), "--no-new-privs".into()]);
        }
        words.extend(unit.words.iter().map(OsString::from));
        Process::start(&Start {
            name: unit.name.to_owned(),
            program: PathBuf::from(words.remove(0)),
            args: words,
            env: env.map(|(key, value)| (key.into(), value.into())).collect(),
            who: unit.who,
            log: self.at(&format!("{}.log", unit.name)),
        })
    }
}

impl Unit {
    /// Takes `NAME=value`.
    fn set(&mut self, line: &str) {
        if let Some((key, value)) = line.split_once('=') {
            self.env.push((key.to_owned(), value.trim_end().to_owned()));
        }
    }
}

#[track_caller]
fn ends_well(process: &mut Process) {
    let ended = process.end(Duration::from_secs(30));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[tokio::test]
async fn the_units_start_a_dispatcher_and_a_runner_that_meet() {
    if !is_root() {
        skip("only root can start programs as another user");
        return;
    }
    let host = Host::new();
    host.settings("dispatcher.env", "NTRACE_LISTEN=localhost:0\n");
    let mut dispatcher = host.start(&host.unit("dispatcher"));
    let at = dispatcher.port(0).expect("the dispatcher listens");
    let zones = host.at("zones");
    let lines = format!(
        "NTRACE_LISTEN=localhost:0\nNTRACE_DISPATCHER=127.0.0.1:{at}\n\
         NTRACE_NAME=of-the-unit\nNTRACE_ZONES={}\n",
        zones.display()
    );
    host.settings("runner.env", &lines);
    let mut runner = host.start(&host.unit("runner"));
    let control = runner.port(0).expect("the runner listens");
    until("the two have met", async || {
        let runner = format!("127.0.0.1:{control}");
        let runner = RunnerControl::connect(&runner).await.ok()?;
        let status = runner.status().await.ok()?;
        (status["connected"] == true).then_some(())
    })
    .await;
    let client = Dispatcher::connect(&format!("127.0.0.1:{at}")).await.unwrap();
    let runners = client.runners().await.unwrap();
    assert_eq!(runners.len(), 1, "{runners:?}");
    for data in ["ntrace-dispatcher", "ntrace-runner"] {
        let count = fs::read_dir(host.at(data)).unwrap().count();
        assert!(count > 0, "nothing is in {data}");
    }
    ends_well(&mut runner);
    ends_well(&mut dispatcher);
}

#[tokio::test]
async fn the_unit_of_the_tunnel_brings_a_port_here() {
    if !is_root() {
        skip("only root can start programs as another user");
        return;
    }
    if !needs_autossh() {
        return;
    }
    let host = Host::new();
    let sshd = Sshd::start(Options::free());
    for (from, to) in
        [(sshd.identity(), "tunnel.key"), (sshd.known_hosts(), "known_hosts")]
    {
        let to = host.at("etc").join(to);
        fs::copy(from, &to).unwrap();
        chown(to, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    host.settings("dispatcher.env", "NTRACE_LISTEN=localhost:0\n");
    let mut dispatcher = host.start(&host.unit("dispatcher"));
    let far = dispatcher.port(0).expect("the dispatcher listens");
    let near = port();
    let etc = host.at("etc");
    let line = format!(
        "NTRACE_TUNNEL=--identity {etc}/tunnel.key --known-hosts \
         {etc}/known_hosts --ssh-port {} --port {near}:{far} to-dispatcher \
         {}@127.0.0.1\n",
        sshd.port(),
        sshd.user(),
        etc = etc.display(),
    );
    host.settings("tunnel.env", &line);
    let mut tunnel = host.start(&host.unit("tunnel"));
    until("the dispatcher answers through the tunnel", async || {
        if let Some(status) = tunnel.ended() {
            panic!("the tunnel ended with {status}: {}", tunnel.said());
        }
        let near = format!("127.0.0.1:{near}");
        let client = Dispatcher::connect(&near).await.ok()?;
        client.runners().await.ok()
    })
    .await;
    // autossh ends as TERM says; systemd takes that for a good end.
    tunnel.end(Duration::from_secs(30)).expect("TERM ends the tunnel");
    ends_well(&mut dispatcher);
}
