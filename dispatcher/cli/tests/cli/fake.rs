//! A dispatcher of a few lines, behind a real socket: it keeps jobs in
//! memory, speaks the real wire, and breaks connections when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use ntrace_protocol::id::JobRef;
use ntrace_protocol::spec::JobRequest;
use ntrace_protocol::unit::duration_of_value;
use ntrace_protocol::{Code, JobId, JobState, WireError};
use ntrace_session::{Call, Config, Peer, Service, spawn};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

/// What the fake knows and does.
#[derive(Default)]
pub struct State {
    /// Jobs as `status` shows them.
    pub jobs: BTreeMap<JobId, Value>,
    /// Each job's records: stream and data.
    pub records: BTreeMap<JobId, Vec<(&'static str, Value)>>,
    /// What was asked, in order.
    pub calls: Vec<(String, Vec<Value>)>,
    /// So many pushes are taken, but the connection breaks before the answer.
    pub lose_answers: u32,
    /// After so many records each next connection of `logs` breaks.
    pub cuts: VecDeque<u64>,
    /// Final states that new jobs get at once.
    pub verdict: Option<(JobState, Value)>,
    /// The answer to `artefacts`, and the content of them all.
    pub artefacts: Value,
    /// The content.
    pub content: Vec<u8>,
    /// The answers to `diff` and `why`.
    pub diff: Value,
    /// The other one.
    pub why: Value,
    /// After so many pieces of a document another one is handed out.
    pub changes_after: Option<u32>,
    /// Who is connected.
    pub peers: Vec<Peer>,
    /// Every command but ping is refused with this.
    pub refuse: Option<WireError>,
}

/// The fake.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    addr: SocketAddr,
}

impl Fake {
    /// Listens on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let fake = Self { state, changed: watch::Sender::new(0), addr };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = serving.clone();
                let service = |peer: &Peer| {
                    fake.state().peers.push(peer.clone());
                    Arc::new(Serving { fake, peer: peer.clone() })
                };
                let session = spawn(stream, Config::default(), service);
                tokio::spawn(session.unwrap().ended());
            }
        });
        fake
    }

    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes something, and wakes those who wait.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|n| *n += 1);
    }

    /// Breaks all connections.
    pub fn break_all(&self) {
        for peer in self.state().peers.drain(..) {
            peer.close();
        }
    }

    /// How often a command was asked.
    pub fn asked(&self, name: &str) -> usize {
        self.state().calls.iter().filter(|(n, _)| n == name).count()
    }

    /// Adds a job with records.
    pub fn job(
        &self,
        n: u64,
        state: JobState,
        records: Vec<(&'static str, Value)>,
    ) -> JobId {
        let id = JobId::generate(1_700_000_000_000 + n, u128::from(n));
        self.change(|all| {
            all.jobs.insert(id, job_value(id, state));
            all.records.insert(id, records);
        });
        id
    }

    /// Moves a job.
    pub fn set(&self, id: JobId, state: JobState) {
        self.change(|all| {
            all.jobs.insert(id, job_value(id, state));
        });
    }
}

/// A job with one run.
fn job_value(id: JobId, state: JobState) -> Value {
    let mut job = json!({
        "id": id, "state": state, "labels": [], "priority": 0,
        "submitted": "2026-11-21T09:00:00.000Z",
        "source": {"owner": "dscape", "repo": "nano",
            "commit": "0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233"},
        "runs": [{
            "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
            "lease": 1, "state": state.as_str(), "times": {},
            "usage": {"cpu_ms": 300, "wall_ms": 1200},
        }],
    });
    match state {
        JobState::Done => job["exit"] = json!({"code": 0}),
        JobState::Failed => {
            job["exit"] = json!({"code": 3});
            job["reason"] = json!("exit");
            job["sentence"] = json!("the command \u{1b}[2J exited with 3");
        }
        JobState::Stopped => job["reason"] = json!("stopped"),
        JobState::Queued => job["position"] = json!(4),
        _ => {}
    }
    job
}

struct Serving {
    fake: Fake,
    peer: Peer,
}

