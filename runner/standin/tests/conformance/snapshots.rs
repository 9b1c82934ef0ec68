//! Snapshots and going back to them.

use std::time::{Duration, SystemTime};

use super::bench::{Case, failed, nothing, running, stopped, vmadm, zlogin};
use crate::bench::{done, unchanged};
use crate::host::Host;
use serde_json::{Value, json};

/// The longest name, and one that is too long.
const LONG: &str =
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const TOO_LONG: &str =
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

const BACK: &[&str] = &["rollback-snapshot", "{U}", "clean"];
const DONE_BACK: &str = "Rolled back snapshot clean for VM {U}";
const BAD: &str = "Invalid snapshot name";
const NO_KVM: &str = "snapshots for kvm VMs currently unsupported";

pub(crate) const CASES: [Case; 19] = [
    Case {
        number: 1,
        given: |host| {
            let id = running(host);
            host.root(&id, "echo x > /root/mark");
            host.ok(&["create-snapshot", &id, "newer"]);
            id
        },
        steps: &[
            vmadm(BACK, 0, DONE_BACK),
            zlogin(&["{U}", "test -e /root/mark"], 1, "", ""),
        ],
        then: |after| {
            after.is("running", true);
            assert_eq!(names(&after.now), ["clean"]);
            let boot = |seen: &Value| seen["boot_timestamp"].clone();
            assert_ne!(boot(&after.now), boot(&after.before));
        },
    },
    Case {
        number: 2,
        given: stopped,
        steps: &[vmadm(BACK, 0, DONE_BACK)],
        then: |after| after.is("running", true),
    },
    Case {
        number: 3,
        given: running,
        steps: &[vmadm(
            &["rollback-snapshot", "{U}", "nope"],
            1,
            "No snapshot named \"nope\" for {U}",
        )],
        then: unchanged,
    },
    Case {
        number: 4,
        given: running,
        steps: &[
            vmadm(&["rollback-snapshot", "{U}", "a b"], 1, BAD),
            vmadm(&["rollback-snapshot", "{U}", "a/b"], 1, BAD),
            vmadm(&["rollback-snapshot", "{U}", "a@b"], 1, BAD),
            vmadm(&["rollback-snapshot", "{U}", "a,b"], 1, BAD),
            vmadm(&["rollback-snapshot", "{U}", ""], 1, BAD),
            vmadm(&["rollback-snapshot", "{U}", TOO_LONG], 1, BAD),
            vmadm(&["create-snapshot", "{U}", "a b"], 1, BAD),
            vmadm(&["create-snapshot", "{U}", ""], 1, BAD),
            vmadm(&["create-snapshot", "{U}", TOO_LONG], 1, BAD),
            vmadm(&["delete-snapshot", "{U}", "a b"], 1, BAD),
        ],
        then: unchanged,
    },
    Case {
        number: 5,
        given: nothing,
        steps: &[vmadm(BACK, 1, "bad statusCode: 404")],
        then: done,
    },
    Case {
        number: 7,
        given: nothing,
        steps: &[vmadm(
            &["create-snapshot", "{U}", "x"],
            1,
            "VM {U} not found",
        )],
        then: done,
    },
    Case {
        number: 9,
        given: |host| {
            let id = host.bare(&json!({}));
            host.ok(&["start", &id]);
            long_ago(host, &id);
            id
        },
        steps: &[vmadm(
            &["create-snapshot", "{U}", "clean"],
            0,
            "Created snapshot clean for VM {U}",
        )],
        then: |after| {
            after.is("running", true);
            let made = &after.now["snapshots"][0];
            assert_eq!(made["name"], "clean");
            assert!(made["size"].is_number());
            let at = made["created_at"].as_str().unwrap();
            assert!(at.len() == 24 && at.ends_with(".000Z"), "{at}");
            assert_eq!(made.as_object().unwrap().len(), 3);
            let moved = |seen: &Value| seen["last_modified"].clone();
            assert_ne!(moved(&after.now), moved(&after.before));
        },
    },
    Case {
        number: 10,
        given: running,
        steps: &[vmadm(
            &["create-snapshot", "{U}", "clean"],
            1,
            "snapshot with name \"clean\" already exists.",
        )],
        then: unchanged,
    },
    Case {
        number: 11,
        given: stopped,
        steps: &[
            vmadm(
                &["create-snapshot", "{U}", LONG],
                0,
                "Created snapshot \
                 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx for VM {U}",
            ),
            vmadm(
                &["create-snapshot", "{U}", "A-z_0.9:%"],
                0,
                "Created snapshot A-z_0.9:% for VM {U}",
            ),
        ],
        then: |after| {
            assert_eq!(names(&after.now), ["A-z_0.9:%", LONG, "clean"]);
        },
    },
    Case {
        number: 12,
        given: |host| host.bare(&json!({"delegate_dataset": true})),
        steps: &[vmadm(
            &["create-snapshot", "{U}", "x"],
            1,
            "Cannot currently snapshot zones that have datasets",
        )],
        then: |after| {
            let data = format!("zones/{}/data", after.id);
            assert_eq!(after.now["datasets"], json!([data]));
            unchanged(after);
        },
    },
    Case {
        number: 13,
        given: |host| {
            let id = stopped(host);
            become_kvm(host, &id);
            id
        },
        steps: &[
            vmadm(&["create-snapshot", "{U}", "x"], 1, NO_KVM),
            vmadm(BACK, 1, NO_KVM),
        ],
        then: unchanged,
    },
    Case {
        number: 14,
        given: running,
        steps: &[
            vmadm(
                &["create-snapshot", "{U}"],
                2,
                "Wrong number of parameters to \"create-snapshot\"",
            ),
            vmadm(
                &["rollback-snapshot", "{U}", "a", "b"],
                2,
                "Wrong number of parameters to \"rollback-snapshot\"",
            ),
            vmadm(
                &["delete-snapshot", "{U}"],
                2,
                "Wrong number of parameters to \"delete-snapshot\"",
            ),
        ],
        then: unchanged,
    },
    Case {
        number: 15,
        given: |host| {
            let id = running(host);
            host.ok(&["create-snapshot", &id, "x"]);
            id
        },
        steps: &[
            vmadm(
                &["delete-snapshot", "{U}", "x"],
                0,
                "Deleted snapshot x for VM {U}",
            ),
            vmadm(
                &["delete-snapshot", "{U}", "x"],
                1,
                "No snapshot named \"x\" for {U}",
            ),
        ],
        then: |after| {
            after.is("running", true);
            assert_eq!(names(&after.now), ["clean"]);
        },
    },
    Case {
        number: 26,
        given: failed,
        steps: &[vmadm(
            BACK,
            1,
            "first of 1 error: VM {U} is already not 'running' \
             (currently: failed)",
        )],
        then: |after| after.is("failed", false),
    },
    Case {
        number: 27,
        given: |host| {
            let id = running(host);
            host.root(&id, "echo x > /root/mark");
            host.faults(&id, "rollback=fail*1");
            id
        },
        steps: &[vmadm(
            BACK,
            1,
            "Command failed: cannot rollback to \
             'zones/{U}@vmsnap-clean': out of space\n",
        )],
        then: |after| {
            after.is("stopped", false);
            after.host.ok(&["start", after.id]);
            assert_eq!(after.host.root(after.id, "cat /root/mark").out, "x\n");
        },
    },
    Case {
        number: 28,
        given: |host| {
            let id = running(host);
            host.root(&id, "echo x > /root/mark");
            host.faults(&id, "boot=fail*1");
            id
        },
        steps: &[vmadm(
            BACK,
            1,
            "first of 1 error: Command failed: zone '{U}': boot was made to \
             fail\nzoneadm: zone '{U}': call to zoneadmd failed\n",
        )],
        then: |after| {
            after.is("stopped", false);
            after.host.ok(&["start", after.id]);
            let look = "test -e /root/mark";
            assert_eq!(after.host.root(after.id, look).code, 1);
        },
    },
    Case {
        number: 44,
        given: |host| {
            let payload = json!({
                "customer_metadata": {"a": "old"},
                "tags": {"role": "worker"},
            });
            host.running(&payload)
        },
        steps: &[
            vmadm(&["update", "{U}"], 0, "Successfully updated VM {U}").fed(
                r#"{"set_customer_metadata": {"a": "new", "b": "1"},
                    "remove_tags": ["role"], "set_tags": {"t": true},
                    "max_physical_memory": 600, "quota": 2,
                    "alias": "other"}"#,
            ),
            vmadm(BACK, 0, DONE_BACK),
        ],
        then: |after| {
            after.is("running", true);
            let now = &after.now;
            assert_eq!(now["customer_metadata"], json!({"a": "old"}));
            assert_eq!(now["tags"], json!({"role": "worker"}));
            assert_eq!(now["max_physical_memory"], 600);
            assert_eq!(now["quota"], 2);
            assert_eq!(now["alias"], "other");
            assert_eq!(now["nics"], after.before["nics"]);
        },
    },
    Case {
        number: 46,
        given: |host| {
            let id = host.bare(&json!({}));
            host.ok(&["start", &id]);
            host.root(&id, "echo x > /root/mark");
            id
        },
        steps: &[
            vmadm(
                &["create-snapshot", "{U}", "live"],
                0,
                "Created snapshot live for VM {U}",
            ),
            zlogin(&["{U}", "ls /checkpoints"], 0, "live\n", ""),
            zlogin(&["{U}", "cat /checkpoints/live/root/mark"], 0, "x\n", ""),
            zlogin(
                &["{U}", "touch /checkpoints/live/y 2>/dev/null"],
                1,
                "",
                "",
            ),
            vmadm(
                &["delete-snapshot", "{U}", "live"],
                0,
                "Deleted snapshot live for VM {U}",
            ),
            zlogin(&["{U}", "ls /checkpoints"], 0, "", ""),
        ],
        then: |after| after.is("running", true),
    },
    Case {
        number: 46,
        given: |host| {
            let id = host.bare(&json!({}));
            host.ok(&["start", &id]);
            host.root(&id, "echo x > /root/mark");
            host.ok(&["stop", &id]);
            id
        },
        steps: &[
            vmadm(
                &["create-snapshot", "{U}", "down"],
                0,
                "Created snapshot down for VM {U}",
            ),
            vmadm(&["start", "{U}"], 0, "Successfully started VM {U}"),
            zlogin(&["{U}", "rm /root/mark; ls /checkpoints"], 0, "down\n", ""),
            zlogin(&["{U}", "cat /checkpoints/down/root/mark"], 0, "x\n", ""),
            vmadm(
                &["create-snapshot", "{U}", "second"],
                0,
                "Created snapshot second for VM {U}",
            ),
            zlogin(
                &["{U}", "cat /checkpoints/second/root/mark 2>/dev/null"],
                1,
                "",
                "",
            ),
        ],
        then: |after| after.is("running", true),
    },
];

fn names(seen: &Value) -> Vec<&str> {
    let all = seen["snapshots"].as_array().unwrap();
    all.iter().map(|one| one["name"].as_str().unwrap()).collect()
}

/// As if nobody had touched the zone for an hour.
fn long_ago(host: &Host, id: &str) {
    let then = SystemTime::now() - Duration::from_secs(3600);
    for name in ["manifest.json", "state.json", "autoboot"] {
        let path = host.zone_dir(id).join(name);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(then).unwrap();
    }
}

/// Says of a zone on disk that it is a machine of brand kvm: such a one
/// cannot be created here.
fn become_kvm(host: &Host, id: &str) {
    let path = host.zone_dir(id).join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("\"joyent\"", "\"kvm\"");
    std::fs::write(path, text).unwrap();
}
