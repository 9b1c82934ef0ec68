//! A dispatcher that keeps reports in memory and can be made to misbehave,
//! and workers that are only a list.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::report::{Data, End, Report};
use ntrace_protocol::runner::{Assignment, Held, Hello, Next};
use ntrace_protocol::spec::JobSpec;
use ntrace_protocol::worker::{Resets, WorkerView};
use ntrace_protocol::{
    Code, JobId, Label, Lease, RunId, Stream, Timestamp, WireError,
    WorkerState, WorkerUuid,
};
use ntrace_runner::uplink::{Uplink, UplinkConfig, Waits};
use ntrace_runner::workers::Workers;
use ntrace_session::{
    Call, Config, Listener, Peer, Service, accept_loop, spawn,
};
use ntrace_spool::{Options, Spool};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How it misbehaves; 0 is never.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Each so-manieth `result` is kept but not answered.
    pub(crate) lose_answer: u64,
    /// Each so-manieth `result` ends the connection after it was kept.
    pub(crate) drop_after: u64,
    /// Each so-manieth `result` ends the connection before it was kept.
    pub(crate) drop_before: u64,
    /// Each so-manieth `blob-put` ends the connection after it was kept.
    pub(crate) drop_blob: u64,
}

/// What is kept of a stream.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) seq: u64,
    pub(crate) length: u64,
    pub(crate) hash: Sha256,
    /// Reports, unless there are too many of them.
    pub(crate) reports: Vec<Report>,
}

#[derive(Default)]
pub(crate) struct Run {
    pub(crate) streams: BTreeMap<Stream, Kept>,
    pub(crate) end: Option<End>,
    pub(crate) blobs: BTreeMap<String, (Vec<u8>, Option<String>)>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) jobs: VecDeque<Assignment>,
    pub(crate) runs: BTreeMap<RunId, Run>,
    pub(crate) fenced: HashSet<RunId>,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) beats: Vec<Vec<Held>>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) waiting: usize,
    pub(crate) faults: Faults,
    pub(crate) results: u64,
    pub(crate) blob_puts: u64,
    pub(crate) gaps: u64,
    /// Reports that had been kept before.
    pub(crate) repeats: u64,
    /// The verdict came before the last of its output.
    pub(crate) early_ends: u64,
}

pub(crate) struct Fake {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    work: Notify,
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
    beat_ms: u64,
}

struct Conn {
    fake: Arc<Fake>,
    peer: Peer,
}

