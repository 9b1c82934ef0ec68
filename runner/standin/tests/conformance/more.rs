//! What the original says beyond the numbered cases, section by section of
//! its description; and what holds for large or lasting things.

use super::bench::{
    Case, NOBODY, done, nothing, running, stopped, unchanged, vmadm,
};
use crate::host::{Host, Said, wait_until};
use serde_json::json;

const ROWS: [Case; 5] = [
    Case {
        number: 0,
        given: nothing,
        steps: &[
            vmadm(&["bogus"], 2, "Invalid command: \"bogus\"."),
            vmadm(&["list", "-o", "foo"], 1, "invalid order field: foo"),
            vmadm(&["list", "-s", "foo"], 1, "invalid sort field: foo"),
            vmadm(&["list", "foo=1"], 1, "Invalid filter key: \"foo\""),
        ],
        then: done,
    },
    Case {
        number: 0,
        given: nothing,
        steps: &[
            vmadm(&["kill", "-9", "{U}"], 1, "bad statusCode: 404"),
            vmadm(
                &["start", "{U}"],
                1,
                "Unable to start VM {U}: bad statusCode: 404",
            ),
            vmadm(
                &["info", "{U}"],
                1,
                "Unable to get VM info for VM {U}: bad statusCode: 404",
            ),
            vmadm(&["stop", "{U}"], 1, "VM {U} not found"),
            vmadm(&["stop", "-F", "{U}"], 1, "bad statusCode: 404"),
            vmadm(&["reboot", "{U}"], 1, "bad statusCode: 404"),
            vmadm(&["delete-snapshot", "{U}", "x"], 1, "VM {U} not found"),
            vmadm(&["sysrq", "{U}", "nmi"], 1, "bad statusCode: 404"),
            vmadm(&["console", "{U}"], 1, "bad statusCode: 404"),
            vmadm(&["update", "{U}", "quota=1"], 1, "VM {U} not found"),
            vmadm(
                &["delete", "{U}"],
                1,
                "Failed to delete VM {U}: VM {U} not found",
            ),
        ],
        then: done,
    },
    Case {
        number: 0,
        given: running,
        steps: &[
            vmadm(
                &["sysrq", "{U}", "nmi"],
                1,
                "The sysrq command is only supported for VMs  with brand \
                 \"bhyve\" or \"kvm\".",
            ),
            vmadm(&["sysrq", "{U}", "foo"], 2, "Invalid sysrq type: foo"),
            vmadm(
                &["kill", "{U}"],
                0,
                "Sent signal \"SIGTERM\" to init process for VM {U}",
            ),
            vmadm(
                &["kill", "-s", "HUP", "{U}"],
                0,
                "Sent signal \"SIGHUP\" to init process for VM {U}",
            ),
            vmadm(
                &["kill", "-KILL", "{U}"],
                0,
                "Sent signal \"SIGKILL\" to init process for VM {U}",
            ),
            vmadm(
                &["kill", "{U}"],
                1,
                "Cannot find running init PID for VM {U}",
            ),
        ],
        then: |after| assert_eq!(after.now["state"], "stopped"),
    },
    Case {
        number: 0,
        given: stopped,
        steps: &[
            vmadm(
                &["sysrq", "{U}", "nmi"],
                1,
                "Unable to send request to vm from state \"stopped\", must \
                 be \"running\" or \"stopping\".",
            ),
            vmadm(
                &["console", "{U}"],
                1,
                "cannot connect to console when state is \"stopped\" must \
                 be \"running\".",
            ),
            vmadm(
                &["info", "{U}"],
                1,
                "Unable to get VM info for VM {U}: Unable to get info for \
                 vm from state \"stopped\", must be \"running\" or \
                 \"stopping\".",
            ),
        ],
        then: unchanged,
    },
    Case {
        number: 0,
        given: |host| host.bare(&json!({"indestructible_zoneroot": true})),
        steps: &[
            vmadm(
                &["delete", "{U}"],
                1,
                "Failed to delete VM {U}: indestructible_zoneroot is set, \
                 cannot delete",
            ),
            vmadm(
                &["update", "{U}", "indestructible_zoneroot=false"],
                0,
                "Successfully updated VM {U}",
            ),
        ],
        then: done,
    },
];

#[test]
fn what_is_said_beyond_the_numbered_cases_is_exact() {
    let host = Host::new();
    for case in &ROWS {
        case.check(&host);
        super::bench::clear(&host);
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
fn events_tell_what_happens_until_their_reader_leaves() {
    use std::io::{BufRead, BufReader};
    let host = Host::new();
    let id = host.zone(&json!({}));
    let mut child = host
        .command("vmadm", &["events", "-jr"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    let ready = next();
    assert_eq!(ready["type"], "ready");
    assert_eq!(ready["vms"][&id]["state"], "stopped");
    host.ok(&["start", &id]);
    // Its files change one by one; each look tells what it found.
    let mut seen = next();
    while seen["vm"]["state"] != "running" {
        assert_eq!(seen["type"], "modify");
        seen = next();
    }
    let changes = seen["changes"].as_array().unwrap();
    let state = changes.iter().find(|one| one["prettyPath"] == "state");
    assert_eq!(
        state.unwrap(),
        &json!({
            "prettyPath": "state", "path": ["state"], "action": "changed",
            "oldValue": "stopped", "newValue": "running",
        })
    );
    let other = host.bare(&json!({"alias": "second"}));
    while seen["type"] != "create" {
        seen = next();
    }
    assert_eq!(seen["zonename"], *other);
    host.ok(&["delete", &other]);
    while seen["type"] != "delete" {
        seen = next();
    }
    assert_eq!(seen["zonename"], *other);
    drop(lines);
    wait_until("it ends with its reader", || {
        child.try_wait().unwrap().is_some()
    });
    assert!(child.wait().unwrap().success());
}
