//! How often `diff` calls what is there, and what is not: simulated.
//!
//! `power [PAIRS]` prints which change is found with how many runs of how
//! many samples, and how often equal commits are called different. The runs
//! of a commit share a speed of the machine that the other's do not know,
//! each run has one of its own, and each function wobbles by itself.

use ntrace_profile::diff::{Diff, Level, diff};
use ntrace_profile::{FrameKind, Header, Profile, Symbol};

/// A job: functions, their callers, their part of its CPU in percent.
const JOB: [(&str, &[&str], f64); 12] = [
    ("large", &["main", "step"], 60.0),
    ("middle", &["main", "step"], 12.0),
    ("other", &["main"], 8.0),
    ("gc", &["worker"], 5.0),
    ("parse", &["main", "read"], 4.0),
    ("read", &["main"], 3.0),
    ("hash", &["main", "step"], 2.5),
    ("copy", &["main", "read"], 2.0),
    ("mark", &["worker", "gc"], 1.5),
    ("print", &["main"], 1.0),
    ("alloc", &["main", "step"], 0.6),
    ("rare", &["main"], 0.4),
];

/// How unsteady the machine is: parts, as standard deviations.
#[derive(Clone, Copy)]
struct Noise {
    /// From batch to batch, of all alike.
    batch: f64,
    /// From run to run, of all alike.
    run: f64,
    /// From run to run, of each function.
    function: f64,
    /// From batch to batch, of each function.
    place: f64,
}

/// Random numbers that are the same in each run of the program.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// Arrivals: exact for few, by the normal curve for many.
    fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 100.0 {
            return (mean + mean.sqrt() * self.normal()).round() as u64;
        }
        let mut time = 0.0;
        let mut count = 0;
        loop {
            time -= (1.0 - self.uniform()).ln();
            if time > mean {
                return count;
            }
            count += 1;
        }
    }
}

/// The runs of one commit. `planted`: a function, and the part of all CPU
/// that it has more.
fn runs(
    random: &mut Random,
    noise: Noise,
    count: usize,
    samples: f64,
    planted: (&str, f64),
) -> Vec<Profile> {
    let speed = 1.0 + noise.batch * random.normal();
    let places: Vec<f64> =
        JOB.iter().map(|_| 1.0 + noise.place * random.normal()).collect();
    (0..count)
        .map(|_| {
            let mut profile =
                Profile::new(Header { hz: 199, ..Header::default() });
            let process = profile.process("job");
            let speed = speed * (1.0 + noise.run * random.normal());
            for ((name, callers, part), place) in JOB.iter().zip(&places) {
                let more = if *name == planted.0 { planted.1 } else { 0.0 };
                let own = 1.0 + noise.function * random.normal();
                let part = (part / 100.0 + more) * place * own * speed;
                let seen = random.poisson((samples * part).max(0.0));
                let frames: Vec<_> = callers
                    .iter()
                    .chain([name])
                    .map(|n| profile.frame(&Symbol::new(*n, FrameKind::Jit)))
                    .collect();
                profile.add_samples(process, &frames, seen);
            }
            profile
        })
        .collect()
}

fn compare(
    seed: u64,
    noise: Noise,
    count: usize,
    samples: f64,
    planted: (&str, f64),
) -> Diff {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let base = runs(&mut random, noise, count, samples, ("", 0.0));
    let new = runs(&mut random, noise, count, samples, planted);
    diff(&base.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>())
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let pairs: u64 = args.iter().find_map(|a| a.parse().ok()).unwrap_or(200);
    let quiet = Noise { batch: 0.01, run: 0.02, function: 0.01, place: 0.005 };
    let busy = Noise { batch: 0.1, run: 0.05, function: 0.01, place: 0.005 };
    println!("equal commits called different, of {pairs} pairs");
    println!("| runs | samples a run | quiet | busy |");
    println!("|---|---|---|---|");
    for (count, samples) in
        [(1, 500.0), (1, 5000.0), (4, 500.0), (8, 500.0), (8, 5000.0)]
    {
        let called = [quiet, busy].map(|noise| {
            let called = (0..pairs).filter(|seed| {
                let diff = compare(*seed, noise, count, samples, ("", 0.0));
                diff.level > Level::NoDifference
            });
            called.count()
        });
        println!("| {count} | {samples} | {} | {} |", called[0], called[1]);
    }
    let tries = (pairs / 5).max(1);
    println!("\na change found and named first, of {tries}: quiet, busy");
    println!("| function | all CPU | runs | samples a run | quiet | busy |");
    println!("|---|---|---|---|---|---|");
    for (name, part) in [("large", 60), ("middle", 12)] {
        for more in [0.02, 0.03, 0.05, 0.08, 0.16] {
            for (count, samples) in [
                (4, 500.0),
                (8, 500.0),
                (8, 2000.0),
                (8, 10000.0),
                (16, 2000.0),
            ] {
                let found = [quiet, busy].map(|noise| {
                    let found = (0..tries).filter(|seed| {
                        let seed = seed + 1_000_000;
                        let planted = (name, more);
                        let diff =
                            compare(seed, noise, count, samples, planted);
                        let first = &diff.rows[0];
                        first.function == name
                            && first.own.level > Level::NoDifference
                    });
                    found.count()
                });
                println!(
                    "| of {part} % | +{:.0} % | {count} | {samples} | {} \
                     | {} |",
                    more * 100.0,
                    found[0],
                    found[1]
                );
            }
        }
    }
}
