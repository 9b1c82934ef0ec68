//! Limits of a job: what it asks for, and what a runner grants.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::error::WireError;
use crate::text::quote;
use crate::unit;

/// The names of the limits, in the order in which they are documented.
pub const LIMIT_NAMES: [&str; 9] = [
    "time",
    "setup_time",
    "silence",
    "memory",
    "cpus",
    "pids",
    "output",
    "disk",
    "artefacts",
];

/// Limits, each of them optional. A runner has defaults for what is not
/// named, and a ceiling.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// How long the command may run.
    pub time: Option<Duration>,
    /// How long the set-up may run.
    pub setup_time: Option<Duration>,
    /// How long the command may go without any output.
    pub silence: Option<Duration>,
    /// Memory of all processes together, in bytes.
    pub memory: Option<u64>,
    /// Processors, as a number that may have a fraction.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Output of both streams together, in bytes; the rest is cut off and
    /// counted.
    pub output: Option<u64>,
    /// What may be written to the worker's disk, in bytes.
    pub disk: Option<u64>,
    /// What may be kept as artefacts, in bytes.
    pub artefacts: Option<u64>,
}

impl Limits {
    /// Reads limits from JSON.
    ///
    /// # Errors
    /// `EINVAL` whose field is `limits.<name>`.
    pub fn from_value(value: &Value) -> Result<Self, WireError> {
        let Value::Object(map) = value else {
            return Err(WireError::invalid(
                "limits",
                "limits must be an object like {\"time\":\"30m\"}",
            ));
        };
        let mut limits = Self::default();
        for (name, value) in map {
            if !value.is_null() {
                limits.set(name, value)?;
            }
        }
        Ok(limits)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), WireError> {
        let field = format!("limits.{name}");
        let refuse = |message: String| WireError::invalid(&field, message);
        let duration = || unit::duration_of_value(value).map_err(refuse);
        let size = || unit::size_of_value(value).map_err(refuse);
        match name {
            "time" => self.time = Some(positive(duration()?, &field)?),
            "setup_time" => {
                self.setup_time = Some(positive(duration()?, &field)?);
            }
            "silence" => self.silence = Some(positive(duration()?, &field)?),
            "memory" => self.memory = Some(at_least(size()?, 1 << 20, &field)?),
            "cpus" => self.cpus = Some(cpus(value, &field)?),
            "pids" => self.pids = Some(at_least(size()?, 2, &field)?),
            "output" => self.output = Some(size()?),
            "disk" => self.disk = Some(at_least(size()?, 1 << 20, &field)?),
            "artefacts" => self.artefacts = Some(size()?),
            _ => {
                return Err(WireError::invalid(
                    "limits",
                    format!(
                        "there is no limit {}; there are {}",
                        quote(name),
                        LIMIT_NAMES.join(", ")
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The limits as JSON; only those that are set.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                map.insert(name.to_owned(), value);
            }
        };
        let text = |d: Duration| json!(unit::format_duration(d));
        put("time", self.time.map(text));
        put("setup_time", self.setup_time.map(text));
        put("silence", self.silence.map(text));
        put("memory", self.memory.map(Value::from));
        put("cpus", self.cpus.map(Value::from));
        put("pids", self.pids.map(Value::from));
        put("output", self.output.map(Value::from));
        put("disk", self.disk.map(Value::from));
        put("artefacts", self.artefacts.map(Value::from));
        Value::Object(map)
    }

    /// These limits, with `other` for what is not set here.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            time: self.time.or(other.time),
            setup_time: self.setup_time.or(other.setup_time),
            silence: self.silence.or(other.silence),
            memory: self.memory.or(other.memory),
            cpus: self.cpus.or(other.cpus),
            pids: self.pids.or(other.pids),
            output: self.output.or(other.output),
            disk: self.disk.or(other.disk),
            artefacts: self.artefacts.or(other.artefacts),
        }
    }

    /// The names of the limits in which this asks for more than `ceiling`
    /// allows.
    pub fn above(&self, ceiling: &Self) -> Vec<&'static str> {
        fn over<T: PartialOrd>(asked: Option<T>, most: Option<T>) -> bool {
            matches!((asked, most), (Some(a), Some(m)) if a > m)
        }
        let checks = [
            over(self.time, ceiling.time),
            over(self.setup_time, ceiling.setup_time),
            over(self.silence, ceiling.silence),
            over(self.memory, ceiling.memory),
            over(self.cpus, ceiling.cpus),
            over(self.pids, ceiling.pids),
            over(self.output, ceiling.output),
            over(self.disk, ceiling.disk),
            over(self.artefacts, ceiling.artefacts),
        ];
        let named = LIMIT_NAMES.iter().zip(checks);
        named.filter(|(_, over)| *over).map(|(name, _)| *name).collect()
    }
}

fn positive(duration: Duration, field: &str) -> Result<Duration, WireError> {
    if duration.is_zero() {
        return Err(WireError::invalid(field, "it must be longer than 0"));
    }
    Ok(duration)
}

fn at_least(size: u64, least: u64, field: &str) -> Result<u64, WireError> {
    if size < least {
        return Err(WireError::invalid(
            field,
            format!("it must be at least {least}"),
        ));
    }
    Ok(size)
}

fn cpus(value: &Value, field: &str) -> Result<f64, WireError> {
    value.as_f64().filter(|n| (0.01..=4096.0).contains(n)).ok_or_else(|| {
        WireError::invalid(field, "it must be a number from 0.01 to 4096")
    })
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        Self::from_value(&value).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_wire() {
        let value = json!({
            "time": "30m", "silence": "90s", "memory": "512MiB",
            "cpus": 1.5, "pids": 100, "output": "1GiB", "disk": 1_048_576,
        });
        let limits = Limits::from_value(&value).unwrap();
        assert_eq!(limits.memory, Some(512 << 20));
        assert_eq!(Limits::from_value(&limits.to_value()), Ok(limits));
    }

    #[test]
    fn a_wrong_limit_is_named() {
        for (value, field) in [
            (json!({"time": 5}), "limits.time"),
            (json!({"time": "0s"}), "limits.time"),
            (json!({"memory": -1}), "limits.memory"),
            (json!({"memory": "lots"}), "limits.memory"),
            (json!({"cpus": "two"}), "limits.cpus"),
            (json!({"cpus": 0}), "limits.cpus"),
            (json!({"pids": 0}), "limits.pids"),
            (json!({"tine": "5s"}), "limits"),
            (json!([]), "limits"),
        ] {
            let error = Limits::from_value(&value).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{value}");
        }
    }

    #[test]
    fn what_is_above_the_ceiling_is_named() {
        let ask = Limits::from_value(&json!({"time": "2h", "pids": 5}));
        let most = Limits::from_value(&json!({"time": "1h", "pids": 5}));
        assert_eq!(ask.unwrap().above(&most.unwrap()), ["time"]);
    }
}
