//! A traced zone with a stand-in for perf: a real process that follows the
//! interface and misbehaves as it is told. The zone is a process in a user
//! namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ntrace_profile::{folded, pprof};
use ntrace_tracers::{
    Cpu, Labels, Perf, Running, StartError, Target, Trace, TraceError, Tracer,
};
use ntrace_zones::{Carrier, Driver, Local, Programs, Worker};
use tempfile::TempDir;
use tokio::time::Instant;

const U: &str = "c0ffee00-1111-4222-8333-444455556666";
const DEADLINE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(1);

/// `mode` says in words how it misbehaves. The second part runs in the cell,
/// where nothing of the test's directory can be written.
const FAKE: &str = r#"#!/bin/bash
D=@D@
is() { grep -qw "$1" $D/mode; }
record() {
    echo $$ >$D/pid
    echo "$*" >$D/args
    all="$*"
    data=${all##* }
    is refuse && { echo "Permission error mapping pages." >&2; exit 129; }
    is mute && { trap '' INT; exec sleep 3600; }
    control=${all##*--control=fd:}
    control=${control%% *}
    read -r word <&${control%,*}
    [ "$word" = enable ] || exit 2
    echo data >$data
    trap 'exit 0' INT
    is deaf && trap '' INT
    printf 'ack\n\0' >&${control#*,}
    is die && kill -9 $$
    is full && exit 0
    is deaf && exec sleep 3600
    while :; do sleep 0.02; done
}
script() {
    sample() { printf '%s 7/7 1.0: cpu-clock: \n\t1 %s (/x)\n\n' "$1" "$2"; }
    is fail && { echo "incompatible file format" >&2; exit 1; }
    sample prog main
    printf 'prog 7/7 1.1: PERF_RECORD_LOST lost 5\n'
    sample zone-job carry
    is stuck && exec sleep 3600
    is worse && exit 3
    # What a reader that a job's file took over would find.
    [ -e /proc/self ] && sample cell has-proc
    [ -e @SECRET@ ] && sample cell sees-the-runners-files
    touch $D/written 2>&- && sample cell writes
    [ "$(cat /tmp/perf.data)" = data ] || sample cell has-no-data
    [ -s /tmp/kallsyms ] || sample cell has-no-kernel
    exit 0
}
"$1" "$@"
"#;

/// A zone: its process 1, and its group.
struct Zone {
    init: Child,
    group: PathBuf,
}

impl Zone {
    /// None: it takes root, and a writable hierarchy.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root may trace by perf");
            return None;
        }
        let at = hierarchy();
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ntrace-perf-{}-{number}", std::process::id());
        let group = at.map(|at| at.join(name));
        let Some(group) = group.filter(|path| fs::create_dir(path).is_ok())
        else {
            eprintln!("SKIPPED: no cgroup for perf events can be made");
            return None;
        };
        fs::remove_dir(&group).unwrap();
        // A user that is nobody here, as a zone's root is.
        let mut init = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c"])
            .arg("echo; exec sleep 3600")
            .stdout(Stdio::piped())
            .uid(54_322)
            .gid(54_322)
            .spawn()
            .unwrap();
        let mut byte = [0];
        init.stdout.take().unwrap().read_exact(&mut byte).unwrap();
        Some(Self { init, group })
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
        if !std::thread::panicking() {
            assert!(!self.group.exists(), "the group is left behind");
        }
        let _ = fs::remove_dir(&self.group);
    }
}

/// Where perf looks for groups.
fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let words: Vec<Vec<&str>> =
        mounts.lines().map(|line| line.split(' ').collect()).collect();
    let v1 = |line: &&Vec<&str>| {
        line[2] == "cgroup" && line[3].split(',').any(|o| o == "perf_event")
    };
    let v2 = |line: &&Vec<&str>| line[2] == "cgroup2";
    let mut all = words.iter();
    let found = all.find(v1).or_else(|| words.iter().find(v2));
    found.map(|line| PathBuf::from(line[1]))
}

struct Place {
    dir: TempDir,
    worker: Worker,
    perf: Perf,
    zone: Zone,
}

