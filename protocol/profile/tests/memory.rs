//! What a profile of many distinct stacks costs.

use ntrace_profile::{FrameKind, Header, Profile, Symbol};

/// Says to the test's own program that it is the one that is measured.
const CHILD: &str = "NTRACE_PROFILE_MEASURED";
const STACKS: u32 = 40_000;

/// Distinct stacks of 31 to 127 frames that part ways all along.
fn build() -> Profile {
    let mut profile = Profile::new(Header { hz: 99, ..Header::default() });
    let process = profile.process("job");
    let functions: Vec<_> = (0..1000)
        .map(|n| {
            let name = format!("function_{n}");
            profile.frame(&Symbol::new(name, FrameKind::Native))
        })
        .collect();
    for n in 0..STACKS {
        let depth = 31 + (n >> 10) % 97;
        let frames: Vec<_> = (0..depth)
            .map(|level| {
                let prefix = n >> (16 - 16 * (level + 1) / depth);
                let hash = prefix.wrapping_mul(0x9e37_79b9) ^ level;
                functions[hash as usize % 1000]
            })
            .collect();
        profile.add_samples(process, &frames, 1);
    }
    profile
}

#[test]
fn forty_thousand_distinct_stacks_take_less_than_12_mib() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: the peak of a process is read from /proc");
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let before = peak_kib();
        let profile = build();
        assert_eq!(profile.total().samples, u64::from(STACKS));
        assert!(profile.samples().len() as u32 > STACKS * 9 / 10);
        println!("GREW {} KIB", peak_kib() - before);
        return;
    }
    let own = std::env::current_exe().unwrap();
    let name = "forty_thousand_distinct_stacks_take_less_than_12_mib";
    let out = std::process::Command::new(own)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let grew: u64 = text
        .split("GREW ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_else(|| panic!("the child said {text}"));
    assert!(grew < 12 << 10, "{grew} KiB");
}

fn peak_kib() -> u64 {
    let status =
        std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .expect("the kernel tells the peak")
}
