//! The runner's own port: enroll, expel, workers, clean, drain.
//!
//! Knows the workers by a trait only.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::command::{RUNNER, check, help};
use ntrace_protocol::{Code, Label, WireError, WorkerUuid, spec};
use ntrace_session::{Call, CallError, Peer, Service};
use serde_json::{Map, Value, json};

use crate::workers::Workers;

/// How long a caller has to answer a ping that was asked back.
const BACK: Duration = Duration::from_secs(10);

/// What the port answers from.
pub struct Control {
    /// The workers.
    pub workers: Arc<dyn Workers>,
    /// Answers `status`.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// One connection.
pub(crate) struct Session {
    pub(crate) control: Arc<Control>,
    pub(crate) peer: Peer,
}

impl Service for Session {
    fn call(
        self: Arc<Self>,
        call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
        async move {
            let Call { name, mut args } = call;
            check(RUNNER, &name, &mut args)?;
            self.run(&name, &args).await
        }
        .boxed()
    }
}

impl Session {
    async fn run(
        &self,
        name: &str,
        args: &[Value],
    ) -> Result<Vec<Value>, WireError> {
        let workers = &self.control.workers;
        let view = match name {
            "ping" => return self.ping(args).await,
            "help" => return help(RUNNER, args.first()).map(one),
            "status" => return Ok(one((self.control.status)())),
            "workers" => return Ok(one(json!(workers.views()))),
            "drain" => {
                workers.drain().await;
                return Ok(Vec::new());
            }
            "enroll" => {
                let (snapshot, labels) = enroll_options(args.get(1))?;
                workers.enroll(uuid(args)?, snapshot, labels).await?
            }
            "expel" => workers.expel(uuid(args)?).await?,
            "clean" => workers.clean(uuid(args)?).await?,
            _ => {
                return Err(WireError::new(
                    Code::Einternal,
                    "the command is in the table and nowhere else",
                ));
            }
        };
        Ok(one(json!(view)))
    }

    async fn ping(&self, args: &[Value]) -> Result<Vec<Value>, WireError> {
        let Some(back) = args.first().and_then(|x| x.get("back")) else {
            return Ok(args.to_vec());
        };
        let answer = self.peer.call("ping", &[back.clone()], BACK).await;
        answer.map_err(|error| match error {
            CallError::Refused(error) => error,
            other => WireError::new(Code::Etime, other.to_string()),
        })
    }
}

fn one(value: Value) -> Vec<Value> {
    vec![value]
}

fn uuid(args: &[Value]) -> Result<WorkerUuid, WireError> {
    let text = args.first().and_then(Value::as_str).ok_or_else(|| {
        WireError::invalid("uuid", "uuid must be a string: a VM's UUID")
    })?;
    text.parse().map_err(|e| WireError::invalid("uuid", format!("{e}")))
}

fn enroll_options(
    options: Option<&Value>,
) -> Result<(Option<String>, Vec<Label>), WireError> {
    let none = Map::new();
    let options = match options {
        None | Some(Value::Null) => &none,
        Some(Value::Object(options)) => options,
        Some(_) => {
            return Err(WireError::invalid(
                "options",
                "options must be an object: {snapshot, labels}",
            ));
        }
    };
    let (mut snapshot, mut labels) = (None, Vec::new());
    for (name, value) in options.iter().filter(|(_, v)| !v.is_null()) {
        match name.as_str() {
            "snapshot" => {
                let text = value.as_str().ok_or_else(|| {
                    WireError::invalid("snapshot", "it must be a string")
                })?;
                snapshot = Some(text.to_owned());
            }
            "labels" => labels = spec::labels(value)?,
            _ => {
                return Err(WireError::invalid(
                    "options",
                    format!(
                        "there is no option {}; there are snapshot, labels",
                        ntrace_protocol::text::quote(name)
                    ),
                ));
            }
        }
    }
    Ok((snapshot, labels))
}
