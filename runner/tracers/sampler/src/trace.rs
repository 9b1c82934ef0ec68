//! Makes a profile, and a judgement of it, out of what was recorded.

use std::collections::HashMap;
use std::time::Duration;

use ntrace_profile::{FrameId, Header, Profile, pprof};

use crate::names::{Budget, Names};
use crate::process::Frame;
use crate::recorder::{Recorder, WINDOW};
use crate::stacks::Node;
use crate::target::How;
use crate::wire::{FinishOptions, Summary, Window};

/// Stacks in a window.
const WINDOW_STACKS: usize = 200;

/// Time to name a window.
const WINDOW_NAMING: Duration = Duration::from_secs(2);

/// Files without names that are listed.
const UNRESOLVED_MAX: usize = 20;

/// Processor time below which health is not judged: one sample more or less
/// would be too much of it. Nanoseconds.
const JUDGED_FROM: u64 = 250_000_000;

/// Samples may differ from the processor time by this share.
const HEALTH_SLACK: f64 = 0.1;

/// From so many processes on, short ones may be why samples are missing.
const FORKS_MANY: u64 = 20;

/// Below this share of the processor time, samples are missing.
const SEEN_FEW: f64 = 0.7;

/// A share of cut stacks that is worth a word.
const CUT_MUCH: f64 = 0.05;

/// What is known beside the samples.
pub(crate) struct Begun {
    /// The way.
    pub how: How,
    /// Processor time of the sampled processes in nanoseconds.
    pub counted: u64,
    /// When sampling began, in nanoseconds since 1970.
    pub started_ns: u64,
    /// For how long it went on, in nanoseconds.
    pub duration_ns: u64,
    /// What was to be said before the end.
    pub warnings: Vec<String>,
}

/// The stacks of the last seconds.
pub(crate) fn window(recorder: &Recorder, names: &mut Names) -> Window {
    names.set_budget(Budget::of(WINDOW_NAMING));
    let mut counted = recorder.recent();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counted.truncate(WINDOW_STACKS);
    let mut folded: Vec<(String, u64)> = counted
        .into_iter()
        .map(|(node, count)| (fold(recorder, node, names), count))
        .collect();
    // Different addresses of one function are one stack by now.
    folded.sort();
    folded.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    folded.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    Window { seconds: WINDOW as f64 / 1e9, folded }
}

fn fold(recorder: &Recorder, node: Node, names: &mut Names) -> String {
    let mut text = String::new();
    for frame in recorder.stacks.frames(node) {
        for named in names.of(frame, &recorder.processes) {
            if !text.is_empty() {
                text.push(';');
            }
            let plain = named.name.chars().map(|c| match c {
                ';' => ':',
                c if c.is_control() => '?',
                c => c,
            });
            text.extend(plain);
        }
    }
    text
}

/// The profile in the format of pprof, and how it came about.
pub(crate) fn finish(
    recorder: &Recorder,
    names: &mut Names,
    begun: Begun,
    options: &FinishOptions,
) -> (Vec<u8>, Summary) {
    let (tally, settings) = (recorder.tally, recorder.settings());
    let repository = [&options.owner, &options.repository];
    let repository: Vec<&str> =
        repository.into_iter().flatten().map(String::as_str).collect();
    let mut profile = Profile::new(Header {
        tracer: "sample".to_owned(),
        hz: settings.hz,
        start_ns: begun.started_ns,
        duration_ns: begun.duration_ns,
        lost: tally.lost,
        throttled: tally.throttled,
        kernel: settings.kernel,
        repository: repository.join("/"),
        commit: options.commit.clone().unwrap_or_default(),
        run_id: options.run.clone().unwrap_or_default(),
        ..Header::default()
    });
    let mut known: HashMap<Frame, Vec<FrameId>> = HashMap::new();
    for (node, count) in recorder.stacks.counted() {
        let mut frames = Vec::new();
        for frame in recorder.stacks.frames(node) {
            let ids = known.entry(frame).or_insert_with(|| {
                let symbols = names.of(frame, &recorder.processes);
                symbols.iter().map(|one| profile.frame(one)).collect()
            });
            frames.extend_from_slice(ids);
        }
        // Each stack begins with its process.
        if let Some((process, frames)) = frames.split_first() {
            profile.add_samples(*process, frames, count);
        }
    }
    let mut summary = judge(recorder, &begun, options, &profile);
    if names.was_hurried() {
        summary.warnings.push(
            "there was no time to read all names: some functions are shown \
             by their file alone, or without what was inlined into them"
                .to_owned(),
        );
    }
    for warning in &summary.warnings {
        profile.header.warn(warning.as_str());
    }
    (pprof::write(&profile), summary)
}

