//! Programs of which it is known where they burn: what the profile says must
//! be near, as root and as an ordinary user.
//!
//! The programs burn in pieces of some samples, so that chance has little
//! part in what is found, on a busy machine too; the exact figures are
//! printed.

use std::path::Path;
use std::process::Command;

use ntrace_profile::FrameKind;
use ntrace_sampler::How;

use crate::seen::{Seen, sample};
use crate::zone::{Who, Zone, compile, installed, is_root, skip};

/// Points by which a share may be off.
const POINTS: f64 = 3.0;

/// Share by which samples and processor time may differ.
const HEALTH: f64 = 0.03;

/// Samples a second in most tests.
const HZ: u32 = 997;

/// Rounds of a program that burns for about a second.
const ROUNDS: &str = "60";

const C_NAMES: [&str; 3] = ["seventy", "twenty", "ten"];

fn put_c(share: &Path) {
    let options = ["-O2", "-fomit-frame-pointer"];
    compile(include_str!("programs/split.c"), &share.join("split"), &options);
}

/// Both users; the second one needs root to become it.
fn users() -> Vec<Who> {
    if is_root() {
        return vec![Who::Me, Who::Ordinary];
    }
    skip("only root can be both users: the ordinary one alone is tried");
    vec![Who::Me]
}

fn c_without_frame_pointers(who: Who) {
    let zone = Zone::new(who, put_c);
    let mut target = zone.target();
    target.hz = HZ;
    let (seen, done) = sample(&zone, &target, &["split", ROUNDS], &[]);
    let what = format!("C as {who:?}");
    seen.is_split(&what, C_NAMES, POINTS);
    seen.is_healthy(HEALTH);
    let main = seen.percent("main");
    eprintln!("{what}: main in {main:.1} %, {} ms by rusage", done.cpu_ms());
    assert!(main >= 95.0, "main is reached in {main:.1} % only");
    let privileged = who == Who::Me && is_root();
    assert_eq!(seen.summary.kernel, privileged);
    assert_eq!(seen.summary.how == Some(How::Group), privileged);
    // Names of the host's users of the processor never appear.
    assert_eq!(seen.processes(), ["split"]);
}

#[test]
fn c_without_frame_pointers_is_split_as_it_is() {
    c_without_frame_pointers(Who::Me);
}

#[test]
fn c_of_an_ordinary_user_is_split_as_it_is() {
    if !is_root() {
        return skip("the tests are run by an ordinary user already");
    }
    c_without_frame_pointers(Who::Ordinary);
}

#[test]
fn root_can_sample_without_a_cgroup() {
    let zone = Zone::new(Who::Me, put_c);
    let mut target = zone.target();
    target.hz = HZ;
    target.group = None;
    let (seen, _) = sample(&zone, &target, &["split", ROUNDS], &[]);
    assert_eq!(seen.summary.how, Some(How::Inherit));
    seen.is_split("C, inherited", C_NAMES, POINTS);
}

#[test]
fn rust_is_split_and_demangled() {
    if !installed("rustc") {
        return skip("rustc is not installed");
    }
    for who in users() {
        let zone = Zone::new(who, |share| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/sampling/programs/split.rs");
            let done = Command::new("rustc")
                .args(["-O", "-C", "debuginfo=1", "--crate-name", "split"])
                .arg("-o")
                .arg(share.join("split"))
                .arg(source)
                .status()
                .unwrap();
            assert!(done.success());
        });
        let mut target = zone.target();
        target.hz = HZ;
        let (seen, _) = sample(&zone, &target, &["split", ROUNDS], &[]);
        let names =
            ["split::work::seventy", "split::work::twenty", "split::work::ten"];
        seen.is_split(&format!("Rust as {who:?}"), names, POINTS);
        seen.is_healthy(HEALTH);
        let inlined = seen.percent_where(|frames| {
            frames.iter().any(|(name, kind)| {
                *kind == FrameKind::Inlined && name.contains("burn")
            })
        });
        eprintln!("Rust as {who:?}: burn, inlined, in {inlined:.1} %");
        assert!(inlined > 80.0, "inlined functions are not named");
        // The default linker of Rust lays a program out as no other does.
        let main = seen.percent("split::main");
        let start = seen.percent("_start");
        eprintln!("Rust as {who:?}: main {main:.1} %, _start {start:.1} %");
        assert!(main >= 95.0, "main is reached in {main:.1} % only");
        assert!(start >= 95.0, "stacks end before they are at their end");
    }
}

