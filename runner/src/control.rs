//! The runner's own port, 9182: for the person beside it.
//!
//! Reads arguments and names what is wrong with them; what a command does is
//! the workers' business.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::command::{RUNNER, check, help};
use ntrace_protocol::text::quote;
use ntrace_protocol::{Code, Label, WireError, WorkerUuid, spec};
use ntrace_session::{
    Call, CallError, Config, Listener, Peer, Service, accept_loop, spawn,
};
use ntrace_zones::SnapshotName;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::uplink::Uplink;
use crate::workers::Workers;

/// How long the caller has to answer our ping of `ping {back}`.
const BACK: Duration = Duration::from_secs(10);

type Answer = Result<Vec<Value>, WireError>;

/// What the port's commands act on.
#[derive(Clone)]
pub struct Control {
    /// The workers.
    pub workers: Arc<dyn Workers>,
    /// For `status`.
    pub uplink: Uplink,
    /// For `status`: what this runner is called, and its dispatcher.
    pub identity: Value,
}

/// Serves the port until `stop`; then connections are closed.
pub async fn serve(
    listener: Listener,
    control: Control,
    stop: CancellationToken,
) {
    let sessions = TaskTracker::new();
    let tracker = sessions.clone();
    let closing = stop.clone();
    let accepting = accept_loop(listener, stop, move |stream, permit| {
        let control = control.clone();
        let session = spawn(stream, Config::default(), |peer| {
            Arc::new(Session { control, peer: peer.clone() })
        });
        let closing = closing.clone();
        match session {
            Ok(session) => drop(tracker.spawn(async move {
                let peer = session.peer.clone();
                let ended = session.ended();
                tokio::pin!(ended);
                tokio::select! {
                    () = &mut ended => {}
                    () = closing.cancelled() => {
                        peer.close();
                        ended.await;
                    }
                }
                drop(permit);
            })),
            // It was gone before it was served.
            Err(error) => debug!(%error, "a connection was not served"),
        }
    });
    accepting.await;
    sessions.close();
    sessions.wait().await;
}

struct Session {
    control: Control,
    peer: Peer,
}

impl Service for Session {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Answer> {
        async move { self.run(call).await }.boxed()
    }
}

impl Session {
    async fn run(&self, mut call: Call) -> Answer {
        check(RUNNER, &call.name, &mut call.args)?;
        let args = &call.args;
        let workers = &self.control.workers;
        match call.name.as_str() {
            "ping" => self.ping(args).await,
            "help" => help(RUNNER, args.first()).map(|text| vec![text]),
            "enroll" => {
                let worker = uuid(args)?;
                let Enroll { snapshot, labels } = enroll(args.get(1))?;
                one(workers.enroll(worker, snapshot, labels).await?)
            }
            "expel" => one(workers.expel(uuid(args)?).await?),
            "clean" => one(workers.clean(uuid(args)?).await?),
            "workers" => one(workers.views()),
            "drain" => {
                workers.drain().await;
                Ok(vec![])
            }
            "status" => Ok(vec![self.control.status()]),
            other => Err(WireError::new(
                Code::Einternal,
                format!("{other} is known but not served; report this"),
            )),
        }
    }

    /// Answers x; with `{back: x}` the caller is asked first.
    async fn ping(&self, args: &[Value]) -> Answer {
        let back = args.first().and_then(Value::as_object);
        let Some(x) = back.filter(|o| o.len() == 1).and_then(|o| o.get("back"))
        else {
            return Ok(args.to_vec());
        };
        let called = self.peer.call("ping", std::slice::from_ref(x), BACK);
        called.await.map_err(|error| match error {
            CallError::Refused(error) => error,
            CallError::Late { .. } => {
                WireError::new(Code::Etime, error.to_string())
            }
            CallError::Closed { .. } => {
                WireError::new(Code::Eproto, error.to_string())
            }
        })
    }
}

impl Control {
    fn status(&self) -> Value {
        let mut status = self.identity.clone();
        status["version"] = json!(env!("CARGO_PKG_VERSION"));
        status["connected"] = json!(self.uplink.is_connected());
        status["workers"] = json!(self.workers.views());
        status["runs"] = json!(self.uplink.held());
        status["unacked_bytes"] = json!(self.uplink.unacked_bytes());
        status
    }
}

fn one(result: impl serde::Serialize) -> Answer {
    Ok(vec![json!(result)])
}

fn uuid(args: &[Value]) -> Result<WorkerUuid, WireError> {
    let value = args.first().unwrap_or(&Value::Null);
    let text = value.as_str().ok_or_else(|| {
        let shown = quote(&value.to_string());
        let what = "it takes a string of 36 characters, as `vmadm list` shows";
        WireError::invalid("uuid", format!("{shown} is not a UUID: {what}"))
    })?;
    text.parse().map_err(|error: ntrace_protocol::id::NotAUuid| {
        WireError::invalid("uuid", error.to_string())
    })
}

struct Enroll {
    snapshot: Option<String>,
    labels: Vec<Label>,
}

fn enroll(options: Option<&Value>) -> Result<Enroll, WireError> {
    let none = Map::new();
    let options = match options {
        None | Some(Value::Null) => &none,
        Some(Value::Object(map)) => map,
        Some(other) => {
            let shown = quote(&other.to_string());
            let what = "options must be an object {snapshot, labels}, not";
            return Err(WireError::invalid(
                "options",
                format!("{what} {shown}"),
            ));
        }
    };
    let mut read = Enroll { snapshot: None, labels: vec![] };
    for (name, value) in options {
        match name.as_str() {
            _ if value.is_null() => {}
            "snapshot" => read.snapshot = Some(snapshot(value)?),
            "labels" => read.labels = spec::labels(value)?,
            _ => {
                let name = quote(name);
                let what = "there are snapshot, labels";
                let message = format!("there is no option {name}; {what}");
                return Err(WireError::invalid("options", message));
            }
        }
    }
    Ok(read)
}

fn snapshot(value: &Value) -> Result<String, WireError> {
    let refuse = |what: String| WireError::invalid("snapshot", what);
    let text = value.as_str().ok_or_else(|| {
        refuse("snapshot must be a string, like \"clean\"".to_owned())
    })?;
    let name: SnapshotName = text
        .parse()
        .map_err(|error: ntrace_zones::BadName| refuse(error.to_string()))?;
    Ok(name.as_str().to_owned())
}
