//! What a job wrote, as its readers get it.

use ntrace_protocol::Stream;
use ntrace_protocol::report::LogRecord;
use serde_json::{Value, json};

/// All that a job wrote.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// On its standard output.
    pub stdout: Vec<u8>,
    /// On its standard error.
    pub stderr: Vec<u8>,
    /// What the runner said meanwhile.
    pub events: Vec<Value>,
    /// The records as they came.
    pub records: Vec<LogRecord>,
}

impl Output {
    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn take(&mut self, record: LogRecord) {
        match record.stream {
            Stream::Stdout => self.stdout.extend(record.data.as_bytes()),
            Stream::Stderr => self.stderr.extend(record.data.as_bytes()),
            Stream::Events | Stream::Control => {
                self.events.push(json!(record.data));
            }
        }
        self.records.push(record);
    }
}
