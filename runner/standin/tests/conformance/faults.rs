//! Each fault switch: what its callers see, and that it ends.

use std::path::Path;
use std::process::Stdio;

use crate::host::{Host, Said, alive, kill, wait_until};
use serde_json::{Value, json};

/// How long a switch hangs that a test ends by itself.
const LONG: &str = "600";

fn place_fault(host: &Host, text: &str) {
    std::fs::write(host.state().join("faults"), text).unwrap();
}

fn is_used_up(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.is_empty())
}

#[track_caller]
fn is(host: &Host, id: &str, state: &str, autoboot: bool) {
    let seen = host.get(id);
    let found = (&seen["state"], &seen["autoboot"]);
    assert_eq!(found, (&json!(state), &json!(autoboot)));
}

/// Starts a command under a switch that makes it hang, waits until it does,
/// gives what others see meanwhile, and kills the command.
fn hung(host: &Host, id: &str, switch: &str, args: &[&str]) -> Value {
    host.faults(id, &format!("{switch}:{LONG}*1"));
    let mut child =
        host.command("vmadm", args).stderr(Stdio::null()).spawn().unwrap();
    let faults = host.zone_dir(id).join("faults");
    wait_until("the fault is used up", || is_used_up(&faults));
    wait_until("the note of it is there, if there is one", || {
        switch != "halt=hang" || host.get(id)["state"] == "shutting_down"
    });
    let seen = host.get(id);
    assert!(child.try_wait().unwrap().is_none(), "{switch} hangs");
    kill(child.id() as i32, rustix::process::Signal::KILL);
    child.wait().unwrap();
    seen
}

#[test]
fn a_hanging_halt_shows_as_shutting_down_and_can_be_done_again() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let back = ["rollback-snapshot", id.as_str(), "clean"];
    let seen = hung(&host, &id, "halt=hang", &back);
    assert_eq!(seen["zone_state"], "shutting_down");
    is(&host, &id, "running", true);
    host.ok(&back);
    is(&host, &id, "running", true);
}

#[test]
fn a_failing_halt_leaves_the_zone_as_it_was() {
    let host = Host::new();
    let id = host.running(&json!({}));
    for args in
        [vec!["stop", "-F", &id], vec!["rollback-snapshot", &id, "clean"]]
    {
        host.faults(&id, "halt=fail*1");
        let said = host.vmadm(&args);
        let wanted = format!(
            "first of 1 error: Command failed: zone '{id}': unable to \
             destroy zone\nzoneadm: zone '{id}': call to zoneadmd failed\n\n"
        );
        assert_eq!((said.code, said.err), (1, wanted));
        is(&host, &id, "running", true);
    }
    host.ok(&["stop", "-F", &id]);
}

#[test]
fn a_rollback_or_boot_that_hangs_leaves_the_zone_down() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let back = ["rollback-snapshot", id.as_str(), "clean"];
    for switch in ["rollback=hang", "boot=hang"] {
        let seen = hung(&host, &id, switch, &back);
        assert_eq!(seen["state"], "stopped", "{switch}");
        is(&host, &id, "stopped", false);
        host.ok(&back);
        is(&host, &id, "running", true);
    }
}

#[test]
fn faults_count_down() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let back = ["rollback-snapshot", id.as_str(), "clean"];
    host.faults(&id, "rollback=fail*2\nboot=fail*1");
    let codes = [(); 4].map(|()| host.vmadm(&back).code);
    assert_eq!(codes, [1, 1, 1, 0]);
    host.faults(&id, "boot=fail");
    host.ok(&["stop", &id]);
    let codes = [(); 3].map(|()| host.vmadm(&["start", &id]).code);
    assert_eq!(codes, [1, 1, 1], "without a count it stays");
}

#[test]
fn a_boot_that_fails_has_the_text_of_its_command() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    host.faults(&id, "boot=fail*1");
    let said = host.vmadm(&["start", &id]);
    let wanted = format!(
        "Unable to start VM {id}: first of 1 error: Command failed: zone \
         '{id}': boot was made to fail\nzoneadm: zone '{id}': call to \
         zoneadmd failed\n\n"
    );
    assert_eq!((said.code, said.err), (1, wanted));
    is(&host, &id, "stopped", false);
}

#[test]
fn a_slow_zone_runs_but_is_not_ready() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    host.faults(&id, &format!("boot=slow:{LONG}*1"));
    host.ok(&["start", &id]);
    is(&host, &id, "running", true);
    let wanted = format!(
        "zlogin: could not enter zone {id}: Resource temporarily \
         unavailable\n"
    );
    let said = host.zlogin(&[&id, "true"]);
    assert_eq!((said.code, said.err), (1, wanted));
    host.faults(&id, "boot=slow:0.2*1");
    host.ok(&["rollback-snapshot", &id, "clean"]);
    wait_until("it is ready", || host.zlogin(&[&id, "true"]).code == 0);
}