impl Fake {
    pub(crate) async fn start(beat_ms: u64) -> Arc<Self> {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&any, false).await.unwrap();
        let addr = listener.addrs()[0];
        let stop = CancellationToken::new();
        let fake = Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            work: Notify::new(),
            addr,
            stop: stop.clone(),
            beat_ms,
        });
        let serving = fake.clone();
        let accepting = accept_loop(listener, stop, move |stream, permit| {
            let fake = serving.clone();
            let session = spawn(stream, Config::default(), |peer| {
                let mut state = fake.state();
                state.peers.push(peer.clone());
                drop(state);
                Arc::new(Conn { fake, peer: peer.clone() })
            });
            tokio::spawn(async move {
                if let Ok(session) = session {
                    session.ended().await;
                }
                drop(permit);
            });
        });
        tokio::spawn(accepting);
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Queues a job; answers its run.
    pub(crate) fn queue(&self) -> Held {
        let held = Held { run_id: new_run(), lease: Lease(7) };
        let spec = JobSpec::default();
        let id = JobId::generate(1, u128::from(fastrand::u64(..)));
        let assignment = Assignment::new(id, held, 1, spec);
        self.state().jobs.push_back(assignment);
        self.work.notify_one();
        held
    }

    pub(crate) fn drop_connections(&self) {
        self.state().peers.drain(..).for_each(|peer| peer.close());
    }

    /// Waits until it is so.
    pub(crate) async fn until(
        &self,
        mut is_so: impl FnMut(&mut State) -> bool,
    ) {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            while !is_so(&mut self.state()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("it came true");
    }

    pub(crate) async fn ended(&self, run: RunId) -> End {
        let end = |s: &mut State| s.runs.get(&run)?.end.clone();
        self.until(|s| end(s).is_some()).await;
        end(&mut self.state()).unwrap()
    }

    pub(crate) fn output(&self, run: RunId, stream: Stream) -> Vec<u8> {
        let state = self.state();
        let kept = state.runs.get(&run).and_then(|r| r.streams.get(&stream));
        let reports = kept.map_or(&[][..], |kept| &kept.reports[..]);
        reports.iter().flat_map(|r| r.data.as_bytes().to_vec()).collect()
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

pub(crate) fn new_run() -> RunId {
    RunId::generate(2, u128::from(fastrand::u64(..)))
}

impl Service for Conn {
    fn call(
        self: Arc<Self>,
        call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
        let fake = self.fake.clone();
        async move {
            let mut args = call.args;
            let answer = match call.name.as_str() {
                "hello" => fake.hello(take(&mut args)),
                "beat" => fake.beat(take(&mut args)),
                "next" => return fake.next(take(&mut args)).await,
                "result" => {
                    let reports: Vec<Report> = take(&mut args);
                    return self.result(reports).await;
                }
                "blob-put" => return self.blob_put(args).await,
                _ => Ok(vec![]),
            };
            fake.change();
            answer
        }
        .boxed()
    }
}

fn take<T: serde::de::DeserializeOwned>(args: &mut [Value]) -> T {
    serde_json::from_value(args[0].take()).unwrap()
}

type Answer = Result<Vec<Value>, WireError>;

impl Fake {
    fn hello(&self, hello: Hello) -> Answer {
        let mut state = self.state();
        let (drop, keep): (Vec<_>, Vec<_>) = hello
            .runs
            .iter()
            .map(|held| held.run_id)
            .partition(|run| state.fenced.contains(run));
        state.hellos.push(hello);
        Ok(vec![json!({"lease_ms": self.beat_ms * 3,
            "beat_ms": self.beat_ms, "keep": keep, "drop": drop})])
    }

    fn beat(&self, held: Vec<Held>) -> Answer {
        let mut state = self.state();
        let stale = held.iter().map(|held| held.run_id);
        let drop: Vec<_> =
            stale.filter(|run| state.fenced.contains(run)).collect();
        state.beats.push(held);
        Ok(vec![json!({"drop": drop})])
    }

    async fn next(&self, next: Next) -> Answer {
        let wait = Duration::from_millis(next.wait_ms.unwrap());
        self.state().waiting += 1;
        self.change();
        let got = tokio::time::timeout(wait, async {
            loop {
                let work = self.work.notified();
                if let Some(job) = self.state().jobs.pop_front() {
                    return job;
                }
                work.await;
            }
        });
        let got = got.await.ok();
        self.state().waiting -= 1;
        self.change();
        Ok(vec![json!(got)])
    }

    fn keep(&self, reports: Vec<Report>) -> Value {
        let mut state = self.state();
        let mut acked = BTreeMap::<RunId, BTreeMap<Stream, u64>>::new();
        let mut refused = BTreeMap::new();
        for report in reports {
            let run_id = report.run_id;
            if state.fenced.contains(&run_id) {
                refused.insert(run_id, Code::Efenced);
                continue;
            }
            let run = state.runs.entry(run_id).or_default();
            let early = run.is_early(&report);
            let kept = run.streams.entry(report.stream).or_default();
            match report.seq.cmp(&(kept.seq + 1)) {
                std::cmp::Ordering::Less => state.repeats += 1,
                std::cmp::Ordering::Greater => {
                    state.gaps += 1;
                    refused.insert(run_id, Code::Eagain);
                    continue;
                }
                std::cmp::Ordering::Equal => {
                    kept.add(&report);
                    if report.stream == Stream::Control {
                        run.end = Some(end_of(&report));
                    }
                    state.early_ends += u64::from(early);
                }
            }
            let run = state.runs.entry(run_id).or_default();
            let seq = run.streams[&report.stream].seq;
            acked.entry(run_id).or_default().insert(report.stream, seq);
        }
        let refused: Vec<_> = refused
            .into_iter()
            .map(|(run_id, code)| {
                json!({"run_id": run_id, "code": code, "message": "no"})
            })
            .collect();
        json!({"acked": acked, "refused": refused})
    }
}

impl Run {
    fn is_early(&self, report: &Report) -> bool {
        report.stream == Stream::Control
            && end_of(report).last.iter().any(|(stream, seq)| {
                self.streams.get(stream).is_none_or(|kept| kept.seq < *seq)
            })
    }
}

impl Kept {
    fn add(&mut self, report: &Report) {
        self.seq = report.seq;
        let bytes = report.data.as_bytes();
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
        if self.length < 32 << 20 {
            self.reports.push(report.clone());
        }
    }
}

fn end_of(report: &Report) -> End {
    let Data::Object(map) = &report.data else { panic!("{report:?}") };
    serde_json::from_value(Value::Object(map.clone())).unwrap()
}

impl Conn {
    async fn result(&self, reports: Vec<Report>) -> Answer {
        let (n, faults) = {
            let mut state = self.fake.state();
            state.results += 1;
            (state.results, state.faults)
        };
        let hit = |every: u64| every > 0 && n.is_multiple_of(every);
        if hit(faults.drop_before) {
            self.peer.close();
            return std::future::pending().await;
        }
        let answer = self.fake.keep(reports);
        self.fake.change();
        if hit(faults.drop_after) {
            self.peer.close();
        }
        if hit(faults.lose_answer) || hit(faults.drop_after) {
            return std::future::pending().await;
        }
        Ok(vec![answer])
    }

    async fn blob_put(&self, args: Vec<Value>) -> Answer {
        let run_id: RunId = serde_json::from_value(args[0].clone()).unwrap();
        let name = args[2].as_str().unwrap().to_owned();
        let offset = usize::try_from(args[3].as_u64().unwrap()).unwrap();
        let piece = STANDARD.decode(args[4].as_str().unwrap()).unwrap();
        let length = {
            let mut state = self.fake.state();
            let run = state.runs.entry(run_id).or_default();
            let (bytes, sum) = run.blobs.entry(name).or_default();
            assert!(offset <= bytes.len());
            bytes.truncate(offset);
            bytes.extend(piece);
            let sha = args.get(5).and_then(|o| o["sha256"].as_str());
            *sum = sha.map(str::to_owned);
            let length = bytes.len();
            state.blob_puts += 1;
            let every = state.faults.drop_blob;
            if every > 0 && state.blob_puts.is_multiple_of(every) {
                self.peer.close();
            }
            length
        };
        if self.peer.is_closed() {
            return std::future::pending().await;
        }
        Ok(vec![json!(length)])
    }
}

/// Workers that are only a list.
pub(crate) struct List {
    pub(crate) views: Mutex<Vec<WorkerView>>,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) drained: CancellationToken,
}

impl List {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            views: Mutex::default(),
            changes: watch::Sender::new(0),
            drained: CancellationToken::new(),
        })
    }

    fn set(&self, uuid: WorkerUuid, state: WorkerState) -> WorkerView {
        let view = WorkerView {
            uuid,
            runner: None,
            state,
            reason: None,
            since: Timestamp(0),
            job: None,
            run_id: None,
            snapshot: "clean".into(),
            labels: vec![],
            resets: Resets::default(),
            leaving: false,
            place: None,
        };
        let mut views = self.views.lock().unwrap();
        views.retain(|known| known.uuid != uuid);
        views.push(view.clone());
        drop(views);
        self.changes.send_modify(|n| *n += 1);
        view
    }

    fn known(&self, uuid: WorkerUuid) -> Result<(), WireError> {
        let views = self.views.lock().unwrap();
        if views.iter().any(|view| view.uuid == uuid) {
            return Ok(());
        }
        Err(WireError::new(Code::Enoent, format!("no worker {uuid}")))
    }
}

