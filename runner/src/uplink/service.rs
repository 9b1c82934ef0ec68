//! What the dispatcher asks of a runner on the runner's own connection.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::command::{TO_RUNNER, check};
use ntrace_protocol::stop::wants_evidence;
use ntrace_protocol::text::quote;
use ntrace_protocol::{Code, RunId, WireError};
use ntrace_session::{Call, Service};
use serde_json::Value;
use tracing::info;

use super::{Shared, Stop, StopWhy};

/// The grace of a `stop` that names none.
const GRACE: Duration = Duration::from_secs(10);

/// The longest grace; more would be a typing error.
const GRACE_MOST: Duration = Duration::from_secs(3600);

pub(super) struct FromDispatcher(pub(super) Arc<Shared>);

impl Service for FromDispatcher {
    fn call(
        self: Arc<Self>,
        call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
        // Nothing here waits, so it is done in the order of arrival.
        futures::future::ready(self.0.serve(call)).boxed()
    }
}

impl Shared {
    fn serve(&self, mut call: Call) -> Result<Vec<Value>, WireError> {
        check(TO_RUNNER, &call.name, &mut call.args)?;
        match call.name.as_str() {
            "stop" => self.stop_run(&call.args).map(|()| vec![]),
            _ => Ok(call.args),
        }
    }

    fn stop_run(&self, args: &[Value]) -> Result<(), WireError> {
        let (run_id, stop) = stop_args(args)?;
        let run = self.run(run_id).ok_or_else(|| {
            let message = format!("this runner does not hold run {run_id}");
            WireError::new(Code::Enoent, message)
        })?;
        let Stop { grace, evidence, .. } = stop;
        info!(run = %run_id, ?grace, evidence, "run is to stop");
        run.stop.give(stop);
        Ok(())
    }
}

fn stop_args(args: &[Value]) -> Result<(RunId, Stop), WireError> {
    let run_id = args.first().and_then(Value::as_str).unwrap_or_default();
    let run_id = run_id.parse().map_err(|error| {
        let error: ntrace_protocol::id::NotAUuid = error;
        WireError::invalid("run_id", error.to_string())
    })?;
    let grace = match args.get(1) {
        None | Some(Value::Null) => GRACE,
        Some(value) => {
            let ms = value.as_u64().ok_or_else(|| {
                let shown = quote(&value.to_string());
                let what = format!("{shown} is no whole number from 0");
                WireError::invalid("grace_ms", what)
            })?;
            Duration::from_millis(ms).min(GRACE_MOST)
        }
    };
    let evidence = wants_evidence(args.get(2))?;
    Ok((run_id, Stop { grace, why: StopWhy::Asked, evidence }))
}
