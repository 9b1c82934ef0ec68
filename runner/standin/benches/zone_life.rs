//! How long the phases of a zone's life take, seen from outside: each phase
//! is one spawned `vmadm` or `zlogin`, as the runner would spawn it.
//!
//! `cargo bench -p ntrace-standin -- 100` runs 100 lives (default 50).

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PAYLOAD: &str = r#"{
    "image_uuid": "6e747261-6365-4000-8000-000000000001",
    "alias": "bench", "autoboot": false, "max_physical_memory": 512,
    "max_lwps": 500, "quota": 1, "tmpfs": 64
}"#;

struct Programs {
    state: PathBuf,
}

impl Programs {
    fn run(&self, program: &str, args: &[&str]) -> Duration {
        let path = match program {
            "vmadm" => env!("CARGO_BIN_EXE_vmadm"),
            _ => env!("CARGO_BIN_EXE_zlogin"),
        };
        let begin = Instant::now();
        let output = Command::new(path)
            .args(args)
            .env("NTRACE_ZONES", &self.state)
            .stdin(Stdio::null())
            .output()
            .expect("the program was built beside this one");
        let took = begin.elapsed();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        took
    }
}

fn main() {
    let cycles = std::env::args()
        .filter_map(|arg| arg.parse::<usize>().ok())
        .next()
        .unwrap_or(50);
    let state = std::env::temp_dir()
        .join(format!("ntrace-bench-{}", std::process::id()));
    let programs = Programs { state: state.clone() };
    std::fs::create_dir_all(&state).expect("the temporary place is writable");
    let payload = state.join("payload.json");
    let phases = [
        "create",
        "start",
        "exec",
        "stop",
        "rollback",
        "exec again",
        "destroy",
        "create+start+exec+stop+destroy",
    ];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); phases.len()];
    for cycle in 0..=cycles {
        let id = format!("00000000-0000-4000-8000-{cycle:012}");
        let text = PAYLOAD.replacen('{', &format!("{{\"uuid\":\"{id}\","), 1);
        std::fs::write(&payload, text).expect("the state is writable");
        let file = payload.display().to_string();
        let id = id.as_str();
        let create = programs.run("vmadm", &["create", "-f", &file]);
        programs.run("vmadm", &["create-snapshot", id, "clean"]);
        let start = programs.run("vmadm", &["start", id]);
        let exec = programs.run("zlogin", &[id, "/bin/true"]);
        let stop = programs.run("vmadm", &["stop", "-F", id]);
        // Ends with the zone running: halt, roll back, boot.
        programs.run("vmadm", &["start", id]);
        let back = programs.run("vmadm", &["rollback-snapshot", id, "clean"]);
        let again = programs.run("zlogin", &[id, "/bin/true"]);
        let destroy = programs.run("vmadm", &["delete", id]);
        let whole = create + start + exec + stop + destroy;
        // The first makes the image and the helper.
        if cycle == 0 {
            continue;
        }
        let all = [create, start, exec, stop, back, again, destroy, whole];
        for (list, time) in times.iter_mut().zip(all) {
            list.push(time);
        }
    }
    println!("{:<32} {:>10} {:>10}  ({cycles} cycles)", "", "median", "p95");
    for (name, list) in phases.iter().zip(&mut times) {
        list.sort();
        let at = |share: usize| {
            let index = (list.len() * share / 100).min(list.len() - 1);
            list[index].as_secs_f64() * 1e3
        };
        println!("{name:<32} {:>7.2} ms {:>7.2} ms", at(50), at(95));
    }
    let _ = std::fs::remove_dir_all(&state);
}
