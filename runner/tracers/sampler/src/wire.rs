//! What the sampler's process and its parent say to each other: one JSON
//! object a line, a request and its answer; a profile's bytes follow their
//! answer.

use serde::{Deserialize, Serialize};

use crate::target::{How, Order};

/// Longest line in either direction.
pub(crate) const LINE_MAX: u64 = 8 << 20;

/// What the parent asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Make all ready, and record nothing yet; the first request.
    Arm(Order),
    /// Begin to record.
    Go,
    /// The stacks of the last seconds.
    Window,
    /// Stop, and give the profile within so many milliseconds; the last
    /// request.
    Finish(FinishOptions, u64),
    /// The stacks of processes as they are now, without sampling.
    Stacks(Order, Vec<u32>, u64),
}

/// What the sampler answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// All is ready for this way.
    Armed(How),
    /// It samples, or waits for the job's first process.
    Started,
    /// The stacks of the last seconds.
    Window(Window),
    /// The profile; so many bytes follow.
    Trace(u64, Box<Summary>),
    /// The stacks of processes.
    Stacks(Vec<ProcessStacks>),
    /// It failed.
    Failed(String),
}

/// What goes into a finished profile beside the samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FinishOptions {
    /// Processor time that the job used in user mode, in milliseconds, where
    /// the caller knows it: what the samples of [`How::Inherit`] are held
    /// against.
    pub user_cpu_ms: Option<u64>,
    /// Who owns the repository.
    pub owner: Option<String>,
    /// The repository.
    pub repository: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// The run.
    pub run: Option<String>,
}

/// The stacks of the last seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The span, in seconds.
    pub seconds: f64,
    /// Stacks, outermost frame first, joined by `;`, and how often each was
    /// met; the most frequent first.
    pub folded: Vec<(String, u64)>,
}

/// How a trace went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The way.
    pub how: Option<How>,
    /// Samples per second of processor time.
    pub hz: u32,
    /// Samples of the job.
    pub samples: u64,
    /// Samples that the kernel could not deliver.
    pub lost: u64,
    /// How often the kernel slowed sampling down.
    pub throttled: u64,
    /// The share of frames that have a name, 0 to 1.
    pub share_named: f64,
    /// Processor time that the sampled processes used, by the kernel's
    /// counter, in milliseconds.
    pub cpu_ms: u64,
    /// Samples ÷ rate ÷ processor time: 1 is perfect. None if too little was
    /// used to say, or if user time, which is all that was sampled, is not
    /// known apart.
    pub health: Option<f64>,
    /// Whether frames of the kernel are in it.
    pub kernel: bool,
    /// Processes that began meanwhile.
    pub processes: u64,
    /// The share of stacks of which the outer part is missing, 0 to 1.
    pub share_cut: f64,
    /// Files with code that could not be read, each with its reason.
    pub unresolved: Vec<String>,
    /// What to know when reading the profile.
    pub warnings: Vec<String>,
}

/// The stacks of one process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStacks {
    /// Its pid in the zone.
    pub pid: u32,
    /// Its pid on the host.
    pub host_pid: i32,
    /// Its name.
    pub comm: String,
    /// Why it could not be looked into.
    pub refused: Option<String>,
    /// Its threads.
    pub threads: Vec<ThreadStack>,
}

/// The stack of one thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadStack {
    /// Its id on the host.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// The state as in /proc: `R`, `S`, `D` and so on.
    pub state: String,
    /// Where in the kernel it waits, if that is told.
    pub wchan: Option<String>,
    /// Its functions, innermost first.
    pub frames: Vec<String>,
    /// Why there are none.
    pub refused: Option<String>,
}
