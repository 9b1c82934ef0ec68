//! What vmadm and zlogin answer, case by case: exit status, stdout, stderr
//! and the state afterwards, as written down for the original.
//!
//! Cases of the list that Linux cannot show: 13 (kvm), 43 (root is not
//! needed here), 45 (no foreign snapshots), 46 (no /checkpoints), 54 to 57
//! (metadata from inside comes later).

mod host;

use host::{Host, Said, wait_until};
use serde_json::json;

const NOBODY: &str = "c0ffee00-1111-4222-8333-444455556666";

/// One case: the command, and what it must answer. `U` stands for the uuid
/// of the zone and `N` for one of none.
struct Case {
    number: &'static str,
    command: &'static [&'static str],
    code: i32,
    out: &'static str,
    err: &'static str,
    state: &'static str,
}

const fn case(
    number: &'static str,
    command: &'static [&'static str],
    code: i32,
    err: &'static str,
    state: &'static str,
) -> Case {
    Case { number, command, code, out: "", err, state }
}

fn check(host: &Host, id: &str, case: &Case) {
    let put = |text: &str| match text {
        "U" => id.to_owned(),
        "N" => NOBODY.to_owned(),
        other => other.replace("{U}", id).replace("{N}", NOBODY),
    };
    let args: Vec<String> = case.command.iter().map(|w| put(w)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = host.vmadm(&args);
    let number = case.number;
    assert_eq!(said.code, case.code, "case {number}: {said:?}");
    assert_eq!(said.out, put(case.out), "case {number}");
    let err = put(case.err);
    if case.code == 2 {
        assert!(said.err.starts_with(&err), "case {number}: {said:?}");
        assert!(said.err.contains("\nUsage: "), "case {number}");
    } else {
        let line = if err.is_empty() { err } else { format!("{err}\n") };
        assert_eq!(said.err, line, "case {number}");
    }
    if !case.state.is_empty() {
        assert_eq!(host.get(id)["state"], case.state, "case {number}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one flat table")]
fn the_cases_of_the_original_hold() {
    let host = Host::new();
    let id = host.running(&json!({"nics": [{}]}));
    let not_found = "bad statusCode: 404";
    let cases = [
        case(
            "3",
            &["rollback-snapshot", "U", "nope"],
            1,
            "No snapshot named \"nope\" for {U}",
            "running",
        ),
        case(
            "4",
            &["rollback-snapshot", "U", "a b"],
            1,
            "Invalid snapshot name",
            "running",
        ),
        case(
            "4",
            &["rollback-snapshot", "U", ""],
            1,
            "Invalid snapshot name",
            "running",
        ),
        case(
            "4",
            &["create-snapshot", "U", "a/b"],
            1,
            "Invalid snapshot name",
            "running",
        ),
        case("5", &["rollback-snapshot", "N", "clean"], 1, not_found, ""),
        case(
            "6",
            &["get", "N"],
            1,
            "zoneadm: {N}: No such zone configured",
            "",
        ),
        case("7", &["create-snapshot", "N", "x"], 1, "VM {N} not found", ""),
        case(
            "8",
            &["get", "notauuid"],
            2,
            "Invalid or missing UUID for get",
            "",
        ),
        case("8", &["halt"], 2, "Invalid or missing UUID for stop", ""),
        case(
            "10",
            &["create-snapshot", "U", "clean"],
            1,
            "snapshot with name \"clean\" already exists.",
            "running",
        ),
        case(
            "11",
            &["create-snapshot", "U", "A-z_0.9:%"],
            0,
            "Created snapshot A-z_0.9:% for VM {U}",
            "running",
        ),
        case(
            "14",
            &["create-snapshot", "U"],
            2,
            "Wrong number of parameters to \"create-snapshot\"",
            "running",
        ),
        case(
            "14",
            &["rollback-snapshot", "U", "a", "b"],
            2,
            "Wrong number of parameters to \"rollback-snapshot\"",
            "",
        ),
        case(
            "15",
            &["delete-snapshot", "U", "A-z_0.9:%"],
            0,
            "Deleted snapshot A-z_0.9:% for VM {U}",
            "running",
        ),
        case(
            "15",
            &["delete-snapshot", "U", "A-z_0.9:%"],
            1,
            "No snapshot named \"A-z_0.9:%\" for {U}",
            "running",
        ),
        case(
            "17",
            &["start", "U"],
            0,
            "Unable to start VM {U}: VM {U} is already 'running'",
            "running",
        ),
        case(
            "23",
            &["stop", "U", "-t", "30"],
            1,
            "first of 1 error: Timeout option is only supported for \
              bhyve, KVM and docker containers.",
            "running",
        ),
        case(
            "25",
            &["reboot", "U"],
            0,
            "Successfully completed reboot for VM {U}",
            "running",
        ),
        case(
            "37",
            &["info", "U"],
            1,
            "Unable to get VM info for VM {U}: no info types supported \
              for brand joyent",
            "running",
        ),
        case(
            "19",
            &["stop", "U"],
            0,
            "Successfully completed stop for VM {U}",
            "stopped",
        ),
        case(
            "20",
            &["stop", "U"],
            0,
            "VM {U} is already not 'running' (currently: stopped)",
            "stopped",
        ),
        case(
            "21",
            &["stop", "-F", "U"],
            1,
            "first of 1 error: VM {U} is already not 'running' \
              (currently: stopped)",
            "stopped",
        ),
        case(
            "24",
            &["reboot", "U"],
            1,
            "Cannot reboot vm from state \"stopped\", must be \"running\"",
            "stopped",
        ),
        case(
            "24",
            &["reboot", "U", "-F"],
            1,
            "Cannot reset vm from state \"stopped\", must be \"running\".",
            "stopped",
        ),
        case(
            "16",
            &["start", "U"],
            0,
            "Successfully started VM {U}",
            "running",
        ),
        case(
            "22",
            &["stop", "U", "-F"],
            0,
            "Successfully completed stop for VM {U}",
            "stopped",
        ),
        case(
            "2",
            &["rollback-snapshot", "U", "clean"],
            0,
            "Rolled back snapshot clean for VM {U}",
            "running",
        ),
        case(
            "1",
            &["rollback-snapshot", "U", "clean"],
            0,
            "Rolled back snapshot clean for VM {U}",
            "running",
        ),
        Case {
            out: "{U}:running:running:worker0\n",
            ..case(
                "33",
                &["list", "-p", "-o", "uuid,state,zone_state,alias"],
                0,
                "",
                "",
            )
        },
        case("32", &["list", "-p", "alias=nope"], 0, "", ""),
        case("34", &["lookup", "alias=nope"], 0, "", ""),
        Case {
            out: "[]\n",
            ..case("34", &["lookup", "-j", "alias=nope"], 0, "", "")
        },
        case(
            "34",
            &["lookup", "-1", "alias=nope"],
            1,
            "Requested unique lookup but found 0 results.",
            "",
        ),
        Case {
            out: "[\n  {\n    \"uuid\": \"{U}\"\n  }\n]\n",
            ..case(
                "35",
                &["lookup", "-1", "-j", "-o", "uuid", "alias=worker0"],
                0,
                "",
                "",
            )
        },
        case("36", &["lookup", "foo=1"], 1, "Invalid lookup key: \"foo\"", ""),
        case(
            "36",
            &["lookup", "-o", "uuid"],
            1,
            "Cannot specify -o without -j",
            "",
        ),
        case("1.2", &["list", "-o", "foo"], 1, "invalid order field: foo", ""),
        case("1.0", &["bogus"], 2, "Invalid command: \"bogus\".", ""),
        case("1.14", &["kill", "-9", "N"], 1, not_found, ""),
        case(
            "1.6",
            &["start", "N"],
            1,
            "Unable to start VM {N}: bad statusCode: 404",
            "",
        ),
        case("1.7", &["stop", "N"], 1, "VM {N} not found", ""),
        case("1.7", &["stop", "-F", "N"], 1, not_found, ""),
        case(
            "1.12",
            &["delete", "N"],
            1,
            "Failed to delete VM {N}: VM {N} not found",
            "",
        ),
        case("41", &["delete", "U"], 0, "Successfully deleted VM {U}", ""),
        case(
            "41",
            &["get", "U"],
            1,
            "zoneadm: {U}: No such zone configured",
            "",
        ),
    ];
    for case in &cases {
        check(&host, &id, case);
    }
}

#[test]
fn create_refuses_what_the_original_refuses() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    let create = |text: String| -> Said {
        host.feed("vmadm", &["create"], text.as_bytes()).into()
    };
    let image = ntrace_standin::HOST_IMAGE;
    for (text, err) in [
        ("{}".to_owned(), "Missing required properties: image_uuid\n"),
        (
            json!({"uuid": id, "image_uuid": image}).to_string(),
            &*format!("VM with UUID {id} already exists\n"),
        ),
        (
            json!({"image_uuid": NOBODY}).to_string(),
            "Invalid value(s) for: image_uuid\n",
        ),
        (
            json!({"image_uuid": image, "quota": -2}).to_string(),
            "Invalid value(s) for: quota\n",
        ),
    ] {
        let said = create(text);
        assert_eq!((said.code, said.err.as_str()), (1, err));
    }
    assert!(create("{".to_owned()).err.starts_with("Invalid JSON payload: "));
}

#[test]
fn a_created_zone_with_autoboot_runs() {
    let host = Host::new();
    let id = host.zone(&json!({"autoboot": true}));
    let seen = host.get(&id);
    assert_eq!(seen["state"], "running");
    assert_eq!(seen["autoboot"], true);
}

#[test]
fn stopping_notes_the_end_and_clears_autoboot() {
    let host = Host::new();
    let id = host.running(&json!({}));
    assert!(host.get(&id)["pid"].is_number());
    host.ok(&["stop", &id]);
    let seen = host.get(&id);
    assert_eq!(seen["autoboot"], false);
    assert_eq!(seen["exit_status"], 0);
    assert!(seen["exit_timestamp"].is_string());
    assert!(seen.get("pid").is_none() && seen.get("boot_timestamp").is_none());
}

#[test]
fn a_rollback_brings_metadata_back_but_not_limits() {
    let host = Host::new();
    let id = host.running(&json!({"customer_metadata": {"a": "old"}}));
    let update = json!({
        "set_customer_metadata": {"a": "new", "b": "1"},
        "set_tags": {"t": true},
        "max_physical_memory": 600,
        "quota": 2,
    });
    let said: Said = host
        .feed("vmadm", &["update", &id], update.to_string().as_bytes())
        .into();
    assert_eq!(said.err, format!("Successfully updated VM {id}\n"));
    assert_eq!(host.get(&id)["customer_metadata"]["a"], "new");
    let before = host.get(&id)["boot_timestamp"].clone();
    host.ok(&["rollback-snapshot", &id, "clean"]);
    let seen = host.get(&id);
    assert_eq!(seen["customer_metadata"], json!({"a": "old"}));
    assert_eq!(seen["tags"], json!({}));
    assert_eq!(seen["max_physical_memory"], 600);
    assert_eq!(seen["quota"], 2);
    assert_ne!(seen["boot_timestamp"], before);
    assert_eq!(seen["autoboot"], true);
}

#[test]
fn faults_give_the_texts_and_states_of_the_original() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let back = ["rollback-snapshot", id.as_str(), "clean"];
    host.root(&id, "echo x > /root/mark");
    host.faults(&id, "rollback=fail*1");
    let said = host.vmadm(&back);
    assert_eq!(said.code, 1);
    let start = format!(
        "Command failed: cannot rollback to 'zones/{id}@vmsnap-clean': "
    );
    assert!(said.err.starts_with(&start), "case 27: {said:?}");
    assert!(said.err.ends_with("\n\n"), "case 27 ends in an empty line");
    let seen = host.get(&id);
    assert_eq!(
        (&seen["state"], &seen["autoboot"]),
        (&json!("stopped"), &json!(false))
    );
    host.ok(&["start", &id]);
    assert_eq!(host.root(&id, "cat /root/mark").out, "x\n");

    host.faults(&id, "boot=fail*1");
    let said = host.vmadm(&back);
    let start = "first of 1 error: Command failed: zone ";
    assert!(said.code == 1 && said.err.starts_with(start), "28: {said:?}");
    assert_eq!(host.get(&id)["state"], "stopped");
    host.ok(&["start", &id]);
    assert_eq!(host.root(&id, "cat /root/mark").code, 1, "rolled back");

    host.faults(&id, "halt=fail*1");
    assert!(host.vmadm(&["stop", "-F", &id]).err.contains("unable to destroy"));
    host.faults(&id, "event=timeout*1");
    let said = host.vmadm(&back);
    assert!(said.code == 1 && said.err.contains("timeout exceeded"));
    assert_eq!(host.get(&id)["state"], "running");
    host.faults(&id, "probe=fail*1");
    assert_eq!(host.zlogin(&[&id, "true"]).code, 1);
    assert_eq!(host.zlogin(&[&id, "true"]).code, 0);
    host.faults(&id, "kill=between*1");
    assert_eq!(host.vmadm(&back).code, -1);
    let seen = host.get(&id);
    assert_eq!(
        (&seen["state"], &seen["autoboot"]),
        (&json!("stopped"), &json!(false))
    );
    host.ok(&back);

    std::fs::write(host.state().join("faults"), "vminfod=down*1").unwrap();
    assert_eq!(host.vmadm(&["list"]).err, "connect ECONNREFUSED\n");
    assert_eq!(host.vmadm(&["list"]).code, 0);
}

