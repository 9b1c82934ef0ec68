//! What a run's facts mean: done, failed for which reason, or lost.
//!
//! Pure. All the ways to end are told apart here and nowhere else.

use std::time::Duration;

use ntrace_protocol::report::Outcome;
use ntrace_protocol::unit::format_duration;
use ntrace_protocol::{Exit, Reason};

/// Why the runner itself ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Somebody asked for it.
    Asked,
    /// It ran longer than its limit.
    Timeout(Duration),
    /// It said nothing for longer than its limit.
    Silence(Duration),
    /// It wrote more output than its limit, in bytes.
    Output(u64),
}

/// How the command itself ended, as far as the place could tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// With a status or by a signal.
    Exited(Exit),
    /// It could not be started; with the place's words.
    NotStarted(String),
    /// The place never said.
    Unknown(String),
}

/// Limits of the place that were met during the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    /// Processes killed for want of memory.
    pub(super) memory: u64,
    /// The disk's limit.
    pub(super) disk: bool,
    /// How often a new process was refused.
    pub(super) pids: u64,
}

/// All that is known of a command that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Why we ended it, if we did.
    pub(super) ended: Option<Ended>,
    /// How it ended.
    pub(super) command: Command,
    /// Which limits it met.
    pub(super) met: Met,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How the run ended.
    pub(super) outcome: Outcome,
    /// Why, unless it is done.
    pub(super) reason: Option<Reason>,
    /// The same in a sentence.
    pub(super) sentence: Option<String>,
    /// How the command ended.
    pub(super) exit: Option<Exit>,
    /// What is to be known besides.
    pub(super) note: Option<String>,
}

impl Verdict {
    /// A run that failed before its command could say anything.
    pub(super) fn failed(reason: Reason, sentence: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, reason, sentence)
    }

    /// A run that was lost for a cause that is not the user's.
    pub(super) fn lost(reason: Reason, sentence: impl Into<String>) -> Self {
        Self::new(Outcome::Lost, reason, sentence)
    }

    /// A run that somebody stopped.
    pub(super) fn stopped() -> Self {
        Self::new(Outcome::Stopped, Reason::Stopped, "it was stopped")
    }

    fn new(
        outcome: Outcome,
        reason: Reason,
        sentence: impl Into<String>,
    ) -> Self {
        Self {
            outcome,
            reason: Some(reason),
            sentence: Some(sentence.into()),
            exit: None,
            note: None,
        }
    }

    /// The same of one of several repetitions.
    pub(super) fn of_repetition(mut self, repetition: u32, of: u32) -> Self {
        if of > 1
            && self.outcome != Outcome::Done
            && let Some(sentence) = &mut self.sentence
        {
            sentence.push_str(&format!(", in repetition {repetition} of {of}"));
        }
        self
    }

    fn with(mut self, exit: Option<Exit>) -> Self {
        self.exit = exit;
        self
    }
}

/// Judges a command that is over. `what` is `the command` or `the set-up`.
pub(super) fn judge(facts: &Facts, what: &str) -> Verdict {
    let exit = match &facts.command {
        Command::Exited(exit) => Some(exit.clone()),
        Command::NotStarted(_) | Command::Unknown(_) => None,
    };
    if let Some(ended) = facts.ended {
        return judge_ended(ended, what).with(exit);
    }
    let verdict = match &facts.command {
        Command::Exited(exit) if exit.is_success() => Verdict {
            outcome: Outcome::Done,
            reason: None,
            sentence: None,
            exit: Some(exit.clone()),
            note: met_note(facts.met),
        },
        Command::Exited(found) => judge_met(facts.met, what)
            .unwrap_or_else(|| judge_exit(found, what)),
        Command::NotStarted(why) => Verdict::failed(
            Reason::Exit,
            format!("{what} did not start: {why}"),
        ),
        Command::Unknown(why) => judge_met(facts.met, what)
            .unwrap_or_else(|| Verdict::lost(Reason::Zone, why.clone())),
    };
    verdict.with(exit)
}

fn judge_ended(ended: Ended, what: &str) -> Verdict {
    match ended {
        Ended::Asked => Verdict::stopped(),
        Ended::Timeout(limit) => Verdict::failed(
            Reason::Timeout,
            format!("{what} ran longer than {}", format_duration(limit)),
        ),
        Ended::Silence(limit) => Verdict::failed(
            Reason::Silence,
            format!(
                "{what} wrote nothing for longer than {}",
                format_duration(limit)
            ),
        ),
        Ended::Output(limit) => Verdict::failed(
            Reason::OutputLimit,
            format!("{what} wrote more than {limit} bytes of output"),
        ),
    }
}

