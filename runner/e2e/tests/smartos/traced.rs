//! A traced job over the whole SmartOS path: driver, ssh, gate, and a
//! program that behaves as dtrace does.

use std::time::Duration;

use ntrace_e2e::{DEADLINE, eventually};
use ntrace_tracers::{
    Counting, Cpu, Dtrace, Labels, Running, Target, TraceError, Tracer,
};
use ntrace_zones::{Ended, Worker};

use super::over_sshd::{Gated, all, job, soon};

/// What is printed while the job runs, and after the request to end.
const RUNNING: &str =
    include_str!("../../../tracers/tests/recorded/running.txt");
const ENDING: &str = include_str!("../../../tracers/tests/recorded/ending.txt");

const FAKE: &str = r#"#!/bin/sh
trap 'echo "$*" >@D@/dtrace-ended; cat @D@/ending.txt
    echo "dtrace: 5 drops on CPU 0" >&2; exit 0' TERM INT
[ -e @D@/deaf ] && trap '' TERM INT
echo $$ >@D@/dtrace-pid
printf 'ntrace ready\n\n'
head -c 77 @D@/running.txt
tail -c +78 @D@/running.txt
while :; do sleep 0.05; done
"#;

fn install(gated: &Gated) {
    let dir = gated.host.path("");
    std::fs::write(dir.join("running.txt"), RUNNING).unwrap();
    std::fs::write(dir.join("ending.txt"), ENDING).unwrap();
    let at = dir.display().to_string();
    let fake = FAKE.replace("@D@", at.trim_end_matches('/'));
    gated.host.install("dtrace", &fake);
    gated.program("dtrace", &gated.host.path("bin/dtrace"));
}

async fn start(gated: &Gated, worker: &Worker) -> Box<dyn Running> {
    // The script's place is the gate's affair, so this one is not used.
    let dtrace = Dtrace::new(&gated.host.path("unused")).unwrap();
    let target = Target { worker, hz: None, deadline: soon() };
    dtrace.start(target).await.unwrap()
}

/// Until the fake has printed what it has; its window then shows it.
async fn seen(running: &mut Box<dyn Running>) {
    let until = soon();
    loop {
        let window = running.window().await.unwrap();
        let samples: u64 = window.folded.iter().map(|(_, n)| n).sum();
        if samples == 12 + 85 {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{window:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_job_is_traced_through_ssh_and_the_gate() {
    let Some(gated) = Gated::new() else { return };
    install(&gated);
    let driver = gated.driver().await;
    let worker = driver.take(gated.uuid(), soon()).await.unwrap();
    let inside = worker.probe(soon()).await.unwrap();
    let mut running = start(&gated, &worker).await;
    let mut run = inside.run(&job("echo work"), soon()).unwrap();
    assert_eq!(all(&mut run.stdout).await, b"work\n");
    assert!(matches!(run.ended().await.ended, Ended::Exit(0)));
    seen(&mut running).await;
    assert!(!gated.host.path("dtrace-ended").exists());
    let labels = Labels { run_id: "r".to_owned(), ..Labels::default() };
    let trace = running.finish(labels, Cpu::default(), soon()).await.unwrap();
    assert!(gated.host.path("dtrace-ended").exists(), "it was asked to end");
    assert_eq!(trace.samples, 12 + 85 + 3 + 40);
    assert_eq!(trace.lost, 5);
    let profile = ntrace_profile::pprof::read(&trace.profile).unwrap();
    let folded = ntrace_profile::folded::write(&profile);
    let spin = "a.out;_start;main;spin<int, \"x 7\">(std::vector<int>&) 125";
    assert!(folded.lines().any(|line| line == spin), "{folded}");
    let log = gated.host.read("gate.log");
    assert!(log.contains(" allowed: dtrace "), "{log}");
}

#[tokio::test]
async fn system_calls_are_counted_through_ssh_and_the_gate() {
    let Some(gated) = Gated::new() else { return };
    install(&gated);
    let calls = "calls 7 read\nerrors 2 read\nntrace end\n";
    std::fs::write(gated.host.path("running.txt"), "").unwrap();
    std::fs::write(gated.host.path("ending.txt"), calls).unwrap();
    let driver = gated.driver().await;
    let worker = driver.take(gated.uuid(), soon()).await.unwrap();
    let dtrace = Dtrace::new(&gated.host.path("unused")).unwrap();
    let counting = Counting::by_dtrace(&dtrace, &worker, soon()).await;
    let counted = counting.unwrap().finish(soon()).await.unwrap();
    assert_eq!((counted.counts.total, counted.counts.errors), (7, 2));
    // What the fake dropped.
    assert_eq!(counted.counts.missed, 5);
    assert!(counted.missing.unwrap().contains("5"));
    assert!(gated.host.path("dtrace-ended").exists(), "it was asked to end");
    let log = gated.host.read("gate.log");
    assert!(log.contains("allowed: dtrace ntrace_sys.d"), "{log}");
}

#[tokio::test]
async fn a_dtrace_that_will_not_end_is_left_behind_by_the_trace() {
    let Some(gated) = Gated::new() else { return };
    install(&gated);
    std::fs::write(gated.host.path("deaf"), "").unwrap();
    let driver = gated.driver().await;
    let worker = driver.take(gated.uuid(), soon()).await.unwrap();
    let mut running = start(&gated, &worker).await;
    seen(&mut running).await;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(300);
    let trace =
        running.finish(Labels::default(), Cpu::default(), deadline).await;
    let trace = trace.unwrap();
    assert_eq!(trace.samples, 12 + 85);
    assert!(trace.warnings.iter().any(|w| w.contains("did not end")));
    kill(&gated);
}

#[tokio::test]
async fn a_link_that_breaks_keeps_what_was_traced_until_then() {
    let Some(gated) = Gated::new() else { return };
    install(&gated);
    let driver = gated.driver().await;
    let worker = driver.take(gated.uuid(), soon()).await.unwrap();
    let mut running = start(&gated, &worker).await;
    seen(&mut running).await;
    gated.sshd.cut();
    let labels = Labels::default();
    match running.finish(labels, Cpu::default(), soon()).await {
        Ok(trace) => assert!(trace.samples >= 12 + 85, "{trace:?}"),
        Err(error) => assert!(matches!(error, TraceError::Died { .. })),
    }
    eventually("dtrace is told", DEADLINE, || {
        gated.host.path("dtrace-ended").exists().then_some(())
    });
}

/// Ends the fake that does not listen to signals.
fn kill(gated: &Gated) {
    let pid = gated.host.read("dtrace-pid");
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap());
    let pid = pid.expect("a process has a number");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
