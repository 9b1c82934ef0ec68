//! Commands about the dispatcher itself: `ping`, `help`, `stats`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ntrace_protocol::WireError;
use ntrace_protocol::command::{DISPATCHER, help as help_of};
use serde_json::{Value, json};

use super::Answer;
use crate::connection::Connection;
use crate::engine::Request;

/// How long a peer may take to answer the ping that it asked for.
const PING_BACK: Duration = Duration::from_secs(10);

/// `ping x`, or `ping {back:x}`.
pub(crate) async fn ping(conn: &Connection, args: &[Value]) -> Answer {
    let x = args.first().cloned();
    let back = x.as_ref().and_then(|x| match x.as_object() {
        Some(map) if map.len() == 1 => map.get("back"),
        _ => None,
    });
    let Some(back) = back else {
        return Ok(x.into_iter().collect());
    };
    let called =
        conn.peer.call("ping", std::slice::from_ref(back), PING_BACK).await;
    called.map_err(|error| match error.wire() {
        Some(wire) => wire.clone(),
        None => WireError::new(
            ntrace_protocol::Code::Etime,
            format!("your own ping was not answered: {error}"),
        ),
    })
}

/// `help [command]`.
pub(crate) fn help(args: &[Value]) -> Answer {
    Ok(vec![help_of(DISPATCHER, args.first())?])
}

/// `stats`.
pub(crate) async fn stats(conn: &Connection) -> Answer {
    let shared = &conn.shared;
    let load = shared.engine.ask(Request::Load).await?;
    let counts = shared.store.counts();
    let mut view = shared.stats.view();
    let uptime = shared.began.elapsed().as_millis();
    let now = json!({
        "version": env!("CARGO_PKG_VERSION"),
        // For whoever wants to know whether the clocks agree.
        "now": crate::clock::now(),
        "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
        "queued": counts.queued.load(Ordering::Relaxed),
        "runs": load.leases,
        "waiting_runners": load.waiters,
        "runners": load.runners,
        "commits": counts.commits.load(Ordering::Relaxed),
        "operations": counts.operations.load(Ordering::Relaxed),
    });
    if let Value::Object(now) = now {
        view.extend(now);
    }
    Ok(vec![Value::Object(view)])
}