fn judge_exit(exit: &Exit, what: &str) -> Verdict {
    match exit {
        Exit::Code { code } => Verdict::failed(
            Reason::Exit,
            format!("{what} exited with status {code}"),
        ),
        Exit::Signal { signal, core } => {
            let core = if *core { " and dumped core" } else { "" };
            Verdict::failed(
                Reason::Signal,
                format!("{what} was ended by {signal}{core}"),
            )
        }
    }
}

/// A command that failed after it met a limit failed for that limit.
fn judge_met(met: Met, what: &str) -> Option<Verdict> {
    if met.disk {
        return Some(Verdict::failed(
            Reason::DiskFull,
            format!("{what} wrote more to the disk than its limit"),
        ));
    }
    if met.memory > 0 {
        return Some(Verdict::failed(
            Reason::Oom,
            format!("{what} needed more memory than its limit"),
        ));
    }
    if met.pids > 0 {
        return Some(Verdict::failed(
            Reason::ProcessLimit,
            format!("{what} wanted more processes than its limit"),
        ));
    }
    None
}

fn met_note(met: Met) -> Option<String> {
    if met.memory > 0 {
        return Some(format!(
            "{} of its processes were killed for want of memory, though it \
             exited 0",
            met.memory
        ));
    }
    (met.pids > 0)
        .then(|| "it met its limit of processes, though it exited 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: u8) -> Command {
        Command::Exited(Exit::Code { code })
    }

    fn killed() -> Command {
        let signal = "SIGKILL".to_owned();
        Command::Exited(Exit::Signal { signal, core: false })
    }

    fn unknown() -> Command {
        Command::Unknown("no status came back".to_owned())
    }

    fn check(
        ended: Option<Ended>,
        command: Command,
        met: Met,
        outcome: Outcome,
        reason: Option<Reason>,
    ) {
        let verdict = judge(&Facts { ended, command, met }, "the command");
        assert_eq!((verdict.outcome, verdict.reason), (outcome, reason));
        assert_eq!(verdict.sentence.is_some(), reason.is_some());
    }

    #[test]
    fn a_command_that_ends_by_itself_is_judged_by_its_status() {
        let none = Met::default();
        check(None, exited(0), none, Outcome::Done, None);
        check(None, exited(3), none, Outcome::Failed, Some(Reason::Exit));
        check(None, killed(), none, Outcome::Failed, Some(Reason::Signal));
    }

    #[test]
    fn a_place_that_never_says_is_a_lost_run() {
        let none = Met::default();
        check(None, unknown(), none, Outcome::Lost, Some(Reason::Zone));
    }

    #[test]
    fn why_we_ended_it_goes_before_how_it_ended() {
        let none = Met::default();
        let second = Duration::from_secs(1);
        for (ended, outcome, reason) in [
            (Ended::Asked, Outcome::Stopped, Reason::Stopped),
            (Ended::Timeout(second), Outcome::Failed, Reason::Timeout),
            (Ended::Silence(second), Outcome::Failed, Reason::Silence),
            (Ended::Output(5), Outcome::Failed, Reason::OutputLimit),
        ] {
            for command in [exited(0), exited(3), killed(), unknown()] {
                check(Some(ended), command, none, outcome, Some(reason));
            }
        }
    }

    #[test]
    fn a_limit_that_was_met_explains_a_failure_but_not_a_success() {
        let memory = Met { memory: 1, ..Met::default() };
        let disk = Met { disk: true, ..Met::default() };
        let pids = Met { pids: 9, ..Met::default() };
        for command in [exited(1), killed(), unknown()] {
            for (met, reason) in [
                (memory, Reason::Oom),
                (disk, Reason::DiskFull),
                (pids, Reason::ProcessLimit),
            ] {
                check(
                    None,
                    command.clone(),
                    met,
                    Outcome::Failed,
                    Some(reason),
                );
            }
        }
        check(None, exited(0), memory, Outcome::Done, None);
        let facts = Facts { ended: None, command: exited(0), met: memory };
        assert!(judge(&facts, "the command").note.is_some());
    }
}
