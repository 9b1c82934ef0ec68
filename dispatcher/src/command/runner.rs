//! Commands of runners: `hello`, `next`, `beat`; and `runners`, `workers`.

use std::time::Duration;

use ntrace_protocol::WireError;
use ntrace_protocol::runner::{Hello, Next};
use ntrace_protocol::text::quote;
use ntrace_protocol::unit::MAX_DURATION;
use serde_json::{Value, json};

use super::Answer;
use crate::args::{Options, field};
use crate::connection::Connection;
use crate::engine::Request;

/// Workers or runs that one runner may name.
const NAMED_MAX: usize = 4096;

/// `hello`.
pub(crate) async fn hello(conn: &Connection, args: Vec<Value>) -> Answer {
    let hello = Box::new(read_hello(args)?);
    let from = conn.as_runner();
    let engine = &conn.shared.engine;
    let welcome =
        engine.ask(|reply| Request::Hello { from, hello, reply }).await?;
    Ok(vec![json!(welcome)])
}

fn read_hello(args: Vec<Value>) -> Result<Hello, WireError> {
    let Some(Value::Object(mut map)) = args.into_iter().next() else {
        return Err(WireError::invalid(
            "runner",
            "runner must be an object like {\"name\":\"r0\",\"version\":\
             \"0.1.0\",\"workers\":[],\"runs\":[]}",
        ));
    };
    for name in ["workers", "runs"] {
        let is_absent = map.get(name).is_none_or(Value::is_null);
        if is_absent {
            map.insert(name.to_owned(), json!([]));
        }
    }
    map.entry("zone").or_insert(Value::Null);
    let hello = Hello {
        name: field(&mut map, "name")?,
        version: field(&mut map, "version")?,
        zone: field(&mut map, "zone")?,
        workers: field(&mut map, "workers")?,
        runs: field(&mut map, "runs")?,
    };
    if hello.workers.len() > NAMED_MAX {
        return Err(too_many("workers"));
    }
    if hello.runs.len() > NAMED_MAX {
        return Err(too_many("runs"));
    }
    Ok(hello)
}

fn too_many(field: &str) -> WireError {
    WireError::invalid(field, format!("at most {NAMED_MAX} {field} are taken"))
}

/// `next`.
pub(crate) async fn next(conn: &Connection, args: &[Value]) -> Answer {
    let options = Options::read(args, 0, "options", &["wait_ms", "worker"])?;
    let next = Next {
        wait_ms: options.typed("wait_ms", "a whole number from 0")?,
        worker: options.typed("worker", "the worker's UUID")?,
    };
    let wait = next.wait_ms.map(Duration::from_millis);
    let wait = wait.map(|wait| wait.min(MAX_DURATION));
    let (from, worker) = (conn.as_runner(), next.worker);
    let engine = &conn.shared.engine;
    let asked = engine.ask(|reply| Request::Next { from, worker, wait, reply });
    // Who will never report gets no work: a runner that was killed leaves a
    // half-closed connection, which is kept while a command is under way.
    let answer = tokio::select! {
        biased;
        () = conn.peer.ended_sending() => return Ok(vec![Value::Null]),
        answer = asked => answer??,
    };
    Ok(vec![json!(answer)])
}

/// `beat`.
pub(crate) async fn beat(conn: &Connection, args: Vec<Value>) -> Answer {
    let runs = args.into_iter().next().unwrap_or(Value::Null);
    let shown = quote(&runs.to_string());
    let runs: Vec<_> = serde_json::from_value(runs).map_err(|_| {
        WireError::invalid(
            "runs",
            format!("runs must be a list of {{run_id, lease}}, not {shown}"),
        )
    })?;
    if runs.len() > NAMED_MAX {
        return Err(too_many("runs"));
    }
    conn.beaten();
    let from = conn.as_runner();
    let engine = &conn.shared.engine;
    let drop = engine.ask(|reply| Request::Beat { from, runs, reply }).await?;
    Ok(vec![json!({"drop": drop})])
}

/// `runners`.
pub(crate) async fn runners(conn: &Connection) -> Answer {
    Ok(vec![json!(conn.shared.engine.ask(Request::Runners).await?)])
}

/// `workers`.
pub(crate) async fn workers(conn: &Connection) -> Answer {
    Ok(vec![json!(conn.shared.engine.ask(Request::Workers).await?)])
}