/// What a runner sets for node.
const NODE: (&str, &str) = (
    "NODE_OPTIONS",
    "--perf-basic-prof-only-functions --interpreted-frames-native-stack",
);

#[test]
fn node_is_split_with_its_names() {
    if !installed("node") {
        return skip("node is not installed");
    }
    for who in users() {
        let zone = Zone::new(who, |share| {
            let source = include_str!("programs/split.js");
            std::fs::write(share.join("split.js"), source).unwrap();
        });
        let mut target = zone.target();
        target.hz = HZ;
        let script = "/opt/share/split.js";
        let argv = ["node", script, ROUNDS];
        let running = ntrace_sampler::start(&target).unwrap();
        let done = zone.job(&argv, &[NODE]);
        // The names must be there after the zone is gone.
        let left = zone.job(&["ls", "-A", "/home/job"], &[]);
        zone.halt();
        let options = ntrace_sampler::FinishOptions {
            user_cpu_ms: done.status["usage"]["user_ms"].as_u64(),
            ..Default::default()
        };
        let seen = crate::seen::finish(running, options);
        let names =
            ["seventy", "twenty", "ten"].map(|name| format!("{name} {script}"));
        let names = [&*names[0], &*names[1], &*names[2]];
        let what = format!("Node as {who:?}");
        is_split_in_scripts(&seen, &what, names);
        seen.is_healthy(HEALTH);
        let scripts = seen.percent_where(|frames| {
            frames.iter().any(|(_, kind)| {
                matches!(kind, FrameKind::Jit | FrameKind::Interpreted)
            })
        });
        eprintln!("{what}: JavaScript names in {scripts:.1} %");
        assert!(scripts >= 85.0, "{scripts:.1} % with names");
        assert!(!left.output.contains("isolate"), "{left:?}");
    }
}

/// Shares of the time that is spent in the three functions: node does
/// other things as well.
#[track_caller]
fn is_split_in_scripts(seen: &Seen, what: &str, names: [&str; 3]) {
    let of = |name: &str| {
        seen.count(|frames| frames.iter().any(|(known, _)| *known == name))
            as f64
    };
    let all: f64 = names.iter().map(|name| of(name)).sum();
    for (name, truth) in names.into_iter().zip([70.0, 20.0, 10.0]) {
        let found = of(name) * 100.0 / all;
        eprintln!("{what}: {name} {found:.1} %, in truth {truth} %");
        assert!((found - truth).abs() <= POINTS, "{name}: {found:.1} %");
    }
    eprintln!("{what}: {:?}", seen.summary);
}

#[test]
fn short_processes_are_seen_by_root_and_warned_of_otherwise() {
    for who in users() {
        let zone = Zone::new(who, |share| {
            let blip = include_str!("programs/blip.c");
            compile(blip, &share.join("blip"), &["-O2"]);
            let script = include_str!("programs/short.sh");
            std::fs::write(share.join("short.sh"), script).unwrap();
        });
        let mut target = zone.target();
        target.hz = HZ;
        let argv = ["sh", "/opt/share/short.sh", "600", "4"];
        let (seen, done) = sample(&zone, &target, &argv, &[]);
        let in_blip = seen.percent("blip");
        eprintln!(
            "600 processes as {who:?}: {} samples for {} ms by rusage, \
             {in_blip:.0} % in blip; {:?}",
            seen.summary.samples,
            done.cpu_ms(),
            seen.summary
        );
        let warned = seen
            .summary
            .warnings
            .iter()
            .any(|text| text.contains("processes shorter than"));
        if seen.summary.how == Some(How::Group) {
            seen.is_healthy(HEALTH);
            assert!(in_blip > 20.0, "{in_blip}");
            assert!(!warned);
            assert!(seen.summary.processes >= 600);
        } else {
            let seen_ms = seen.summary.samples * 1000 / u64::from(HZ);
            let few = (seen_ms as f64) < done.cpu_ms() * 0.7;
            assert!(warned || !few, "{:?}", seen.summary);
        }
    }
}
