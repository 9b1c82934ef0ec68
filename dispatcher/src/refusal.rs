//! Errors of the store, as they are said on the wire.
//!
//! What the caller can mend has a code and a field; what it cannot is
//! `EINTERNAL` with the chain of causes, and is logged.

use std::error::Error;
use std::fmt::Write as _;

use ntrace_protocol::{Code, WireError};
use ntrace_store::{
    AppendError, Fault, FindError, GetError, PushError, PutError, ReadError,
    RemoveError, RunError,
};

/// An error that can be said to a caller.
pub(crate) trait Refusal {
    fn wire(self) -> WireError;
}

/// The error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a string does not fail");
        cause = error.source();
    }
    text
}

fn internal(error: &dyn Error) -> WireError {
    let text = chain(error);
    tracing::error!(error = text, "a command failed");
    WireError::new(Code::Einternal, text)
}

impl Refusal for Fault {
    fn wire(self) -> WireError {
        match self {
            Self::NoSpace | Self::Closed | Self::TooSlow => {
                WireError::new(Code::Eagain, self.to_string())
            }
            Self::Sql(_) | Self::Corrupt { .. } => internal(&self),
        }
    }
}

impl Refusal for PushError {
    fn wire(self) -> WireError {
        let text = self.to_string();
        match self {
            Self::Exists(_) => WireError::new(Code::Eexist, text).on("id"),
            Self::BeingRemoved(_) => {
                WireError::new(Code::Eagain, text).on("id")
            }
            Self::Full(_) => WireError::new(Code::Eagain, text),
            Self::Fault(fault) => fault.wire(),
        }
    }
}

impl Refusal for FindError {
    fn wire(self) -> WireError {
        let text = self.to_string();
        match self {
            Self::Unknown(_) => WireError::new(Code::Enoent, text).on("id"),
            Self::Ambiguous(_) => WireError::invalid("id", text),
            Self::Fault(fault) => fault.wire(),
        }
    }
}

impl Refusal for RemoveError {
    fn wire(self) -> WireError {
        let text = self.to_string();
        match self {
            Self::Unknown(_) => WireError::new(Code::Enoent, text).on("id"),
            Self::Busy { .. } => WireError::new(Code::Ebusy, text).on("id"),
            Self::Fault(fault) => fault.wire(),
        }
    }
}

/// The refusal of whoever holds no current lease.
pub(crate) fn fenced(run: ntrace_protocol::RunId) -> WireError {
    WireError::new(
        Code::Efenced,
        format!("the run {run} is not under this lease any more; drop it"),
    )
    .on("lease")
}

impl Refusal for RunError {
    fn wire(self) -> WireError {
        match self {
            Self::Fenced(run) => fenced(run),
            Self::Illegal(illegal) => {
                WireError::invalid("data", illegal.to_string())
            }
            Self::Fault(fault) => fault.wire(),
        }
    }
}

impl Refusal for AppendError {
    fn wire(self) -> WireError {
        let text = self.to_string();
        match self {
            Self::Fenced(run) => fenced(run),
            Self::NotAnEnd(_) | Self::WrongLast { .. } => {
                WireError::invalid("data", text)
            }
            Self::NoSpace | Self::Closed => WireError::new(Code::Eagain, text),
            Self::Io(_) => internal(&self),
        }
    }
}

impl Refusal for PutError {
    fn wire(self) -> WireError {
        let text = self.to_string();
        match self {
            Self::Offset { .. } | Self::Differs => {
                WireError::invalid("offset", text)
            }
            Self::Hash { .. } => WireError::invalid("sha256", text),
            Self::Exists => WireError::new(Code::Eexist, text).on("name"),
            Self::TooLarge { .. } => WireError::invalid("base64", text),
            Self::TooMany { .. } => WireError::invalid("name", text),
            Self::Fenced(run) => fenced(run),
            Self::Io(_) => internal(&self),
            Self::Fault(fault) => fault.wire(),
        }
    }
}

impl Refusal for GetError {
    fn wire(self) -> WireError {
        let text = self.to_string();
        match self {
            Self::Unknown(_) => {
                WireError::new(Code::Enoent, text).on("artefact id")
            }
            Self::Io(_) => internal(&self),
            Self::Fault(fault) => fault.wire(),
        }
    }
}

impl Refusal for ReadError {
    fn wire(self) -> WireError {
        internal(&self)
    }
}

impl Refusal for std::io::Error {
    fn wire(self) -> WireError {
        internal(&self)
    }
}
