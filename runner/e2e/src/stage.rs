//! A dispatcher, a runner and its workers, with data of their own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntrace_client::{Dispatcher, LogEnd, LogsOptions, RunnerControl};
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{JobId, JobState, JobView, WireError, WorkerState};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gate::Gate;
use crate::git::{Repo, Repos};
use crate::leftovers;
use crate::line::Line;
use crate::output::Output;
use crate::process::{Process, Start, describe};
use crate::programs::Programs;
use crate::proxy::Proxy;
use crate::setup::{Setup, Who};
use crate::wait::{DEADLINE, eventually, until};
use crate::zones::Zones;

/// How long a program has to end when it is asked to.
const GOODBYE: Duration = Duration::from_secs(30);

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

    /// Makes one more worker and enrolls it.
    pub async fn add_worker(&mut self, manifest: &Value) -> String {
        let mut manifest = manifest.clone();
        let alias = format!("worker{}", self.workers.len());
        manifest["alias"] = json!(alias);
        manifest["hostname"] = json!(alias);
        let uuid = self.zones.create(&manifest);
        self.workers.push(uuid.clone());
        self.list(&uuid);
        self.control()
            .await
            .enroll(&uuid, Value::Null)
            .await
            .unwrap_or_else(|error| panic!("enroll {uuid}: {error}"));
        uuid
    }

    /// Lets the runner act on a VM, where there is a gate.
    pub fn list(&self, uuid: &str) {
        if let Some(gate) = &self.gate {
            gate.list(uuid, "clean");
        }
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
        let (runner, port) = listening(&Start {
            name: "runner".to_owned(),
            program: self.programs.path("ntrace-runner"),
            args,
            env: self.env(),
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

    async fn job(&self, name: &str, args: &[Value]) -> JobId {
        let results = self
            .ask(name, args)
            .await
            .unwrap_or_else(|error| panic!("{name} {args:?}: {error}"));
        let id = results.first().and_then(Value::as_str);
        id.and_then(|id| id.parse().ok()).expect("the answer is a job id")
    }

    /// Pushes a commit with options.
    pub async fn push(
        &self,
        repo: &Repo,
        commit: &str,
        options: Value,
    ) -> JobId {
        let args =
            [json!(repo.owner), json!(repo.name), json!(commit), options];
        self.job("push", &args).await
    }

    /// Submits a shell command with options.
    pub async fn submit(&self, script: &str, options: Value) -> JobId {
        let mut job = options;
        if job.is_null() {
            job = json!({});
        }
        job["argv"] = json!(["/bin/sh", "-c", script]);
        self.job("submit", &[job]).await
    }

    /// The job as it is.
    ///
    /// # Panics
    /// There is none such.
    pub async fn status(&self, job: JobId) -> JobView {
        let status = self.client().await.status(&job.to_string()).await;
        status.unwrap_or_else(|error| panic!("status {job}: {error}"))
    }

    /// The job, once it is final.
    ///
    /// # Panics
    /// It is not final before the deadline.
    pub async fn finished(&self, job: JobId) -> JobView {
        let client = self.client().await;
        match client.wait(&job.to_string(), Some(2 * DEADLINE)).await {
            Ok(job) => job,
            Err(error) => {
                let now = self.status(job).await;
                panic!("{job} does not end: {error}; it is {now:?}")
            }
        }
    }

    /// The job, once it is in a state.
    pub async fn reaches(&self, job: JobId, state: JobState) -> JobView {
        let client = self.client().await;
        until(&format!("{job} is {state}"), async || {
            let view = client.status(&job.to_string()).await.ok()?;
            assert!(
                view.state == state || !view.state.is_final(),
                "{job} is to be {state} and is {view:?}"
            );
            (view.state == state).then_some(view)
        })
        .await
    }

    /// Waits until the job has written this.
    pub async fn says(&self, job: JobId, word: &str) {
        let client = self.client().await;
        let options = LogsOptions { follow: Some(true), ..<_>::default() };
        let mut logs = client.logs(job, &options).expect("the first reader");
        let mut output = Output::default();
        let reading = async {
            while let Some(record) = logs.next().await {
                output.take(record);
                if output.text().contains(word) {
                    return;
                }
            }
            panic!("{job} ended without {word:?}: {output:?}");
        };
        let in_time = tokio::time::timeout(DEADLINE, reading).await;
        in_time.unwrap_or_else(|_| panic!("{job} does not say {word:?}"));
    }

    /// All output of a job that has ended.
    pub async fn output(&self, job: JobId) -> Output {
        self.follow(job).await.0
    }

    /// All output of a job, followed to its end.
    ///
    /// # Panics
    /// The output is cut off.
    pub async fn follow(&self, job: JobId) -> (Output, LogEnd) {
        let client = self.client().await;
        let options = LogsOptions { follow: Some(true), ..<_>::default() };
        let mut logs = client.logs(job, &options).expect("the first reader");
        let mut output = Output::default();
        while let Some(record) = logs.next().await {
            output.take(record);
        }
        let end = logs.end().unwrap_or_else(|e| panic!("logs {job}: {e}"));
        (output, end)
    }

    /// Submits a shell command; its end and its output.
    pub async fn run(&self, script: &str, options: Value) -> (JobView, Output) {
        let job = self.submit(script, options).await;
        let view = self.finished(job).await;
        (view, self.output(job).await)
    }

    /// A worker as the runner shows it.
    pub async fn worker(&self, uuid: &str) -> Option<WorkerView> {
        let control = self.control().await;
        let workers = control.workers().await.expect("the runner answers");
        workers.into_iter().find(|worker| worker.uuid.to_string() == uuid)
    }

    /// Waits until a worker is in a state.
    pub async fn worker_reaches(
        &self,
        uuid: &str,
        state: WorkerState,
    ) -> WorkerView {
        until(&format!("worker {uuid} is {state}"), async || {
            let worker = self.worker(uuid).await?;
            (worker.state == state).then_some(worker)
        })
        .await
    }

    /// Waits until all workers are clean.
    pub async fn all_available(&self) {
        for uuid in &self.workers {
            self.worker_reaches(uuid, WorkerState::Available).await;
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

    /// Everything of the stage that still lives or lies about.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = leftovers::processes_of(self.dir.path())
            .into_iter()
            .map(|found| format!("process {} {}", found.pid, found.line))
            .collect();
        left.extend(leftovers::mounts_of(self.dir.path()));
        let groups = leftovers::cgroups_of(&self.workers);
        left.extend(groups.iter().map(|dir| dir.display().to_string()));
        for uuid in &self.workers {
            let dir = self.zones.dir(uuid);
            if dir.exists() {
                left.push(dir.display().to_string());
            }
        }
        left
    }

    fn tell(&mut self) {
        eprintln!("--- dispatcher\n{}", tail(&self.dispatcher.said()));
        if let Some(runner) = &self.runner {
            eprintln!("--- runner\n{}", tail(&runner.said()));
        }
        if let Some(gate) = &self.gate {
            eprintln!("--- gate\n{}", tail(&gate.log()));
            eprintln!("--- sshd\n{}", tail(&gate.sshd.log()));
        }
    }

    fn take_down(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        let runner = self.runner.as_mut().map(|r| (r, "runner"));
        let all = runner.into_iter();
        for (process, name) in all.chain([(&mut self.dispatcher, "dispatcher")])
        {
            if process.ended().is_some() {
                continue;
            }
            process.thaw();
            match process.end(GOODBYE) {
                Some(status) if status.success() => {}
                Some(status) => {
                    told.push(format!("{name}: {}", describe(status)));
                }
                None => told.push(format!("the {name} does not end")),
            }
        }
        told.extend(self.zones.clear());
        told
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
            self.take_down();
            return;
        }
        let mut told = self.take_down();
        let began = std::time::Instant::now();
        let mut left = self.leftovers();
        while !left.is_empty() && began.elapsed() < GOODBYE {
            std::thread::sleep(Duration::from_millis(20));
            left = self.leftovers();
        }
        told.extend(left);
        if !told.is_empty() {
            self.tell();
            panic!("the stage leaves behind: {told:#?}");
        }
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

/// The last lines of a log.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
}
