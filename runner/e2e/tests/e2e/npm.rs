//! The unmodified npm package `rpc-stream` drives both ports, in both
//! directions.

use std::path::Path;
use std::process::{Command, Stdio};

use ntrace_e2e::{Setup, Stage, skip};
use ntrace_protocol::JobState;
use serde_json::{Value, json};

/// What is done with the package; it prints one JSON object.
const DRIVER: &str = r#"
const net = require('net');
const rpc = require('rpc-stream');
const [, , dispatcher, runner, uuid] = process.argv;
const out = { pings: [], records: [] };
const fail = (err) => { console.error(err); process.exit(1); };
setTimeout(() => fail(new Error('too late')), 80000).unref();

function connect(port, methods) {
  const client = rpc(methods || {});
  const socket = net.connect({ port: +port, host: 'localhost' });
  client.pipe(socket).pipe(client);
  return { call: client.wrap(['push', 'status', 'logs', 'wait', 'ping',
    'help', 'enroll', 'workers', 'nonsense', 'submit']), socket };
}

// The package hands a method its arguments one by one.
const plain = {
  ping: (x, cb) => { out.pings.push(x);
    if (typeof cb === 'function') cb(null, x); },
  log: (record, cb) => { out.records.push(record);
    if (typeof cb === 'function') cb(null); },
};

const d = connect(dispatcher, plain);
const r = connect(runner, plain);
const sha = '0f16cfe0d6a3b8e87229c91bee901fad5dae9878';
d.call.ping('hello', (err, answer) => {
  if (err) return fail(err);
  out.answer = answer;
  d.call.ping({ back: 'and back' }, (err, back) => {
    if (err) return fail(err);
    out.back = back;
    d.call.push('dscape', 'nano', 'no commit', (err) => {
      out.refusal = { message: err.message, code: err.code, field: err.field,
        isError: err instanceof Error };
      d.call.push('dscape', 'nano', sha, (err, pushed) => {
        if (err) return fail(err);
        out.pushed = pushed;
        work();
      });
    });
  });
});

function work() {
  r.call.enroll(uuid, (err, worker) => {
    if (err) return fail(err);
    out.worker = worker;
    r.call.workers((err, workers) => {
      if (err) return fail(err);
      out.workers = workers;
      r.call.ping({ back: 7 }, (err, back) => {
        if (err) return fail(err);
        out.runnerBack = back;
        run();
      });
    });
  });
}

function run() {
  const job = { argv: ['sh', '-c', 'echo one; echo two >&2; echo three'] };
  d.call.submit(job, (err, id) => {
    if (err) return fail(err);
    d.call.logs(id, { follow: true }, (err, end) => {
      if (err) return fail(err);
      out.end = end;
      d.call.status(id, (err, status) => {
        if (err) return fail(err);
        out.status = status;
        console.log(JSON.stringify(out));
        process.exit(0);
      });
    });
  });
}
"#;

/// Installs the package; none where that cannot be done here.
fn install(dir: &Path) -> Option<()> {
    let run = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
        .args(["--fetch-retries=1", "--fetch-timeout=20000"])
        .arg("rpc-stream@2.1.2")
        .current_dir(dir)
        .stdin(Stdio::null())
        .output();
    match run {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            skip(&format!("npm brings no rpc-stream: {errors}"));
            None
        }
        Err(error) => {
            skip(&format!("npm cannot be run: {error}"));
            None
        }
    }
}

fn drive(dir: &Path, stage: &Stage, uuid: &str) -> Value {
    std::fs::write(dir.join("driver.js"), DRIVER).unwrap();
    let output = Command::new("node")
        .arg("driver.js")
        .arg(stage.dispatcher_port().to_string())
        .arg(stage.runner_port().to_string())
        .arg(uuid)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_npm_client_drives_both_ports_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("package.json"), "{\"private\":true}")
        .unwrap();
    if install(dir.path()).is_none() {
        return;
    }
    let mut stage = Stage::start(Setup::workers(0)).await;
    let uuid = stage.zones.create(&ntrace_e2e::zones::Zones::manifest());
    stage.list(&uuid);
    stage.workers.push(uuid.clone());
    let out = drive(dir.path(), &stage, &uuid);

    assert_eq!(out["answer"], "hello");
    assert_eq!(out["back"], "and back");
    assert_eq!(out["runnerBack"], 7);
    assert_eq!(out["pings"], json!(["and back", 7]));
    assert_eq!(out["refusal"]["code"], "EINVAL", "{out}");
    assert_eq!(out["refusal"]["field"], "commit", "{out}");
    assert_eq!(out["refusal"]["isError"], true, "{out}");
    assert_eq!(out["worker"]["uuid"], json!(uuid), "{out}");
    assert_eq!(out["workers"][0]["uuid"], json!(uuid), "{out}");
    assert_eq!(out["end"]["ended"], true, "{out}");
    assert_eq!(out["end"]["exit"], json!({"code": 0}), "{out}");
    assert_eq!(out["status"]["state"], "done", "{out}");
    let text = |stream: &str| -> String {
        let records = out["records"].as_array().unwrap().iter();
        let of = records.filter(|record| record["stream"] == stream);
        of.filter_map(|record| record["data"].as_str()).collect()
    };
    assert_eq!(text("stdout"), "one\nthree\n");
    assert_eq!(text("stderr"), "two\n");
    let pushed = out["pushed"].as_str().unwrap().parse().unwrap();
    let job = stage.finished(pushed).await;
    assert_eq!(job.state, JobState::Failed, "there is no such repository");
}
