//! Metadata from inside a zone: `mdata-get`, `mdata-put`, `mdata-delete` and
//! `mdata-list`, and who answers them on the host.
//!
//! The programs talk through `/.zonecontrol/metadata.sock`, one line of JSON
//! each way and connection. Only the zone's root is heard, as on SmartOS:
//! the job can neither read nor write metadata. What is put is part of the
//! state that a rollback brings back.
//!
//! This module is the words of the talk; it does no I/O.

pub(crate) mod agent;
pub(crate) mod client;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::zone::Metadata;

/// Where the socket's directory is shown in a zone.
pub(crate) const CONTROL: &str = ".zonecontrol";

/// Name of the socket in that directory.
pub(crate) const SOCKET: &str = "metadata.sock";

/// Longest value that can be put.
pub(crate) const VALUE_MAX: usize = 1 << 20;

/// Most bytes of metadata that a zone may have after a put.
const ALL_MAX: usize = 4 << 20;

/// Longest line of either side; JSON may write a byte as six.
const LINE_MAX: usize = 6 * ALL_MAX + 4096;

/// Namespace of what the host says about the zone; it cannot be changed.
const HOST_SPACE: &str = "sdc:";

/// End of the keys that are passwords: these are kept apart.
const PASSWORD: &str = "_pw";

/// The name of a value: short, and harmless to a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Key(String);

impl Key {
    fn is_of_host(&self) -> bool {
        self.0.starts_with(HOST_SPACE)
    }

    fn is_password(&self) -> bool {
        self.0.ends_with(PASSWORD)
    }
}

impl TryFrom<String> for Key {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Key, &'static str> {
        let fits = (1..=255).contains(&text.len());
        if fits && !text.chars().any(char::is_control) {
            return Ok(Key(text));
        }
        Err("a key has 1 to 255 bytes and no control characters")
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0
    }
}

/// What a program in the zone asks for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
enum Request {
    /// The value of a key.
    Get { key: Key },
    /// A new value; an empty one deletes the key.
    Put { key: Key, value: String },
    /// The end of a key.
    Delete { key: Key },
    /// The keys.
    List,
}

/// What the host answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
enum Answer {
    /// To `get`.
    Value { value: String },
    /// To `list`.
    Keys { keys: Vec<String> },
    /// There is no such key.
    Missing,
    /// It is done.
    Done,
    /// It is not, and why.
    Failed { why: String },
}

impl Answer {
    fn failed(why: impl Into<String>) -> Answer {
        Answer::Failed { why: why.into() }
    }
}

/// The text of a value, if it can be given as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Reads a key of the metadata.
fn read(metadata: &Metadata, key: &Key) -> Answer {
    let map = if key.is_password() {
        &metadata.internal_metadata
    } else {
        &metadata.customer_metadata
    };
    match map.get(&key.0) {
        None => Answer::Missing,
        Some(value) => match text(value) {
            Some(value) => Answer::Value { value },
            None => Answer::Value { value: value.to_string() },
        },
    }
}

/// Reads a key of the host's namespace from the object of `vmadm get`.
fn read_of_host(object: &Map<String, Value>, key: &Key) -> Answer {
    let field = key.0.strip_prefix(HOST_SPACE).unwrap_or_default();
    let found = match field.strip_prefix("tags.") {
        Some(tag) => object.get("tags").and_then(|tags| tags.get(tag)),
        None => object.get(field),
    };
    match found {
        None | Some(Value::Null) => Answer::Missing,
        Some(value) => match (field, text(value)) {
            (_, Some(value)) => Answer::Value { value },
            ("nics" | "resolvers" | "routes", None) => {
                Answer::Value { value: value.to_string() }
            }
            _ => Answer::failed(format!("{field} is not a text")),
        },
    }
}

/// The keys that `list` shows.
fn keys(metadata: &Metadata) -> Answer {
    let passwords =
        metadata.internal_metadata.keys().filter(|key| key.ends_with(PASSWORD));
    let keys = metadata.customer_metadata.keys().chain(passwords);
    Answer::Keys { keys: keys.cloned().collect() }
}

