//! What goes wrong when vmadm is driven over ssh: each pitfall one test,
//! over a real sshd where that matters; and each row of the table of what a
//! failed vmadm means.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod place;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use ntrace_zones::{
    Class, Collect, Directory, Ended, JobSpec, Lost, Remedy, SnapshotName,
    StageError, Vm, VmLimits, VmState, VmadmError, WorkerUuid, classify,
};
use place::{Place, U, after_ms, clean, me, soon, uuid};
use tokio::sync::mpsc;

/// A place behind an sshd, or the end of the test.
macro_rules! over_ssh {
    ($($line:expr),*) => {
        match Place::over_ssh(&[$($line),*]) {
            Some(place) => place,
            None => return,
        }
    };
}

fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn job(argv: &[&str]) -> JobSpec {
    JobSpec::new(
        me(),
        Directory::new("/").unwrap(),
        argv.iter().map(|word| (*word).to_owned()).collect(),
        vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
    )
    .unwrap()
}

async fn all(mut from: mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(chunk) = from.recv().await {
        whole.extend_from_slice(&chunk);
    }
    whole
}

/// All stages of a reset.
async fn reset(place: &Place) -> Result<(), StageError> {
    let worker = place.worker().await;
    worker.halt(soon()).await?;
    let done = worker.roll_back(&clean(), soon()).await?;
    worker.ensure_booted(done.before.as_ref(), soon()).await.map(drop)
}

#[tokio::test]
async fn p01_outcome_is_read_not_believed() {
    let mut place = over_ssh!();
    // "timeout exceeded", and the change was made all the same.
    place.fault(&["stop=timeout"]);
    let vm = place.worker().await.halt(soon()).await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    // The connection is lost after the change was made.
    place.set("state", "running");
    place.fault(&["stop=wait"]);
    let worker = place.worker().await;
    let (halted, ()) = tokio::join!(worker.halt(soon()), async {
        place
            .until("it is stopped", |place| place.read("state") == "stopped")
            .await;
        place.sshd.as_ref().unwrap().cut();
    });
    assert_eq!(halted.unwrap().state, VmState::Stopped);
    place.set("go", "");
    drop(worker);
    // Success is not believed either.
    place.fault(&["rollback=lie"]);
    place.set("state", "running");
    let error = place
        .worker()
        .await
        .roll_back(&clean(), after_ms(2000))
        .await
        .unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry, "{}", story(&error));
    place.sshd().stop();
}

#[tokio::test]
async fn p02_what_vminfod_shows_late_is_waited_for() {
    let place = over_ssh!();
    place.fault(&["drop=late"]);
    let worker = place.worker().await;
    let clean = clean();
    let (done, ()) = tokio::join!(worker.roll_back(&clean, soon()), async {
        place.until("it looks", |place| place.calls("get") >= 3).await;
        place.set("go", "");
    });
    assert_eq!(done.unwrap().lost.len(), 1);
    assert_eq!(place.read("snapshots"), "clean\nolder");
}

#[tokio::test]
async fn p03_one_pair_of_hands_per_vm() {
    let place = over_ssh!();
    let all = join_all((0..3).map(|_| reset(&place))).await;
    for one in all {
        one.unwrap();
    }
    // One after the other: nobody lost a race, and each was booted once.
    assert_eq!(place.read("boots"), "4");
    let held = place.worker().await;
    assert!(place.driver.take(uuid(), after_ms(50)).await.is_none());
    drop(held);
}

#[tokio::test]
async fn p04_status_255_death_and_a_lost_link_are_told_apart() {
    let place = over_ssh!();
    let get = || place.driver.vmadm().get(uuid(), soon());
    place.set("say", "x");
    place.set("code", "255");
    let error = get().await.unwrap_err();
    assert!(story(&error).contains("exit status 255"), "{}", story(&error));
    std::fs::remove_file(place.dir.path().join("say")).unwrap();
    place.fault(&["die"]);
    let error = get().await.unwrap_err();
    assert!(matches!(error, VmadmError::Failed { .. }), "{}", story(&error));
    assert!(story(&error).contains("an unknown exit"), "{}", story(&error));
    place.fault(&["get=wait"]);
    let (lost, ()) = tokio::join!(get(), async {
        let before = place.calls("get");
        let asked = move |place: &Place| place.calls("get") > before;
        place.until("it is asked", asked).await;
        place.sshd.as_ref().unwrap().cut();
    });
    let error = lost.unwrap_err();
    assert!(matches!(error, VmadmError::Command(_)), "{}", story(&error));
    assert!(story(&error).contains("lost the connection"), "{error}");
    place.set("go", "");
}

