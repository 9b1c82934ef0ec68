//! Two commits compared: chance is not called a change, a change is named.

use ntrace_profile::diff::{Diff, Level, diff};
use ntrace_profile::svg::{self, Direction, Options};
use ntrace_profile::{FrameKind, Header, Profile, Symbol};

/// Random numbers that are the same in each run of the test.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A Poisson number: how many arrivals fit into `mean`.
    fn poisson(&mut self, mean: f64) -> u64 {
        let mut time = 0.0;
        for n in 0.. {
            time -= (1.0 - self.uniform()).ln();
            if time > mean {
                return n;
            }
        }
        unreachable!("time passes `mean`")
    }
}

/// Functions of a job, by their CPU seconds; the callers of each.
const JOB: [(&str, &[&str], f64); 9] = [
    ("countPrimes", &["main"], 0.35),
    ("byHash", &["main", "sortRows"], 0.90),
    ("parseRecord", &["main", "sortRows", "byHash"], 0.50),
    ("makeRows", &["main"], 0.12),
    ("fib", &["main"], 0.08),
    ("memcpy", &["main", "makeRows"], 0.06),
    ("gc", &["worker"], 0.30),
    ("mark", &["worker", "gc"], 0.10),
    ("rare", &["main"], 0.01),
];

/// A run of the job; the time of one function is changed, and that of the
/// run as a whole wobbles by a few percent as on a real machine, which may
/// be slower for all of a commit's runs.
fn run(random: &mut Random, changed: &str, by: f64, slower: f64) -> Profile {
    let hz = 199;
    let header = Header {
        tracer: "sample".into(),
        repository: "o/r".into(),
        commit: "0123456789abcdef".into(),
        hz,
        ..Header::default()
    };
    let mut profile = Profile::new(header);
    let process = profile.process("node");
    let wobble = slower + 0.03 * (random.uniform() + random.uniform() - 1.0);
    for (name, callers, seconds) in JOB {
        let factor = if name == changed { by } else { 1.0 };
        let mean = seconds * factor * wobble * f64::from(hz);
        let samples = random.poisson(mean);
        let frames: Vec<_> = callers
            .iter()
            .chain([&name])
            .map(|name| profile.frame(&Symbol::new(*name, FrameKind::Jit)))
            .collect();
        profile.add_samples(process, &frames, samples);
    }
    profile
}

fn compare(seed: u64, runs: usize, changed: &str, by: f64) -> Diff {
    compare_on(seed, runs, changed, by, 1.0)
}

fn compare_on(
    seed: u64,
    runs: usize,
    changed: &str,
    by: f64,
    slower: f64,
) -> Diff {
    let mut random = Random(seed);
    let mut make = |by, slower| -> Vec<Profile> {
        (0..runs).map(|_| run(&mut random, changed, by, slower)).collect()
    };
    let (base, new) = (make(1.0, 1.0), make(by, slower));
    let (base, new): (Vec<_>, Vec<_>) =
        (base.iter().collect(), new.iter().collect());
    diff(&base, &new)
}

#[test]
fn two_runs_of_one_commit_are_not_called_different() {
    for runs in [1, 2, 4, 8] {
        for seed in 0..20 {
            let diff = compare(seed * 7919, runs, "", 1.0);
            assert_eq!(
                diff.level,
                Level::NoDifference,
                "{runs} runs, seed {seed}:\n{}",
                diff.table(9)
            );
        }
    }
}

#[test]
fn a_planted_change_of_16_percent_is_named_by_its_function() {
    // 16 % of all CPU, in one function.
    let total: f64 = JOB.iter().map(|(_, _, seconds)| seconds).sum();
    let by = 1.0 + 0.16 * total / 0.90;
    for seed in 0..10 {
        let diff = compare(seed * 104_729, 8, "byHash", by);
        let first = &diff.rows[0];
        assert_eq!(first.function, "byHash");
        assert_eq!(first.own.level, Level::Changed, "{}", diff.table(9));
        assert!((first.own.delta - 0.16 * total).abs() < 0.1);
        // Its callers show it with their callees, not of their own.
        for row in &diff.rows[1..] {
            assert_eq!(row.own.level, Level::NoDifference, "{row:?}");
        }
        let main = diff.rows.iter().find(|row| row.function == "main");
        assert_eq!(main.unwrap().inclusive.level, Level::Changed);
        assert_eq!(diff.total.level, Level::Changed);
    }
}

#[test]
fn a_machine_that_is_slower_for_one_commit_is_not_a_change() {
    for seed in 0..20 {
        for slower in [0.8, 1.15, 1.3] {
            let diff = compare_on(seed * 7919, 8, "", 1.0, slower);
            let said = diff.table(9);
            assert_eq!(diff.level, Level::NoDifference, "{said}");
            assert!(diff.alike.is_some(), "{said}");
        }
    }
}