fn judge(
    recorder: &Recorder,
    begun: &Begun,
    options: &FinishOptions,
    profile: &Profile,
) -> Summary {
    let (tally, settings) = (recorder.tally, recorder.settings());
    let user = options.user_cpu_ms.map(|ms| ms.saturating_mul(1_000_000));
    let used = match begun.how {
        How::Group => Some(begun.counted),
        How::Inherit => user,
    };
    let seen = (tally.samples + tally.carriers) * settings.period();
    let health = used
        .filter(|used| *used >= JUDGED_FROM)
        .map(|used| seen as f64 / used as f64);
    let share = |part: u64, all: u64| match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    };
    let mut summary = Summary {
        how: Some(begun.how),
        hz: settings.hz,
        samples: tally.samples,
        lost: tally.lost,
        throttled: tally.throttled,
        share_named: profile.named_share().unwrap_or(0.0),
        cpu_ms: begun.counted / 1_000_000,
        health,
        kernel: settings.kernel,
        processes: tally.processes,
        share_cut: share(tally.cut, tally.samples),
        unresolved: unresolved(recorder),
        warnings: begun.warnings.clone(),
    };
    let seen_share = share(seen, begun.counted);
    let more = warnings(&summary, seen_share, recorder.stacks.shortened());
    summary.warnings.extend(more);
    summary
}

/// What a reader must know, each a sentence. `seen` is the share of the
/// processor time that samples account for.
fn warnings(summary: &Summary, seen: f64, shortened: u64) -> Vec<String> {
    let mut said = Vec::new();
    let inherit = summary.how == Some(How::Inherit);
    if summary.samples == 0 {
        said.push(format!(
            "no sample: the job used {} ms of processor time",
            summary.cpu_ms
        ));
    }
    if inherit && summary.processes >= FORKS_MANY && seen < SEEN_FEW {
        said.push(format!(
            "{} processes were started and samples account for {:.0} % of \
             the processor time: processes shorter than {} ms are not seen \
             without root",
            summary.processes,
            seen * 100.0,
            1000 / summary.hz.max(1)
        ));
    } else if let Some(health) = summary.health
        && (health - 1.0).abs() > HEALTH_SLACK
    {
        said.push(format!(
            "samples account for {:.0} % of the processor time used",
            health * 100.0
        ));
    }
    if summary.lost > 0 {
        said.push(format!(
            "{} records were lost: the machine was too busy to read them",
            summary.lost
        ));
    }
    if summary.throttled > 0 {
        said.push(format!(
            "the kernel slowed sampling down {} times",
            summary.throttled
        ));
    }
    if summary.share_cut > CUT_MUCH {
        said.push(format!(
            "{:.0} % of the stacks are deeper than what was copied of them",
            summary.share_cut * 100.0
        ));
    }
    if shortened > 0 {
        said.push(format!(
            "{shortened} stacks are shortened: there were too many different \
             ones"
        ));
    }
    said
}

