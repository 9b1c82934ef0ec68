//! What may stand in a payload of `create` and `update`.
//!
//! Pure: text in, a checked object or a list of faults out. Unknown
//! properties are dropped at `create`, as the original does, and reported by
//! `validate`, which also wants true and false to be no words.

use serde_json::{Map, Value};

use super::nics;
use crate::names::ZoneId;

/// What values a property takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Any text without control characters, up to a length.
    Text(usize),
    /// A name of a machine.
    Hostname,
    /// A lower-case uuid.
    Uuid,
    /// True or false, also as words.
    Flag,
    /// A whole number in a range, also as digits.
    Number(u64, u64),
    /// An object of texts, numbers and flags.
    Flat,
    /// Any list.
    List,
    /// Network interfaces.
    Nics,
    /// Addresses without a prefix.
    Addresses,
    /// File systems to be shown in the zone.
    Filesystems,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// Whether `update` may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Never,
    Fine,
}

use Change::{Fine, Never};

const COMPRESSIONS: &[&str] =
    &["on", "off", "lzjb", "gzip", "lz4", "zle", "zstd"];

const PROPERTIES: [(&str, Kind, Change); 52] = [
    ("alias", Kind::Text(189), Fine),
    ("archive_on_delete", Kind::Flag, Fine),
    ("autoboot", Kind::Flag, Fine),
    ("billing_id", Kind::Uuid, Fine),
    ("brand", Kind::Word(&["joyent", "joyent-minimal", "lx"]), Never),
    ("cpu_cap", Kind::Number(0, 100_000), Fine),
    ("cpu_shares", Kind::Number(1, 65_535), Fine),
    ("create_timestamp", Kind::Text(64), Never),
    ("customer_metadata", Kind::Flat, Never),
    ("datasets", Kind::List, Never),
    ("delegate_dataset", Kind::Flag, Never),
    ("dns_domain", Kind::Hostname, Never),
    ("do_not_inventory", Kind::Flag, Fine),
    ("filesystems", Kind::Filesystems, Never),
    ("firewall_enabled", Kind::Flag, Fine),
    ("fs_allowed", Kind::Text(256), Fine),
    ("hostname", Kind::Hostname, Fine),
    ("image_uuid", Kind::Uuid, Never),
    ("indestructible_delegated", Kind::Flag, Fine),
    ("indestructible_zoneroot", Kind::Flag, Fine),
    ("init_name", Kind::Text(256), Never),
    ("internal_metadata", Kind::Flat, Never),
    ("kernel_version", Kind::Text(64), Never),
    ("limit_priv", Kind::Text(1024), Fine),
    ("maintain_resolvers", Kind::Flag, Fine),
    ("max_locked_memory", Kind::Number(0, 1 << 24), Fine),
    ("max_lwps", Kind::Number(1, 1 << 20), Fine),
    ("max_msg_ids", Kind::Number(0, 1 << 20), Fine),
    ("max_physical_memory", Kind::Number(16, 1 << 24), Fine),
    ("max_sem_ids", Kind::Number(0, 1 << 20), Fine),
    ("max_shm_ids", Kind::Number(0, 1 << 20), Fine),
    ("max_shm_memory", Kind::Number(0, 1 << 24), Fine),
    ("max_swap", Kind::Number(0, 1 << 24), Fine),
    ("mdata_exec_timeout", Kind::Number(0, 1 << 24), Fine),
    ("nics", Kind::Nics, Never),
    ("owner_uuid", Kind::Uuid, Fine),
    ("package_name", Kind::Text(256), Fine),
    ("package_version", Kind::Text(256), Fine),
    ("quota", Kind::Number(0, 1 << 24), Fine),
    ("resolvers", Kind::Addresses, Fine),
    ("routes", Kind::Flat, Never),
    ("tags", Kind::Flat, Never),
    ("tmpfs", Kind::Number(1, 1 << 24), Fine),
    ("uuid", Kind::Uuid, Never),
    ("zfs_data_compression", Kind::Word(COMPRESSIONS), Never),
    ("zfs_data_recsize", Kind::Number(512, 1 << 20), Never),
    ("zfs_io_priority", Kind::Number(0, 1024), Fine),
    ("zfs_root_compression", Kind::Word(COMPRESSIONS), Never),
    ("zfs_root_recsize", Kind::Number(512, 1 << 20), Never),
    ("zfs_snapshot_limit", Kind::Number(0, 1 << 32), Fine),
    ("zonename", Kind::Uuid, Never),
    ("zpool", Kind::Text(64), Never),
];

