//! Which tracer is taken, or why none.
//!
//! Pure: facts of the place and two wishes in, a decision out. A runner that
//! was told to use one tracer uses no other, whatever a job asks for.

use ntrace_protocol::trace::{Profile, TraceOptions, Tracer as Kind};

use crate::perf::NoPerf;

/// What the runner's operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best that is here.
    Auto,
    /// This one.
    Only(Kind),
    /// None.
    Never,
}

/// What decides which tracers can work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The zone is one of the Linux stand-in.
    pub is_linux: bool,
    /// The zone is on the machine that the runner is on.
    pub is_here: bool,
    /// Whether traces can be made with perf here.
    pub perf: Result<(), NoPerf>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// This tracer traces.
    Take(Kind),
    /// Nothing is traced, as somebody wished.
    Unwanted(&'static str),
    /// What was wished for cannot be had here.
    Impossible(Kind, &'static str),
}

/// Decides.
pub fn choose(choice: Choice, options: &TraceOptions, place: Place) -> Chosen {
    if options.profile == Some(Profile::None) {
        return Chosen::Unwanted("the job asks for none");
    }
    let only = match choice {
        Choice::Never => {
            return Chosen::Unwanted(
                "this runner was started with --tracer none",
            );
        }
        Choice::Only(kind) => Some(kind),
        Choice::Auto => None,
    };
    if let (Some(only), Some(asked)) = (only, options.tracer)
        && only != asked
    {
        let why = "this runner was started with another --tracer";
        return Chosen::Impossible(asked, why);
    }
    let kind = options.tracer.or(only).unwrap_or(match place.is_linux {
        true => Kind::Sample,
        false => Kind::Dtrace,
    });
    match refusal(kind, place) {
        Some(why) => Chosen::Impossible(kind, why),
        None => Chosen::Take(kind),
    }
}

fn refusal(kind: Kind, place: Place) -> Option<&'static str> {
    match kind {
        Kind::Sample | Kind::Perf if !place.is_linux => {
            Some("it traces zones of Linux, and this is none; use dtrace")
        }
        Kind::Sample | Kind::Perf if !place.is_here => Some(
            "the zone is on another machine; start a runner on that machine",
        ),
        Kind::Perf => place.perf.err().map(NoPerf::why),
        // With DTrace nothing is known before it was tried.
        Kind::Dtrace | Kind::Sample => None,
        Kind::Preload | Kind::Other => Some("it cannot be asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place =
        Place { is_linux: true, is_here: true, perf: Err(NoPerf::Missing) };
    const AWAY: Place = Place { is_here: false, ..HERE };
    const SMARTOS: Place = Place { is_linux: false, ..AWAY };

    fn ask(tracer: Option<Kind>) -> TraceOptions {
        TraceOptions { tracer, ..TraceOptions::default() }
    }

    #[test]
    fn the_best_of_each_place_is_taken() {
        let auto = |place| choose(Choice::Auto, &ask(None), place);
        assert_eq!(auto(HERE), Chosen::Take(Kind::Sample));
        assert_eq!(auto(SMARTOS), Chosen::Take(Kind::Dtrace));
        assert!(matches!(auto(AWAY), Chosen::Impossible(Kind::Sample, _)));
    }

    #[test]
    fn a_job_may_choose_unless_the_runner_did() {
        let dtrace = ask(Some(Kind::Dtrace));
        assert_eq!(
            choose(Choice::Auto, &dtrace, HERE),
            Chosen::Take(Kind::Dtrace)
        );
        let only = Choice::Only(Kind::Sample);
        assert!(matches!(
            choose(only, &dtrace, HERE),
            Chosen::Impossible(Kind::Dtrace, _)
        ));
        assert_eq!(
            choose(only, &ask(Some(Kind::Sample)), HERE),
            Chosen::Take(Kind::Sample)
        );
    }

    #[test]
    fn perf_is_taken_only_where_it_is_and_when_it_was_asked_for() {
        let perf = ask(Some(Kind::Perf));
        for why in [NoPerf::Missing, NoPerf::Old, NoPerf::Ordinary] {
            let place = Place { perf: Err(why), ..HERE };
            assert_eq!(
                choose(Choice::Auto, &perf, place),
                Chosen::Impossible(Kind::Perf, why.why())
            );
        }
        let place = Place { perf: Ok(()), ..HERE };
        let taken = Chosen::Take(Kind::Perf);
        assert_eq!(choose(Choice::Auto, &perf, place), taken);
        let only = Choice::Only(Kind::Perf);
        assert_eq!(choose(only, &ask(None), place), taken);
        let auto = choose(Choice::Auto, &ask(None), place);
        assert_eq!(auto, Chosen::Take(Kind::Sample));
        let away = Place { is_here: false, ..place };
        assert!(matches!(
            choose(Choice::Auto, &perf, away),
            Chosen::Impossible(Kind::Perf, _)
        ));
    }

    #[test]
    fn nothing_is_traced_when_either_side_says_so() {
        let none = TraceOptions {
            profile: Some(Profile::None),
            ..TraceOptions::default()
        };
        for (choice, options) in [
            (Choice::Auto, none),
            (Choice::Only(Kind::Sample), none),
            (Choice::Never, ask(None)),
            (Choice::Never, ask(Some(Kind::Sample))),
        ] {
            let chosen = choose(choice, &options, HERE);
            assert!(matches!(chosen, Chosen::Unwanted(_)), "{chosen:?}");
        }
    }
}