type Answer = Result<Vec<Value>, WireError>;

impl Service for Serving {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Answer> {
        async move {
            let Call { name, args } = call;
            if name == "ping" {
                return Ok(args);
            }
            let refusal = {
                let mut state = self.fake.state();
                state.calls.push((name.clone(), args.clone()));
                state.refuse.clone()
            };
            if let Some(error) = refusal {
                return Err(error);
            }
            match name.as_str() {
                "push" => self.take(JobRequest::from_push(&args)?).await,
                "submit" => self.take(JobRequest::from_submit(&args)?).await,
                "status" => Ok(vec![self.find(&args)?.1]),
                "list" => Ok(self.list(&args)),
                "wait" => self.wait(&args).await,
                "logs" => self.logs(&args).await,
                "stop" => self.stop(&args),
                "remove" => self.remove(&args),
                "workers" => Ok(vec![json!([{
                    "uuid": "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f",
                    "runner": "r0", "state": "defunct",
                    "reason": "halt failed: \u{1b}]0;x\u{7}",
                    "since": "2026-11-21T09:00:00.000Z",
                    "snapshot": "clean",
                }])]),
                "runners" => Ok(vec![json!([])]),
                "stats" => Ok(vec![json!({"jobs": {"queued": 3}})]),
                "artefacts" => Ok(vec![self.fake.state().artefacts.clone()]),
                "blob-get" => Ok(self.blob(&args)),
                "export" => Ok(self.document(&args)),
                "diff" => Ok(vec![self.fake.state().diff.clone()]),
                "why" => Ok(vec![self.fake.state().why.clone()]),
                _ => Err(WireError::new(Code::Enocmd, "no such command")),
            }
        }
        .boxed()
    }
}

impl Serving {
    async fn take(&self, request: JobRequest) -> Answer {
        let id = request.id.expect("the program always sends an id");
        let is_lost = {
            let mut all = self.fake.state();
            let state = match &all.verdict {
                Some((state, _)) => *state,
                None => JobState::Queued,
            };
            let record = all.verdict.clone().map(|(_, data)| data);
            all.jobs.entry(id).or_insert_with(|| job_value(id, state));
            let records = record.map(|data| vec![("stdout", data)]);
            all.records.insert(id, records.unwrap_or_default());
            let is_lost = all.lose_answers > 0;
            all.lose_answers = all.lose_answers.saturating_sub(1);
            is_lost
        };
        if is_lost {
            self.peer.close();
            pending::<()>().await;
        }
        Ok(vec![json!(id)])
    }

    fn find(&self, args: &[Value]) -> Result<(JobId, Value), WireError> {
        let text = args[0].as_str().unwrap();
        text.parse::<JobRef>()?;
        let all = self.fake.state();
        let found =
            all.jobs.iter().find(|(id, _)| id.to_string().starts_with(text));
        found.map(|(id, job)| (*id, job.clone())).ok_or_else(|| {
            WireError::new(Code::Enoent, "there is no such job").on("id")
        })
    }

    fn list(&self, args: &[Value]) -> Vec<Value> {
        let filter = &args[0];
        let limit = filter["limit"].as_u64().unwrap() as usize;
        let after = filter["after"].as_str().unwrap_or("z").to_owned();
        let all = self.fake.state();
        let mut fits = all.jobs.iter().rev().filter(|(id, job)| {
            id.to_string() < after
                && (filter["state"].is_null()
                    || filter["state"] == job["state"])
        });
        let page: Vec<_> = fits.by_ref().take(limit).collect();
        let has_more = fits.next().is_some();
        let last = page.last().map(|(id, _)| json!(id));
        let next = last.filter(|_| has_more).unwrap_or_default();
        vec![page.into_iter().map(|(_, job)| job.clone()).collect(), next]
    }