/// The objects that `update` changes by `set_…` and `remove_…`.
pub(super) const MAPS: [&str; 4] =
    ["customer_metadata", "internal_metadata", "tags", "routes"];

/// What is wrong with a payload, in the order in which it is told.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Faults {
    pub bad_values: Vec<String>,
    pub bad_properties: Vec<String>,
    #[serde(rename = "missing_properties")]
    pub missing: Vec<String>,
}

fn property(name: &str) -> Option<(Kind, Change)> {
    let found = PROPERTIES.iter().find(|(one, _, _)| *one == name)?;
    Some((found.1, found.2))
}

fn is_hostname(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (1..=63).contains(&text.len())
        && text.bytes().all(fine)
        && !text.starts_with(['-', '.'])
}

fn is_mount(value: &Value) -> bool {
    let path = |name: &str| {
        value.get(name).and_then(Value::as_str).is_some_and(|path| {
            path.starts_with('/')
                && path.len() < 4096
                && !path.contains('\0')
                && !path.split('/').any(|part| part == "..")
        })
    };
    let known = value.get("options").is_none_or(|options| {
        let word = |one: &Value| {
            matches!(one.as_str(), Some("ro" | "rw" | "nodevices" | "nosetuid"))
        };
        options.as_array().is_some_and(|all| all.iter().all(word))
    });
    value.get("type").is_none_or(|kind| kind == "lofs")
        && path("source")
        && path("target")
        && value.get("target").is_some_and(|target| target != "/")
        && known
}

/// Whether a value is an object without further ones in it.
fn is_flat(value: &Value) -> bool {
    let plain = |one: &Value| {
        matches!(one, Value::String(_) | Value::Number(_) | Value::Bool(_))
    };
    value.as_object().is_some_and(|all| all.values().all(plain))
}

/// The value as it is stored, if it is a good one.
fn accept(kind: Kind, value: &Value) -> Option<Value> {
    let text = value.as_str();
    let good = match kind {
        Kind::Text(max) => text.is_some_and(|text| {
            text.len() <= max && !text.chars().any(char::is_control)
        }),
        Kind::Hostname => text.is_some_and(is_hostname),
        Kind::Uuid => text.is_some_and(|text| ZoneId::parse(text).is_ok()),
        Kind::Flag => {
            return match (value, text) {
                (Value::Bool(flag), _) => Some((*flag).into()),
                (_, Some("true")) => Some(true.into()),
                (_, Some("false")) => Some(false.into()),
                _ => None,
            };
        }
        Kind::Number(low, high) => {
            let digits = text.and_then(|text| text.parse().ok());
            let number = value.as_u64().or(digits)?;
            return (low..=high).contains(&number).then(|| number.into());
        }
        Kind::Flat => is_flat(value),
        Kind::Nics => nics::are_nics(value),
        Kind::Addresses => nics::are_addresses(value),
        Kind::List => value.is_array(),
        Kind::Filesystems => {
            value.as_array().is_some_and(|all| all.iter().all(is_mount))
        }
        Kind::Word(words) => text.is_some_and(|text| words.contains(&text)),
    };
    good.then(|| value.clone())
}

/// Checks a payload of `create`; gives what is known and good of it.
pub(super) fn check_create(
    payload: &Map<String, Value>,
) -> (Map<String, Value>, Faults) {
    let mut faults = Faults::default();
    let mut good = Map::new();
    for (name, value) in payload {
        match property(name) {
            None => faults.bad_properties.push(name.clone()),
            Some((kind, _)) => match accept(kind, value) {
                Some(value) => drop(good.insert(name.clone(), value)),
                None => faults.bad_values.push(name.clone()),
            },
        }
    }
    if !payload.contains_key("image_uuid") {
        faults.missing.push("image_uuid".to_owned());
    }
    (good, faults)
}

/// Checks a payload as `validate create` does.
pub(super) fn validate_create(payload: &Map<String, Value>) -> Faults {
    let (_, mut faults) = check_create(payload);
    for (name, value) in payload {
        let flag = matches!(property(name), Some((Kind::Flag, _)));
        if flag && !value.is_boolean() && !faults.bad_values.contains(name) {
            faults.bad_values.push(name.clone());
        }
    }
    faults
}

