//! The same driver against the Linux stand-in, with real zones.
//!
//! Its programs are looked for beside this test (`cargo build -p
//! ntrace-standin`) or in the directory that `NTRACE_TEST_PROGRAMS` names;
//! without them, the tests say so and do nothing.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ntrace_zones::{
    Carrier, Collect, Directory, Driver, Ended, Inside, JobSpec, Kind, Local,
    Lost, Programs, Run, Signal, SnapshotName, UserName, VmState, WorkerUuid,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

const MANIFEST: &str = r#"{
  "alias": "driven", "brand": "joyent",
  "image_uuid": "6e747261-6365-4000-8000-000000000001",
  "autoboot": false, "max_physical_memory": 512, "max_lwps": 300,
  "quota": 2, "tmpfs": 64
}"#;

struct Zone {
    programs: PathBuf,
    state: TempDir,
    uuid: WorkerUuid,
    driver: Driver,
}

impl Zone {
    fn new() -> Option<Self> {
        let programs = programs()?;
        let state = tempfile::tempdir().unwrap();
        let made = vmadm(&programs, state.path(), &["create"], MANIFEST);
        let uuid = made.split_whitespace().last().unwrap().parse().unwrap();
        let local = Local::new(Programs::Files {
            vmadm: programs.join("vmadm"),
            zlogin: programs.join("zlogin"),
        })
        .unwrap()
        .with_env("NTRACE_ZONES", state.path());
        let driver = Driver::new(Arc::new(Carrier::Local(local)));
        let zone = Self { programs, state, uuid, driver };
        zone.vmadm(&["create-snapshot", &uuid.to_string(), "clean"]);
        Some(zone)
    }

    fn vmadm(&self, args: &[&str]) -> String {
        vmadm(&self.programs, self.state.path(), args, "")
    }

    async fn reset(&self) -> (ntrace_zones::Worker, Inside) {
        let worker = self.driver.take(self.uuid, soon()).await.unwrap();
        worker.halt(soon()).await.unwrap();
        let done = worker.roll_back(&clean(), soon()).await.unwrap();
        worker.ensure_booted(done.before.as_ref(), soon()).await.unwrap();
        let inside = worker.probe(soon()).await.unwrap();
        assert_eq!(inside.kind(), &Kind::Native);
        (worker, inside)
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.vmadm(&["delete", &self.uuid.to_string()]);
    }
}

fn programs() -> Option<PathBuf> {
    let named = std::env::var_os("NTRACE_TEST_PROGRAMS").map(PathBuf::from);
    let beside = std::env::current_exe().unwrap();
    let beside = beside.parent().and_then(Path::parent).map(Path::to_owned);
    let found = [named, beside]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("vmadm").exists() && dir.join("zlogin").exists());
    if found.is_none() {
        eprintln!("skipped: no stand-in; cargo build -p ntrace-standin");
    }
    found
}

/// What vmadm says on stderr; it must succeed.
fn vmadm(programs: &Path, state: &Path, args: &[&str], input: &str) -> String {
    let mut child = Command::new(programs.join("vmadm"))
        .env("NTRACE_ZONES", state)
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "vmadm {args:?}: {said}");
    said.trim().to_owned()
}

