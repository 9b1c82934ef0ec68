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
use tokio::sync::mpsc;

/// Records that wait for the reader; while there are so many, nothing more
/// is read from the connection.
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

type Routes = Arc<Mutex<HashMap<JobId, mpsc::Sender<LogRecord>>>>;

/// What the dispatcher may ask of a client: `ping`, `help`, `log`.
#[derive(Default)]
pub(crate) struct ClientService {
    routes: Routes,
}

impl ClientService {
    fn routes(
        &self,
    ) -> MutexGuard<'_, HashMap<JobId, mpsc::Sender<LogRecord>>> {
        self.routes.lock().expect("no holder of this lock panics")
    }

    /// Begins to receive a job's records.
    ///
    /// # Errors
    /// They are being received already.
    pub(crate) fn open(
        self: &Arc<Self>,
        peer: &Peer,
        job: JobId,
        options: &LogsOptions,
    ) -> Result<LogStream, CallError> {
        let (sender, records) = mpsc::channel(WAITING);
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
                // Waits for the reader; an error means that it has gone.
                let _ = route.send(record).await;
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
    records: mpsc::Receiver<LogRecord>,
    call: Option<BoxFuture<'static, Result<Vec<Value>, CallError>>>,
    route: Option<Route>,
    end: Option<Result<LogEnd, CallError>>,
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
                    // What came before the answer may still wait for room:
                    // it holds on to the way, new records find none.
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