#[tokio::test]
async fn p05_vmadm_goes_on_when_the_link_drops() {
    let mut place = over_ssh!();
    place.fault(&["rollback=wait"]);
    let snapshot = clean();
    let worker = place.worker().await;
    let (rolled, ()) =
        tokio::join!(worker.roll_back(&snapshot, soon()), async {
            place
                .until("it rolls back", |place| place.calls("rollback") == 1)
                .await;
            place.sshd.as_ref().unwrap().cut();
        });
    let error = rolled.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry);
    assert!(story(&error).contains("lost the connection"), "{error}");
    drop(worker);
    assert_eq!(place.read("boots"), "1");
    place.set("go", "");
    place.until("it went on", |place| place.read("boots") == "2").await;
    // The next one finds the VM as it is, and does the whole again.
    reset(&place).await.unwrap();
    assert_eq!(place.read("boots"), "3");
    place.sshd().stop();
}

#[tokio::test]
async fn p06_nothing_waits_for_stdin() {
    let place = over_ssh!();
    place.fault(&["stdin=read"]);
    let vm = place.driver.vmadm().get(uuid(), soon()).await.unwrap();
    assert_eq!(vm.state, VmState::Running);
    // An update of nothing would read stdin: it is not run.
    let worker = place.worker().await;
    worker.limit(VmLimits::default(), soon()).await.unwrap();
    assert_eq!(place.calls("update"), 0);
}

#[tokio::test]
async fn p07_three_shells_read_what_was_meant() {
    for bad in ["", "a b", "a;b", "$(id)", "-x", "a/b", "a@b", "é"] {
        assert!(bad.parse::<SnapshotName>().is_err(), "{bad:?}");
    }
    for bad in ["", "*", &U[1..], &format!("{U} "), &U.replace('c', ";")] {
        assert!(bad.parse::<WorkerUuid>().is_err(), "{bad:?}");
    }
    let place = over_ssh!();
    let inside = place.inside().await;
    let strange =
        ["a b", "", "$HOME `id` $(id) *", "it's \"\\ !x", "-n;ls\n&", "%s"];
    let mut argv = vec!["/usr/bin/printf", "[%s]"];
    argv.extend(strange);
    let run = inside.run(&job(&argv), soon()).unwrap();
    let mut ending = run.ending;
    let (out, err, ended) =
        tokio::join!(all(run.stdout), all(run.stderr), ending.wait());
    assert!(matches!(ended.ended, Ended::Exit(0)), "{ended:?} {err:?}");
    let wanted: String = strange.map(|word| format!("[{word}]")).concat();
    assert_eq!(String::from_utf8_lossy(&out), wanted);
}

#[test]
fn p08_messages_are_found_behind_prefixes_and_among_lines() {
    let text = format!(
        "first of 1 error: Command failed: zone '{U}': something\nzoneadm: \
         zone '{U}': call to zoneadmd failed\n\n"
    );
    assert_eq!(classify(Some(1), &text), Class::ZoneStuck);
    let text = format!("Unable to start VM {U}: first of 2 errors: {text}");
    assert_eq!(classify(Some(1), &text), Class::ZoneStuck);
}

#[tokio::test]
async fn p09_a_hung_vmadm_meets_our_deadline_and_gets_no_second_beside_it() {
    let place = over_ssh!();
    place.fault(&["stop=wait"]);
    place.set("state", "running");
    let worker = place.worker().await;
    // It does not come back, and is given up.
    tokio::select! {
        vm = worker.halt(soon()) => panic!("{vm:?}"),
        () = place.until("it stops", |place| {
            place.read("state") == "stopped"
        }) => {}
    }
    place.set("state", "running");
    let error = worker.halt(soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry);
    let text = story(&error);
    assert!(text.contains("still runs in the global zone"), "{text}");
    assert_eq!(place.calls("stop"), 1, "no second one is piled up");
    place.set("go", "");
    place.fault(&[]);
    let deadline = soon();
    while let Err(error) = worker.halt(soon()).await {
        assert!(tokio::time::Instant::now() < deadline, "{}", story(&error));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn p10_a_stuck_zone_is_halted_again() {
    let place = over_ssh!();
    place.fault(&["halt=fail"]);
    let worker = place.worker().await;
    let error = worker.halt(soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry);
    assert_eq!(place.read("state"), "down");
    worker.halt(soon()).await.unwrap();
    assert_eq!(place.read("state"), "stopped");
}

#[tokio::test]
async fn p11_running_is_not_ready() {
    let place = over_ssh!();
    place.fault(&["zlogin=refuse"]);
    let worker = place.worker().await;
    assert_eq!(worker.look(soon()).await.unwrap().state, VmState::Running);
    let error = worker.probe(after_ms(1500)).await.unwrap_err();
    assert!(error.to_string().starts_with("nothing runs in"), "{error}");
    let (probed, ()) = tokio::join!(worker.probe(soon()), async {
        tokio::task::yield_now().await;
        place.fault(&[]);
    });
    probed.unwrap();
}

#[test]
fn p12_a_leased_address_is_nowhere_needed() {
    let text = format!(
        r#"{{"uuid":"{U}","state":"running","snapshots":[],
        "nics":[{{"ip":"dhcp","ips":["dhcp"],"mac":"x"}}]}}"#
    );
    let vm: Vm = serde_json::from_str(&text).unwrap();
    assert_eq!(vm.state, VmState::Running);
}

