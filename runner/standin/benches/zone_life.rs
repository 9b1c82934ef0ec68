//! How long the phases of a zone's life take: first with each phase called
//! in this process, which has one thread; then from outside, each phase one
//! spawned `vmadm` or `zlogin`, as the runner spawns it.
//!
//! `cargo bench -p ntrace-standin -- 100` runs 100 lives (default 50).
//!
//! A life is create, roll back (which ends with the zone started), run
//! `true`, stop, destroy. The probe is what one fsync takes meanwhile. The
//! peer is one run of `true` in bubblewrap, where that is installed, in turns
//! with the lives: it makes comparable what two machines measured.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PAYLOAD: &str = r#"{
    "image_uuid": "6e747261-6365-4000-8000-000000000001",
    "alias": "bench", "autoboot": false, "max_physical_memory": 512,
    "max_lwps": 500, "quota": 1, "tmpfs": 64
}"#;

/// How a phase is run.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Inside,
    Spawned,
}

fn run(way: Way, program: &str, args: &[&str]) -> Duration {
    let begin = Instant::now();
    let is_fine = match way {
        Way::Inside => {
            let args: Vec<_> = args.iter().map(ToString::to_string).collect();
            ntrace_standin::call(program, &args) == Some(0)
        }
        Way::Spawned => {
            let path = match program {
                "vmadm" => env!("CARGO_BIN_EXE_vmadm"),
                _ => env!("CARGO_BIN_EXE_zlogin"),
            };
            let status = Command::new(path).args(args).status();
            status.is_ok_and(|status| status.success())
        }
    };
    let took = begin.elapsed();
    assert!(is_fine, "{program} {args:?} failed");
    took
}

/// What one small write with an fsync takes.
fn probe(state: &Path) -> Duration {
    let path = state.join("probe");
    let mut file = File::create(&path).expect("the state is writable");
    let begin = Instant::now();
    file.write_all(b"x").expect("the state is writable");
    file.sync_all().expect("the state can be synced");
    begin.elapsed()
}

/// The namespaces of a zone by bubblewrap; 0 where there is none.
fn peer() -> Duration {
    let begin = Instant::now();
    let done = Command::new("bwrap")
        .args(["--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc"])
        .args(["--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"])
        .arg("/bin/true")
        .status();
    if done.is_ok_and(|status| status.success()) {
        begin.elapsed()
    } else {
        Duration::ZERO
    }
}

const PHASES: [&str; 8] = [
    "create",
    "roll back and start",
    "run true",
    "stop",
    "destroy",
    "the whole life",
    "(probe: one fsync)",
    "(peer: bubblewrap)",
];

/// Where in `PHASES` the whole life and the peer are.
const WHOLE: usize = 5;
const PEER: usize = 7;

fn lives(way: Way, cycles: usize, state: &Path) -> Vec<Vec<Duration>> {
    let payload = state.join("payload.json");
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); PHASES.len()];
    for cycle in 0..=cycles {
        let id = format!("00000000-0000-4000-8000-{cycle:012}");
        let text = PAYLOAD.replacen('{', &format!("{{\"uuid\":\"{id}\","), 1);
        std::fs::write(&payload, text).expect("the state is writable");
        let file = payload.display().to_string();
        let id = id.as_str();
        let create = run(way, "vmadm", &["create", "-f", &file]);
        run(way, "vmadm", &["create-snapshot", id, "clean"]);
        let back = run(way, "vmadm", &["rollback-snapshot", id, "clean"]);
        let exec = run(way, "zlogin", &[id, "/bin/true"]);
        let stop = run(way, "vmadm", &["stop", "-F", id]);
        let destroy = run(way, "vmadm", &["delete", id]);
        let whole = create + back + exec + stop + destroy;
        // The first makes the image and the helper.
        if cycle == 0 {
            continue;
        }
        let probe = probe(state);
        let all = [create, back, exec, stop, destroy, whole, probe, peer()];
        for (list, time) in times.iter_mut().zip(all) {
            list.push(time);
        }
    }
    times
}

fn main() {
    let cycles = std::env::args()
        .filter_map(|arg| arg.parse::<usize>().ok())
        .next()
        .unwrap_or(50);
    let state = std::env::temp_dir()
        .join(format!("ntrace-bench-{}", std::process::id()));
    std::fs::create_dir_all(&state).expect("the temporary place is writable");
    // One way a process: the state's place and silence are inherited.
    let way = match std::env::var("ZONE_LIFE_WAY").as_deref() {
        Ok("inside") => Way::Inside,
        Ok(_) => Way::Spawned,
        Err(_) => return both(cycles),
    };
    let mut times = lives(way, cycles, &state);
    println!("{:<24} {:>10} {:>10}", "", "median", "p95");
    for (name, list) in PHASES.iter().zip(&mut times) {
        list.sort();
        let at = |share: usize| {
            let index = (list.len() * share / 100).min(list.len() - 1);
            list[index].as_secs_f64() * 1e3
        };
        println!("{name:<24} {:>7.2} ms {:>7.2} ms", at(50), at(95));
    }
    let middle = |at: usize| {
        let list: &Vec<Duration> = &times[at];
        list[list.len() / 2].as_secs_f64()
    };
    if middle(PEER) > 0.0 {
        let ratio = middle(WHOLE) / middle(PEER);
        println!("a whole life is {ratio:.2} runs of bubblewrap");
    } else {
        println!("SKIPPED: no peer, bubblewrap is not installed");
    }
    // Keepers that are just ending may still write.
    let _ = std::fs::remove_dir_all(&state);
}

fn both(cycles: usize) {
    let own = std::env::current_exe().expect("this program has a path");
    for (way, title) in [
        ("inside", "each phase called in one process"),
        ("spawned", "each phase a spawned program"),
    ] {
        println!("{title}, {cycles} lives");
        let zones = std::env::temp_dir()
            .join(format!("ntrace-zones-{}", std::process::id()));
        let status = Command::new(&own)
            .arg(cycles.to_string())
            .env("ZONE_LIFE_WAY", way)
            .env("NTRACE_ZONES", &zones)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.is_ok_and(|s| s.success()), "{way} failed");
        let _ = std::fs::remove_dir_all(&zones);
        println!();
    }
}
