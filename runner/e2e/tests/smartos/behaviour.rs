//! What the gate does around the programs that it runs: streams, statuses,
//! its files, its log.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::gate::{Gate, OTHER, STRANGER, WORKER, shells};

/// A gate under each shell.
fn each(check: impl Fn(&Gate)) {
    for shell in shells() {
        check(&Gate::new(&shell));
    }
}

fn call(words: &str) -> Vec<u8> {
    words.replace("$W", WORKER).into_bytes()
}

#[test]
fn streams_and_status_of_the_program_pass_unchanged() {
    each(|gate| {
        gate.programs_do("echo out; echo err >&2; cat; exit 3");
        let mut child = gate
            .command(Some(&call("zlogin -Q $W /native/zone-job run")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, [b"out\n".as_slice(), &bytes].concat());
        assert_eq!(output.stderr, b"err\n");
    });
}

#[test]
fn vmadm_reads_nothing_of_the_callers_stdin() {
    each(|gate| {
        gate.programs_do("cat");
        let mut child = gate
            .command(Some(&call("vmadm start $W")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may be gone before we write.
        let _ = stdin.write_all(b"{\"alias\":\"x\"}");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"");
    });
}

#[test]
fn a_vmadm_that_dies_of_a_signal_is_told_from_a_lost_link() {
    each(|gate| {
        for (signal, code) in [("KILL", 137), ("ABRT", 134)] {
            gate.programs_do(&format!("kill -s {signal} $$"));
            let answer = gate.run(&call("vmadm rollback-snapshot $W clean"));
            assert_eq!(answer.code, Some(code), "{answer:?}");
            let said = format!("vmadm died of signal {}", code - 128);
            assert!(answer.stderr.contains(&said), "{answer:?}");
        }
        gate.programs_do("echo 'No snapshot named' >&2; exit 1");
        let answer = gate.run(&call("vmadm rollback-snapshot $W clean"));
        assert_eq!(answer.code, Some(1));
        assert_eq!(answer.stderr, "No snapshot named\n");
    });
}

#[test]
fn dtrace_ends_when_the_caller_closes_its_stdin() {
    each(|gate| {
        gate.programs_do(
            "trap 'echo last words; exit 0' TERM\n\
             if read -r _; then echo 'read something'; fi\n\
             echo ntrace ready\n\
             while :; do sleep 0.02; done",
        );
        let mut child = gate
            .command(Some(&call("/usr/sbin/dtrace -s ntrace_cpu.d $W")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ntrace ready\n");
        assert!(child.try_wait().unwrap().is_none());
        drop(child.stdin.take());
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "last words\n");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let script = gate.path("etc/dtrace/ntrace_cpu.d");
        let script = script.display().to_string();
        assert_eq!(gate.ran(), [["dtrace", "-s", &script, WORKER]]);
    });
}

#[test]
fn a_dtrace_that_ends_by_itself_ends_the_gate() {
    each(|gate| {
        gate.programs_do("echo 'dtrace: no probes matched' >&2; exit 1");
        let mut child = gate
            .command(Some(&call("dtrace -s ntrace_cpu.d $W")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Held open: the gate must not wait for it.
        let stdin = child.stdin.take();
        let mut said = String::new();
        // The end of these is the end of everything that held them.
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "dtrace: no probes matched\n");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        drop(stdin);
    });
}

#[test]
fn a_lookup_shows_listed_vms_only() {
    each(|gate| {
        gate.programs_do("printf '[\\n  {\"%s\": 1}\\n]\\n' \"$3\"");
        let answer = gate.run(b"/usr/sbin/vmadm lookup -j");
        let array: Vec<serde_json::Value> =
            serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(array.len(), 2);
        for uuid in [WORKER, OTHER] {
            assert!(answer.stdout.contains(&format!("uuid={uuid}")));
        }
        gate.programs_do("echo '[]'");
        assert_eq!(gate.run(b"vmadm lookup -j").stdout, "[]\n");
        gate.programs_do("echo connect ECONNREFUSED >&2; exit 1");
        let answer = gate.run(b"vmadm lookup -j");
        assert_eq!(answer.code, Some(1));
        assert_eq!(answer.stderr, "connect ECONNREFUSED\n");
        assert_eq!(answer.stdout, "");
    });
}

#[test]
fn the_gate_tells_its_status() {
    each(|gate| {
        let answer = gate.run(b"ntrace-gate status");
        let status: serde_json::Value =
            serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(
            status,
            serde_json::json!({
                "gate": 1,
                "key": "runner0",
                "calls": true,
                "workers": [WORKER, OTHER],
            })
        );
        assert!(!answer.stdout.contains(STRANGER));
    });
}

#[test]
fn files_that_others_could_change_close_the_gate() {
    let get = call("vmadm get $W");
    each(|gate| {
        for (name, bad, good) in [
            ("etc", 0o775, 0o755),
            ("etc", 0o757, 0o755),
            ("etc/workers", 0o664, 0o644),
            ("etc/workers", 0o646, 0o600),
            ("etc/gate-calls", 0o666, 0o644),
            ("etc/programs", 0o622, 0o644),
            ("etc/dtrace", 0o777, 0o755),
            ("etc/dtrace/ntrace_cpu.d", 0o664, 0o644),
        ] {
            let get = match name {
                "etc/dtrace/ntrace_cpu.d" => call("dtrace -s ntrace_cpu.d $W"),
                _ => get.clone(),
            };
            gate.mode(name, bad);
            let answer = gate.run(&get);
            assert_eq!(answer.code, Some(78), "{name} {bad:o} {answer:?}");
            assert!(answer.ran.is_empty());
            assert!(answer.stderr.contains("by others than root"));
            gate.mode(name, good);
            // A dtrace without a stdin ends at once, well or not.
            assert_ne!(gate.run(&get).code, Some(78), "{name}");
        }
        fs::rename(gate.path("etc/workers"), gate.path("list")).unwrap();
        let answer = gate.run(&get);
        assert_eq!(answer.code, Some(78), "no list: {answer:?}");
        symlink(gate.path("list"), gate.path("etc/workers")).unwrap();
        assert_eq!(gate.run(&get).code, Some(78), "a link for a list");
    });
}

#[test]
fn files_of_another_user_close_the_gate() {
    if !ntrace_e2e::is_root() {
        ntrace_e2e::skip("only root can give files away");
        return;
    }
    each(|gate| {
        let workers = gate.path("etc/workers");
        std::os::unix::fs::chown(&workers, Some(12345), None).unwrap();
        let answer = gate.run(&call("vmadm get $W"));
        assert_eq!(answer.code, Some(78), "{answer:?}");
        assert!(answer.ran.is_empty());
    });
}

#[test]
fn an_odd_forced_command_closes_the_gate() {
    each(|gate| {
        for odd in [
            &["--etc"][..],
            &["--etc", "relative"],
            &["--etc", "/a b"],
            &["--log", "$(id)"],
            &["--key", ""],
            &["--shell", "x"],
            &["vmadm"],
        ] {
            let mut command = gate.command(Some(&call("vmadm get $W")));
            command.args(odd);
            let answer = gate.run_command(command);
            assert_eq!(answer.code, Some(78), "{odd:?} {answer:?}");
            assert!(answer.ran.is_empty());
        }
    });
}

#[test]
fn programs_start_in_the_root_with_an_ordinary_umask() {
    each(|gate| {
        gate.programs_do("pwd; umask");
        for words in ["vmadm get $W", "zlogin -Q $W /native/zone-job ps"] {
            let answer = gate.run(&call(words));
            assert_eq!(answer.stdout, "/\n0022\n", "{words} {answer:?}");
        }
        let log = fs::metadata(gate.path("log")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&log.permissions());
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn without_a_log_there_is_no_call() {
    each(|gate| {
        // No file can be made there, and a logger that fails is found first.
        fs::create_dir(gate.path("log")).unwrap();
        if std::path::Path::new("/dev/log").exists() {
            ntrace_e2e::skip("this machine has a syslog to fall back to");
            return;
        }
        let answer = gate.run(&call("vmadm get $W"));
        let logged = answer.code == Some(0);
        // Some loggers report success without a syslog.
        assert!(logged || answer.code == Some(78), "{answer:?}");
        assert_eq!(answer.ran.is_empty(), !logged, "{answer:?}");
    });
}

#[test]
fn a_login_without_a_command_is_refused() {
    each(|gate| {
        let answer = gate.run_command(gate.command(None));
        assert_eq!(answer.code, Some(77));
        assert!(answer.stderr.contains("no login here"));
    });
}

#[test]
fn the_log_is_renamed_when_it_is_long_and_nothing_is_lost() {
    each(|gate| {
        fs::write(gate.path("log"), vec![b'x'; (16 << 20) + 1]).unwrap();
        gate.mode("log", 0o600);
        assert_eq!(gate.run(&call("vmadm get $W")).code, Some(0));
        assert_eq!(gate.log().lines().count(), 1);
        let old = fs::metadata(gate.path("log.0")).unwrap().len();
        assert_eq!(old, (16 << 20) + 1);
        assert!(!gate.path("log.lock").exists());
    });
}

#[test]
fn calls_at_the_same_time_each_have_a_whole_line() {
    let shell = &shells()[0];
    let gate = Gate::new(shell);
    let children: Vec<_> = (0..20)
        .map(|_| {
            let mut command = gate.command(Some(&call("vmadm get $W")));
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(gate.log().lines().count(), 20);
    assert!(gate.log().lines().all(|line| line.ends_with(WORKER)));
}