#[tokio::test]
async fn p13_a_rollback_touches_no_key_that_we_check() {
    let place = over_ssh!();
    let known = place.sshd.as_ref().unwrap().known_hosts();
    let before = std::fs::read(&known).unwrap();
    for _ in 0..2 {
        reset(&place).await.unwrap();
        place.inside().await;
    }
    assert_eq!(place.connections(), 1, "zones are not reached by ssh");
    assert_eq!(std::fs::read(&known).unwrap(), before);
}

#[tokio::test]
async fn p14_files_are_collected_before_the_rollback() {
    let place = over_ssh!();
    let inside = place.inside().await;
    let work = place.dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("a.log"), "kept").unwrap();
    let want = Collect {
        user: me(),
        dir: Directory::new(work.to_str().unwrap()).unwrap(),
        globs: vec!["*.log".to_owned()],
        max_bytes: 1 << 20,
        max_files: 10,
    };
    let mut collecting = inside.collect(&want, soon()).await.unwrap();
    let mut tar = Vec::new();
    while let Some(chunk) = collecting.tar.recv().await {
        tar.extend_from_slice(&chunk);
    }
    assert_eq!(collecting.ended().await.unwrap().files, 1);
    assert!(tar.windows(4).any(|window| window == b"kept"));
    reset(&place).await.unwrap();
}

#[tokio::test]
async fn p15_a_failed_rollback_leaves_it_down_and_recovery_starts_it() {
    let place = over_ssh!();
    place.fault(&["rollback=fail"]);
    let error = reset(&place).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Operator, "{}", story(&error));
    assert_eq!(place.read("state"), "stopped");
    // Mended. vmadm's own start at the end is late, so ours does it, which
    // also turns autoboot on again.
    place.fault(&["boot=late"]);
    reset(&place).await.unwrap();
    assert_eq!(place.read("state"), "running");
    assert_eq!(place.calls("start"), 1);
}

#[tokio::test]
async fn p16_a_rebooted_global_zone_is_waited_for() {
    let mut place = over_ssh!();
    reset(&place).await.unwrap();
    let worker = place.worker().await;
    let boot = worker.look(soon()).await.unwrap().boot().unwrap();
    drop(worker);
    place.sshd().stop_all();
    place.set("state", "stopped");
    // ssh answers before vminfod does.
    place.fault(&["refused"]);
    place.sshd().restart();
    let error = reset(&place).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry, "{}", story(&error));
    place.fault(&[]);
    let worker = place.worker().await;
    let error = worker.verify_untouched(&boot, soon()).await.unwrap_err();
    assert!(matches!(error, StageError::Touched { .. }), "{error}");
    drop(worker);
    reset(&place).await.unwrap();
}

#[tokio::test]
async fn p17_newer_snapshots_vanish_and_are_named() {
    let place = over_ssh!();
    let worker = place.worker().await;
    let done = worker.roll_back(&clean(), soon()).await.unwrap();
    let lost: Vec<_> = done.lost.iter().map(|one| &one.name).collect();
    assert_eq!(lost, ["newer"]);
    // A clone of one of them holds it: storage refuses.
    place.set("snapshots", "newer clean");
    place.fault(&["rollback=fail"]);
    let error = worker.roll_back(&clean(), soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Operator);
}

#[tokio::test]
async fn p18_a_vm_that_is_still_made_is_left_alone() {
    let place = over_ssh!();
    place.set("state", "provisioning");
    let error = place.worker().await.halt(soon()).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Operator, "{error}");
    assert_eq!(place.calls("stop"), 0);
}

