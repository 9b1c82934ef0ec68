//! What a runner sends back about a run.
//!
//! Reports of one run and stream are numbered densely from 1. The last report
//! of a run is an [`End`] on `control`; it says how many reports of each
//! other stream came before it, so the verdict never overtakes the output.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::id::{JobId, Lease, RunId, WorkerUuid};
use crate::job::{Exit, Reason, Usage};
use crate::name::Commit;
use crate::trace::{TraceSummary, Tracer};
use crate::unit::Timestamp;

/// Which stream of a run.
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
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The job's standard output.
    Stdout,
    /// The job's standard error.
    Stderr,
    /// What the runner has to say: [`Event`].
    Events,
    /// The verdict: [`End`].
    Control,
}

impl Stream {
    /// All streams.
    pub const ALL: [Self; 4] =
        [Self::Stdout, Self::Stderr, Self::Events, Self::Control];

    /// The stream as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Events => "events",
            Self::Control => "control",
        }
    }

    /// From how it is written.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == name)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The highest number of each stream that is safely kept.
pub type Acked = BTreeMap<Stream, u64>;

/// What a report carries: a string, `{"base64"}`, or an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Output that is valid UTF-8.
    Text(String),
    /// Output that is not.
    Bytes(Vec<u8>),
    /// An event or a verdict.
    Object(Map<String, Value>),
}

impl Data {
    /// Output, in the form that suits it.
    pub fn from_output(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }

    /// An event or a verdict. Anything but an object is wrapped in one.
    pub fn from_event(event: &impl Serialize) -> Self {
        match serde_json::to_value(event) {
            Ok(Value::Object(map)) => Self::Object(map),
            Ok(other) => {
                Self::Object(Map::from_iter([("value".into(), other)]))
            }
            Err(error) => Self::Object(Map::from_iter([(
                "unwritable".into(),
                json!(error.to_string()),
            )])),
        }
    }

    /// The output's bytes; none for an object.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Object(_) => &[],
        }
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(to),
            Self::Bytes(bytes) => {
                json!({"base64": STANDARD.encode(bytes)}).serialize(to)
            }
            Self::Object(map) => map.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(map) => match map.get("base64") {
                Some(Value::String(text)) if map.len() == 1 => STANDARD
                    .decode(text)
                    .map(Self::Bytes)
                    .map_err(|e| D::Error::custom(format!("base64: {e}"))),
                _ => Ok(Self::Object(map)),
            },
            _ => Err(D::Error::custom(
                "data must be a string, {\"base64\"} or an object",
            )),
        }
    }
}

/// One report of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run_id: RunId,
    /// The fencing number of the run.
    pub lease: Lease,
    /// The stream.
    pub stream: Stream,
    /// Its number in the run and stream, from 1.
    pub seq: u64,
    /// When the runner had it.
    pub when: Timestamp,
    /// What it is.
    pub data: Data,
}

/// One record of a job's output, as `log` hands it out.
///
/// `from` of `logs` counts these records over all runs of the job, from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The job.
    pub job: JobId,
    /// The run that it belongs to.
    pub run_id: RunId,
    /// The position of this record; `from` = this + 1 goes on behind it.
    pub n: u64,
    /// The stream.
    pub stream: Stream,
    /// The number in its run and stream.
    pub seq: u64,
    /// When the runner had it.
    pub when: Timestamp,
    /// What it is.
    pub data: Data,
}

/// A phase of a run, as an event names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The tree goes in, set-up runs.
    Preparing,
    /// The command runs.
    Running,
    /// Results are gathered.
    Collecting,
}

/// What a runner says on the stream `events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The worker that the run got.
    Assigned {
        /// The worker.
        worker: WorkerUuid,
        /// What the place can and cannot enforce.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Value>,
    },
    /// A phase began.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// What will be run, and where that was found.
    Recipe {
        /// The set-up's command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        setup: Option<String>,
        /// The command.
        run: String,
        /// Where it came from, in words.
        origin: String,
    },
    /// Output begins or ends that belongs to the set-up.
    Setup {
        /// True at its start.
        begins: bool,
    },
    /// Output is missing here.
    Gap {
        /// Of which stream.
        stream: Stream,
        /// How much.
        bytes: u64,
        /// Why.
        why: String,
    },
    /// What the place looked like when a clock ran out, before anything was
    /// killed.
    Evidence {
        /// Its processes: pid, ppid, state, wchan, args, rss.
        processes: Vec<Value>,
    },
    /// What the evidence comes to.
    EvidenceSummary {
        /// The place where it hangs, in a sentence.
        sentence: String,
        /// The artefacts that hold the rest.
        #[serde(default)]
        artefacts: Vec<String>,
    },
    /// The source is here; which commits come before it.
    Source {
        /// Its parents, the first one first; at most [`MAX_PARENTS`].
        #[serde(default)]
        parents: Vec<Commit>,
    },
    /// A tracer looks at the run from here on.
    TraceStarted {
        /// Which.
        tracer: Tracer,
        /// Samples a second.
        hz: u32,
        /// Which repetition this is, from 1.
        #[serde(default = "first")]
        repetition: u32,
    },
    /// There is no trace, or no more of it.
    TraceFailed {
        /// Why, in a sentence.
        why: String,
    },
    /// Something to be known.
    Note {
        /// A sentence.
        text: String,
    },
    /// What a newer runner may say.
    #[serde(other)]
    Other,
}

/// The most parents that are told of a commit.
pub const MAX_PARENTS: usize = 16;

fn first() -> u32 {
    1
}

/// How a run ended, as the runner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command exited 0.
    Done,
    /// It failed; the reason says why.
    Failed,
    /// It was stopped.
    Stopped,
    /// The run was lost for a cause that is not the user's.
    Lost,
}

impl Outcome {
    /// The outcome as a run's state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }
}

/// The last report of a run: `{"event":"end", …}` on `control`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Always `end`.
    pub event: EndTag,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, unless it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
    /// How the command ended, if it was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What the run used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What became of its trace; absent if it came to no run of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceSummary>,
    /// The highest number of each other stream.
    #[serde(default)]
    pub last: Acked,
}

/// The word `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndTag {
    /// The word.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(data: &Data) -> Data {
        serde_json::from_str(&serde_json::to_string(data).unwrap()).unwrap()
    }

    #[test]
    fn output_survives_whatever_its_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&b""[..], b"text \xc3\xa9\n", &all, b"\xc3"] {
            let data = Data::from_output(bytes);
            assert_eq!(round_trip(&data).as_bytes(), bytes);
        }
        assert!(matches!(Data::from_output(b"a\0b"), Data::Text(_)));
    }

    #[test]
    fn wrong_data_is_refused() {
        for bad in ["5", "null", "[]", r#"{"base64":"*"}"#] {
            assert!(serde_json::from_str::<Data>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_end_is_written_as_documented() {
        let end = End {
            event: EndTag::End,
            outcome: Outcome::Failed,
            reason: Some(Reason::Exit),
            sentence: None,
            exit: Some(Exit::Code { code: 3 }),
            usage: None,
            trace: None,
            last: Acked::from([(Stream::Stdout, 2)]),
        };
        assert_eq!(
            serde_json::to_value(&end).unwrap(),
            json!({
                "event": "end", "outcome": "failed", "reason": "exit",
                "exit": {"code": 3}, "last": {"stdout": 2},
            })
        );
    }

    #[test]
    fn an_unknown_event_is_no_error() {
        let event: Event =
            serde_json::from_value(json!({"event": "new", "x": 1})).unwrap();
        assert_eq!(event, Event::Other);
    }
}
