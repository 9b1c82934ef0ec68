//! Times, durations and sizes as they are written on the wire.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::text::quote;

/// A moment: milliseconds since 1970, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;

impl Timestamp {
    /// From the system's clock.
    pub fn from_system(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_millis()).unwrap_or(LAST_MS))
    }

    /// How long after `earlier` this is, in milliseconds; 0 if it is before.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_millis(self.0.min(LAST_MS));
        humantime::format_rfc3339_millis(time).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_rfc3339(text).map(Self::from_system).map_err(|_| {
            format!(
                "{} is not a time like 2026-01-31T12:00:00.000Z",
                quote(text)
            )
        })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The longest duration that a request may name: ten years would be a typing
/// error.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a duration: a humantime string like `"90s"` or `"30m"`.
///
/// # Errors
/// A sentence that says what it takes.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|_| {
        format!("{} is not a duration like \"90s\" or \"30m\"", quote(text))
    })?;
    if duration > MAX_DURATION {
        return Err(format!("{} is longer than a year", quote(text)));
    }
    Ok(duration)
}

/// The units of sizes: powers of 1000 and of 1024.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// Reads a size in bytes: digits with an optional unit, `"512MiB"`.
///
/// # Errors
/// A sentence that says what it takes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refuse =
        || format!("{} is not a size like 1048576 or \"512MiB\"", quote(text));
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let unit = unit.trim().to_ascii_lowercase();
    SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, factor)| number.checked_mul(*factor))
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(refuse)
}

/// Reads a size from JSON: an integer in bytes, or a string with a unit.
///
/// # Errors
/// A sentence that says what it takes.
pub fn size_of_value(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => parse_size(text),
        Value::Number(number) => number
            .as_u64()
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .ok_or_else(|| format!("{number} is not a size in bytes")),
        other => Err(format!(
            "{} is not a size like 1048576 or \"512MiB\"",
            quote(&other.to_string())
        )),
    }
}

/// Reads a duration from JSON: a humantime string.
///
/// # Errors
/// A sentence that says what it takes.
pub fn duration_of_value(value: &Value) -> Result<Duration, String> {
    match value {
        Value::String(text) => parse_duration(text),
        other => Err(format!(
            "{} is not a duration: write a string like \"90s\" or \"30m\"",
            quote(&other.to_string())
        )),
    }
}

/// A duration as it is written on the wire.
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_milliseconds() {
        let text = "2026-11-21T09:00:00.123Z";
        let time: Timestamp = text.parse().unwrap();
        assert_eq!(time.to_string(), text);
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("1 gb"), Ok(1_000_000_000));
        assert_eq!(parse_size("17"), Ok(17));
        for bad in ["", "MiB", "-1", "1.5GB", "1e3", "99999999999tb", "1x"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(size_of_value(&serde_json::json!(-1)).is_err());
        assert!(size_of_value(&serde_json::json!(1.5)).is_err());
    }

    #[test]
    fn durations_are_humantime() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "90", "-1s", "1000years", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