fn clean() -> SnapshotName {
    "clean".parse().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn job() -> UserName {
    "job".parse().unwrap()
}

fn home() -> Directory {
    Directory::new("/home/job").unwrap()
}

fn sh(script: &str) -> JobSpec {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    JobSpec::new(job(), home(), argv, env).unwrap()
}

async fn all(from: &mut mpsc::Receiver<Bytes>) -> String {
    let mut whole = Vec::new();
    while let Some(chunk) = from.recv().await {
        whole.extend_from_slice(&chunk);
    }
    String::from_utf8(whole).unwrap()
}

async fn finish(mut run: Run) -> (String, String, Ended) {
    let (out, err) = tokio::join!(all(&mut run.stdout), all(&mut run.stderr));
    (out, err, run.ended().await.ended)
}

#[tokio::test]
async fn a_job_runs_in_a_zone_and_the_next_sees_nothing_of_it() {
    let Some(zone) = Zone::new() else { return };
    let (worker, inside) = zone.reset().await;
    let script = "id -u; pwd; echo mine >file; setsid sleep 300 & \
                  echo err >&2; exit 3";
    let run = inside.run(&sh(script), soon()).unwrap();
    let (out, err, ended) = finish(run).await;
    assert_eq!((out.as_str(), err.as_str()), ("1000\n/home/job\n", "err\n"));
    assert!(matches!(ended, Ended::Exit(3)), "{ended:?}");
    drop(worker);

    let (worker, inside) = zone.reset().await;
    let (out, _, _) =
        finish(inside.run(&sh("ls -A; ps -e"), soon()).unwrap()).await;
    assert!(!out.contains("file"), "{out}");
    assert!(!out.contains("sleep"), "{out}");
    worker.halt(soon()).await.unwrap();
}

#[tokio::test]
async fn ends_are_told_apart() {
    let Some(zone) = Zone::new() else { return };
    let (worker, inside) = zone.reset().await;
    let (_, err, ended) =
        finish(inside.run(&sh("kill -SEGV $$"), soon()).unwrap()).await;
    assert_eq!(err, "");
    assert!(
        matches!(&ended, Ended::Signal { name, .. } if name == "SIGSEGV"),
        "{ended:?}"
    );
    let (_, _, ended) =
        finish(inside.run(&sh("exit 137"), soon()).unwrap()).await;
    assert!(matches!(ended, Ended::Exit(137)), "{ended:?}");
    let spec = JobSpec::new(job(), home(), vec!["/none".to_owned()], vec![]);
    let (_, _, ended) =
        finish(inside.run(&spec.unwrap(), soon()).unwrap()).await;
    assert!(matches!(ended, Ended::Error { code: Some(127), .. }), "{ended:?}");
    // The zone is halted under the job: no success, whatever zlogin says.
    let mut run = inside.run(&sh("echo up; sleep 300"), soon()).unwrap();
    assert_eq!(&run.stdout.recv().await.unwrap()[..], b"up\n");
    worker.halt(soon()).await.unwrap();
    let (_, _, ended) = finish(run).await;
    assert!(matches!(ended, Ended::NoMarker(Lost::Silent(_))), "{ended:?}");
}

#[tokio::test]
async fn files_go_in_and_come_out_of_a_zone() {
    let Some(zone) = Zone::new() else { return };
    let (worker, inside) = zone.reset().await;
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("sub")).unwrap();
    std::fs::write(files.path().join("sub/a.txt"), "in").unwrap();
    let tar = Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(files.path())
        .arg("sub")
        .output()
        .unwrap()
        .stdout;
    let work = Directory::new("/home/job/work").unwrap();
    let tar = std::io::Cursor::new(tar);
    inside.unpack_first(&job(), &work, tar, soon()).await.unwrap();
    let again = inside.unpack_first(&job(), &work, &[][..], soon()).await;
    let why = again.unwrap_err().to_string();
    assert!(why.contains("somebody was here first"), "{why}");
    let script = "cat work/sub/a.txt; echo out >work/sub/b.log; \
                  ln -s /etc/passwd work/sub/c.log";
    let (out, err, _) = finish(inside.run(&sh(script), soon()).unwrap()).await;
    assert_eq!((out.as_str(), err.as_str()), ("in", ""));
    let want = Collect {
        user: job(),
        dir: work,
        globs: vec!["**/*.log".to_owned()],
        max_bytes: 1 << 20,
        max_files: 10,
    };
    let mut collecting = inside.collect(&want, soon()).await.unwrap();
    let mut tar = Vec::new();
    while let Some(chunk) = collecting.tar.recv().await {
        tar.extend_from_slice(&chunk);
    }
    let collected = collecting.ended().await.unwrap();
    assert_eq!(collected.files, 1, "{collected:?}");
    std::fs::write(files.path().join("tar"), tar).unwrap();
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(files.path().join("tar"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.trim().trim_start_matches("./"), "sub/b.log");

    let broken = &b"no tar at all, but long enough to look"[..];
    let dir = Directory::new("/home/job/other").unwrap();
    assert!(inside.unpack(&job(), &dir, broken, soon()).await.is_err());
    worker.halt(soon()).await.unwrap();
}

#[tokio::test]
async fn processes_are_seen_and_killed() {
    let Some(zone) = Zone::new() else { return };
    let (worker, inside) = zone.reset().await;
    let script = "setsid sleep 301 & echo up; sleep 302";
    let mut run = inside.run(&sh(script), soon()).unwrap();
    assert_eq!(&run.stdout.recv().await.unwrap()[..], b"up\n");
    let deadline = soon();
    loop {
        let all = inside.ps(soon()).await.unwrap();
        let has = |number: &str| {
            all.iter().any(|one| one.argv.iter().any(|word| word == number))
        };
        if has("301") && has("302") {
            break;
        }
        assert!(Instant::now() < deadline, "{all:?}");
    }
    inside.kill(&job(), Signal::Kill, soon()).await.unwrap();
    let (_, _, ended) = finish(run).await;
    assert!(
        matches!(&ended, Ended::Signal { name, .. } if name == "SIGKILL"),
        "{ended:?}"
    );
    worker.halt(soon()).await.unwrap();
}

#[tokio::test]
async fn the_death_of_the_carrier_ends_its_zones() {
    let Some(zone) = Zone::new() else { return };
    let (worker, _) = zone.reset().await;
    drop(worker);
    let Zone { programs, state, uuid, .. } = &zone;
    // Another carrier, whose end is that of its lifeline.
    let local = Local::new(Programs::Files {
        vmadm: programs.join("vmadm"),
        zlogin: programs.join("zlogin"),
    })
    .unwrap()
    .with_env("NTRACE_ZONES", state.path());
    let other = Driver::new(Arc::new(Carrier::Local(local)));
    let worker = other.take(*uuid, soon()).await.unwrap();
    worker.roll_back(&clean(), soon()).await.unwrap();
    drop((worker, other));
    let deadline = soon();
    loop {
        let vm = zone.driver.vmadm().get(*uuid, soon()).await.unwrap();
        if vm.state == VmState::Stopped {
            break;
        }
        assert!(Instant::now() < deadline, "still {}", vm.state);
    }
}
