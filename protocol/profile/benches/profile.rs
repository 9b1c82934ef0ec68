//! How large and how fast a profile of a million distinct stacks is.
//!
//! `cargo bench -p ntrace-profile [-- STACKS]`. Memory is the peak of the
//! process after each stage; time is processor time, which other programs
//! disturb less. The peer, in the same run, is `serde_json` with the same
//! content and the same gzip: ratios above 1 mean that ours is faster.

use std::hint::black_box;
use std::io::{Read as _, Write as _};

use ntrace_profile::svg::{self, Options};
use ntrace_profile::{FrameKind, Header, Profile, Symbol, diff, export, pprof};

/// Stacks that are compared with the peer.
const PEER: u32 = 30_000;

/// The most that the process ever had in memory, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status");
    let kib = status.ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    });
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Seconds of processor time so far.
fn spent() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat");
    let first = text
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    first.unwrap_or(f64::NAN) / 1e9
}

/// Stacks of 30 to 127 frames, all distinct: they part ways all along, as
/// the calls of a large program do.
fn build(stacks: u32) -> (Profile, u64) {
    let bits = 32 - stacks.leading_zeros();
    let mut profile = Profile::new(Header { hz: 999, ..Header::default() });
    let process = profile.process("job");
    let functions: Vec<_> = (0..5000)
        .map(|n| {
            let name = format!("module_{}::function_{n}", n % 97);
            profile.frame(&Symbol::new(name, FrameKind::Native))
        })
        .collect();
    let mut frames = Vec::new();
    let mut all = 0;
    for n in 0..stacks {
        let depth = 30 + (n >> 10) % 98;
        frames.clear();
        for level in 0..depth {
            let shown = bits * (level + 1) / depth;
            let prefix = u64::from(n >> (bits - shown)) * 0x9e37_79b9;
            let hash = prefix.wrapping_add(u64::from(level)) * 0x85eb_ca6b;
            frames.push(functions[(hash >> 20) as usize % 5000]);
        }
        // The last frame tells the stack from its neighbours.
        all += u64::from(depth) + 1;
        profile.add_samples(process, &frames, 1);
    }
    (profile, all)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, f64) {
    let start = spent();
    let value = black_box(work());
    let seconds = spent() - start;
    println!("{what:<28} {seconds:>8.2} s   peak {:>6.0} MiB", peak());
    (value, seconds)
}

/// Writes, draws, reads and compares; how long writing and reading took.
fn ours(profile: &Profile) -> (f64, f64) {
    let (packed, write) = timed("write pprof", || pprof::write(profile));
    println!("  {} bytes", packed.len());
    let (picture, _) =
        timed("draw svg", || svg::flame(&[profile], &Options::default()));
    println!("  {} bytes", picture.len());
    let (again, read) = timed("read pprof", || pprof::read(&packed));
    let again = again.expect("it was just written");
    println!("  {} distinct stacks", again.samples().len());
    let (found, _) = timed("compare", || diff::diff(&[profile], &[&again]));
    println!("  {} functions", found.rows.len() + found.omitted);
    drop(again);
    (write, read)
}

fn main() {
    let stacks = std::env::args()
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(1_000_000);
    let ((profile, frames), _) = timed("build", || build(stacks));
    println!(
        "  {} distinct stacks, {frames} frames, {} cut",
        profile.samples().len(),
        profile.header.cut
    );
    ours(&profile);
    drop(profile);
    // The peer holds all of its content in memory, 32 bytes a number.
    println!("-- {PEER} stacks, against json");
    let (profile, _) = build(PEER);
    let (write, read) = ours(&profile);
    let json = export::speedscope(&profile, "bench");
    let ((packed, json_write), _) = timed("write json, gzip'd", || {
        let value: serde_json::Value =
            serde_json::from_str(&json).expect("it is JSON");
        let level = flate2::Compression::default();
        let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
        let start = spent();
        serde_json::to_writer(&mut out, &value).expect("into a vector");
        out.flush().expect("into a vector");
        let seconds = spent() - start;
        (out.finish().expect("into a vector"), seconds)
    });
    println!("  {} bytes", packed.len());
    let (_, json_read) = timed("read json, gzip'd", || {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .expect("it was just written");
        serde_json::from_str::<serde_json::Value>(&text).map(|v| v.is_object())
    });
    println!(
        "ratio to json: write {:.1}, read {:.1}",
        json_write / write,
        json_read / read
    );
}
