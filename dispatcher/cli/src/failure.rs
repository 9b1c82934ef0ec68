//! How the program may end: the exit statuses, and what is said for each
//! failure.
//!
//! An exit status has one meaning and is never used for another.

use std::process::ExitCode;
use std::time::Duration;

use ntrace_client::{CallError, ConnectError};
use ntrace_protocol::text::escape;
use ntrace_protocol::{Code, WireError};
use serde_json::{Value, json};

/// The exit statuses, as `--help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It went well; where a job was waited for, the job is done.
    Ok = 0,
    /// The job that was waited for failed or was stopped.
    JobFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The dispatcher refused.
    Refused = 3,
    /// The dispatcher cannot be reached, or the connection was lost.
    Unreachable = 4,
    /// A deadline passed.
    TimedOut = 5,
    /// Something on this side went wrong: git, a file, the output.
    Local = 6,
    /// Ctrl-C.
    Interrupted = 130,
    /// Whoever read the output went away.
    OutputClosed = 141,
}

/// The statuses in words, for `--help`.
pub const STATUS_HELP: &str = "\
Exit status:
    0  it went well; for wait, push --wait, push -f and logs -f: the job is done
    1  the job that was waited for failed or was stopped
    2  the command line is wrong
    3  the dispatcher refused; its reason is on stderr
    4  the dispatcher cannot be reached, or the connection was lost for good
    5  timed out
    6  something on this side failed: git, a file, the output
  130  interrupted with Ctrl-C; a job goes on
  141  whoever read the output went away";

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Why a command did not go well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong in a way that the parser cannot see.
    #[error("{0}")]
    Usage(String),
    /// The dispatcher refused.
    #[error("the dispatcher refused: {}", .0.message)]
    Refused(WireError),
    /// Nobody took the connection.
    #[error("cannot reach the dispatcher")]
    Unreachable(#[source] ConnectError),
    /// The connection was lost and could not be had again.
    #[error("the connection to the dispatcher was lost{hint}")]
    Lost {
        /// What to do, beginning with a separator; empty if it is plain.
        hint: String,
    },
    /// The dispatcher took too long to answer.
    #[error("the dispatcher did not answer {name} within {after:?}")]
    Late {
        /// The command.
        name: String,
        /// How long it was given.
        after: Duration,
    },
    /// The user's own time-out passed.
    #[error("{0}")]
    TimedOut(String),
    /// Something on this side.
    #[error("cannot {doing}")]
    Io {
        /// What was tried, on what.
        doing: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Git, or what it said, was of no use.
    #[error("{0}")]
    Git(String),
    /// What was fetched is not what it should be.
    #[error("{0}")]
    Damaged(String),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> Status {
        match self {
            Self::Usage(_) => Status::Usage,
            Self::Refused(error) if error.code == Code::Etime => {
                Status::TimedOut
            }
            Self::Refused(_) => Status::Refused,
            Self::Unreachable(_) | Self::Lost { .. } => Status::Unreachable,
            Self::Late { .. } | Self::TimedOut(_) => Status::TimedOut,
            Self::Io { source, .. }
                if source.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                Status::OutputClosed
            }
            Self::Io { .. } | Self::Git(_) | Self::Damaged(_) => Status::Local,
        }
    }

    /// A failure of the system, with what was tried.
    pub(crate) fn io(
        doing: impl Into<String>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The lines for a person: what happened with its causes, then what is
    /// to be mended. Everything in them is safe to show.
    pub fn lines(&self) -> Vec<String> {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        let mut lines = vec![format!("ntrace: {}", escape(&text))];
        if let Self::Refused(error) = self {
            lines.push(format!("  code:  {}", error.code));
            if let Some(field) = &error.field {
                lines.push(format!("  field: {}", escape(field)));
            }
            lines.push(format!("  to do: {}", advice(error)));
        }
        lines
    }

    /// The same for a program.
    pub fn to_value(&self) -> Value {
        let lines = self.lines();
        let message = lines[0].trim_start_matches("ntrace: ");
        let mut value = json!({
            "error": {"message": message},
            "exit": self.status() as u8,
        });
        if let Self::Refused(error) = self {
            value["error"] = json!(error);
            value["todo"] = json!(advice(error));
        }
        value
    }
}

/// What a person can do about a refusal.
fn advice(error: &WireError) -> &'static str {
    match error.code {
        Code::Einval => "mend the field that is named and try again",
        Code::Enoent => "`ntrace list` shows what there is",
        Code::Eexist => {
            "the id is taken by another job; leave --id out for a new one"
        }
        Code::Eacces => "run it outside of jobs and as your own user",
        Code::Ebusy => {
            "wait until it is final (`ntrace wait ID`) or stop it \
             (`ntrace stop ID`)"
        }
        Code::Eagain => "it is full; try again later",
        Code::Etime => "try again, or give a longer time",
        Code::Enocmd | Code::Eproto | Code::Eunknown => {
            "program and dispatcher may differ in version; check that a \
             dispatcher listens at this address"
        }
        Code::Efenced => "somebody else has it now; ask for its status",
        Code::Einternal => {
            "this is a fault of ntrace; see the dispatcher's log"
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => Self::Refused(error),
            CallError::Closed { .. } => Self::Lost { hint: String::new() },
            CallError::Late { name, after } => Self::Late { name, after },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_code_field_and_what_to_do_without_escapes() {
        let error = WireError::invalid("commit", "bad \u{1b}[2J thing");
        let lines = Failure::Refused(error).lines();
        assert_eq!(
            lines,
            [
                "ntrace: the dispatcher refused: bad \\x1b[2J thing",
                "  code:  EINVAL",
                "  field: commit",
                "  to do: mend the field that is named and try again",
            ]
        );
    }

    #[test]
    fn the_cause_is_said_after_what_was_tried() {
        let failure = Failure::io("write a.txt")(std::io::Error::from(
            std::io::ErrorKind::PermissionDenied,
        ));
        assert_eq!(
            failure.lines(),
            ["ntrace: cannot write a.txt: permission \
                                      denied"]
        );
        assert_eq!(failure.status(), Status::Local);
    }

    #[test]
    fn a_reader_that_went_away_is_no_fault() {
        let failure = Failure::io("write")(std::io::Error::from(
            std::io::ErrorKind::BrokenPipe,
        ));
        assert_eq!(failure.status(), Status::OutputClosed);
    }
}
