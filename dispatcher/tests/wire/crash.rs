//! The real program: killed under load, ended by a signal, on a full disk.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{DEADLINE, SHA};

/// The program, killed when it is dropped.
struct Program {
    child: Child,
    port: u16,
}

impl Program {
    fn start(dir: &Path, flags: &[&str]) -> Self {
        let port_file = dir.join("port");
        // It is not there if it is the first start.
        let _ = std::fs::remove_file(&port_file);
        let child = Command::new(env!("CARGO_BIN_EXE_ntrace-dispatcher"))
            .args(["--listen", "localhost:0", "--data"])
            .arg(dir.join("data"))
            .arg("--port-file")
            .arg(&port_file)
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut program = Self { child, port: 0 };
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Ok(text) = std::fs::read_to_string(&port_file) {
                program.port = text.trim().parse().unwrap();
                return program;
            }
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(Instant::now() < deadline, "it does not start");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn call(&self, name: &str, args: Value) -> Value {
        let mut stream = self.connect();
        writeln!(stream, "{}", json!([name, args, 1])).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()[0].take()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes without waiting for answers, and gives the ids that were answered
/// when the connection broke.
fn load(stream: TcpStream, count: &AtomicUsize) -> Vec<String> {
    let mut write = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for id in 0..100_000 {
            let line = json!(["push", ["o", "r", SHA], id]);
            if writeln!(write, "{line}").is_err() {
                return;
            }
        }
    });
    let mut acked = Vec::new();
    let mut read = BufReader::new(stream);
    let mut line = String::new();
    while read.read_line(&mut line).is_ok_and(|n| n > 0) {
        // The last line may be torn: then nothing was answered.
        if let Ok(answer) = serde_json::from_str::<Value>(&line)
            && line.ends_with('\n')
        {
            acked.push(answer[0][1].as_str().unwrap().to_owned());
            count.fetch_add(1, Ordering::Relaxed);
        }
        line.clear();
    }
    writing.join().unwrap();
    acked
}

fn all_jobs(program: &Program) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), Value::Null);
    loop {
        let filter = json!([{"limit": 1000, "after": after}]);
        let page = program.call("list", filter);
        assert!(page[0].is_null(), "{page}");
        let jobs = page[1].as_array().unwrap();
        all.extend(jobs.iter().map(|j| j["id"].as_str().unwrap().to_owned()));
        after = page[2].clone();
        if after.is_null() {
            return all;
        }
    }
}

#[test]
fn every_push_that_was_answered_outlives_a_kill_exactly_once() {
    let temp = tempfile::tempdir().unwrap();
    let mut acked = Vec::new();
    for round in 0..5 {
        let mut program = Program::start(temp.path(), &[]);
        let count = Arc::new(AtomicUsize::new(0));
        let loads: Vec<_> = (0..4)
            .map(|_| {
                let (stream, count) = (program.connect(), count.clone());
                std::thread::spawn(move || load(stream, &count))
            })
            .collect();
        // In the midst of the load, each time at another point.
        let deadline = Instant::now() + DEADLINE;
        while count.load(Ordering::Relaxed) < 50 + 333 * round {
            assert!(Instant::now() < deadline, "there are no answers");
            std::thread::sleep(Duration::from_millis(1));
        }
        program.child.kill().unwrap();
        program.child.wait().unwrap();
        for load in loads {
            acked.extend(load.join().unwrap());
        }
    }
    let program = Program::start(temp.path(), &[]);
    let all = all_jobs(&program);
    let once: BTreeSet<_> = all.iter().collect();
    assert_eq!(once.len(), all.len(), "a job is there twice");
    let lost = acked.iter().filter(|id| !once.contains(id)).count();
    assert_eq!(lost, 0, "of {} answers", acked.len());
}

#[test]
fn output_that_was_acknowledged_outlives_a_kill() {
    let temp = tempfile::tempdir().unwrap();
    let program = Program::start(temp.path(), &[]);
    let id = program.call("push", json!(["o", "r", SHA]))[1].take();
    let mut stream = program.connect();
    let mut read = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |name: &str, args: Value| {
        writeln!(stream, "{}", json!([name, args, 1])).unwrap();
        let mut line = String::new();
        read.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()[0].take()
    };
    ask("hello", json!([{"name": "r0", "version": "1"}]));
    let run = ask("next", json!([]))[1].take();
    let mut acked = 0;
    for seq in 1..=200 {
        let report = json!({
            "job": id, "run_id": run["run_id"], "lease": run["lease"],
            "stream": "stdout", "seq": seq, "data": format!("line {seq}\n"),
            "when": "2026-01-31T12:00:00Z",
        });
        acked = ask("result", json!([report]))[1]["acked"]["stdout"]
            .as_u64()
            .unwrap();
    }
    assert_eq!(acked, 200);
    drop(program);
    let program = Program::start(temp.path(), &[]);
    let mut stream = program.connect();
    writeln!(stream, "{}", json!(["logs", [id], 1])).unwrap();
    let mut lines = BufReader::new(stream).lines();
    for seq in 1..=200 {
        let log: Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(log[1][0]["data"], format!("line {seq}\n"));
    }
}

#[test]
fn a_signal_drains_and_ends_well() {
    let temp = tempfile::tempdir().unwrap();
    let mut program = Program::start(temp.path(), &[]);
    let mut waiting = program.connect();
    writeln!(waiting, "{}", json!(["next", [], 1])).unwrap();
    program.call("ping", json!([]));
    program.signal(rustix::process::Signal::TERM);
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = program.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

/// A small file system of its own; none where that is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m,mode=0755", "tmpfs"])
            .arg(temp.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|s| s.success()).then_some(Self(temp))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let program = Program::start(disk.0.path(), &[]);
    let mut pushed = BTreeSet::new();
    let run = "x".repeat(50_000);
    let args = json!(["o", "r", SHA, {"run": run}]);
    let refused = loop {
        let mut answer = program.call("push", args.clone());
        if !answer[0].is_null() {
            break answer[0].take();
        }
        pushed.insert(answer[1].as_str().unwrap().to_owned());
        assert!(pushed.len() < 1000, "the disk does not fill");
    };
    assert_eq!(refused["code"], "EAGAIN", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("full"));
    // It lives, shows what it has, and after a restart has just that.
    let kept: BTreeSet<_> = all_jobs(&program).into_iter().collect();
    assert_eq!(kept, pushed);
    drop(program);
    let program = Program::start(disk.0.path(), &[]);
    let kept: BTreeSet<_> = all_jobs(&program).into_iter().collect();
    assert_eq!(kept, pushed);
    drop(program);
}
