//! Commands in a zone.

use super::bench::{Case, done, nothing, running, stopped, vmadm, zlogin};

pub(crate) const CASES: [Case; 6] = [
    Case {
        number: 47,
        given: running,
        steps: &[zlogin(&["{U}", "exit 7"], 7, "", "")],
        then: done,
    },
    Case {
        number: 48,
        given: stopped,
        steps: &[zlogin(
            &["{U}", "true"],
            1,
            "",
            "zlogin: login allowed only to running zones ({U} is \
             'installed').",
        )],
        then: done,
    },
    Case {
        number: 49,
        given: nothing,
        steps: &[zlogin(&["{U}", "true"], 1, "", "zlogin: zone '{U}' unknown")],
        then: done,
    },
    Case {
        number: 50,
        given: running,
        steps: &[zlogin(&["{U}", "kill -9 $$"], 0, "", "")],
        then: done,
    },
    Case {
        number: 51,
        given: running,
        steps: &[zlogin(
            &["{U}", "echo", "a b", "$HOME"],
            0,
            "a b /root\n",
            "",
        )],
        then: done,
    },
    Case {
        number: 52,
        given: running,
        steps: &[
            zlogin(&["{U}", "cat"], 0, "hi\n", "").fed("hi\n"),
            vmadm(
                &["stop", "{U}"],
                0,
                "Successfully completed stop for VM {U}",
            ),
        ],
        then: done,
    },
];
