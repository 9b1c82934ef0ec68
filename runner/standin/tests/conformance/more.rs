//! What the original says beyond the numbered cases, section by section of
//! its description; and what holds for large or lasting things.

use super::bench::{Case, NOBODY, done, nothing, vmadm};
use crate::host::{Host, Said};
use serde_json::json;

const ROWS: [Case; 2] = [
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
            vmadm(&["update", "{U}", "quota=1"], 1, "VM {U} not found"),
            vmadm(
                &["delete", "{U}"],
                1,
                "Failed to delete VM {U}: VM {U} not found",
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