#[test]
fn a_change_is_named_though_the_machine_was_slower_meanwhile() {
    let total: f64 = JOB.iter().map(|(_, _, seconds)| seconds).sum();
    let by = 1.0 + 0.25 * total / 0.90;
    for seed in 0..10 {
        let diff = compare_on(seed * 104_729, 8, "byHash", by, 1.2);
        let called: Vec<&str> = diff
            .rows
            .iter()
            .filter(|row| row.own.level > Level::NoDifference)
            .map(|row| row.function.as_str())
            .collect();
        assert_eq!(called, ["byHash"], "{}", diff.table(9));
        assert_eq!(diff.rows[0].function, "byHash");
        assert_eq!(diff.alike, None);
    }
}

#[test]
fn a_program_of_one_function_is_judged_by_its_cpu_alone() {
    let runs = |seconds: f64| -> Vec<Profile> {
        let mut random = Random(seconds.to_bits());
        let one = || {
            let header = Header { hz: 199, ..Header::default() };
            let mut profile = Profile::new(header);
            let process = profile.process("p");
            let f = profile.frame(&Symbol::new("f", FrameKind::Native));
            let samples = random.poisson(seconds * 199.0);
            profile.add_samples(process, &[f], samples);
            profile
        };
        std::iter::repeat_with(one).take(8).collect()
    };
    let level = |seconds| {
        let (base, new) = (runs(10.0), runs(seconds));
        diff(&base.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>())
            .rows[0]
            .own
            .level
    };
    assert_eq!(level(10.8), Level::NoDifference);
    assert_eq!(level(11.8), Level::Changed);
}

#[test]
fn with_few_runs_a_large_change_is_a_weaker_word() {
    let hint = compare(5, 1, "byHash", 2.0);
    assert_eq!(hint.rows[0].function, "byHash");
    assert_eq!(hint.rows[0].own.level, Level::Hint);
    assert!(hint.notes[0].starts_with("1 run of a commit"));
    let likely = compare(5, 4, "byHash", 2.0);
    assert_eq!(likely.rows[0].function, "byHash");
    assert_eq!(likely.rows[0].own.level, Level::Likely);
    assert_eq!(likely.total.level, Level::Likely);
    assert_eq!(likely.level, Level::Likely);
}

#[test]
fn a_function_that_calls_itself_is_counted_once_a_stack() {
    let mut a = Profile::new(Header { hz: 10, ..Header::default() });
    let p = a.process("x");
    let fib = a.frame(&Symbol::new("fib", FrameKind::Native));
    a.add_samples(p, &[fib; 5], 20);
    let diff = diff(&[&a], &[&a]);
    assert_eq!(diff.rows.len(), 1);
    assert_eq!(diff.rows[0].own.base, 2.0);
    assert_eq!(diff.rows[0].inclusive.base, 2.0);
    assert_eq!(diff.rows[0].inclusive.relative, Some(0.0));
}

#[test]
fn the_table_and_the_json_say_the_same_and_are_harmless() {
    let mut base = Profile::new(Header { hz: 100, ..Header::default() });
    let mut new = base.clone();
    for (profile, samples) in [(&mut base, 100), (&mut new, 400)] {
        let process = profile.process("p");
        let name = "evil\u{1b}[2J\u{202e}";
        let f = profile.frame(&Symbol::new(name, FrameKind::Native));
        profile.add_samples(process, &[f], samples);
    }
    let diff = diff(&[&base], &[&new]);
    let table = diff.table(10);
    assert!(!table.contains('\u{1b}') && !table.contains('\u{202e}'));
    assert!(table.contains("evil\\x1b[2J\\u{202e}"), "{table}");
    assert!(table.contains("+3.000"), "{table}");
    let json = serde_json::to_value(&diff).unwrap();
    assert_eq!(json["rows"][0]["own"]["delta"], 3.0);
    assert_eq!(json["level"], "hint");
}

#[test]
fn nothing_against_nothing_is_no_difference() {
    let nothing = diff(&[], &[]);
    assert_eq!(nothing.level, Level::NoDifference);
    assert!(nothing.table(5).contains("no function differs"));
    let empty = Profile::new(Header::default());
    let diff = diff(&[&empty], &[&empty]);
    assert!(diff.notes.iter().any(|n| n.contains("base commit has no")));
}

#[test]
fn what_is_gone_is_seen_in_the_other_picture() {
    let mut base = Profile::new(Header { hz: 100, ..Header::default() });
    let mut new = base.clone();
    for (profile, name) in [(&mut base, "gone"), (&mut new, "fresh")] {
        let process = profile.process("p");
        let f = profile.frame(&Symbol::new(name, FrameKind::Native));
        profile.add_samples(process, &[f], 100);
    }
    let picture = |direction| {
        svg::diff(&[&base], &[&new], direction, &Options::default())
    };
    let (forth, back) = (picture(Direction::New), picture(Direction::Base));
    assert!(forth.contains("<title>fresh") && !forth.contains("<title>gone"));
    assert!(back.contains("<title>gone") && !back.contains("<title>fresh"));
    assert!(forth.contains("1.00 s of stacks that only the base commit has"));
    assert!(back.contains("1.00 s of stacks that only the new commit has"));
}
