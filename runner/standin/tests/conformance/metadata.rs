//! Metadata from inside a zone.

use super::bench::{Case, done, running, vmadm, zlogin};
use crate::host::{Host, Said, alive, wait_until};
use serde_json::json;

const NO_SOCKET: &str = "ERROR: could not initialise protocol: Could not \
                         find metadata socket.\n";

pub(crate) const CASES: [Case; 4] = [
    Case {
        number: 54,
        given: running,
        steps: &[zlogin(
            &["{U}", "mdata-get", "nokey"],
            1,
            "",
            "No metadata for 'nokey'",
        )],
        then: done,
    },
    Case {
        number: 55,
        given: running,
        steps: &[
            zlogin(&["{U}", "mdata-put k v; mdata-get k"], 0, "v\n", ""),
            zlogin(&["{U}", "mdata-list"], 0, "k\n", ""),
        ],
        then: |after| {
            assert_eq!(after.now["customer_metadata"], json!({"k": "v"}));
        },
    },
    Case {
        number: 56,
        given: running,
        steps: &[
            zlogin(&["{U}", "mdata-put k v"], 0, "", ""),
            vmadm(
                &["rollback-snapshot", "{U}", "clean"],
                0,
                "Rolled back snapshot clean for VM {U}",
            ),
            zlogin(&["{U}", "mdata-get", "k"], 1, "", "No metadata for 'k'"),
        ],
        then: |after| {
            assert_eq!(after.now["customer_metadata"], json!({}));
        },
    },
    Case {
        number: 57,
        given: running,
        steps: &[zlogin(&["{U}", "mdata-get", "sdc:uuid"], 0, "{U}\n", "")],
        then: done,
    },
];

#[test]
fn the_programs_answer_as_the_original() {
    let host = Host::new();
    let id = host.running(&json!({
        "customer_metadata": {"parent": "p", "lines": "a\nb\n"},
        "internal_metadata": {"secret": "s", "root_pw": "w"},
        "tags": {"role": "worker"},
        "quota": 3,
    }));
    let sdc = "Cannot update the \"sdc\" Namespace.";
    for (line, code, out, err) in [
        ("mdata-get parent", 0, "p\n", ""),
        ("mdata-get lines", 0, "a\nb\n", ""),
        ("mdata-get root_pw", 0, "w\n", ""),
        ("mdata-get secret", 1, "", "No metadata for 'secret'\n"),
        ("mdata-list", 0, "lines\nparent\nroot_pw\n", ""),
        ("mdata-get", 3, "", "mdata-get: Usage: mdata-get <keyname>\n"),
        ("printf 'x y\\n' | mdata-put fed", 0, "", ""),
        ("mdata-get fed | od -An -c | tr -d ' '", 0, "xy\\n\n", ""),
        ("mdata-put fed ''", 0, "", ""),
        ("mdata-get fed", 1, "", "No metadata for 'fed'\n"),
        ("mdata-delete parent; mdata-delete parent", 0, "", ""),
        ("mdata-get parent", 1, "", "No metadata for 'parent'\n"),
        (
            "mdata-put sdc:x v",
            2,
            "",
            &*format!("Error putting metadata for key 'sdc:x': {sdc}\n"),
        ),
        ("mdata-get sdc:alias", 0, "worker0\n", ""),
        ("mdata-get sdc:quota", 0, "3\n", ""),
        ("mdata-get sdc:nics", 0, "[]\n", ""),
        ("mdata-get sdc:tags.role", 0, "worker\n", ""),
        ("mdata-get sdc:none", 1, "", "No metadata for 'sdc:none'\n"),
        (
            "/native/mdata-get sdc:hostname",
            1,
            "",
            "No metadata for 'sdc:hostname'\n",
        ),
    ] {
        let wanted = Said { code, out: out.to_owned(), err: err.to_owned() };
        assert_eq!(host.root(&id, line), wanted, "{line}");
    }
}