#[tokio::test]
async fn p19_a_killed_command_is_no_success() {
    let place = over_ssh!();
    let inside = place.inside().await;
    // Kills the shell that would write the record: zlogin exits 0.
    let script = "kill -KILL $(ps -o ppid= -p $(ps -o ppid= -p $$)) $PPID";
    let mut run = inside.run(&job(&["/bin/sh", "-c", script]), soon()).unwrap();
    let outcome = run.ended().await;
    assert!(
        matches!(outcome.ended, Ended::NoMarker(Lost::Silent(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn p20_all_vms_are_asked_for_at_once() {
    let place = over_ssh!();
    let vms = place.driver.vmadm().lookup(soon()).await.unwrap();
    assert_eq!(vms.len(), 1);
    assert_eq!((place.calls("lookup"), place.calls("get")), (1, 0));
}

#[tokio::test]
async fn p21_few_sessions_on_few_connections_and_whole_paths() {
    // The door knows whole paths only.
    let place = Arc::new(over_ssh!("MaxSessions 2", "MaxStartups 3:100:3"));
    let gets = join_all((0..10).map(|_| {
        let place = Arc::clone(&place);
        async move { place.driver.vmadm().get(uuid(), soon()).await }
    }));
    for vm in gets.await {
        vm.unwrap();
    }
}

/// What vmadm prints, how it exits, and what that means.
const TABLE: [(&str, u8, Class, Remedy); 14] = [
    ("bad statusCode: 404", 1, Class::VmGone, Remedy::Permanent),
    ("VM @U@ not found", 1, Class::VmGone, Remedy::Permanent),
    (
        "zoneadm: @U@: No such zone configured",
        1,
        Class::VmGone,
        Remedy::Permanent,
    ),
    (
        "No snapshot named \"x\" for @U@",
        1,
        Class::NotPrepared,
        Remedy::Permanent,
    ),
    ("Invalid snapshot name", 1, Class::DriverBug, Remedy::Bug),
    ("Usage: vmadm", 2, Class::DriverBug, Remedy::Bug),
    (
        "first of 1 error: VM @U@ is already not 'running' (currently: \
         running)",
        1,
        Class::LostRace,
        Remedy::Retry,
    ),
    (
        "VM @U@ is already not 'running' (currently: failed)",
        1,
        Class::VmBroken,
        Remedy::Operator,
    ),
    (
        "Command failed: cannot rollback to 'zones/@U@@vmsnap-clean': busy\n",
        1,
        Class::Storage,
        Remedy::Operator,
    ),
    (
        "first of 1 error: Command failed: zone '@U@': unable to unmount \
         '/x'\nzoneadm: zone '@U@': call to zoneadmd failed\n",
        1,
        Class::ZoneStuck,
        Remedy::Retry,
    ),
    ("connect ECONNREFUSED", 1, Class::NotReady, Remedy::Retry),
    (
        "VminfodEventStream ready timeout (30000ms) exceeded",
        1,
        Class::NotReady,
        Remedy::Retry,
    ),
    (
        "first of 1 error: vminfod watchForChanges \"x\" timeout exceeded",
        1,
        Class::Unknown,
        Remedy::Retry,
    ),
    (
        "snapshots for kvm VMs currently unsupported",
        1,
        Class::WrongKind,
        Remedy::Permanent,
    ),
];

#[tokio::test]
async fn each_row_of_the_table_means_the_same_over_ssh() {
    let place = over_ssh!();
    for (said, code, class, remedy) in TABLE {
        place.set("say", &said.replace("@U@", U));
        place.set("code", &code.to_string());
        let error = place.driver.vmadm().get(uuid(), soon()).await.unwrap_err();
        assert_eq!(error.class(), Some(class), "{said}: {}", story(&error));
        assert_eq!(error.remedy(), remedy, "{said}");
    }
}

/// Two runners with drivers of their own, and an operator, on one VM.
#[tokio::test]
async fn what_others_did_to_a_vm_is_noticed_by_its_boot() {
    let mut place = over_ssh!();
    let (ours, theirs) = (place.driver.clone(), place.driver_here());
    let worker = ours.take(uuid(), soon()).await.unwrap();
    let done = worker.roll_back(&clean(), soon()).await.unwrap();
    let boot = worker.ensure_booted(done.before.as_ref(), soon()).await;
    let boot = boot.unwrap();
    worker.verify_untouched(&boot, soon()).await.unwrap();
    let other = theirs.take(uuid(), soon()).await.unwrap();
    other.roll_back(&clean(), soon()).await.unwrap();
    let error = worker.verify_untouched(&boot, soon()).await.unwrap_err();
    assert!(matches!(error, StageError::Touched { .. }), "{error}");
    let boot = worker.look(soon()).await.unwrap().boot().unwrap();
    place.set("state", "stopped");
    let error = worker.verify_untouched(&boot, soon()).await.unwrap_err();
    assert!(error.to_string().contains("someone else acted"), "{error}");
    place.sshd().stop();
}
