//! The error that goes over the wire: a code from a closed list, a sentence
//! for the person, and the field that is to be mended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The closed list of error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// An argument is wrong; `field` names it.
    Einval,
    /// There is no such thing.
    Enoent,
    /// It exists already, and is different.
    Eexist,
    /// Not allowed from where the request came.
    Eacces,
    /// Not possible in the present state.
    Ebusy,
    /// The line is not a message of this protocol.
    Eproto,
    /// There is no such command.
    Enocmd,
    /// Full; try again later.
    Eagain,
    /// A deadline passed.
    Etime,
    /// A newer lease exists.
    Efenced,
    /// A fault of ours.
    Einternal,
    /// A code that this version does not know (from a newer peer).
    #[serde(other)]
    Eunknown,
}

impl Code {
    /// The code as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Einval => "EINVAL",
            Self::Enoent => "ENOENT",
            Self::Eexist => "EEXIST",
            Self::Eacces => "EACCES",
            Self::Ebusy => "EBUSY",
            Self::Eproto => "EPROTO",
            Self::Enocmd => "ENOCMD",
            Self::Eagain => "EAGAIN",
            Self::Etime => "ETIME",
            Self::Efenced => "EFENCED",
            Self::Einternal => "EINTERNAL",
            Self::Eunknown => "EUNKNOWN",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as it is sent: `{"message", "code", "field"?}`.
///
/// The message is never empty, since the npm client recognises an error by a
/// non-empty `message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// What happened, and what to do.
    pub message: String,
    /// Which kind of error it is.
    pub code: Code,
    /// The argument that is wrong, by its name in the documentation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl WireError {
    /// An error without a field.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        debug_assert!(!message.is_empty(), "an error needs a message");
        Self { message, code, field: None }
    }

    /// `EINVAL` on the named field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(Code::Einval, message);
        error.field = Some(field.to_owned());
        error
    }

    /// The same error, on the named field.
    #[must_use]
    pub fn on(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match &self.field {
            Some(field) => write!(f, " (field {field})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for WireError {}