    async fn wait(&self, args: &[Value]) -> Answer {
        let mut changed = self.fake.changed.subscribe();
        let time = match args.get(1) {
            Some(options) => duration_of_value(&options["timeout"]).unwrap(),
            None => Duration::MAX,
        };
        let is_final = async {
            loop {
                let (_, job) = self.find(args)?;
                if !job["exit"].is_null() || job["state"] == "stopped" {
                    return Ok(vec![job]);
                }
                changed.changed().await.unwrap();
            }
        };
        timeout(time, is_final).await.unwrap_or_else(|_| {
            Err(WireError::new(Code::Etime, "it has not ended"))
        })
    }

    async fn logs(&self, args: &[Value]) -> Answer {
        let (id, _) = self.find(args)?;
        let mut changed = self.fake.changed.subscribe();
        let mut at = args[1]["from"].as_u64().unwrap_or_default();
        let follow = args[1]["follow"] == true;
        let mut cut = self.fake.state().cuts.pop_front();
        loop {
            let record = {
                let all = self.fake.state();
                all.records[&id].get(at as usize).cloned()
            };
            let Some((stream, data)) = record else {
                let (_, job) = self.find(args)?;
                let state = job["state"].as_str().unwrap();
                let ended = state.parse::<JobState>()?.is_final();
                if ended || !follow {
                    return Ok(vec![json!({"next": at, "ended": ended})]);
                }
                changed.changed().await.unwrap();
                continue;
            };
            if cut == Some(0) {
                self.peer.close();
                pending::<()>().await;
            }
            cut = cut.map(|left| left - 1);
            let streams = &args[1]["streams"];
            let wanted = streams.as_array().is_none_or(|streams| {
                streams.iter().any(|wanted| wanted == stream)
            });
            if wanted {
                let record = json!({
                    "job": id, "n": at, "stream": stream, "seq": at + 1,
                    "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
                    "when": "2026-11-21T09:00:00.000Z", "data": data,
                });
                if self.peer.notify("log", &[record]).await.is_err() {
                    pending::<()>().await;
                }
            }
            at += 1;
        }
    }

    fn stop(&self, args: &[Value]) -> Answer {
        let (id, job) = self.find(args)?;
        // A running one takes its time to end.
        if job["state"] != "running" {
            self.fake.set(id, JobState::Stopped);
        }
        Ok(vec![self.find(args)?.1])
    }

    fn remove(&self, args: &[Value]) -> Answer {
        let (id, job) = self.find(args)?;
        let state: JobState = job["state"].as_str().unwrap().parse()?;
        if !state.is_final() {
            return Err(WireError::new(Code::Ebusy, "the job has not ended"));
        }
        self.fake.change(|all| drop(all.jobs.remove(&id)));
        Ok(vec![])
    }

    /// A piece of the content, as a document.
    fn document(&self, args: &[Value]) -> Vec<Value> {
        let mut all = self.fake.state();
        if let Some(left) = &mut all.changes_after {
            if *left == 0 {
                all.content.push(b'!');
            } else {
                *left -= 1;
            }
        }
        let digest = sha2::Sha256::digest(&all.content);
        let hash: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        let of = json!({
            "runs": [{
                "job": all.jobs.keys().next(),
                "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
                "submitted": "2026-11-21T09:00:00.000Z",
            }],
            "profiles": 1, "samples": 7, "cpu_seconds": 0.5,
        });
        let document = json!({
            "name": "../../x", "mime": "image/svg+xml", "of": of,
            "bytes": all.content.len(), "sha256": hash,
            "warnings": ["few \u{1b}[2J samples"],
        });
        let from = args[2]["offset"].as_u64().unwrap() as usize;
        let length = args[2]["length"].as_u64().unwrap() as usize;
        let end = (from + length).min(all.content.len());
        let piece = STANDARD.encode(&all.content[from..end]);
        vec![document, json!(piece), json!(end == all.content.len())]
    }

    fn blob(&self, args: &[Value]) -> Vec<Value> {
        let all = self.fake.state();
        let from = args[1].as_u64().unwrap() as usize;
        let length = args[2].as_u64().unwrap() as usize;
        let end = (from + length).min(all.content.len());
        let piece = STANDARD.encode(&all.content[from..end]);
        vec![json!(piece), json!(end == all.content.len())]
    }
}
