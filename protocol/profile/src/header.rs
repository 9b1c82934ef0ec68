//! What a profile says of itself: how it was taken, and of what.

use serde::{Deserialize, Serialize};

/// Sentences of warning that are kept.
const MAX_WARNINGS: usize = 32;
/// Bytes of one sentence of warning that are kept.
const MAX_WARNING: usize = 500;

/// How a profile was taken, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Who took it: `sample`, `dtrace`, `perf`, `cpuprofile`; or empty.
    pub tracer: String,
    /// Samples a second of CPU time; 0 when not known.
    pub hz: u32,
    /// When it began, in nanoseconds since 1970; 0 when not known.
    pub start_ns: u64,
    /// How long it took, in nanoseconds; 0 when not known.
    pub duration_ns: u64,
    /// Samples that were taken and lost.
    pub lost: u64,
    /// How often the kernel throttled the sampling.
    pub throttled: u64,
    /// Stacks that were kept without their innermost frames, for room.
    pub cut: u64,
    /// Whether frames of the kernel could be seen.
    pub kernel: bool,
    /// What else one should know, in sentences. Use [`Header::warn`].
    pub warnings: Vec<String>,
    /// `owner/name`; empty when not known.
    pub repository: String,
    /// The commit's digits; empty when not known.
    pub commit: String,
    /// The run that was traced; empty when not known.
    pub run_id: String,
}

impl Header {
    /// Adds a warning; many or long ones are cut.
    pub fn warn(&mut self, sentence: impl Into<String>) {
        let mut sentence = sentence.into();
        sentence.truncate(sentence.floor_char_boundary(MAX_WARNING));
        if self.warnings.len() < MAX_WARNINGS
            && !self.warnings.contains(&sentence)
        {
            self.warnings.push(sentence);
        }
    }

    /// The same, with texts and warnings cut to their bounds: for a header
    /// that was read.
    pub(crate) fn bounded(mut self) -> Self {
        for text in [
            &mut self.tracer,
            &mut self.repository,
            &mut self.commit,
            &mut self.run_id,
        ] {
            text.truncate(text.floor_char_boundary(MAX_WARNING));
        }
        for sentence in std::mem::take(&mut self.warnings) {
            self.warn(sentence);
        }
        self
    }

    /// The CPU time that a number of samples stands for, in nanoseconds.
    pub fn nanoseconds(&self, samples: u64) -> u64 {
        if self.hz == 0 {
            return 0;
        }
        let ns = u128::from(samples) * 1_000_000_000 / u128::from(self.hz);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}
