//! A dispatcher, a runner and its workers, with data of their own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ntrace_client::{Dispatcher, RunnerControl};
use ntrace_protocol::WireError;
use serde_json::Value;
use tempfile::TempDir;

use crate::gate::Gate;
use crate::git::Repos;
use crate::line::Line;
use crate::process::{Process, Start};
use crate::programs::Programs;
use crate::proxy::Proxy;
use crate::setup::{Setup, Who};
use crate::wait::{DEADLINE, eventually};
use crate::zones::Zones;

mod end;
mod jobs;
mod workers;

/// What a user's shell brings, so that git and the like are found.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:\
                    /sbin:/bin";

/// The parts under test, standing.
pub struct Stage {
    dir: TempDir,
    who: Who,
    programs: Programs,
    dispatcher: Process,
    dispatcher_port: u16,
    dispatcher_args: Vec<String>,
    runner: Option<Process>,
    runner_port: u16,
    runner_args: Vec<String>,
    runner_path: Option<PathBuf>,
    proxy: Option<Proxy>,
    via: Option<u16>,
    gate: Option<Gate>,
    /// The zones.
    pub zones: Zones,
    /// The repositories that the runner knows.
    pub repos: Repos,
    /// The workers, in the order of their making.
    pub workers: Vec<String>,
}

