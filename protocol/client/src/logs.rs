//! A job's output as a stream of records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::command::{TO_RUNNER, check, help};
use ntrace_protocol::report::LogRecord;
use ntrace_protocol::{Code, Exit, JobId, Stream, WireError};
use ntrace_session::{Call, CallError, Peer, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::connect::Open;

/// Records that wait for the reader before their requests are held open; the
/// session bounds those, and then reads no more from the connection.
const WAITING: usize = 16;

/// What is wanted of the output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsOptions {
    /// The position of the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Whether to go on until the job is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// Only these streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<Stream>>,
}

/// What is said once all records were sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// Where to go on.
    pub next: u64,
    /// Whether the job is final, so that nothing more comes.
    pub ended: bool,
    /// How the command ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

type Routes = Arc<Mutex<HashMap<JobId, Sender>>>;

/// The way in. A record is put in line at once, in the order in which
/// requests begin, and only then is room waited for: whoever waited first
/// would be overtaken, since requests that wait are not resumed in order.
#[derive(Clone)]
struct Sender {
    records: mpsc::UnboundedSender<LogRecord>,
    room: Arc<Semaphore>,
}

impl Sender {
    async fn send(self, record: LogRecord) {
        // Errors mean that the reader has gone: nobody misses the record.
        if self.records.send(record).is_ok()
            && let Ok(room) = self.room.acquire().await
        {
            room.forget();
        }
    }
}

/// The way out: makes room for each record that it hands out.
struct Receiver {
    records: mpsc::UnboundedReceiver<LogRecord>,
    room: Arc<Semaphore>,
}

impl Receiver {
    async fn recv(&mut self) -> Option<LogRecord> {
        let record = self.records.recv().await?;
        self.room.add_permits(1);
        Some(record)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Requests that wait for room end.
        self.room.close();
    }
}

/// A line of records, in order.
fn line() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(WAITING));
    (
        Sender { records: sender, room: room.clone() },
        Receiver { records: receiver, room },
    )
}

/// What the dispatcher may ask of a client: `ping`, `help`, `log`.
#[derive(Default)]
pub(crate) struct ClientService {
    routes: Routes,
}

impl ClientService {
    fn routes(&self) -> MutexGuard<'_, HashMap<JobId, Sender>> {
        self.routes.lock().expect("no holder of this lock panics")
    }

    /// Begins to receive a job's records.
    ///
    /// # Errors
    /// They are being received already.
    pub(crate) fn open(
        self: &Arc<Self>,
        peer: &Peer,
        open: Option<Arc<Open>>,
        job: JobId,
        options: &LogsOptions,
    ) -> Result<LogStream, CallError> {
        let (sender, records) = line();
        if self.routes().contains_key(&job) {
            return Err(CallError::Refused(WireError::new(
                Code::Ebusy,
                "this connection reads that job's output already",
            )));
        }
        self.routes().insert(job, sender);
        let peer = peer.clone();
        let args = [json!(job), json!(options)];
        let call =
            async move { peer.call_unbounded("logs", &args).await }.boxed();
        let route = Route { service: self.clone(), job };
        Ok(LogStream {
            records,
            call: Some(call),
            route: Some(route),
            end: None,
            _open: open,
        })
    }
}

impl Service for ClientService {
    fn call(
        self: Arc<Self>,
        mut call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
        async move {
            if call.name != "log" {
                check(TO_RUNNER, &call.name, &mut call.args)?;
                return match call.name.as_str() {
                    "ping" => Ok(call.args),
                    "help" => help(TO_RUNNER, None).map(|h| vec![h]),
                    _ => Err(WireError::new(
                        Code::Enocmd,
                        "a client has nothing to stop",
                    )),
                };
            }
            let record = call.args.into_iter().next().unwrap_or_default();
            let record: LogRecord = serde_json::from_value(record)
                .map_err(|e| WireError::invalid("record", e.to_string()))?;
            let route = self.routes().get(&record.job).cloned();
            if let Some(route) = route {
                route.send(record).await;
            }
            Ok(vec![])
        }
        .boxed()
    }
}

/// The way of a job's records; closed when dropped.
struct Route {
    service: Arc<ClientService>,
    job: JobId,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.service.routes().remove(&self.job);
    }
}

/// A job's records, as they come.
pub struct LogStream {
    records: Receiver,
    call: Option<BoxFuture<'static, Result<Vec<Value>, CallError>>>,
    route: Option<Route>,
    end: Option<Result<LogEnd, CallError>>,
    /// Keeps the connection open until all was read.
    _open: Option<Arc<Open>>,
}

impl LogStream {
    /// The next record; none once all were handed out, then see
    /// [`LogStream::end`].
    pub async fn next(&mut self) -> Option<LogRecord> {
        if let Some(call) = &mut self.call {
            tokio::select! {
                biased;
                Some(record) = self.records.recv() => return Some(record),
                outcome = call => {
                    self.call = None;
                    self.end = Some(outcome.and_then(|mut results| {
                        crate::result("logs", &mut results, 0)
                    }));
                    // What came before the answer is in line already; new
                    // records find no way.
                    self.route = None;
                }
            }
        }
        self.records.recv().await
    }

    /// How it ended.
    ///
    /// # Errors
    /// The call failed, or the records were not all read.
    pub fn end(self) -> Result<LogEnd, CallError> {
        self.end.unwrap_or_else(|| {
            Err(CallError::Closed { name: "logs".to_owned() })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ntrace_session::{Config, spawn};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    const RECORDS: u64 = 20_000;

    /// Sends many records, then answers.
    struct Flood {
        peer: Peer,
    }

    impl Service for Flood {
        fn call(
            self: Arc<Self>,
            call: Call,
        ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
            async move {
                for n in 0..RECORDS {
                    let record = json!({
                        "job": call.args[0], "n": n, "stream": "stdout",
                        "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
                        "seq": n + 1, "data": "x",
                        "when": "2026-11-21T09:00:00.000Z",
                    });
                    self.peer.notify("log", &[record]).await.unwrap();
                }
                Ok(vec![json!({"next": RECORDS, "ended": true})])
            }
            .boxed()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_reader_that_falls_behind_gets_all_records_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        spawn(accepted, Config::default(), |peer| {
            Arc::new(Flood { peer: peer.clone() })
        })
        .unwrap();
        let service = Arc::<ClientService>::default();
        let session = spawn(stream, Config::default(), |_| service.clone());
        let peer = session.unwrap().peer;
        let job = JobId::generate(1, 1);
        let mut logs =
            service.open(&peer, None, job, &LogsOptions::default()).unwrap();
        let reading = async {
            for n in 0..RECORDS {
                assert_eq!(logs.next().await.map(|record| record.n), Some(n));
                for _ in 0..n % 7 {
                    yield_now().await;
                }
            }
            assert_eq!(logs.next().await, None);
        };
        timeout(Duration::from_secs(60), reading).await.unwrap();
        assert_eq!(logs.end().unwrap().next, RECORDS);
    }
}
