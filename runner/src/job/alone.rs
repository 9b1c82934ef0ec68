//! Was the place left alone while a run was in it?
//!
//! Somebody may halt, boot or roll a VM back under a run: an operator, or
//! another runner. What such a run came to says nothing about its job.

use std::time::Duration;

use ntrace_protocol::report::Outcome;
use ntrace_protocol::{Exit, Reason};
use ntrace_zones::{Boot, Vm};
use tokio::time::{Instant, sleep};

use super::verdict::Verdict;
use super::{LOOK, Place, chain};

/// The pause between two looks at a VM that cannot be asked.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the shutdown of a zone may take to show after it ended a command.
const SETTLE: Duration = Duration::from_secs(2);

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

/// How long a look is repeated though nothing is amiss: a command that was
/// told to end may have been told so by the shutdown of its zone, which shows
/// a little later.
fn settle(verdict: &Verdict) -> Duration {
    let is_told = match &verdict.exit {
        Some(Exit::Code { code }) => matches!(code, 137 | 143),
        Some(Exit::Signal { signal, .. }) => {
            matches!(signal.as_str(), "SIGTERM" | "SIGKILL")
        }
        None => false,
    };
    if is_told && !is_ended_by_us(verdict) { SETTLE } else { Duration::ZERO }
}

/// Whether the runner ended the command, and may have halted its zone.
fn is_ended_by_us(verdict: &Verdict) -> bool {
    matches!(
        verdict.reason,
        Some(Reason::Timeout | Reason::Silence | Reason::OutputLimit)
    )
}

/// What gives away that somebody acted on the VM.
fn touched(boot: &Boot, vm: &Vm, verdict: &Verdict) -> Option<String> {
    let found = match vm.boot() {
        Some(now) if now == *boot => return None,
        Some(now) => format!("it was booted at {now}, not at {boot}"),
        None if is_ended_by_us(verdict) => return None,
        None => format!("it is {}", vm.state),
    };
    let worker = vm.uuid;
    Some(format!("someone else acted on worker {worker}: {found}"))
}

impl Place<'_> {
    /// The verdict, if the VM is still in the boot in which the run began;
    /// else the run is lost, whatever it said.
    pub(super) async fn left_alone(&self, verdict: Verdict) -> Verdict {
        let boot = self.vm.boot().filter(|_| depends_on_place(&verdict));
        let Some(boot) = boot else { return verdict };
        let settled = Instant::now() + settle(&verdict);
        let deadline = Instant::now() + LOOK;
        loop {
            let seen = self.worker.look(deadline).await;
            let now = Instant::now();
            match seen {
                Ok(vm) => match touched(&boot, &vm, &verdict) {
                    Some(why) => return Verdict::lost(Reason::Zone, why),
                    None if now >= settled => return verdict,
                    None => {}
                },
                Err(error) if now + PAUSE >= deadline => {
                    return Verdict::lost(Reason::Zone, chain(&error));
                }
                Err(_) => {}
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

    #[test]
    fn only_a_command_that_was_told_to_end_is_looked_at_twice() {
        let of = |reason, code| Verdict {
            exit: Some(Exit::Code { code }),
            ..Verdict::failed(reason, "x")
        };
        assert_eq!(settle(&of(Reason::Exit, 143)), SETTLE);
        assert_eq!(settle(&of(Reason::Exit, 1)), Duration::ZERO);
        assert_eq!(settle(&of(Reason::Timeout, 143)), Duration::ZERO);
    }
}