#[test]
fn of_two_rollbacks_at_once_one_loses() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.faults(&id, "rollback=hang:1*1");
    let back = ["rollback-snapshot", id.as_str(), "clean"];
    let first = host.command("vmadm", &back).spawn().unwrap();
    let faults = host.zone_dir(&id).join("faults");
    // Under way once it has taken its fault; the zone is down by then. The
    // second looked before, hence this order.
    let second = host
        .command("vmadm", &back)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let second: Said = second.wait_with_output().unwrap().into();
    let first = host::reap(first);
    wait_until("the fault is used up", || {
        std::fs::read_to_string(&faults).is_ok_and(|text| text.is_empty())
    });
    // The two raced: one of them won, or they came one after the other.
    assert!(first == 0 || second.code == 0);
    if second.code != 0 {
        let text = "is already not 'running' (currently: running)";
        assert!(second.err.contains(text), "{second:?}");
    }
    assert_eq!(host.get(&id)["state"], "running");
}

#[test]
fn of_two_snapshots_of_one_name_one_is_made() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    let make = ["create-snapshot", id.as_str(), "twice"];
    let children: Vec<_> =
        (0..2).map(|_| host.command("vmadm", &make).spawn().unwrap()).collect();
    let mut codes: Vec<i32> = children.into_iter().map(host::reap).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 1]);
    assert_eq!(host.get(&id)["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn two_starts_at_once_both_succeed() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    let children: Vec<_> = (0..2)
        .map(|_| host.command("vmadm", &["start", &id]).spawn().unwrap())
        .collect();
    assert!(children.into_iter().map(host::reap).all(|code| code == 0));
}

#[test]
fn zlogin_answers_as_the_original() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    let said = host.zlogin(&[&id, "true"]);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        format!(
            "zlogin: login allowed only to running zones ({id} is \
                 'installed').\n"
        )
    );
    let said = host.zlogin(&[NOBODY, "true"]);
    assert_eq!(
        (said.code, said.err),
        (1, format!("zlogin: zone '{NOBODY}' unknown\n"))
    );
    assert_eq!(host.zlogin(&["-x"]).code, 2);
    host.ok(&["start", &id]);
    assert_eq!(host.root(&id, "exit 7").code, 7);
    assert_eq!(host.root(&id, "kill -9 $$").code, 0, "case 50");
    let said = host.zlogin(&[&id, "echo", "a b", "$HOME"]);
    assert_eq!(said.out, "a b /root\n");
    let said: Said = host.feed("zlogin", &[&id, "cat"], b"hi\n").into();
    assert_eq!(said.out, "hi\n");
    let said = host.root(&id, "pwd; echo out; echo err >&2; env | sort");
    assert!(said.out.starts_with("/root\nout\n"));
    assert_eq!(said.err, "err\n");
    assert!(!said.out.contains("SECRET_OF_CALLER"), "{}", said.out);
    assert_eq!(host.zlogin(&[&id, "/nonesuch"]).code, 127);
}

#[test]
fn a_halt_under_zlogin_ends_it_with_zero() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let child = host
        .command("zlogin", &[&id, "echo on > /root/on; exec sleep 600"])
        .spawn()
        .unwrap();
    wait_until("the command runs", || {
        host.root(&id, "cat /root/on").out == "on\n"
    });
    host.ok(&["stop", "-F", &id]);
    assert_eq!(host::reap(child), 0);
}

#[test]
fn zlogin_does_not_wait_for_those_that_stay_behind() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let said = host.root(&id, "sleep 600 & echo gone");
    assert_eq!((said.code, said.out.as_str()), (0, "gone\n"));
}

#[test]
fn much_output_comes_through_whole() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let line = "head -c 67108864 /dev/zero; echo end >&2";
    let output = host.command("zlogin", &[&id, line]).output().unwrap();
    assert_eq!(output.stdout.len(), 64 << 20);
    assert_eq!(output.stderr, b"end\n");
    let input: Vec<u8> = (0..8_u32 << 20).map(|n| (n * 31) as u8).collect();
    let output = host.feed("zlogin", &[&id, "cat"], &input);
    assert!(output.stdout == input, "binary data goes there and back");
}
