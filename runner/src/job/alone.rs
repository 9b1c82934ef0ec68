//! Was the place left alone while a run was in it?
//!
//! Somebody may halt, boot or roll a VM back under a run: an operator, or
//! another runner. What such a run came to says nothing about its job.

use ntrace_protocol::Reason;
use ntrace_protocol::report::Outcome;
use ntrace_zones::StageError;
use tokio::time::{Instant, sleep};

use super::verdict::Verdict;
use super::{LOOK, Place, chain};

/// The pause between two looks at a VM that cannot be asked.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether a verdict says something about a command that ran in the place,
/// and the place was not itself ended by a limit.
fn depends_on_place(verdict: &Verdict) -> bool {
    let is_ended = matches!(verdict.outcome, Outcome::Done | Outcome::Failed);
    let is_elsewhere = matches!(
        verdict.reason,
        Some(
            Reason::Oom
                | Reason::DiskFull
                | Reason::ProcessLimit
                | Reason::Source
                | Reason::Recipe
        )
    );
    is_ended && !is_elsewhere
}

impl Place<'_> {
    /// The verdict, if the VM is still in the boot in which the run began;
    /// else the run is lost, whatever it said.
    pub(super) async fn left_alone(&self, verdict: Verdict) -> Verdict {
        let boot = self.vm.boot().filter(|_| depends_on_place(&verdict));
        let Some(boot) = boot else { return verdict };
        let deadline = Instant::now() + LOOK;
        loop {
            let error =
                match self.worker.verify_untouched(&boot, deadline).await {
                    Ok(_) => return verdict,
                    Err(error) => error,
                };
            let is_touched = matches!(error, StageError::Touched { .. });
            if is_touched || Instant::now() + PAUSE >= deadline {
                return Verdict::lost(Reason::Zone, chain(&error));
            }
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_command_did_depends_on_the_place() {
        let failed = |reason| Verdict::failed(reason, "x");
        assert!(depends_on_place(&failed(Reason::Exit)));
        assert!(depends_on_place(&failed(Reason::Setup)));
        assert!(!depends_on_place(&failed(Reason::Oom)));
        assert!(!depends_on_place(&failed(Reason::Source)));
        assert!(!depends_on_place(&Verdict::stopped()));
        assert!(!depends_on_place(&Verdict::lost(Reason::Zone, "x")));
    }
}
