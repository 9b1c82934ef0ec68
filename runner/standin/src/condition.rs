//! In which state a zone is, as vmadm and zlogin say it.
//!
//! Pure but for the two looks that `of` is given: nothing is stored. A zone
//! is up while its process 1 lives; all else is a mark that somebody left.

use crate::faults::{Fault, Faults};
use crate::zone::{Process, Run, Zone};

/// Name of the note of a command that halts a zone and takes its time.
pub(crate) const HALTING: &str = "halting.json";

/// The state of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Up.
    Running,
    /// Down and whole.
    Stopped,
    /// Its first boot did not come to its end; nothing mends that.
    Failed,
    /// Being halted.
    ShuttingDown,
    /// Its processes are gone, but the zone does not go away.
    Down,
}

impl Condition {
    /// Looks at the marks of a zone.
    pub(crate) fn of(
        zone: &Zone,
        run: Option<&Run>,
        failed: bool,
    ) -> Condition {
        let faults = Faults::of(zone);
        if faults.has(Fault::StuckDown) {
            Condition::Down
        } else if faults.has(Fault::StuckShuttingDown) {
            Condition::ShuttingDown
        } else if failed {
            Condition::Failed
        } else if run.is_none() {
            Condition::Stopped
        } else if is_being_halted(zone) {
            Condition::ShuttingDown
        } else {
            Condition::Running
        }
    }

    /// The property `state`.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Condition::Running => "running",
            Condition::Stopped => "stopped",
            Condition::Failed => "failed",
            Condition::ShuttingDown => "shutting_down",
            Condition::Down => "down",
        }
    }

    /// The property `zone_state`.
    pub(crate) fn zone_state(self) -> &'static str {
        match self {
            Condition::Stopped | Condition::Failed => "installed",
            other => other.state(),
        }
    }

    /// Whether there is something to be halted.
    pub(crate) fn can_be_halted(self) -> bool {
        self.zone_state() != "installed"
    }
}

fn is_being_halted(zone: &Zone) -> bool {
    zone.note::<Process>(HALTING).is_some_and(|process| process.alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_down_for_good() {
        for (condition, state, zone_state, halts) in [
            (Condition::Running, "running", "running", true),
            (Condition::Stopped, "stopped", "installed", false),
            (Condition::Failed, "failed", "installed", false),
            (Condition::ShuttingDown, "shutting_down", "shutting_down", true),
            (Condition::Down, "down", "down", true),
        ] {
            assert_eq!(condition.state(), state);
            assert_eq!(condition.zone_state(), zone_state);
            assert_eq!(condition.can_be_halted(), halts);
        }
    }
}