/// Sets a key, or takes it out where the value is empty or none.
fn write(
    metadata: &mut Metadata,
    key: &Key,
    value: Option<String>,
) -> Result<(), String> {
    if key.is_of_host() {
        return Err("Cannot update the \"sdc\" Namespace.".to_owned());
    }
    let map = if key.is_password() {
        &mut metadata.internal_metadata
    } else {
        &mut metadata.customer_metadata
    };
    match value.filter(|value| !value.is_empty()) {
        None => drop(map.remove(&key.0)),
        Some(value) if value.len() > VALUE_MAX => {
            return Err(format!("a value has at most {VALUE_MAX} bytes"));
        }
        Some(value) => drop(map.insert(key.0.clone(), value.into())),
    }
    if size(metadata) > ALL_MAX {
        return Err(format!(
            "the metadata of a zone has at most {ALL_MAX} bytes"
        ));
    }
    Ok(())
}

fn size(metadata: &Metadata) -> usize {
    let of = |value: &Value| match value {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    };
    let maps = [&metadata.customer_metadata, &metadata.internal_metadata];
    maps.into_iter().flatten().map(|(key, value)| key.len() + of(value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(text: &str) -> Key {
        Key::try_from(text.to_owned()).unwrap()
    }

    fn value(text: &str) -> Answer {
        Answer::Value { value: text.to_owned() }
    }

    #[test]
    fn a_key_cannot_command_a_terminal() {
        for bad in ["", "a\u{1b}[2J", "a\nb", &"k".repeat(256)] {
            assert!(Key::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_put_is_read_back_and_an_empty_one_deletes() {
        let mut all = Metadata::default();
        write(&mut all, &key("k"), Some("v".into())).unwrap();
        assert_eq!(read(&all, &key("k")), value("v"));
        write(&mut all, &key("k"), Some(String::new())).unwrap();
        assert_eq!(read(&all, &key("k")), Answer::Missing);
        write(&mut all, &key("k"), None).unwrap();
    }

    #[test]
    fn passwords_are_kept_apart_and_nothing_else_internal_is_read() {
        let mut all = Metadata::default();
        all.internal_metadata.insert("upper".into(), json!("tmpfs"));
        write(&mut all, &key("root_pw"), Some("x".into())).unwrap();
        assert_eq!(all.customer_metadata.len(), 0);
        assert_eq!(read(&all, &key("root_pw")), value("x"));
        assert_eq!(read(&all, &key("upper")), Answer::Missing);
        let keys = keys(&all);
        assert_eq!(keys, Answer::Keys { keys: vec!["root_pw".into()] });
    }

    #[test]
    fn metadata_from_inside_is_bounded() {
        let mut all = Metadata::default();
        let long = "x".repeat(VALUE_MAX + 1);
        assert!(write(&mut all, &key("k"), Some(long)).is_err());
        let mut put = |n: usize| {
            let value = "x".repeat(VALUE_MAX);
            write(&mut all, &key(&n.to_string()), Some(value))
        };
        let done = (0..8).filter(|n| put(*n).is_ok()).count();
        assert_eq!(done, 3, "keys count as well");
    }

    #[test]
    fn the_host_says_what_the_zone_is() {
        let object = json!({
            "uuid": "u", "quota": 10, "nics": [], "autoboot": false,
            "tags": {"role": "worker"}, "snapshots": [],
        });
        let object = object.as_object().unwrap();
        for (name, wanted) in [
            ("sdc:uuid", value("u")),
            ("sdc:quota", value("10")),
            ("sdc:autoboot", value("false")),
            ("sdc:nics", value("[]")),
            ("sdc:tags.role", value("worker")),
            ("sdc:tags.none", Answer::Missing),
            ("sdc:nonesuch", Answer::Missing),
            ("sdc:snapshots", Answer::failed("snapshots is not a text")),
        ] {
            assert_eq!(read_of_host(object, &key(name)), wanted, "{name}");
        }
        let put = write(&mut Metadata::default(), &key("sdc:x"), None);
        assert_eq!(put.unwrap_err(), "Cannot update the \"sdc\" Namespace.");
    }
}