/// Files with code in the profile that could not be read.
fn unresolved(recorder: &Recorder) -> Vec<String> {
    let processes = &recorder.processes;
    let mut found: Vec<String> = Vec::new();
    for frame in recorder.stacks.all_frames() {
        let Frame::Opaque(object) = frame else { continue };
        let why = processes.objects.trouble(*object);
        let path = processes.path(*object).to_string_lossy();
        let path: String = path.escape_debug().take(300).collect();
        let why = why.unwrap_or("its headers do not cover the address");
        found.push(format!("{path}: {why}"));
    }
    found.sort();
    found.dedup();
    if processes.objects.overflowed() {
        found.insert(0, "there were too many files with code".to_owned());
    }
    found.truncate(UNRESOLVED_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(how: How) -> Summary {
        Summary {
            how: Some(how),
            hz: 100,
            samples: 1000,
            cpu_ms: 10_000,
            health: Some(1.0),
            ..Summary::default()
        }
    }

    #[test]
    fn a_trace_that_went_well_needs_no_warning() {
        for how in [How::Group, How::Inherit] {
            assert!(warnings(&summary(how), 1.0, 0).is_empty());
        }
    }

    #[test]
    fn short_processes_are_warned_of_where_they_are_not_seen() {
        let many =
            Summary { processes: 2000, health: None, ..summary(How::Inherit) };
        let said = warnings(&many, 0.1, 0);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("shorter than 10 ms"), "{said:?}");
        let root = Summary { how: Some(How::Group), ..many };
        assert!(warnings(&root, 0.1, 0).is_empty());
    }

    #[test]
    fn each_flaw_has_its_sentence() {
        let bad = Summary {
            health: Some(0.8),
            lost: 3,
            throttled: 2,
            share_cut: 0.5,
            ..summary(How::Group)
        };
        assert_eq!(warnings(&bad, 0.8, 7).len(), 5);
        let none = Summary { samples: 0, health: None, ..bad };
        assert!(warnings(&none, 0.0, 0)[0].contains("no sample"));
    }

    /// The most memory that this process ever had, in bytes.
    fn peak() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().split(' ').next().unwrap();
        kib.parse::<u64>().unwrap() << 10
    }

    /// The stacks are the ways through a tree of forks, so many forks deep:
    /// a million different ones where the compiler makes that quick.
    const DEPTH: u32 = if cfg!(debug_assertions) { 14 } else { 20 };

    /// A million stacks fit into 300 MiB; few have this much besides.
    const BYTES_PER_STACK: u64 = 300;
    const BYTES_BESIDES: u64 = 4 << 20;

    #[test]
    fn a_different_stack_costs_less_than_300_bytes() {
        let settings = crate::perf::Settings {
            hz: 1000,
            stack_bytes: 8192,
            kernel: false,
            inherit: true,
        };
        let own = std::process::id() as i32;
        let files = crate::zone::ZoneFiles::hold(own).unwrap();
        let before = peak();
        let mut recorder = Recorder::new(settings, files);
        let words = &mut recorder.processes.words;
        let name = words.put("job").unwrap();
        let turns: Vec<_> = (0..DEPTH * 2)
            .map(|n| words.put(&format!("turn_{n}")).unwrap())
            .collect();
        for path in 0..1_u32 << DEPTH {
            let frames = (0..DEPTH).map(|level| {
                let turn = (path >> (DEPTH - 1 - level)) & 1;
                Frame::Made(turns[(level * 2 + turn) as usize])
            });
            let process = std::iter::once(Frame::Process(name));
            recorder.stacks.add(process.chain(frames)).unwrap();
            recorder.tally.samples += 1;
        }
        assert_eq!(recorder.stacks.shortened(), 0);
        let recorded = peak();
        let mut names =
            Names::new(std::path::Path::new("/"), Budget::of(WINDOW_NAMING));
        let begun = Begun {
            how: How::Inherit,
            counted: 1_000_000_000,
            started_ns: 0,
            duration_ns: 0,
            warnings: Vec::new(),
        };
        let (bytes, summary) =
            finish(&recorder, &mut names, begun, &FinishOptions::default());
        assert_eq!(summary.samples, 1 << DEPTH);
        assert!(!bytes.is_empty());
        let (recorded, in_all) = (recorded - before, peak() - before);
        let stacks = 1_u64 << DEPTH;
        eprintln!(
            "{stacks} stacks: {recorded} bytes recorded, {in_all} in all, \
             {} each",
            in_all / stacks
        );
        let most = stacks * BYTES_PER_STACK + BYTES_BESIDES;
        assert!(in_all < most, "{in_all} bytes");
    }
}
