//! Reading arguments: each error names the argument that is wrong.

use std::time::Duration;

use ntrace_protocol::id::JobRef;
use ntrace_protocol::text::quote;
use ntrace_protocol::{WireError, unit};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A text by position.
pub(crate) fn text<'a>(
    args: &'a [Value],
    at: usize,
    field: &str,
) -> Result<&'a str, WireError> {
    let value = args.get(at).unwrap_or(&Value::Null);
    value.as_str().ok_or_else(|| {
        let found = quote(&value.to_string());
        WireError::invalid(
            field,
            format!("{field} must be a string, not {found}"),
        )
    })
}

/// A whole number by position.
pub(crate) fn number(
    args: &[Value],
    at: usize,
    field: &str,
) -> Result<u64, WireError> {
    let value = args.get(at).unwrap_or(&Value::Null);
    // SQLite and file offsets are signed.
    let number = value.as_u64().filter(|n| i64::try_from(*n).is_ok());
    number.ok_or_else(|| {
        let found = quote(&value.to_string());
        WireError::invalid(
            field,
            format!("{field} must be a whole number from 0, not {found}"),
        )
    })
}

/// A job named by its id or a prefix.
pub(crate) fn job_ref(args: &[Value]) -> Result<JobRef, WireError> {
    text(args, 0, "id")?.parse()
}

/// Anything that parses from a text, by position.
pub(crate) fn parsed<T: std::str::FromStr>(
    args: &[Value],
    at: usize,
    field: &str,
) -> Result<T, WireError>
where
    T::Err: std::fmt::Display,
{
    let parsed = text(args, at, field)?.parse::<T>();
    parsed.map_err(|e| WireError::invalid(field, e.to_string()))
}

/// An object of options, each of them optional.
pub(crate) struct Options<'a> {
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Options<'a> {
    /// Options by position; names that are not known are refused.
    pub(crate) fn read(
        args: &'a [Value],
        at: usize,
        field: &str,
        known: &[&str],
    ) -> Result<Self, WireError> {
        let map = match args.get(at) {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(other) => {
                return Err(WireError::invalid(
                    field,
                    format!(
                        "{field} must be an object with {}, not {}",
                        known.join(", "),
                        quote(&other.to_string())
                    ),
                ));
            }
        };
        for name in map.iter().flat_map(|map| map.keys()) {
            if !known.contains(&name.as_str()) {
                return Err(WireError::invalid(
                    field,
                    format!(
                        "there is no option {}; there are {}",
                        quote(name),
                        known.join(", ")
                    ),
                ));
            }
        }
        Ok(Self { map })
    }

    /// An option that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// A duration.
    pub(crate) fn duration(
        &self,
        name: &str,
    ) -> Result<Option<Duration>, WireError> {
        let value = self.get(name).map(unit::duration_of_value).transpose();
        value.map_err(|e| WireError::invalid(name, e))
    }

    /// Anything that is read from JSON, said in words.
    pub(crate) fn typed<T: DeserializeOwned>(
        &self,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, WireError> {
        let value = self.get(name).cloned().map(serde_json::from_value);
        value.transpose().map_err(|_| {
            WireError::invalid(name, format!("{name} must be {what}"))
        })
    }

    /// Anything that parses from a text.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &self,
        name: &str,
    ) -> Result<Option<T>, WireError>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.typed::<String>(name, "a string")? else {
            return Ok(None);
        };
        let parsed = text.parse().map(Some);
        parsed.map_err(|e: T::Err| WireError::invalid(name, e.to_string()))
    }
}

/// A field of an object that must be there.
pub(crate) fn field<T: DeserializeOwned>(
    map: &mut Map<String, Value>,
    name: &str,
) -> Result<T, WireError> {
    let Some(value) = map.remove(name) else {
        return Err(WireError::invalid(name, format!("{name} is missing")));
    };
    serde_json::from_value(value)
        .map_err(|e| WireError::invalid(name, format!("{name} is wrong: {e}")))
}
