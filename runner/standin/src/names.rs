//! Names that callers give and that become names of files here.
//!
//! Parsed once, at the edge: whatever has one of these types is safe as a
//! single component of a path.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The uuid of a zone, lower case.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ZoneId(String);

/// The name of a snapshot: 1 to 64 of `[a-zA-Z0-9-_.:%]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct SnapshotName(String);

/// A text that is no such name.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {wanted}")]
pub(crate) struct NotAName {
    text: String,
    wanted: &'static str,
}

/// Whether a text has the shape of a uuid: this is all that vmadm looks at
/// before it takes a word for one.
pub(crate) fn has_shape_of_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36 && [8, 13, 18, 23].iter().all(|at| bytes[*at] == b'-')
}

impl ZoneId {
    /// Takes a lower-case uuid.
    pub(crate) fn parse(text: &str) -> Result<ZoneId, NotAName> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if has_shape_of_uuid(text)
            && text.bytes().all(hex)
            && text.bytes().filter(|byte| *byte == b'-').count() == 4
        {
            return Ok(ZoneId(text.to_owned()));
        }
        Err(NotAName { text: text.to_owned(), wanted: "uuid" })
    }

    /// A new random one.
    pub(crate) fn random() -> ZoneId {
        ZoneId(uuid::Uuid::new_v4().to_string())
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl SnapshotName {
    /// Takes a name that vmadm would take.
    pub(crate) fn parse(text: &str) -> Result<SnapshotName, NotAName> {
        let fine =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:%".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(fine) {
            return Ok(SnapshotName(text.to_owned()));
        }
        Err(NotAName { text: text.to_owned(), wanted: "name of a snapshot" })
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ZoneId {
    type Error = NotAName;
    fn try_from(text: String) -> Result<ZoneId, NotAName> {
        ZoneId::parse(&text)
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = NotAName;
    fn try_from(text: String) -> Result<SnapshotName, NotAName> {
        SnapshotName::parse(&text)
    }
}

impl From<ZoneId> for String {
    fn from(id: ZoneId) -> String {
        id.0
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_hex_makes_a_zone_id() {
        assert!(ZoneId::parse("c0ffee00-1111-4222-8333-444455556666").is_ok());
        for bad in [
            "C0FFEE00-1111-4222-8333-444455556666",
            "zzzzzzzz-1111-4222-8333-444455556666",
            "../../..-/../-../.-..../444455556666",
            "c0ffee00-1111-4222-8333-44445555666",
            "--------------------------------------",
            "",
        ] {
            assert!(ZoneId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn snapshot_names_are_those_that_vmadm_takes() {
        for good in ["clean", "A-z_0.9:%", &"x".repeat(64)] {
            assert!(SnapshotName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a@b", "a,b", "é", &"x".repeat(65)] {
            assert!(SnapshotName::parse(bad).is_err(), "{bad}");
        }
    }
}
