//! A trace as the tests look at it.

use std::time::Duration;

use ntrace_profile::{FrameKind, Profile, pprof};
use ntrace_sampler::{FinishOptions, Running, Summary, Target};

use crate::zone::{Done, Zone};

/// Deadline of a finish.
pub(crate) const FINISH: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) summary: Summary,
    pub(crate) profile: Profile,
}

/// Samples a zone while a job runs.
pub(crate) fn sample(
    zone: &Zone,
    target: &Target,
    argv: &[&str],
    env: &[(&str, &str)],
) -> (Seen, Done) {
    let running = ntrace_sampler::start(target).unwrap();
    let done = zone.job(argv, env);
    assert_eq!(done.status["code"], 0, "{done:?}");
    let user = done.status["usage"]["user_ms"].as_u64();
    let options = FinishOptions { user_cpu_ms: user, ..Default::default() };
    (finish(running, options), done)
}

pub(crate) fn finish(running: Running, options: FinishOptions) -> Seen {
    let trace = running.finish(options, FINISH).unwrap();
    let profile = pprof::read(&trace.pprof).unwrap();
    let seen = Seen { summary: trace.summary, profile };
    assert_eq!(seen.count(|_| true), seen.summary.samples);
    seen
}

/// One frame: name and kind.
pub(crate) type Frame<'a> = (&'a str, FrameKind);

impl Seen {
    /// Samples whose stack, outermost frame first, is as wanted.
    pub(crate) fn count(&self, wanted: impl Fn(&[Frame<'_>]) -> bool) -> u64 {
        let samples = self.profile.samples().iter();
        let matching = samples.filter(|sample| {
            let frames: Vec<Frame<'_>> = self
                .profile
                .stack(sample.stack)
                .into_iter()
                .map(|id| self.profile.view(id))
                .map(|frame| (frame.name, frame.kind))
                .collect();
            wanted(&frames)
        });
        matching.map(|sample| sample.value.samples).sum()
    }

    /// The processes that were sampled.
    pub(crate) fn processes(&self) -> Vec<String> {
        let names = std::cell::RefCell::new(Vec::new());
        self.count(|frames| {
            assert_eq!(frames[0].1, FrameKind::Process);
            names.borrow_mut().push(frames[0].0.to_owned());
            true
        });
        let mut names = names.into_inner();
        names.sort();
        names.dedup();
        names
    }

    /// Each frame's name, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = std::cell::RefCell::new(Vec::new());
        self.count(|frames| {
            let new = frames.iter().map(|(name, _)| (*name).to_owned());
            names.borrow_mut().extend(new);
            true
        });
        let mut names = names.into_inner();
        names.sort();
        names.dedup();
        names
    }

    /// Each stack with its count, for whoever reads why a test failed.
    pub(crate) fn folded(&self) -> String {
        ntrace_profile::folded::write(&self.profile)
    }

    /// The raw names that are kept beside a name, sorted.
    pub(crate) fn raw(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for sample in self.profile.samples() {
            for id in self.profile.stack(sample.stack) {
                let frame = self.profile.view(id);
                if frame.name == name {
                    found.push(frame.system_name.to_owned());
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The per cent of samples in which a frame of that name takes part.
    pub(crate) fn percent(&self, name: &str) -> f64 {
        self.percent_where(|frames| frames.iter().any(|(n, _)| *n == name))
    }

    pub(crate) fn percent_where(
        &self,
        wanted: impl Fn(&[Frame<'_>]) -> bool,
    ) -> f64 {
        self.count(wanted) as f64 * 100.0 / self.summary.samples as f64
    }

    /// Prints the figures, and holds them against what is known.
    #[track_caller]
    pub(crate) fn is_split(&self, what: &str, names: [&str; 3], slack: f64) {
        for (name, truth) in names.into_iter().zip([70.0, 20.0, 10.0]) {
            let found = self.percent(name);
            eprintln!("{what}: {name} {found:.1} %, in truth {truth} %");
            assert!(
                (found - truth).abs() <= slack,
                "{what}: {name} has {found:.1} %, not {truth} %"
            );
        }
        let summary = &self.summary;
        eprintln!(
            "{what}: {} samples, lost {}, health {:?}, named {:.3}, cut {:.3}",
            summary.samples,
            summary.lost,
            summary.health,
            summary.share_named,
            summary.share_cut
        );
    }

    /// Samples must account for the processor time.
    #[track_caller]
    pub(crate) fn is_healthy(&self, slack: f64) {
        let health = self.summary.health.expect("enough was used to say");
        let lost = self.summary.lost as f64 / self.summary.samples as f64;
        assert!(
            (health - 1.0).abs() <= slack + lost,
            "samples account for {health:.3}: {:?}",
            self.summary
        );
    }
}
