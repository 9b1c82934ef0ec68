//! What there is.

use super::bench::{Case, done, nothing, running, stopped, vmadm};

const HEADER: &str = "UUID                                  TYPE  RAM      \
                      STATE             ALIAS\n";

pub(crate) const CASES: [Case; 9] = [
    Case {
        number: 6,
        given: nothing,
        steps: &[
            vmadm(&["get", "{U}"], 1, "zoneadm: {U}: No such zone configured"),
            vmadm(&["json", "{U}"], 1, "zoneadm: {U}: No such zone configured"),
        ],
        then: done,
    },
    Case {
        number: 8,
        given: nothing,
        steps: &[
            vmadm(&["get", "notauuid"], 2, "Invalid or missing UUID for get"),
            vmadm(&["halt"], 2, "Invalid or missing UUID for stop"),
            vmadm(&["boot", "x"], 2, "Invalid or missing UUID for boot"),
        ],
        then: done,
    },
    Case {
        number: 32,
        given: stopped,
        steps: &[
            vmadm(&["list", "alias=nope"], 0, "").out(HEADER),
            vmadm(&["list", "-p", "alias=nope"], 0, ""),
            vmadm(&["list", "-H", "alias=nope"], 0, ""),
        ],
        then: done,
    },
    Case {
        number: 33,
        given: running,
        steps: &[vmadm(
            &["list", "-p", "-o", "uuid,state,zone_state,alias"],
            0,
            "",
        )
        .out("{U}:running:running:worker0\n")],
        then: done,
    },
    Case {
        number: 34,
        given: stopped,
        steps: &[
            vmadm(&["lookup", "alias=nope"], 0, ""),
            vmadm(&["lookup", "-j", "alias=nope"], 0, "").out("[]\n"),
            vmadm(
                &["lookup", "-1", "alias=nope"],
                1,
                "Requested unique lookup but found 0 results.",
            ),
        ],
        then: done,
    },
    Case {
        number: 35,
        given: stopped,
        steps: &[vmadm(
            &["lookup", "-1", "-j", "-o", "uuid", "alias=worker0"],
            0,
            "",
        )
        .out("[\n  {\n    \"uuid\": \"{U}\"\n  }\n]\n")],
        then: done,
    },
    Case {
        number: 36,
        given: nothing,
        steps: &[
            vmadm(&["lookup", "foo=1"], 1, "Invalid lookup key: \"foo\""),
            vmadm(&["lookup", "-o", "uuid"], 1, "Cannot specify -o without -j"),
        ],
        then: done,
    },
    Case {
        number: 37,
        given: running,
        steps: &[vmadm(
            &["info", "{U}"],
            1,
            "Unable to get VM info for VM {U}: no info types supported for \
             brand joyent",
        )],
        then: done,
    },
    Case {
        number: 42,
        given: |host| {
            let id = stopped(host);
            // Once for the look before the case, once for the case.
            let path = host.state().join("faults");
            std::fs::write(path, "vminfod=down*2").unwrap();
            id
        },
        steps: &[vmadm(&["list"], 1, "connect ECONNREFUSED")],
        then: done,
    },
];
