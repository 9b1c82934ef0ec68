//! What is made and unmade, and from what.

use std::path::Path;

use super::bench::{Case, done, nothing, stopped, unchanged, vmadm};
use crate::host::{Host, Said, names};
use ntrace_standin::HOST_IMAGE;
use serde_json::{Value, json};

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

fn feed(host: &Host, args: &[&str], payload: &Value) -> Said {
    host.feed("vmadm", args, payload.to_string().as_bytes()).into()
}

#[test]
fn a_payload_is_judged_as_the_original_judges_it() {
    let host = Host::new();
    let validate = |payload: Value| -> (i32, String) {
        let said = feed(&host, &["validate", "create"], &payload);
        assert_eq!(said.out, "");
        (said.code, said.err)
    };
    let good = json!({"image_uuid": HOST_IMAGE, "autoboot": false});
    let valid = "VALID 'create' payload for joyent brand VMs.\n";
    assert_eq!(validate(good), (0, valid.to_owned()));
    let bad = json!({
        "autoboot": "true", "quota": -1, "shiny": 1, "resolvers": ["x"],
        "customer_metadata": {"a": ["no"]},
    });
    let report = "{\"bad_values\":[\"customer_metadata\",\"quota\",\
                  \"resolvers\",\"autoboot\"],\"bad_properties\":\
                  [\"shiny\"],\"missing_properties\":[\"image_uuid\"]}\n";
    assert_eq!(validate(bad), (1, report.to_owned()));
    let bad = json!({"brand": "nonesuch"});
    let report = "{\"bad_brand\":\"nonesuch\"}\n";
    assert_eq!(validate(bad), (1, report.to_owned()));
    let update = ["validate", "update", "joyent"];
    let said = feed(&host, &update, &json!({"quota": 5}));
    let valid = "VALID 'update' payload for joyent brand VMs.\n";
    assert_eq!((said.code, said.err.as_str()), (0, valid));
    // What create does not know it drops.
    let id = host.bare(&json!({"shiny": 1, "mdata_exec_timeout": 9}));
    let seen = host.get(&id);
    assert!(seen.get("shiny").is_none());
    assert_eq!(seen["mdata_exec_timeout"], 9);
}

#[test]
fn manifests_for_smartos_are_accepted_here() {
    let host = Host::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let mut count = 0;
    for name in names(&dir) {
        if !name.ends_with(".json") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(dir.join(&name)).unwrap();
        let mut payload: Value = serde_json::from_str(&text).unwrap();
        let said = feed(&host, &["validate", "create"], &payload);
        assert_eq!(said.code, 0, "{name}: {said:?}");
        payload["image_uuid"] = json!(HOST_IMAGE);
        payload["autoboot"] = json!(false);
        let said = feed(&host, &["create"], &payload);
        assert_eq!(said.code, 0, "{name}: {said:?}");
        let id = said.err.trim().rsplit(' ').next().unwrap();
        let seen = host.get(id);
        for (key, value) in payload.as_object().unwrap() {
            if key != "nics" && key != "delegate_dataset" {
                assert_eq!(&seen[key], value, "{name}: {key}");
            }
        }
        assert_eq!(seen["nics"][0]["interface"], "net0", "{name}");
        assert_eq!(seen["nics"][0]["primary"], true, "{name}");
        assert!(seen["nics"][0]["mac"].is_string(), "{name}");
        assert!(seen["nics"][0]["ip"].is_string(), "{name}");
        assert!(seen.get("datasets").is_none(), "{name}");
    }
    assert!(count > 0, "no manifest in {}", dir.display());
}