#[test]
fn a_change_that_timed_out_was_made() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let timed_out = |args: &[&str], what: &str| {
        host.faults(&id, "event=timeout*1");
        let said = host.vmadm(args);
        let wanted = format!(
            "first of 1 error: vminfod watchForChanges \"VM.js {what} \
             ({id})\" timeout exceeded\n"
        );
        assert_eq!((said.code, said.err), (1, wanted), "{args:?}");
        host.get(&id)
    };
    let seen = timed_out(&["create-snapshot", &id, "x"], "create_snapshot");
    assert_eq!(seen["snapshots"].as_array().unwrap().len(), 2);
    let seen = timed_out(&["rollback-snapshot", &id, "clean"], "rollback");
    assert_eq!(seen["state"], "running");
    assert_eq!(seen["snapshots"].as_array().unwrap().len(), 1);
    let seen = timed_out(&["update", &id, "quota=3"], "update");
    assert_eq!(seen["quota"], 3);
    let seen = timed_out(&["reboot", &id], "reboot");
    assert_eq!(seen["state"], "running");
    let seen = timed_out(&["stop", "-F", &id], "stop");
    assert_eq!(seen["state"], "stopped");
    let seen = timed_out(&["start", &id], "start");
    assert_eq!(seen["state"], "running");
    let args = ["delete-snapshot", id.as_str(), "clean"];
    let seen = timed_out(&args, "delete_snapshot");
    assert_eq!(seen["snapshots"], json!([]));
}

#[test]
fn a_vmadm_killed_between_halt_and_rollback_leaves_the_old_files() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.root(&id, "echo x > /root/mark");
    let back = ["rollback-snapshot", id.as_str(), "clean"];
    host.faults(&id, "kill=between*1");
    assert_eq!(host.vmadm(&back).code, -1, "ended by a signal");
    is(&host, &id, "stopped", false);
    host.ok(&["start", &id]);
    assert_eq!(host.root(&id, "cat /root/mark").out, "x\n");
    host.ok(&back);
    assert_eq!(host.root(&id, "cat /root/mark").code, 1);
}

#[test]
fn without_vminfod_commands_fail_or_crash_as_the_original() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let refused = "connect ECONNREFUSED\n";
    let start = format!("Unable to start VM {id}: {refused}");
    let info = format!("Unable to get VM info for VM {id}: {refused}");
    place_fault(&host, "vminfod=down");
    for (args, err) in [
        (vec!["list"], refused),
        (vec!["lookup"], refused),
        (vec!["get", &id], refused),
        (vec!["rollback-snapshot", &id, "clean"], refused),
        (vec!["stop", "-F", &id], refused),
        (vec!["start", &id], &start),
        (vec!["info", &id], &info),
    ] {
        let said = host.vmadm(&args);
        assert_eq!((said.code, said.err.as_str()), (1, err), "{args:?}");
    }
    for args in [
        vec!["stop", &id],
        vec!["create-snapshot", &id, "x"],
        vec!["delete-snapshot", &id, "clean"],
        vec!["update", &id, "quota=1"],
        vec!["delete", &id],
    ] {
        let said = host.vmadm(&args);
        assert_eq!(said.code, -1, "{args:?} ends by a signal: {said:?}");
    }
    place_fault(&host, "");
    is(&host, &id, "running", true);
    assert_eq!(host.get(&id)["snapshots"].as_array().unwrap().len(), 1);
}

#[test]
fn a_zone_stuck_half_down_answers_as_the_original() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let init = host.get(&id)["pid"].as_i64().unwrap() as i32;
    for state in ["down", "shutting_down"] {
        host.faults(&id, &format!("stuck={state}*2"));
        is(&host, &id, state, true);
        let said = host.zlogin(&[&id, "true"]);
        let wanted = format!(
            "zlogin: login allowed only to running zones ({id} is \
             '{state}').\n"
        );
        assert_eq!((said.code, said.err), (1, wanted));
        let said = host.vmadm(&["stop", &id]);
        let wanted =
            format!("VM {id} is already not 'running' (currently: {state})\n");
        assert_eq!((said.code, said.err), (0, wanted));
        let said = host.vmadm(&["start", &id]);
        let wanted = format!(
            "Unable to start VM {id}: Cannot start vm from state \
             \"{state}\", must be \"stopped\".\n"
        );
        assert_eq!((said.code, said.err), (1, wanted));
        let back = ["rollback-snapshot", id.as_str(), "clean"];
        for args in [&["stop", "-F", id.as_str()][..], &back] {
            let said = host.vmadm(args);
            assert_eq!(said.code, 1);
            assert!(said.err.contains("unable to destroy zone"), "{said:?}");
            assert!(!alive(init), "its processes are gone");
        }
        host.ok(&back);
        is(&host, &id, "running", true);
    }
}

#[test]
fn a_probe_fails_or_hangs_and_then_works() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.faults(&id, "probe=fail*1");
    assert_eq!(host.zlogin(&[&id, "true"]).code, 1);
    assert_eq!(host.zlogin(&[&id, "true"]).code, 0);
    host.faults(&id, &format!("probe=hang:{LONG}*1"));
    let mut child = host.command("zlogin", &[&id, "true"]).spawn().unwrap();
    let faults = host.zone_dir(&id).join("faults");
    wait_until("the fault is used up", || is_used_up(&faults));
    assert!(child.try_wait().unwrap().is_none(), "it hangs");
    assert_eq!(host.zlogin(&[&id, "true"]).code, 0, "others go in");
    kill(child.id() as i32, rustix::process::Signal::KILL);
    child.wait().unwrap();
}

#[test]
fn a_new_zone_whose_boot_never_ends_is_failed_and_can_only_be_deleted() {
    let host = Host::new();
    let id = super::bench::failed(&host);
    is(&host, &id, "failed", false);
    assert_eq!(host.get(&id)["zone_state"], "installed");
    let said: Said = host.vmadm(&["stop", &id]);
    let wanted =
        format!("VM {id} is already not 'running' (currently: failed)\n");
    assert_eq!((said.code, said.err), (0, wanted));
    host.ok(&["delete", &id]);
}