#[test]
fn a_job_can_neither_read_nor_write_metadata() {
    let host = Host::new();
    let id = host.running(&json!({"customer_metadata": {"k": "v"}}));
    let tries = [
        "/native/mdata-get k",
        "/native/mdata-put k other",
        "/native/mdata-delete k",
        "/native/mdata-list",
        // Root of a namespace of its own is not root of the zone.
        "unshare -r /native/mdata-put k other",
    ];
    for line in tries {
        let (said, status) = host.job(&id, line);
        assert_eq!(said.out, "", "{line}");
        let refused = said.err.starts_with(NO_SOCKET);
        // A machine may forbid the namespace itself.
        assert!(refused || line.starts_with("unshare"), "{line}: {said:?}");
        assert_ne!(status["code"], 0, "{line}");
    }
    // Nor by putting another directory in its place.
    let (_, status) = host.job(&id, "rm -rf /.zonecontrol/*");
    assert!(status["code"].is_number());
    assert_eq!(host.get(&id)["customer_metadata"], json!({"k": "v"}));
    assert_eq!(host.root(&id, "mdata-get k").out, "v\n");
}

#[test]
fn metadata_is_bounded_and_binary_bytes_do_no_harm() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let put = "head -c 1048577 /dev/zero | tr '\\0' x | mdata-put big";
    let said = host.root(&id, put);
    let wanted = "Error putting metadata for key 'big': a value has at most \
                  1048576 bytes\n";
    assert_eq!((said.code, said.err.as_str()), (2, wanted));
    let put = "head -c 1048576 /dev/zero | tr '\\0' x | mdata-put big";
    assert_eq!(host.root(&id, put).code, 0);
    assert_eq!(host.root(&id, "mdata-get big | wc -c").out, "1048577\n");
    let put = "printf 'a\\377b\\033[2J' | mdata-put bin; mdata-get bin";
    assert_eq!(host.root(&id, put).out, "a\u{fffd}b\u{1b}[2J\n");
    let said = host.root(&id, "mdata-put \"$(printf 'a\\nb')\" v");
    assert_eq!(said.code, 2, "{said:?}");
    host.ok(&["stop", &id]);
    assert_eq!(
        host.get(&id)["customer_metadata"]["bin"],
        "a\u{fffd}b\u{1b}[2J"
    );
}

#[test]
fn a_zone_that_holds_its_socket_open_is_halted_at_once_all_the_same() {
    let host = Host::new();
    let id = host.running(&json!({}));
    if host.root(&id, "command -v python3").code != 0 {
        eprintln!("SKIPPED: no python3 to talk to the socket");
        return;
    }
    let hold = "python3 -c 'import socket, time\n\
                all = []\n\
                for n in range(12):\n    \
                    s = socket.socket(socket.AF_UNIX)\n    \
                    s.settimeout(5)\n    \
                    s.connect(\"/.zonecontrol/metadata.sock\")\n    \
                    s.send(b\"{\")\n    \
                    all.append(s)\n\
                print(\"held\", flush=True)\n\
                time.sleep(600)' > /root/log 2>&1 &";
    host.root(&id, hold);
    wait_until("all are held", || {
        host.root(&id, "cat /root/log").out == "held\n"
    });
    host.ok(&["rollback-snapshot", &id, "clean"]);
    assert_eq!(host.root(&id, "mdata-put k v; mdata-get k").out, "v\n");
}

#[test]
fn a_put_that_outlives_its_zone_changes_nothing() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let keeper = host.keeper(&id);
    let children = || {
        let path = format!("/proc/{keeper}/task/{keeper}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let pids = text.split_whitespace();
        pids.map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    };
    let before = children();
    // Whoever changes a zone holds this; the put waits for it.
    let held = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(host.zone_dir(&id).join("lock"))
        .unwrap();
    let exclusive = rustix::fs::FlockOperation::LockExclusive;
    rustix::fs::flock(&held, exclusive).unwrap();
    let mut put =
        host.command("zlogin", &[&id, "mdata-put k v"]).spawn().unwrap();
    let mut server = 0;
    wait_until("the put waits on the host", || {
        server =
            children().into_iter().find(|p| !before.contains(p)).unwrap_or(0);
        server != 0
    });
    host.ok(&["stop", "-F", &id]);
    put.wait().unwrap();
    drop(held);
    wait_until("its server is gone", || !alive(server));
    host.ok(&["start", &id]);
    assert_eq!(host.get(&id)["customer_metadata"], json!({}));
    assert_eq!(host.root(&id, "mdata-get k").code, 1);
}