/// A checked payload of `update`.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Properties to set.
    pub set: Map<String, Value>,
    /// Entries of the maps to set: (map, key, value).
    pub put: Vec<(&'static str, String, Value)>,
    /// Entries of the maps to take out: (map, key).
    pub take: Vec<(&'static str, String)>,
}

/// Checks a payload of `update`.
pub(super) fn check_update(payload: &Map<String, Value>) -> (Changes, Faults) {
    let mut changes = Changes::default();
    let mut faults = Faults::default();
    for (name, value) in payload {
        let map_of = |prefix: &str| {
            let rest = name.strip_prefix(prefix)?;
            MAPS.into_iter().find(|map| *map == rest)
        };
        if let Some(map) = map_of("set_") {
            match value.as_object().filter(|_| is_flat(value)) {
                Some(all) => changes.put.extend(
                    all.iter().map(|(k, v)| (map, k.clone(), v.clone())),
                ),
                None => faults.bad_values.push(name.clone()),
            }
        } else if let Some(map) = map_of("remove_") {
            let keys = value.as_array().map(|all| {
                all.iter().map(|key| key.as_str().map(str::to_owned))
            });
            match keys.and_then(Iterator::collect::<Option<Vec<_>>>) {
                Some(keys) => {
                    changes.take.extend(keys.into_iter().map(|k| (map, k)));
                }
                None => faults.bad_values.push(name.clone()),
            }
        } else {
            match property(name) {
                Some((kind, Fine)) => match accept(kind, value) {
                    Some(value) => {
                        changes.set.insert(name.clone(), value);
                    }
                    None => faults.bad_values.push(name.clone()),
                },
                _ => faults.bad_properties.push(name.clone()),
            }
        }
    }
    (changes, faults)
}

/// Fills in what `create` takes for granted.
pub(super) fn with_defaults(
    mut good: Map<String, Value>,
) -> Map<String, Value> {
    let nobody = "00000000-0000-0000-0000-000000000000";
    let memory =
        good.get("max_physical_memory").cloned().unwrap_or_else(|| 256.into());
    let defaults: [(&str, Value); 18] = [
        ("v", 1.into()),
        ("autoboot", true.into()),
        ("brand", "joyent".into()),
        ("billing_id", nobody.into()),
        ("owner_uuid", nobody.into()),
        ("cpu_shares", 100.into()),
        ("zfs_io_priority", 100.into()),
        ("max_lwps", 2000.into()),
        ("max_physical_memory", memory.clone()),
        ("max_locked_memory", memory.clone()),
        ("max_swap", memory.clone()),
        ("tmpfs", memory),
        ("quota", 10.into()),
        ("limit_priv", "default".into()),
        ("dns_domain", "local".into()),
        ("zpool", "zones".into()),
        ("firewall_enabled", false.into()),
        ("nics", Value::Array(Vec::new())),
    ];
    for (name, value) in defaults {
        good.entry(name).or_insert(value);
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(payload: Value) -> Faults {
        check_create(payload.as_object().unwrap()).1
    }

    #[test]
    fn an_empty_payload_lacks_its_image() {
        assert_eq!(faults(json!({})).missing, ["image_uuid"]);
    }

    #[test]
    fn bad_values_are_named() {
        let found = faults(json!({
            "image_uuid": "6e747261-6365-4000-8000-000000000001",
            "max_physical_memory": "many",
            "hostname": "-x",
            "alias": "a\u{1b}[2J",
            "quota": -1,
            "filesystems": [{"type": "lofs", "source": "/a/../b",
                             "target": "/c"}],
            "customer_metadata": {"a": {}},
            "shiny": true,
        }));
        assert_eq!(
            found.bad_values,
            [
                "alias",
                "customer_metadata",
                "filesystems",
                "hostname",
                "max_physical_memory",
                "quota"
            ]
        );
        assert_eq!(found.bad_properties, ["shiny"]);
    }

    #[test]
    fn numbers_and_flags_may_come_as_words() {
        let payload = json!({"quota": "5", "autoboot": "false"});
        let (good, _) = check_create(payload.as_object().unwrap());
        assert_eq!(good["quota"], 5);
        assert_eq!(good["autoboot"], false);
        let found = validate_create(payload.as_object().unwrap());
        assert_eq!(found.bad_values, ["autoboot"]);
    }

    #[test]
    fn an_update_changes_metadata_key_by_key() {
        let payload = json!({
            "set_customer_metadata": {"a": "1"},
            "remove_tags": ["b"],
            "customer_metadata": {},
            "quota": 7,
        });
        let (changes, faults) = check_update(payload.as_object().unwrap());
        assert_eq!(
            changes.put,
            [("customer_metadata", "a".to_owned(), json!("1"))]
        );
        assert_eq!(changes.take, [("tags", "b".to_owned())]);
        assert_eq!(changes.set["quota"], 7);
        assert_eq!(faults.bad_properties, ["customer_metadata"]);
    }
}
