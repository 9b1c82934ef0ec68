//! The commands of port 9182, over the wire.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::sync::Arc;

use fake::{List, SPOOL, worker};
use ntrace_client::{CallError, RunnerControl};
use ntrace_protocol::{WireError, WorkerState};
use ntrace_runner::control::{Control, serve};
use ntrace_runner::uplink::{Uplink, UplinkConfig};
use ntrace_session::Listener;
use ntrace_spool::Spool;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

struct Port {
    addr: String,
    list: Arc<List>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn port() -> Port {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&any, false).await.unwrap();
    let addr = listener.addrs()[0].to_string();
    let dir = tempfile::tempdir().unwrap();
    let opened = Spool::open(dir.path(), SPOOL).unwrap();
    let list = List::new();
    let stop = CancellationToken::new();
    let config = UplinkConfig {
        // Nobody is there, which is nothing to this port.
        dispatcher: "127.0.0.1:1".into(),
        name: "tester".parse().unwrap(),
        zone: None,
        waits: fake::waits(),
    };
    let uplink =
        Uplink::start(config, opened, list.clone(), stop.clone()).unwrap();
    let identity = json!({"name": "tester"});
    let control = Control { workers: list.clone(), uplink, identity };
    tokio::spawn(serve(listener, control, stop.clone()));
    Port { addr, list, stop, _dir: dir }
}

fn refused<T>(outcome: Result<T, CallError>) -> WireError {
    match outcome {
        Err(CallError::Refused(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test]
async fn a_worker_is_enrolled_shown_cleaned_and_expelled() {
    let port = port().await;
    let client = RunnerControl::connect(&port.addr).await.unwrap();
    let uuid = worker(7).to_string();
    let options = json!({"snapshot": "base", "labels": ["fast"]});
    let view = client.enroll(&uuid, options).await.unwrap();
    assert_eq!((view.uuid, view.snapshot.as_str()), (worker(7), "base"));
    assert_eq!(view.labels, ["fast".parse().unwrap()]);
    client.enroll(&uuid, Value::Null).await.unwrap();
    assert_eq!(client.workers().await.unwrap().len(), 1);
    let view = client.clean(&uuid).await.unwrap();
    assert_eq!(view.state, WorkerState::Halting);
    let view = client.expel(&uuid).await.unwrap();
    assert_eq!(view.state, WorkerState::Expelled);
    let other = worker(8).to_string();
    for outcome in [client.clean(&other).await, client.expel(&other).await] {
        assert_eq!(refused(outcome).code.as_str(), "ENOENT");
    }
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    let port = port().await;
    let client = RunnerControl::connect(&port.addr).await.unwrap();
    let uuid = json!(worker(1));
    for (name, args, field) in [
        ("enroll", json!([]), "uuid"),
        ("enroll", json!(["w1"]), "uuid"),
        ("enroll", json!([5]), "uuid"),
        ("clean", json!([{"uuid": uuid}]), "uuid"),
        ("expel", json!(["../../etc"]), "uuid"),
        ("enroll", json!([uuid, "clean"]), "options"),
        ("enroll", json!([uuid, {"snap": "x"}]), "options"),
        ("enroll", json!([uuid, {"snapshot": "-r"}]), "snapshot"),
        ("enroll", json!([uuid, {"snapshot": 5}]), "snapshot"),
        ("enroll", json!([uuid, {"labels": "x"}]), "labels"),
        ("workers", json!([1]), "argument 1"),
    ] {
        let args = args.as_array().unwrap().clone();
        let outcome = client.peer().call(name, &args, fake::DEADLINE).await;
        let error = refused(outcome);
        assert_eq!(error.field.as_deref(), Some(field), "{name} {args:?}");
        if field == "uuid" && !args.is_empty() {
            assert!(error.message.contains("36 characters"), "{error}");
        }
    }
    assert!(client.workers().await.unwrap().is_empty());
    let unknown = client.peer().call("reboot", &[], fake::DEADLINE).await;
    assert_eq!(refused(unknown).code.as_str(), "ENOCMD");
}

#[tokio::test]
async fn status_drain_and_help_answer() {
    let port = port().await;
    let client = RunnerControl::connect(&port.addr).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!(status["name"], "tester");
    assert_eq!(status["connected"], false);
    assert_eq!(status["runs"], json!([]));
    client.drain().await.unwrap();
    assert!(port.list.drained.is_cancelled());
    let help = client.peer().call("help", &[], fake::DEADLINE).await.unwrap();
    assert!(help[0].as_array().unwrap().len() >= 8);
}

#[tokio::test]
async fn a_ping_with_back_asks_the_caller_first() {
    let port = port().await;
    let stream = TcpStream::connect(&port.addr).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"[\"ping\",[{\"back\":\"x\"}],\"id\"]\n").await.unwrap();
    let asked = lines.next_line().await.unwrap().unwrap();
    assert_eq!(asked, "[\"ping\",[\"x\"],1]");
    writer.write_all(b"[[null,\"y\"],1]\n").await.unwrap();
    let answer = lines.next_line().await.unwrap().unwrap();
    assert_eq!(answer, "[[null,\"y\"],\"id\"]");
    writer.write_all(b"[\"ping\",[\"z\"],2]\n").await.unwrap();
    let answer = lines.next_line().await.unwrap().unwrap();
    assert_eq!(answer, "[[null,\"z\"],2]");
}
