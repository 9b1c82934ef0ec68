//! What is made and unmade.

use super::bench::{Case, done, nothing, stopped, unchanged, vmadm};

pub(crate) const CASES: [Case; 4] = [
    Case {
        number: 38,
        given: nothing,
        steps: &[
            vmadm(&["create"], 1, "Missing required properties: image_uuid")
                .fed("{}"),
            vmadm(&["lookup"], 0, ""),
        ],
        then: done,
    },
    Case {
        number: 39,
        given: stopped,
        steps: &[vmadm(&["create"], 1, "VM with UUID {U} already exists")
            .fed("{\"uuid\": \"{U}\", \"image_uuid\": \"{IMAGE}\"}")],
        then: unchanged,
    },
    Case {
        number: 40,
        given: nothing,
        steps: &[
            vmadm(&["create"], 0, "Successfully created VM {N}")
                .fed("{\"uuid\": \"{N}\", \"image_uuid\": \"{IMAGE}\"}"),
            vmadm(&["list", "-p", "-o", "state,autoboot"], 0, "")
                .out("running:true\n"),
            vmadm(&["delete", "{N}"], 0, "Successfully deleted VM {N}"),
            vmadm(&["create"], 0, "Successfully created VM {N}").fed(
                "{\"uuid\": \"{N}\", \"image_uuid\": \"{IMAGE}\", \
                 \"autoboot\": false}",
            ),
            vmadm(&["list", "-p", "-o", "state,autoboot"], 0, "")
                .out("stopped:\n"),
        ],
        then: done,
    },
    Case {
        number: 41,
        given: stopped,
        steps: &[
            vmadm(&["delete", "{U}"], 0, "Successfully deleted VM {U}"),
            vmadm(&["get", "{U}"], 1, "zoneadm: {U}: No such zone configured"),
        ],
        then: |after| {
            assert!(!after.host.zone_dir(after.id).exists());
        },
    },
];
