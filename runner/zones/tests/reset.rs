//! The stages of a reset, against real processes that can be told to fail.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod place;

use std::time::Duration;

use ntrace_zones::{Class, Remedy, StageError, VmLimits, VmState, VmadmError};
use place::{Place, after_ms, clean, soon, uuid};
use tokio::time::Instant;

#[tokio::test]
async fn a_running_worker_goes_through_all_stages() {
    let place = Place::new();
    let worker = place.worker().await;
    let before = worker.look(soon()).await.unwrap().boot();
    assert_eq!(worker.halt(soon()).await.unwrap().state, VmState::Stopped);
    let done = worker.roll_back(&clean(), soon()).await.unwrap();
    assert_eq!(done.before, None, "it was down");
    assert_eq!(done.lost.len(), 1);
    assert_eq!(done.lost[0].name, "newer");
    let boot = worker.ensure_booted(before.as_ref(), soon()).await.unwrap();
    assert_ne!(Some(&boot), before.as_ref());
    worker.probe(soon()).await.unwrap();
    worker.verify_untouched(&boot, soon()).await.unwrap();
    assert_eq!(place.read("snapshots"), "clean\nolder");
}

#[tokio::test]
async fn a_running_worker_can_be_rolled_back_at_once() {
    let place = Place::new();
    let worker = place.worker().await;
    let done = worker.roll_back(&clean(), soon()).await.unwrap();
    let boot = worker.ensure_booted(done.before.as_ref(), soon()).await;
    assert_ne!(Some(boot.unwrap()), done.before);
}

#[tokio::test]
async fn halting_a_stopped_worker_asks_for_nothing() {
    let place = Place::new();
    place.set("state", "stopped");
    place.worker().await.halt(soon()).await.unwrap();
    assert!(!place.read("calls").contains("stop"));
}

#[tokio::test]
async fn a_halt_that_timed_out_but_happened_is_a_halt() {
    let place = Place::new();
    place.fault(&["stop=timeout"]);
    let vm = place.worker().await.halt(soon()).await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
}

#[tokio::test]
async fn a_stuck_zone_is_halted_at_the_second_try() {
    let place = Place::new();
    place.fault(&["halt=fail"]);
    let worker = place.worker().await;
    let error = worker.halt(soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry);
    let StageError::Vmadm { source, .. } = error else {
        panic!("another error: {error}");
    };
    assert_eq!(source.class(), Some(Class::ZoneStuck));
    worker.halt(soon()).await.unwrap();
}

#[tokio::test]
async fn a_hanging_halt_ends_at_its_deadline_and_is_killed() {
    let place = Place::new();
    place.fault(&["halt=hang"]);
    let worker = place.worker().await;
    let started = Instant::now();
    let error = worker.halt(after_ms(400)).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(matches!(
        error,
        StageError::Vmadm { source: VmadmError::Command(_), .. }
    ));
    // Nothing of the hanging command lives on: not its `sleep` either.
    let vmadm = place.dir.path().join("vmadm");
    let text = vmadm.to_str().unwrap();
    let found = std::process::Command::new("pgrep")
        .args(["-f", text])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test]
async fn a_halt_that_hangs_after_its_work_is_a_halt() {
    let place = Place::new();
    place.fault(&["stop=linger"]);
    let vm = place.worker().await.halt(after_ms(400)).await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
}

#[tokio::test]
async fn a_missing_vmadm_is_for_an_operator() {
    let place = Place::new();
    std::fs::remove_file(place.dir.path().join("vmadm")).unwrap();
    let error = place.driver.vmadm().get(uuid(), soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Operator);
}

#[tokio::test]
async fn a_failed_rollback_needs_an_operator() {
    let place = Place::new();
    place.fault(&["rollback=fail"]);
    let error =
        place.worker().await.roll_back(&clean(), soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Operator);
    let StageError::Vmadm { source, .. } = error else {
        panic!("another error: {error}");
    };
    let VmadmError::Failed { class: Class::Storage, failure } = source else {
        panic!("another error: {source}");
    };
    assert!(failure.to_string().contains("rollback-snapshot"), "{failure}");
    assert!(failure.stderr.contains("cannot rollback"), "{failure}");
}