impl Stage {
    /// Stands everything up; the workers may not be clean yet.
    ///
    /// # Panics
    /// A part does not start.
    pub async fn start(setup: Setup) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("nt")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("the temporary directory takes another");
        let programs = match setup.who {
            Who::Us => Programs::built(),
            Who::Ordinary(_) => Programs::built().for_everybody(dir.path()),
        };
        let env = environment(dir.path());
        for name in ["d", "r", "z", "h"] {
            make_dir(&dir.path().join(name), setup.who);
        }
        let zones =
            Zones::new(dir.path().join("z"), &programs, env.clone(), setup.who);
        // An account without a name cannot log in.
        let is_over_ssh = setup.is_over_ssh && setup.who == Who::Us;
        let gate = (is_over_ssh && ntrace_testbed::needs_sshd())
            .then(|| Gate::start(dir.path(), &dir.path().join("z"), &programs));
        let repos = Repos::create(&dir.path().join("git"));
        let dispatcher_args = setup.dispatcher_args.clone();
        let (dispatcher, dispatcher_port) = {
            let start = Start {
                name: "dispatcher".to_owned(),
                program: programs.path("ntrace-dispatcher"),
                args: dispatcher_args_at(dir.path(), 0, &dispatcher_args),
                env,
                who: setup.who,
                log: dir.path().join("dispatcher.log"),
            };
            listening(&start)
        };
        let proxy = match setup.is_proxied {
            true => Some(Proxy::to(dispatcher_port).await),
            false => None,
        };
        let mut stage = Self {
            dir,
            who: setup.who,
            programs,
            dispatcher,
            dispatcher_port,
            dispatcher_args,
            runner: None,
            runner_port: 0,
            runner_args: setup.runner_args,
            runner_path: setup.runner_path,
            proxy,
            via: setup.via,
            gate,
            zones,
            repos,
            workers: Vec::new(),
        };
        if setup.has_runner {
            stage.start_runner();
            let manifest = setup.manifest.unwrap_or_else(Zones::manifest);
            for _ in 0..setup.workers {
                stage.add_worker(&manifest).await;
            }
        }
        stage
    }

    /// Whether the runner reaches its zones through an sshd.
    pub fn is_over_ssh(&self) -> bool {
        self.gate.is_some()
    }

    /// The sshd and the gate behind it.
    ///
    /// # Panics
    /// The stage was set up without.
    pub fn gate(&mut self) -> &mut Gate {
        self.gate.as_mut().expect("the stage was set up over ssh")
    }

    /// The stage's directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The built programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The environment of the stage's programs.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        environment(self.dir.path())
    }

    /// The dispatcher's port.
    pub fn dispatcher_port(&self) -> u16 {
        self.dispatcher_port
    }

    /// The runner's control port.
    pub fn runner_port(&self) -> u16 {
        self.runner_port
    }

    /// The dispatcher's process.
    pub fn dispatcher(&mut self) -> &mut Process {
        &mut self.dispatcher
    }

    /// The runner's process.
    ///
    /// # Panics
    /// The stage has none.
    pub fn runner(&mut self) -> &mut Process {
        self.runner.as_mut().expect("the stage has a runner")
    }

    /// The way between runner and dispatcher.
    ///
    /// # Panics
    /// There is none.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the stage was set up with a proxy")
    }

    /// Ends the dispatcher as a power cut would.
    pub fn kill_dispatcher(&mut self) {
        self.dispatcher.kill();
    }

    /// Starts the dispatcher again, on the same port and data.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart_dispatcher(&mut self) {
        let start = Start {
            name: "dispatcher".to_owned(),
            program: self.programs.path("ntrace-dispatcher"),
            args: dispatcher_args_at(
                self.dir.path(),
                self.dispatcher_port,
                &self.dispatcher_args,
            ),
            env: self.env(),
            who: self.who,
            log: self.dir.path().join("dispatcher.log"),
        };
        // Somebody may just hold the port for a connection of his own.
        self.dispatcher = eventually("the old port is free", DEADLINE, || {
            let from = length(&start.log);
            let mut process = Process::start(&start);
            let port = process.port(from)?;
            assert_eq!(port, self.dispatcher_port);
            Some(process)
        });
    }

    /// Ends the runner as a power cut would.
    pub fn kill_runner(&mut self) {
        self.runner().kill();
    }

    /// Starts the runner, on the data that it left.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_runner(&mut self) {
        let dispatcher = match (&self.proxy, self.via) {
            (Some(proxy), _) => proxy.port(),
            (None, Some(port)) => port,
            (None, None) => self.dispatcher_port,
        };
        let mut args: Vec<OsString> = vec![
            "--listen".into(),
            "localhost:0".into(),
            "--dispatcher".into(),
            format!("127.0.0.1:{dispatcher}").into(),
            "--data".into(),
            self.dir.path().join("r/data").into(),
        ];
        let mut given = self.runner_args.iter();
        if !given.any(|arg| arg == "--source") {
            args.push("--source".into());
            args.push(self.repos.template().into());
        }
        args.extend(self.runner_args.iter().map(OsString::from));
        let gate = self.gate.as_ref().map(Gate::runner_args);
        args.extend(gate.into_iter().flatten().map(OsString::from));
        let mut env = self.env();
        if let Some(dir) = &self.runner_path {
            env.retain(|(name, _)| name != "PATH");
            env.push(("PATH".into(), dir.into()));
        }
        let (runner, port) = listening(&Start {
            name: "runner".to_owned(),
            program: self.programs.path("ntrace-runner"),
            args,
            env,
            who: self.who,
            log: self.dir.path().join("runner.log"),
        });
        self.runner = Some(runner);
        self.runner_port = port;
    }

    /// A client of the dispatcher.
    ///
    /// # Panics
    /// It cannot be reached.
    pub async fn client(&self) -> Dispatcher {
        let addr = format!("127.0.0.1:{}", self.dispatcher_port);
        Dispatcher::connect(&addr).await.expect("the dispatcher listens")
    }

    /// A client of the runner.
    ///
    /// # Panics
    /// It cannot be reached.
    pub async fn control(&self) -> RunnerControl {
        let addr = format!("127.0.0.1:{}", self.runner_port);
        RunnerControl::connect(&addr).await.expect("the runner listens")
    }

    /// A raw connection to the dispatcher.
    pub fn line(&self) -> Line {
        Line::connect(self.dispatcher_port)
    }

    /// A raw connection to the runner.
    pub fn runner_line(&self) -> Line {
        Line::connect(self.runner_port)
    }

    /// Asks the dispatcher.
    ///
    /// # Errors
    /// It refuses.
    ///
    /// # Panics
    /// It cannot be reached.
    pub async fn ask(
        &self,
        name: &str,
        args: &[Value],
    ) -> Result<Vec<Value>, WireError> {
        let client = self.client().await;
        match client.peer().call(name, args, DEADLINE).await {
            Ok(results) => Ok(results),
            Err(ntrace_client::CallError::Refused(error)) => Err(error),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Where a directory of the runner's is.
    pub fn runner_data(&self) -> PathBuf {
        self.dir.path().join("r/data")
    }

    /// Where the dispatcher's data are.
    pub fn dispatcher_data(&self) -> PathBuf {
        self.dir.path().join("d/data")
    }
}

fn environment(dir: &Path) -> Vec<(OsString, OsString)> {
    let log = std::env::var_os("RUST_LOG").unwrap_or_else(|| "info".into());
    vec![
        ("PATH".into(), PATH.into()),
        ("HOME".into(), dir.join("h").into()),
        ("NTRACE_ZONES".into(), dir.join("z").into()),
        ("RUST_LOG".into(), log),
        ("RUST_BACKTRACE".into(), "1".into()),
    ]
}

fn make_dir(dir: &Path, who: Who) {
    fs::create_dir(dir).expect("the stage's directory is ours");
    if let Who::Ordinary(id) = who {
        chown(dir, Some(id), Some(id)).expect("root may give a directory");
    }
}

fn dispatcher_args_at(dir: &Path, port: u16, more: &[String]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![
        "--listen".into(),
        format!("localhost:{port}").into(),
        "--data".into(),
        dir.join("d/data").into(),
    ];
    args.extend(more.iter().map(OsString::from));
    args
}

fn listening(start: &Start) -> (Process, u16) {
    let from = length(&start.log);
    let mut process = Process::start(start);
    let Some(port) = process.port(from) else {
        panic!("the {} does not start:\n{}", start.name, process.said());
    };
    (process, port)
}

fn length(path: &Path) -> usize {
    fs::metadata(path).map_or(0, |found| {
        usize::try_from(found.len()).expect("a log fits in memory")
    })
}
