//! A dispatcher on a free port, and a client that speaks raw lines.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;
use ntrace_dispatcher::{Config, RunError, Server};
use ntrace_protocol::WireError;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Nothing here takes so long unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const SHA: &str = "0f16cfe0d6a3b8e87229c91bee901fad5dae9878";

/// A running dispatcher.
pub(crate) struct Dispatcher {
    pub(crate) addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
    flags: Vec<String>,
    data: PathBuf,
}

impl Dispatcher {
    pub(crate) async fn start(
        temp: &tempfile::TempDir,
        flags: &[&str],
    ) -> Self {
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        Self::start_at(temp.path().join("data"), flags).await
    }

    async fn start_at(data: PathBuf, flags: Vec<String>) -> Self {
        let server = Server::start(config(&data, &flags)).await.unwrap();
        let addr = server.addrs()[0];
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(stop.clone()));
        Self { addr, stop, task, flags, data }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        within(self.task).await.unwrap().unwrap();
    }

    /// Ends it and starts it again on the same data.
    pub(crate) async fn restart(self) -> Self {
        let (data, flags) = (self.data.clone(), self.flags.clone());
        self.end().await;
        // The lock goes when the last thread of the store has ended.
        let lock = data.join("lock");
        until(|| is_free(&lock)).await;
        Self::start_at(data, flags).await
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire::connect(self.addr).await
    }
}

fn is_free(lock: &Path) -> bool {
    let file = std::fs::File::open(lock).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared)
        .is_ok()
}

pub(crate) fn config(data: &Path, flags: &[String]) -> Config {
    let data = data.to_str().unwrap();
    let args = ["test", "--listen", "localhost:0", "--data", data];
    let args = args.into_iter().map(str::to_owned);
    Config::try_parse_from(args.chain(flags.iter().cloned())).unwrap()
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("it takes too long")
}

/// Asks again and again whether it is so.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not become so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A connection that speaks raw lines.
pub(crate) struct Wire {
    read: BufReader<OwnedReadHalf>,
    pub(crate) write: OwnedWriteHalf,
    last_id: u64,
    /// Lines that came while another was waited for.
    pub(crate) inbox: VecDeque<Value>,
}

