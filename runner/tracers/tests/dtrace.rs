//! A traced zone with a stand-in for dtrace: a real process that follows the
//! interface, over a real carrier. It prints what was recorded, in pieces,
//! and misbehaves as it is told.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ntrace_tracers::{
    Cpu, Dtrace, Labels, Running, StartError, Target, Trace, TraceError, Tracer,
};
use ntrace_zones::{Carrier, Driver, Local, Programs, Worker};
use tempfile::TempDir;
use tokio::time::Instant;

const U: &str = "c0ffee00-1111-4222-8333-444455556666";
const DEADLINE: Duration = Duration::from_secs(60);

const RUNNING: &str = include_str!("recorded/running.txt");
const ENDING: &str = include_str!("recorded/ending.txt");
const CALLS: &str = "calls 7 read\ncalls 90 write\nerrors 2 read\n\
    lx-calls 1 futex\nntrace end\n";
const FOLDED: &str = "a.out;_start;main;copy_all;memcpy 12\n\
    a.out;_start;main;spin<int, \"x 7\">(std::vector<int>&) 125\n\
    a.out;main;0x7fffaf2e1c3a 3";

/// `mode` says in words how it misbehaves.
const FAKE: &str = r#"#!/bin/bash
D=@D@
is() { grep -qw "$1" $D/mode; }
echo $$ >$D/pid
echo "$*" >$D/args
is refuse && {
    echo "dtrace: failed to initialize dtrace: DTrace requires" \
        "additional privileges" >&2
    exit 1
}
[ "$1" = -s ] && [ "$3" = @U@ ] || exit 2
counts=
case $2 in
*/ntrace_cpu.d) grep -q profile-97 "$2" || exit 2 ;;
*/ntrace_sys.d) grep -q syscall:::entry "$2" || exit 2; counts=1 ;;
*) exit 2 ;;
esac
finish() {
    [ "$counts" ] && is cut && { head -n 2 $D/calls; exit 0; }
    [ "$counts" ] && { cat $D/calls; exit 0; }
    is cut && { head -c 120 $D/ending; exit 0; }
    cat $D/ending
    exit 0
}
trap finish INT TERM
is deaf && trap '' INT TERM
is mute && { while :; do read -t 1; done; }
printf 'ntrace '
printf 'ready\n\n'
is drops && {
    echo "dtrace: 12 drops on CPU 0" >&2
    echo "dtrace: 3 aggregation drops on CPU 1" >&2
}
[ "$counts" ] && : >$D/running
# In pieces that end anywhere.
head -c 77 $D/running
tail -c +78 $D/running
echo >$D/printed
is die && kill -9 $$
is fail && { echo "dtrace: processing aborted: Abort due to systemic" \
    "unresponsiveness" >&2; exit 1; }
while :; do read -t 1; [ $? -gt 128 ] || sleep 0.05; done
"#;

struct Place {
    dir: TempDir,
    worker: Worker,
    dtrace: Dtrace,
}

impl Place {
    async fn new(mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let fake = FAKE.replace("@D@", at.to_str().unwrap()).replace("@U@", U);
        fs::write(at.join("mode"), mode).unwrap();
        fs::write(at.join("running"), RUNNING).unwrap();
        fs::write(at.join("ending"), ENDING).unwrap();
        fs::write(at.join("calls"), CALLS).unwrap();
        let program = at.join("dtrace");
        fs::write(&program, fake).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        let files = Programs::Files {
            vmadm: PathBuf::from("/nonexistent/vmadm"),
            zlogin: PathBuf::from("/nonexistent/zlogin"),
        };
        let local = Local::new(files).unwrap().with_dtrace(program);
        let driver = Driver::new(Arc::new(Carrier::Local(local)));
        let uuid = U.parse().unwrap();
        let worker = driver.take(uuid, Instant::now() + DEADLINE).await;
        let dtrace = Dtrace::new(&at.join("script")).unwrap();
        Self { worker: worker.unwrap(), dtrace, dir }
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
        self.dtrace.start(target).await
    }