impl Workers for List {
    fn enroll(
        &self,
        uuid: WorkerUuid,
        snapshot: Option<String>,
        labels: Vec<Label>,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>> {
        let mut view = self.set(uuid, WorkerState::Dirty);
        view.snapshot = snapshot.unwrap_or(view.snapshot);
        view.labels = labels;
        futures::future::ready(Ok(view)).boxed()
    }

    fn expel(
        &self,
        uuid: WorkerUuid,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>> {
        let view =
            self.known(uuid).map(|()| self.set(uuid, WorkerState::Expelled));
        futures::future::ready(view).boxed()
    }

    fn clean(
        &self,
        uuid: WorkerUuid,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>> {
        let view =
            self.known(uuid).map(|()| self.set(uuid, WorkerState::Halting));
        futures::future::ready(view).boxed()
    }

    fn views(&self) -> Vec<WorkerView> {
        self.views.lock().unwrap().clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.drained.cancel();
        futures::future::ready(()).boxed()
    }
}

/// Short waits, so that faults are mended within a test.
pub(crate) fn waits() -> Waits {
    Waits {
        pause_least: Duration::from_millis(5),
        pause_most: Duration::from_millis(50),
        hello: Duration::from_millis(2000),
        answer: Duration::from_millis(500),
        next: Duration::from_secs(3),
    }
}

pub(crate) const SPOOL: Options =
    Options { segment_bytes: 64 << 10, bound: 4 << 20 };

pub(crate) fn uplink_to(addr: String, dir: &Path, options: Options) -> Uplink {
    uplink_with(waits(), addr, dir, options)
}

pub(crate) fn uplink_with(
    waits: Waits,
    addr: String,
    dir: &Path,
    options: Options,
) -> Uplink {
    let config = UplinkConfig {
        dispatcher: addr,
        name: "tester".parse().unwrap(),
        zone: None,
        waits,
    };
    let opened = Spool::open(dir, options).unwrap();
    let stop = CancellationToken::new();
    Uplink::start(config, opened, List::new(), stop).unwrap()
}

pub(crate) fn uplink_of(fake: &Fake, dir: &Path, list: Arc<List>) -> Uplink {
    let config = UplinkConfig {
        dispatcher: fake.addr.to_string(),
        name: "tester".parse().unwrap(),
        zone: None,
        waits: waits(),
    };
    let opened = Spool::open(dir, SPOOL).unwrap();
    Uplink::start(config, opened, list, CancellationToken::new()).unwrap()
}

pub(crate) fn uplink(fake: &Fake, dir: &Path) -> Uplink {
    uplink_to(fake.addr.to_string(), dir, SPOOL)
}

pub(crate) fn worker(n: u8) -> WorkerUuid {
    WorkerUuid::from_bytes([n; 16])
}

pub(crate) fn done() -> End {
    serde_json::from_value(json!({"event": "end", "outcome": "done"})).unwrap()
}

pub(crate) fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