impl Wire {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        let read = BufReader::with_capacity(1 << 20, read);
        Self { read, write, last_id: 0, inbox: VecDeque::new() }
    }

    pub(crate) async fn write_raw(&mut self, bytes: &[u8]) {
        within(self.write.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn send(&mut self, name: &str, args: Value) -> u64 {
        self.last_id += 1;
        let line = format!("{}\n", json!([name, args, self.last_id]));
        self.write_raw(line.as_bytes()).await;
        self.last_id
    }

    /// The next line; none at the end of the connection.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = within(self.read.read_line(&mut line)).await;
        match read {
            Ok(size) if size > 0 => Some(serde_json::from_str(&line).unwrap()),
            _ => None,
        }
    }

    /// The answer to a request; whatever else comes goes to the inbox.
    pub(crate) async fn answer(
        &mut self,
        id: u64,
    ) -> Result<Vec<Value>, WireError> {
        let is_it = |v: &Value| {
            v.as_array().is_some_and(|a| a.len() == 2) && v[1] == id
        };
        if let Some(at) = self.inbox.iter().position(is_it) {
            return outcome(self.inbox.remove(at).unwrap());
        }
        loop {
            let line = self.line().await.expect("the connection ended");
            if is_it(&line) {
                return outcome(line);
            }
            self.inbox.push_back(line);
        }
    }

    pub(crate) async fn try_call(
        &mut self,
        name: &str,
        args: Value,
    ) -> Result<Vec<Value>, WireError> {
        let id = self.send(name, args).await;
        self.answer(id).await
    }

    /// The first result of a call that succeeds.
    pub(crate) async fn call(&mut self, name: &str, args: Value) -> Value {
        let results = self.try_call(name, args).await;
        let results = results.unwrap_or_else(|e| panic!("{name}: {e}"));
        results.into_iter().next().unwrap_or(Value::Null)
    }

    /// The code and field with which a call is refused.
    pub(crate) async fn refused(&mut self, name: &str, args: Value) -> String {
        let shown = args.to_string();
        match self.try_call(name, args).await {
            Ok(results) => panic!("{name} {shown} was taken: {results:?}"),
            Err(error) => {
                let field = error.field.unwrap_or_default();
                format!("{} {field}", error.code).trim_end().to_owned()
            }
        }
    }

    /// The next request that the dispatcher sends of its own.
    pub(crate) async fn request(&mut self) -> Value {
        let is_it = |v: &Value| v.as_array().is_some_and(|a| a.len() == 3);
        if let Some(at) = self.inbox.iter().position(is_it) {
            return self.inbox.remove(at).unwrap();
        }
        loop {
            let line = self.line().await.expect("the connection ended");
            if is_it(&line) {
                return line;
            }
            self.inbox.push_back(line);
        }
    }

    pub(crate) async fn push(&mut self) -> String {
        self.push_with(json!({})).await
    }

    pub(crate) async fn push_with(&mut self, options: Value) -> String {
        let id = self.call("push", json!(["o", "r", SHA, options])).await;
        id.as_str().unwrap().to_owned()
    }

    pub(crate) async fn status(&mut self, id: &str) -> Value {
        self.call("status", json!([id])).await
    }

    pub(crate) async fn state(&mut self, id: &str) -> String {
        self.status(id).await["state"].as_str().unwrap().to_owned()
    }

    /// Asks until the job is in the state.
    pub(crate) async fn until_state(&mut self, id: &str, state: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let job = self.status(id).await;
            if job["state"] == state {
                return job;
            }
            assert!(Instant::now() < deadline, "{job}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn hello(&mut self, name: &str, runs: Value) -> Value {
        let hello = json!({
            "name": name, "version": "1", "workers": [], "runs": runs,
        });
        self.call("hello", json!([hello])).await
    }

    pub(crate) async fn next(&mut self) -> Run {
        let job = self.call("next", json!([])).await;
        Run::of(&job)
    }

    /// Reports one thing and gives what is acknowledged.
    pub(crate) async fn report(
        &mut self,
        run: &Run,
        stream: &str,
        seq: u64,
        data: Value,
    ) -> Value {
        let report = run.report(stream, seq, data);
        self.call("result", json!([report])).await["acked"].take()
    }
}

fn outcome(mut line: Value) -> Result<Vec<Value>, WireError> {
    let Value::Array(mut results) = line[0].take() else {
        panic!("no answer: {line}");
    };
    if results.is_empty() {
        return Ok(results);
    }
    match results.remove(0) {
        Value::Null => Ok(results),
        error => Err(serde_json::from_value(error).unwrap()),
    }
}

/// A leased run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) job: String,
    pub(crate) run: String,
    pub(crate) lease: u64,
    pub(crate) attempt: u64,
}

impl Run {
    pub(crate) fn of(job: &Value) -> Self {
        let text = |name: &str| {
            job[name].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
        };
        Self {
            job: text("id"),
            run: text("run_id"),
            lease: job["lease"].as_u64().unwrap(),
            attempt: job["attempt"].as_u64().unwrap(),
        }
    }

    pub(crate) fn held(&self) -> Value {
        json!({"run_id": self.run, "lease": self.lease})
    }

    pub(crate) fn report(&self, stream: &str, seq: u64, data: Value) -> Value {
        json!({
            "job": self.job, "run_id": self.run, "lease": self.lease,
            "stream": stream, "seq": seq, "data": data,
            "when": "2026-01-31T12:00:00.000Z",
        })
    }

    pub(crate) fn end(&self, outcome: &str, last: Value) -> Value {
        let mut end = json!({"event": "end", "outcome": outcome, "last": last});
        if outcome == "done" {
            end["exit"] = json!({"code": 0});
        }
        self.report("control", 1, end)
    }
}
