//! The manifests of VMs, by the rules of vmadm.

use std::process::{Command, Stdio};

use ntrace_e2e::programs::Programs;
use serde_json::Value;

use super::gate::repository;

const FILES: [(&str, &str, bool); 4] = [
    ("worker-smartos-dhcp", "worker", false),
    ("worker-smartos-static", "worker", true),
    ("runner-smartos-dhcp", "runner", false),
    ("runner-smartos-static", "runner", true),
];

fn read(name: &str) -> Value {
    let path = repository().join(format!("manifests/{name}.json"));
    let text = std::fs::read(&path).unwrap();
    serde_json::from_slice(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `vmadm validate create` says of a payload.
fn validate(payload: &Value) -> (Option<i32>, String) {
    use std::io::Write as _;
    let zones = tempfile::tempdir().unwrap();
    let mut child = Command::new(Programs::built().path("vmadm"))
        .args(["validate", "create"])
        .env("NTRACE_ZONES", zones.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(payload.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn vmadm_finds_the_manifests_valid() {
    for (name, _, _) in FILES {
        let mut payload = read(name);
        let (code, said) = validate(&payload);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(said.starts_with("VALID 'create' payload for joyent brand"));
        payload["shiny"] = true.into();
        assert_eq!(validate(&payload).0, Some(1));
    }
}

/// The kinds of values that SmartOS's vmadm takes for what we use.
fn is_allowed(name: &str, value: &Value) -> bool {
    match name {
        "brand" => value == "joyent",
        "alias" | "hostname" | "image_uuid" => value.is_string(),
        "autoboot" | "delegate_dataset" => value.is_boolean(),
        "max_physical_memory"
        | "max_swap"
        | "tmpfs"
        | "quota"
        | "cpu_cap"
        | "cpu_shares"
        | "max_lwps"
        | "zfs_io_priority" => value.is_u64(),
        "resolvers" => {
            value.as_array().is_some_and(|all| all.iter().all(Value::is_string))
        }
        "nics" => value.is_array(),
        // Metadata that is no text is refused.
        "tags" | "customer_metadata" => value
            .as_object()
            .is_some_and(|all| all.values().all(Value::is_string)),
        _ => false,
    }
}

#[test]
fn the_manifests_hold_what_smartos_takes_and_nothing_else() {
    for (name, kind, is_static) in FILES {
        let manifest = read(name);
        for (property, value) in manifest.as_object().unwrap() {
            assert!(is_allowed(property, value), "{name}: {property}");
        }
        assert_eq!(manifest["tags"]["ntrace"], kind);
        assert_eq!(manifest["delegate_dataset"], false, "no snapshots else");
        let memory = manifest["max_physical_memory"].as_u64().unwrap();
        assert!(manifest["max_swap"].as_u64().unwrap() >= memory);
        assert!(manifest["tmpfs"].as_u64().unwrap() <= memory);
        let nics = manifest["nics"].as_array().unwrap();
        assert_eq!(nics.len(), 1);
        assert_eq!(nics[0]["primary"], true);
        let ips = nics[0]["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 1);
        assert_eq!(ips[0] == "dhcp", !is_static, "{name}");
        assert_eq!(nics[0].get("gateways").is_some(), is_static, "{name}");
        // A job can read its worker's metadata: there is nothing in it.
        let metadata = manifest.get("customer_metadata");
        match kind {
            "worker" => assert_eq!(metadata, None),
            _ => assert!(metadata.unwrap()["parent"].is_string()),
        }
    }
}

#[test]
fn the_scripts_find_every_line_that_they_fill_in() {
    for (name, _, is_static) in FILES {
        let path = repository().join(format!("manifests/{name}.json"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut wanted = vec![
            "alias",
            "hostname",
            "image_uuid",
            "nic_tag",
            "ips",
            "primary",
            "resolvers",
            "max_physical_memory",
            "max_swap",
            "tmpfs",
            "quota",
            "cpu_cap",
            "max_lwps",
        ];
        if is_static {
            wanted.push("gateways");
        }
        for property in wanted {
            let start = format!("\"{property}\": ");
            let lines =
                text.lines().filter(|line| line.trim().starts_with(&start));
            assert_eq!(lines.count(), 1, "{name}: {property}");
        }
    }
}
