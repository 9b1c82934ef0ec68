//! Identities: one type each, so that two kinds cannot be mixed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::WireError;
use crate::text::quote;

/// The shortest prefix of a job id that is taken for one, in characters.
pub const MIN_PREFIX: usize = 8;

/// Why a text is no identity of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} is not a UUID: it takes 36 characters like \
     0192d3a4-5b6c-7d8e-9f00-112233445566"
)]
pub struct NotAUuid {
    text: String,
}

/// Parses the hyphenated form only, in either case.
fn parse_uuid(text: &str) -> Result<Uuid, NotAUuid> {
    let refuse = || NotAUuid { text: quote(text) };
    if text.len() != 36 {
        return Err(refuse());
    }
    Uuid::try_parse(text).map_err(|_| refuse())
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize,
            Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// The 16 bytes, for stores.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From the 16 bytes that a store kept.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl FromStr for $name {
            type Err = NotAUuid;
            fn from_str(text: &str) -> Result<Self, NotAUuid> {
                parse_uuid(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAUuid;
            fn try_from(text: String) -> Result<Self, NotAUuid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

identity! {
    /// A job: what a user asked for. New ones sort by time (UUID version 7).
    JobId
}
identity! {
    /// A run: one attempt at a job.
    RunId
}
identity! {
    /// A worker: the VM (zone) in which jobs run.
    WorkerUuid
}
identity! {
    /// An artefact: a named file that a run left behind.
    ArtefactId
}

impl JobId {
    /// A new identity, made of the given time and random bits.
    pub fn generate(unix_ms: u64, random: u128) -> Self {
        Self(uuid_v7(unix_ms, random))
    }
}

impl RunId {
    /// A new identity, made of the given time and random bits.
    pub fn generate(unix_ms: u64, random: u128) -> Self {
        Self(uuid_v7(unix_ms, random))
    }
}

impl ArtefactId {
    /// A new identity, made of the given time and random bits.
    pub fn generate(unix_ms: u64, random: u128) -> Self {
        Self(uuid_v7(unix_ms, random))
    }
}

fn uuid_v7(unix_ms: u64, random: u128) -> Uuid {
    let bits = (u128::from(unix_ms) << 80) | (random & ((1 << 80) - 1));
    uuid::Builder::from_u128(bits)
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
}

/// A job named by a caller: the whole id, or a prefix of 8 or more
/// characters of its canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRef {
    /// The whole id.
    Full(JobId),
    /// The first characters of an id, lower case.
    Prefix(String),
}

impl FromStr for JobRef {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Full(id));
        }
        let is_prefix = (MIN_PREFIX..36).contains(&text.len())
            && text.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        if is_prefix {
            return Ok(Self::Prefix(text.to_ascii_lowercase()));
        }
        Err(WireError::invalid(
            "id",
            format!(
                "{} is no job id: give the whole UUID, or at least its first \
                 {MIN_PREFIX} characters",
                quote(text)
            ),
        ))
    }
}

impl fmt::Display for JobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(id) => id.fmt(f),
            Self::Prefix(prefix) => f.write_str(prefix),
        }
    }
}

/// The fencing number of a lease: higher is newer, over all jobs.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct Lease(pub u64);

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_a_uuid() {
        let good = "0192D3A4-5b6c-7d8e-9f00-112233445566";
        let id: JobId = good.parse().unwrap();
        assert_eq!(id.to_string(), good.to_lowercase());
        for bad in [
            "",
            "0192d3a45b6c7d8e9f00112233445566",
            "{0192d3a4-5b6c-7d8e-9f00-112233445566}",
            "urn:uuid:0192d3a4-5b6c-7d8e-9f00-112233445566",
            "zzzzzzzz-5b6c-7d8e-9f00-112233445566",
            "0192d3a4-5b6c-7d8e-9f00-11223344556\u{ff16}",
        ] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_takes_eight_characters() {
        assert!("0192d3a".parse::<JobRef>().is_err());
        assert_eq!(
            "0192D3A4-5".parse(),
            Ok(JobRef::Prefix("0192d3a4-5".into()))
        );
        assert!("0192d3a45".parse::<JobRef>().is_err());
        assert!("-192d3a4".parse::<JobRef>().is_err());
    }

    #[test]
    fn new_ids_sort_by_time() {
        let early = JobId::generate(1, u128::MAX);
        let late = JobId::generate(2, 0);
        assert!(early < late);
    }
}