    /// Waits until all that is recorded was printed.
    async fn printed(&self) {
        let until = Instant::now() + DEADLINE;
        while !self.path().join("printed").exists() {
            assert!(Instant::now() < until, "it printed nothing");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until its process is gone.
    async fn gone(&self) {
        let pid = fs::read_to_string(self.path().join("pid")).unwrap();
        let path = PathBuf::from("/proc").join(pid.trim());
        let until = Instant::now() + DEADLINE;
        while path.exists() {
            assert!(Instant::now() < until, "it is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn finish(
    running: Box<dyn Running>,
    within: Duration,
) -> Result<Trace, TraceError> {
    let labels = Labels {
        repository: Some("dscape/nano".to_owned()),
        commit: Some("4".repeat(40)),
        run_id: "r".to_owned(),
    };
    let cpu = Cpu::default();
    running.finish(labels, cpu, Instant::now() + within).await
}

/// Stacks and counts of a trace.
fn folded(trace: &Trace) -> String {
    let profile = ntrace_profile::pprof::read(&trace.profile).unwrap();
    let mut lines: Vec<String> = ntrace_profile::folded::write(&profile)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

#[tokio::test]
async fn what_was_printed_before_and_after_the_end_is_one_profile() {
    let place = Place::new("").await;
    let running = place.start(DEADLINE).await.unwrap();
    place.printed().await;
    let trace = finish(running, DEADLINE).await.unwrap();
    assert_eq!(trace.samples, 12 + 85 + 3 + 40);
    assert_eq!(trace.lost, 0);
    assert!(trace.warnings.is_empty(), "{:?}", trace.warnings);
    let folded = folded(&trace);
    assert_eq!(folded, FOLDED);
    let svg = String::from_utf8(trace.flame_graph).unwrap();
    assert!(svg.contains("dscape/nano") && svg.contains("spin"));
    place.gone().await;
    let args = fs::read_to_string(place.path().join("args")).unwrap();
    assert!(args.trim().ends_with(&format!("ntrace_cpu.d {U}")), "{args}");
}

#[tokio::test]
async fn the_last_seconds_can_be_asked_for_while_it_runs() {
    let place = Place::new("").await;
    let mut running = place.start(DEADLINE).await.unwrap();
    place.printed().await;
    let until = Instant::now() + DEADLINE;
    let window = loop {
        let window = running.window().await.unwrap();
        if window.folded.len() == 2 {
            break window;
        }
        assert!(Instant::now() < until, "{window:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(window.folded.iter().any(|(s, n)| s.contains("spin") && *n == 85));
    drop(running);
    place.gone().await;
}

#[tokio::test]
async fn drops_are_counted() {
    let place = Place::new("drops").await;
    let running = place.start(DEADLINE).await.unwrap();
    place.printed().await;
    let trace = finish(running, DEADLINE).await.unwrap();
    assert_eq!(trace.lost, 15);
    assert!(trace.warnings.iter().any(|w| w.contains("15")));
}

#[tokio::test]
async fn a_cut_tail_loses_only_the_record_that_was_cut() {
    let place = Place::new("cut").await;
    let running = place.start(DEADLINE).await.unwrap();
    place.printed().await;
    let trace = finish(running, DEADLINE).await.unwrap();
    let whole = 12 + 85 + 3;
    assert_eq!(trace.samples, whole, "{:?}", trace.warnings);
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_and_what_it_printed_is_kept() {
    let place = Place::new("deaf").await;
    let running = place.start(DEADLINE).await.unwrap();
    place.printed().await;
    let soon = Duration::from_millis(500);
    let trace = finish(running, soon).await.unwrap();
    assert_eq!(trace.samples, 12 + 85);
    let said = trace.warnings.join(" ");
    assert!(said.contains("did not end"), "{said}");
    place.gone().await;
}

#[tokio::test]
async fn one_that_dies_or_fails_leaves_what_it_printed_and_its_words() {
    for (mode, words) in [("die", "signal 9"), ("fail", "unresponsiveness")] {
        let place = Place::new(mode).await;
        let running = place.start(DEADLINE).await.unwrap();
        place.printed().await;
        place.gone().await;
        let trace = finish(running, DEADLINE).await.unwrap();
        assert_eq!(trace.samples, 12 + 85, "{mode}");
        let said = trace.warnings.join(" ");
        assert!(said.contains(words), "{mode}: {said}");
    }
}

#[tokio::test]
async fn one_that_cannot_start_says_why() {
    let place = Place::new("refuse").await;
    let error = place.start(DEADLINE).await.err().expect("it refuses");
    let said = error.to_string();
    assert!(said.contains("additional privileges"), "{said}");

    let place = Place::new("mute").await;
    let soon = Duration::from_millis(500);
    let error = place.start(soon).await.err().expect("it is never ready");
    assert!(matches!(error, StartError::Late { .. }), "{error}");
    place.gone().await;

    fs::remove_file(place.path().join("dtrace")).unwrap();
    let error = place.start(DEADLINE).await.err().expect("it is not there");
    assert!(matches!(error, StartError::Spawn { .. }), "{error}");
}

#[tokio::test]
async fn system_calls_are_counted_from_its_beginning_to_its_end() {
    for (mode, total, lost, missing) in [
        ("", 98, 0, None),
        ("drops", 98, 15, Some("15")),
        ("cut", 97, 0, Some("cut short")),
    ] {
        let place = Place::new(mode).await;
        let deadline = Instant::now() + DEADLINE;
        let calls = place.dtrace.count(&place.worker, deadline).await;
        let calls = calls.unwrap_or_else(|error| panic!("{mode}: {error}"));
        place.printed().await;
        let (counts, said) = calls.finish(deadline).await.unwrap();
        assert_eq!((counts.total, counts.missed), (total, lost), "{mode}");
        assert_eq!(counts.calls[0].to_string(), "write");
        assert_eq!(said.is_some(), missing.is_some(), "{mode}: {said:?}");
        let said = said.unwrap_or_default();
        assert!(said.contains(missing.unwrap_or_default()), "{said}");
        place.gone().await;
    }
    let place = Place::new("refuse").await;
    let deadline = Instant::now() + DEADLINE;
    let refused = place.dtrace.count(&place.worker, deadline).await;
    let said = refused.err().expect("it refuses").to_string();
    assert!(said.contains("additional privileges"), "{said}");
}