impl Place {
    async fn new(mode: &str) -> Option<Self> {
        let zone = Zone::new()?;
        // The cell has a /tmp of its own.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = dir.path();
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(at, open.clone()).unwrap();
        let rooms = at.join("rooms");
        let secret = rooms.join("1/shelf");
        let fake = FAKE
            .replace("@D@", at.to_str().unwrap())
            .replace("@SECRET@", secret.to_str().unwrap());
        let vm = serde_json::json!({
            "uuid": U,
            "pid": zone.init.id(),
            "ntrace": {"trace": {"group": zone.group, "socket": null}},
        });
        fs::write(at.join("mode"), mode).unwrap();
        fs::write(at.join("vm"), vm.to_string()).unwrap();
        let vmadm = format!("#!/bin/sh\ncat {}/vm\n", at.display());
        for (name, text) in [("perf", fake), ("vmadm", vmadm)] {
            fs::write(at.join(name), text).unwrap();
            fs::set_permissions(at.join(name), open.clone()).unwrap();
        }
        let files = Programs::Files {
            vmadm: at.join("vmadm"),
            zlogin: PathBuf::from("/nonexistent/zlogin"),
        };
        let carrier = Carrier::Local(Local::new(files).unwrap());
        let driver = Driver::new(Arc::new(carrier));
        let uuid = U.parse().unwrap();
        let worker = driver.take(uuid, Instant::now() + DEADLINE).await;
        let perf = Perf::at(at.join("perf"), &rooms).unwrap();
        Some(Self { worker: worker.unwrap(), perf, dir, zone })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn start(
        &self,
        within: Duration,
    ) -> Result<Box<dyn Running>, StartError> {
        let deadline = Instant::now() + within;
        let target = Target { worker: &self.worker, hz: None, deadline };
        self.perf.start(target).await
    }

    /// Whether its process is there.
    fn runs(&self) -> bool {
        let pid = fs::read_to_string(self.path().join("pid"));
        pid.is_ok_and(|pid| PathBuf::from("/proc").join(pid.trim()).exists())
    }

    /// Waits until its process is gone.
    async fn is_gone(&self) {
        let until = Instant::now() + DEADLINE;
        while self.runs() {
            assert!(Instant::now() < until, "it is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing of it is left.
    async fn leaves_nothing(&self) {
        self.is_gone().await;
        let rooms = self.path().join("rooms");
        let until = Instant::now() + DEADLINE;
        while self.zone.group.exists()
            || fs::read_dir(&rooms).unwrap().count() > 0
        {
            assert!(Instant::now() < until, "something is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn finish(
    running: Box<dyn Running>,
    within: Duration,
) -> Result<Trace, TraceError> {
    let labels = Labels::default();
    let cpu = Cpu::default();
    running.finish(labels, cpu, Instant::now() + within).await
}

fn stacks(trace: &Trace) -> String {
    folded::write(&pprof::read(&trace.profile).unwrap())
}

#[tokio::test]
async fn what_perf_tells_is_a_trace_and_it_reads_in_a_cell() {
    let Some(place) = Place::new("").await else { return };
    let mut running = place.start(DEADLINE).await.unwrap();
    let refused = running.window().await.unwrap_err();
    assert!(refused.to_string().contains("before its end"), "{refused}");
    let trace = finish(running, DEADLINE).await.unwrap();
    assert_eq!(stacks(&trace), "prog;main 1\n");
    assert_eq!((trace.samples, trace.lost), (1, 5));
    assert!(trace.warnings.is_empty(), "{:?}", trace.warnings);
    assert!(!place.path().join("written").exists());
    let args = fs::read_to_string(place.path().join("args")).unwrap();
    let group = place.zone.group.file_name().unwrap().to_str().unwrap();
    for word in [&format!("-G {group} "), "-F 199 ", "--max-size="] {
        assert!(args.contains(word), "{args}");
    }
    place.leaves_nothing().await;
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_at_the_deadline() {
    let Some(place) = Place::new("deaf").await else { return };
    let running = place.start(DEADLINE).await.unwrap();
    let error = finish(running, SOON).await.unwrap_err();
    assert!(matches!(error, TraceError::Late { what: "perf" }), "{error}");
    place.leaves_nothing().await;
}

#[tokio::test]
async fn a_reader_that_does_not_end_is_killed_and_what_it_printed_is_kept() {
    let Some(place) = Place::new("stuck").await else { return };
    let running = place.start(DEADLINE).await.unwrap();
    match finish(running, 4 * SOON).await {
        Ok(trace) => {
            assert_eq!(stacks(&trace), "prog;main 1\n");
            let said = trace.warnings.join(" ");
            assert!(said.contains("did not end in time"), "{said}");
        }
        // On a busy machine it had no time to print anything.
        Err(error) => {
            assert!(matches!(error, TraceError::Late { .. }), "{error}");
        }
    }
    place.leaves_nothing().await;

    let Some(place) = Place::new("worse").await else { return };
    let running = place.start(DEADLINE).await.unwrap();
    let trace = finish(running, DEADLINE).await.unwrap();
    assert_eq!(stacks(&trace), "prog;main 1\n");
    let said = trace.warnings.join(" ");
    assert!(said.contains("exit status 3"), "{said}");
    place.leaves_nothing().await;

    let Some(place) = Place::new("fail").await else { return };
    let running = place.start(DEADLINE).await.unwrap();
    let error = finish(running, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("incompatible file format"), "{error}");
    place.leaves_nothing().await;
}

#[tokio::test]
async fn one_that_ends_before_it_is_asked_to_says_how() {
    let Some(place) = Place::new("full").await else { return };
    let running = place.start(DEADLINE).await.unwrap();
    place.is_gone().await;
    let trace = finish(running, DEADLINE).await.unwrap();
    let said = trace.warnings.join(" ");
    assert!(said.contains("stopped at its limit of"), "{said}");
    place.leaves_nothing().await;

    let Some(place) = Place::new("die").await else { return };
    let running = place.start(DEADLINE).await.unwrap();
    place.is_gone().await;
    let error = finish(running, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("signal 9"), "{error}");
    place.leaves_nothing().await;
}

#[tokio::test]
async fn one_that_cannot_start_says_why() {
    let Some(place) = Place::new("refuse").await else { return };
    let error = place.start(DEADLINE).await.err().expect("it refuses");
    let said = error.to_string();
    assert!(said.contains("Permission error"), "{said}");
    place.leaves_nothing().await;

    let Some(place) = Place::new("mute").await else { return };
    let error = place.start(SOON).await.err().expect("it is never ready");
    // Refused: a busy machine had no time to say what zone it is.
    let late =
        matches!(error, StartError::Late { .. } | StartError::Refused(_));
    assert!(late, "{error}");
    place.leaves_nothing().await;

    fs::remove_file(place.path().join("perf")).unwrap();
    let error = place.start(DEADLINE).await.err().expect("it is not there");
    assert!(matches!(error, StartError::Spawn { .. }), "{error}");
    place.leaves_nothing().await;
}

#[tokio::test]
async fn a_trace_that_nobody_wants_any_more_leaves_nothing() {
    let Some(place) = Place::new("deaf").await else { return };
    drop(place.start(DEADLINE).await.unwrap());
    place.leaves_nothing().await;
}
