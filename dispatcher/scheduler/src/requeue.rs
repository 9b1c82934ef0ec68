//! What a lost run means for its job.
//!
//! The user's own failures never come here: a job is run again only if its
//! runner or its place was lost.

/// Runs of which nobody ever heard that a job may lose. They do not count as
/// attempts, but a job that makes every runner vanish must end some time.
pub const IDLE_LOSSES_MAX: u32 = 100;

/// What is known of a job whose run was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How often it may be run again.
    pub retry: u32,
    /// Runs lost before that had begun.
    pub lost_begun: u32,
    /// Runs lost before of which nobody ever heard.
    pub lost_idle: u32,
    /// Whether this one had begun: some report of it had arrived.
    pub has_begun: bool,
    /// Whether somebody asked to stop the job.
    pub stop_asked: bool,
}

/// What is to become of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Back to the queue.
    Requeue,
    /// Failed for good, with the loss as the reason.
    Fail,
    /// Stopped, as it was asked for.
    Stop,
}

/// Decides what a lost run means.
pub fn after_loss(facts: Facts) -> After {
    if facts.stop_asked {
        return After::Stop;
    }
    let may_go_on = if facts.has_begun {
        facts.lost_begun < facts.retry
    } else {
        facts.lost_idle < IDLE_LOSSES_MAX
    };
    if may_go_on { After::Requeue } else { After::Fail }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Facts = Facts {
        retry: 2,
        lost_begun: 0,
        lost_idle: 0,
        has_begun: true,
        stop_asked: false,
    };

    #[test]
    fn a_begun_run_is_repeated_as_often_as_allowed() {
        assert_eq!(after_loss(FRESH), After::Requeue);
        let once = Facts { lost_begun: 1, ..FRESH };
        assert_eq!(after_loss(once), After::Requeue);
        let twice = Facts { lost_begun: 2, ..FRESH };
        assert_eq!(after_loss(twice), After::Fail);
        let never = Facts { retry: 0, ..FRESH };
        assert_eq!(after_loss(never), After::Fail);
    }

    #[test]
    fn a_lease_of_which_nobody_heard_is_no_attempt_but_bounded() {
        let idle = Facts { has_begun: false, retry: 0, ..FRESH };
        assert_eq!(after_loss(idle), After::Requeue);
        let many = Facts { lost_idle: IDLE_LOSSES_MAX, ..idle };
        assert_eq!(after_loss(many), After::Fail);
    }

    #[test]
    fn a_job_that_was_to_be_stopped_is_stopped() {
        for has_begun in [true, false] {
            for retry in [0, 5] {
                let facts =
                    Facts { stop_asked: true, has_begun, retry, ..FRESH };
                assert_eq!(after_loss(facts), After::Stop);
            }
        }
    }
}
