//! Up and down.

use super::bench::{Case, failed, running, stopped, unchanged, vmadm};

const STOPPED: &str = "Successfully completed stop for VM {U}";

pub(crate) const CASES: [Case; 10] = [
    Case {
        number: 16,
        given: stopped,
        steps: &[vmadm(&["start", "{U}"], 0, "Successfully started VM {U}")],
        then: |after| after.is("running", true),
    },
    Case {
        number: 17,
        given: running,
        steps: &[vmadm(
            &["start", "{U}"],
            0,
            "Unable to start VM {U}: VM {U} is already 'running'",
        )],
        then: unchanged,
    },
    Case {
        number: 18,
        given: failed,
        steps: &[vmadm(
            &["start", "{U}"],
            1,
            "Unable to start VM {U}: Cannot start vm from state \"failed\", \
             must be \"stopped\".",
        )],
        then: |after| after.is("failed", false),
    },
    Case {
        number: 19,
        given: running,
        steps: &[vmadm(&["stop", "{U}"], 0, STOPPED)],
        then: |after| {
            after.is("stopped", false);
            let now = after.now.as_object().unwrap();
            assert_eq!(now["exit_status"], 0);
            assert!(now["exit_timestamp"].is_string());
            assert!(after.before["pid"].is_number());
            for gone in ["pid", "boot_timestamp"] {
                assert!(!now.contains_key(gone), "{gone}");
            }
        },
    },
    Case {
        number: 20,
        given: |host| {
            let id = stopped(host);
            host.ok(&["update", &id, "autoboot=true"]);
            id
        },
        steps: &[vmadm(
            &["stop", "{U}"],
            0,
            "VM {U} is already not 'running' (currently: stopped)",
        )],
        then: |after| after.is("stopped", false),
    },
    Case {
        number: 21,
        given: stopped,
        steps: &[vmadm(
            &["stop", "-F", "{U}"],
            1,
            "first of 1 error: VM {U} is already not 'running' (currently: \
             stopped)",
        )],
        then: unchanged,
    },
    Case {
        number: 22,
        given: running,
        steps: &[
            vmadm(&["stop", "-F", "{U}"], 0, STOPPED),
            vmadm(&["start", "{U}"], 0, "Successfully started VM {U}"),
            vmadm(&["halt", "{U}", "-F"], 0, STOPPED),
        ],
        then: |after| after.is("stopped", false),
    },
    Case {
        number: 23,
        given: running,
        steps: &[vmadm(
            &["stop", "{U}", "-t", "30"],
            1,
            "first of 1 error: Timeout option is only supported for bhyve, \
             KVM and docker containers.",
        )],
        then: |after| {
            after.is("running", false);
            assert_eq!(after.now["pid"], after.before["pid"]);
        },
    },
    Case {
        number: 24,
        given: stopped,
        steps: &[
            vmadm(
                &["reboot", "{U}"],
                1,
                "Cannot reboot vm from state \"stopped\", must be \
                 \"running\"",
            ),
            vmadm(
                &["reboot", "{U}", "-F"],
                1,
                "Cannot reset vm from state \"stopped\", must be \
                 \"running\".",
            ),
        ],
        then: unchanged,
    },
    Case {
        number: 25,
        given: running,
        steps: &[vmadm(
            &["reboot", "{U}"],
            0,
            "Successfully completed reboot for VM {U}",
        )],
        then: |after| {
            after.is("running", true);
            let boot = |name: &str| (&after.now[name], &after.before[name]);
            let (now, before) = boot("boot_timestamp");
            assert_ne!(now, before);
        },
    },
];