#[tokio::test]
async fn a_rollback_that_did_not_happen_is_found_out() {
    let place = Place::new();
    place.fault(&["rollback=lie"]);
    let error = place
        .worker()
        .await
        .roll_back(&clean(), after_ms(300))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            StageError::NotRolledBack { .. } | StageError::Vmadm { .. }
        ),
        "{error}"
    );
    assert_eq!(error.remedy(), Remedy::Retry);
}

#[tokio::test]
async fn a_missing_snapshot_halts_nothing() {
    let place = Place::new();
    let nope = "nope".parse().unwrap();
    let error =
        place.worker().await.roll_back(&nope, soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Permanent);
    assert!(error.to_string().contains("create-snapshot"), "{error}");
    assert_eq!(place.read("state"), "running");
}

#[tokio::test]
async fn a_worker_left_stopped_by_a_rollback_is_started() {
    let place = Place::new();
    place.fault(&["boot=late"]);
    let worker = place.worker().await;
    let done = worker.roll_back(&clean(), soon()).await.unwrap();
    worker.ensure_booted(done.before.as_ref(), soon()).await.unwrap();
    assert_eq!(place.read("state"), "running");
}

#[tokio::test]
async fn the_same_boot_is_not_a_new_one() {
    let place = Place::new();
    let worker = place.worker().await;
    let boot = worker.look(soon()).await.unwrap().boot();
    let error =
        worker.ensure_booted(boot.as_ref(), after_ms(300)).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry);
}

#[tokio::test]
async fn somebody_elses_reboot_is_seen() {
    let place = Place::new();
    let worker = place.worker().await;
    let boot = worker.look(soon()).await.unwrap().boot().unwrap();
    place.set("boots", "7");
    let error = worker.verify_untouched(&boot, soon()).await.unwrap_err();
    assert!(matches!(error, StageError::Touched { .. }));
    place.set("state", "stopped");
    assert!(worker.verify_untouched(&boot, soon()).await.is_err());
}

#[tokio::test]
async fn a_vm_that_does_not_exist_is_gone_for_good() {
    let place = Place::new();
    let other = "00000000-1111-4222-8333-444455556666".parse().unwrap();
    let error = place.driver.vmadm().get(other, soon()).await.unwrap_err();
    assert_eq!(error.class(), Some(Class::VmGone));
    assert_eq!(error.remedy(), Remedy::Permanent);
}

#[tokio::test]
async fn a_global_zone_that_is_not_up_is_tried_again() {
    let place = Place::new();
    place.fault(&["refused"]);
    let error = place.driver.vmadm().lookup(soon()).await.unwrap_err();
    assert_eq!(error.class(), Some(Class::NotReady));
    place.fault(&[]);
    assert_eq!(place.driver.vmadm().lookup(soon()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn limits_are_read_back() {
    let place = Place::new();
    let worker = place.worker().await;
    let limits = VmLimits { max_lwps: Some(55), ..VmLimits::default() };
    let vm = worker.limit(limits, soon()).await.unwrap();
    assert_eq!(vm.max_lwps, Some(55));
    place.fault(&["update=lie"]);
    let limits = VmLimits { max_lwps: Some(66), ..VmLimits::default() };
    let error = worker.limit(limits, soon()).await.unwrap_err();
    let StageError::Vmadm { source, .. } = error else {
        panic!("another error: {error}");
    };
    assert!(source.to_string().contains("max_lwps is 55"), "{source}");
}

#[tokio::test]
async fn no_limit_at_all_runs_no_update() {
    let place = Place::new();
    let worker = place.worker().await;
    worker.limit(VmLimits::default(), soon()).await.unwrap();
    assert!(!place.read("calls").contains("update"));
}

#[tokio::test]
async fn a_worker_is_in_one_pair_of_hands() {
    let place = Place::new();
    let worker = place.worker().await;
    assert!(place.driver.take(uuid(), after_ms(50)).await.is_none());
    drop(worker);
    assert!(place.driver.take(uuid(), soon()).await.is_some());
}

#[tokio::test]
async fn a_probe_waits_until_something_runs_inside() {
    let place = Place::new();
    place.fault(&["zlogin=refuse"]);
    let worker = place.worker().await;
    let error = worker.probe(after_ms(200)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("nothing runs in worker"), "{text}");
    let probing = worker.probe(soon());
    let mending = async {
        tokio::task::yield_now().await;
        place.fault(&[]);
    };
    let (probed, ()) = tokio::join!(probing, mending);
    probed.unwrap();
}
