//! What the gate lets through, and hundreds of things that it must not.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::gate::{Gate, OTHER, SCRIPT, STRANGER, WORKER, quoted, shells};
use super::model;

/// Every kind of call that the driver makes.
fn good_calls() -> Vec<Vec<&'static str>> {
    let vmadm = "/usr/sbin/vmadm";
    let zlogin = "/usr/sbin/zlogin";
    let helper = "/native/zone-job";
    let mut calls = vec![
        vec![vmadm, "get", WORKER],
        vec!["vmadm", "get", OTHER],
        vec![vmadm, "start", WORKER],
        vec![vmadm, "stop", WORKER, "-F"],
        vec![vmadm, "rollback-snapshot", WORKER, "clean"],
        vec![vmadm, "rollback-snapshot", WORKER, "a:b%"],
        vec![vmadm, "rollback-snapshot", OTHER, "clean"],
        vec![vmadm, "update", WORKER, "cpu_cap=0"],
        vec![
            vmadm,
            "update",
            WORKER,
            "max_physical_memory=2048",
            "max_swap=2048",
            "cpu_cap=200",
            "max_lwps=999999999",
            "quota=10",
        ],
        vec![zlogin, "-Q", WORKER, SCRIPT],
    ];
    for verb in ["run", "unpack", "collect", "kill", "ps"] {
        calls.push(vec![zlogin, "-Q", WORKER, helper, verb]);
    }
    calls
}

#[test]
fn every_call_of_the_driver_passes_and_arrives_word_by_word() {
    for shell in shells() {
        let gate = Gate::new(&shell);
        for call in good_calls() {
            let answer = gate.run(&quoted(&call));
            assert_eq!(answer.code, Some(0), "{shell:?} {call:?} {answer:?}");
            let mut words = call.clone();
            words[0] = words[0].trim_start_matches("/usr/sbin/");
            assert_eq!(answer.ran, [words], "{shell:?}");
            assert_eq!(
                gate.environment(),
                [
                    "HOME=/root".to_owned(),
                    "LC_ALL=C".to_owned(),
                    "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
                    format!("RECORD={}", gate.path("record").display()),
                ],
                "{shell:?}"
            );
        }
        let lines = gate.log();
        assert_eq!(lines.lines().count(), good_calls().len(), "{lines}");
        for line in lines.lines() {
            assert!(
                line.contains(" key=runner0 from=192.0.2.7 pid=")
                    && line.contains(" allowed: "),
                "{line:?}"
            );
        }
    }
}

#[test]
fn every_script_of_the_driver_passes_and_arrives_byte_for_byte() {
    for shell in shells() {
        let gate = Gate::new(&shell);
        gate.write("etc/gate-calls", &ntrace_zones::gate_calls());
        for (name, script) in ntrace_zones::zlogin_scripts() {
            let call = ["/usr/sbin/zlogin", "-Q", WORKER, &script];
            let given = quoted(&call);
            assert!(given.len() < 8192, "{name}: {} bytes", given.len());
            let answer = gate.run(&given);
            assert_eq!(answer.code, Some(0), "{shell:?} {name} {answer:?}");
            let words = ["zlogin", "-Q", WORKER, &script];
            assert_eq!(answer.ran, [words], "{shell:?} {name}");
            let log = gate.log();
            let line = log.lines().last().unwrap();
            assert!(line.ends_with(&format!("{WORKER} {name}")), "{line}");
            // One byte less or more is another script.
            for near in [&script[..script.len() - 1], &format!("{script} ")] {
                let call = ["/usr/sbin/zlogin", "-Q", WORKER, near];
                assert_eq!(gate.run(&quoted(&call)).code, Some(77), "{name}");
            }
        }
    }
}

/// Whole commands that must be refused.
const ALONE: &[&str] = &[
    "",
    " ",
    "\n",
    "\t",
    "'",
    "''",
    "\\",
    "!",
    "-",
    "--",
    "sh",
    "bash -i",
    "/bin/sh",
    "sftp",
    "internal-sftp",
    "scp -t /",
    "rsync --server",
    "id",
    "vmadm",
    "/usr/sbin/vmadm",
    "zlogin",
    "dtrace",
    "ntrace-gate",
    "ntrace-gate status x",
    "ntrace-gate --etc /tmp",
    "vmadm list",
    "vmadm list -p",
    "vmadm lookup",
    "vmadm lookup -j alias=x",
    "vmadm lookup -1",
    "vmadm events",
    "vmadm create",
    "vmadm help",
    "vmadm create -f /tmp/x",
    "vmadm validate create",
    "vmadm gc",
    "vmadm update",
    "vmadm get",
    "vmadm -h",
    "../vmadm get",
    "./vmadm",
    "/usr/vm/sbin/vmadm",
    "/usr/sbin/../sbin/vmadm",
    "//usr/sbin/vmadm",
    "/usr/sbin/vmadm;id",
    "env vmadm",
    "exec vmadm",
    "PATH=/ vmadm",
    "zlogin -Q",
    "zlogin -i",
    "zlogin global id",
    "zlogin -Q global id",
    "dtrace -n BEGIN",
    "dtrace -s /etc/passwd",
    "imgadm list",
    "zfs destroy zones",
    "cat /etc/shadow",
    "$(id)",
    "`id`",
    "~",
    "*",
    "eval id",
    ". /etc/profile",
    "{id,}",
    "<(id)",
    "((1))",
    "[ 1 ]",
];

/// What makes a good call a bad one: in, before or behind it.
const FOUL: &[&str] = &[
    ";id",
    "; id",
    "|id",
    " | id",
    "&",
    " & id",
    "&&id",
    " && id",
    "||id",
    "\nid",
    "\n",
    "\r",
    "\t",
    "  ",
    " ",
    "$(id)",
    "`id`",
    "$PATH",
    "${x}",
    "\"",
    "\"x\"",
    "'",
    "\\",
    "\\;",
    "\\\n",
    "<x",
    ">x",
    "2>&1",
    "#",
    " #",
    "*",
    "?",
    "[a]",
    "~",
    "!",
    "!!",
    "(id)",
    "{a,b}",
    "\u{1}",
    "\u{1b}[2J",
    "\u{7f}",
    "ä",
    "\u{202e}",
    "\u{feff}",
    "$'\\n'",
    "^",
    " -F",
    " --",
    " -v",
    " extra",
    "=",
    "%n%n",
    "%s",
];

/// Nearly good calls: $W and $O are listed VMs, $S is not.
const NEARLY: &[&str] = &[
    "vmadm get $S",
    "vmadm get $W0",
    "vmadm get '#'",
    "vmadm get ''",
    "vmadm get '# workers'",
    "vmadm get '$W\n'",
    "vmadm get ' $W'",
    "vmadm get '$W clean'",
    "vmadm get $W $W",
    "vmadm get $W ''",
    "'' vmadm get $W",
    "vmadm get -j $W",
    "vmadm delete $W",
    "vmadm destroy $W",
    "vmadm stop $W",
    "vmadm stop -F $W",
    "vmadm stop $W -t",
    "vmadm stop $W -F -F",
    "vmadm reboot $W",
    "vmadm kill $W",
    "vmadm console $W",
    "vmadm create-snapshot $W clean",
    "vmadm delete-snapshot $W clean",
    "vmadm rollback-snapshot $W",
    "vmadm rollback-snapshot $W other",
    "vmadm rollback-snapshot $W -F",
    "vmadm rollback-snapshot $W '#'",
    "vmadm rollback-snapshot $W two",
    "vmadm rollback-snapshot $W '*'",
    "vmadm rollback-snapshot $O 'a:b%'",
    "vmadm update $W",
    "vmadm update $W -f",
    "vmadm update $W quota=1 quota=2",
    "vmadm update $W quota=",
    "vmadm update $W quota",
    "vmadm update $W quota=-1",
    "vmadm update $W quota=01",
    "vmadm update $W quota=1e3",
    "vmadm update $W quota=1234567890",
    "vmadm update $W quota=1=2",
    "vmadm update $W 'quota=1\n2'",
    "vmadm update $W alias=x",
    "vmadm update $W fs_allowed=ufs",
    "vmadm update $W limit_priv=all",
    "vmadm update $W autoboot=true",
    "vmadm update $W quota=1 indestructible_zoneroot=true",
    "zlogin $W id",
    "zlogin -Q $W",
    "zlogin -Q $W ''",
    "zlogin -Q $W id",
    "zlogin -Q $W it",
    "zlogin -Q $W '*'",
    "zlogin -Q $W /native/zone-job",
    "zlogin -Q $W /native/zone-job shell",
    "zlogin -Q $W /native/zone-job run x",
    "zlogin -Q $W /native/../bin/sh run",
    "zlogin -C $W",
    "zlogin -Q -l root $W id",
    "zlogin -Q $S /native/zone-job run",
    "dtrace -s ../ntrace_cpu.d $W",
    "dtrace -s /ntrace_cpu.d $W",
    "dtrace -s ntrace_..d $W",
    "dtrace -s ntrace_none.d $W",
    "dtrace -s 'ntrace_*.d' $W",
    "dtrace -s ntrace_cpu.d $S",
    "dtrace -s ntrace_cpu.d $W -o/etc/passwd",
    "dtrace -w -s ntrace_cpu.d $W",
    "dtrace -c id -s ntrace_cpu.d $W",
    "dtrace -n 'BEGIN { system(\"id\") }' $W",
];

fn bad_commands() -> Vec<Vec<u8>> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let mut all: Vec<Vec<u8>> = ALONE.iter().map(|text| bytes(text)).collect();
    let good = format!("/usr/sbin/vmadm rollback-snapshot {WORKER} clean");
    for foul in FOUL {
        all.push(format!("{good}{foul}").into_bytes());
        all.push(format!("{foul}{good}").into_bytes());
        all.push(good.replace(' ', foul).into_bytes());
        all.push(good.replacen("clean", &format!("clean{foul}"), 1).into());
    }
    // A blank in the place of a blank.
    all.retain(|command| *command != good.as_bytes());
    let w = WORKER;
    let filled = NEARLY.iter().map(|call| {
        let call = call.replace("$W", w).replace("$O", OTHER);
        call.replace("$S", STRANGER).into_bytes()
    });
    all.extend(filled);
    for uuid in [
        w.to_uppercase(),
        w[..35].to_owned(),
        w.replace('-', ""),
        w.replace('c', "g"),
    ] {
        all.push(format!("vmadm get {uuid}").into_bytes());
    }
    let long = "x".repeat(65);
    all.push(format!("vmadm rollback-snapshot {w} {long}").into_bytes());
    // Long ones, many words, and what is not text.
    all.push(vec![b'a'; 100_000]);
    all.push([b"vmadm get ".as_slice(), &[b'\''; 20_000]].concat());
    all.push(format!("vmadm get {w} {}", "a ".repeat(5_000)).into_bytes());
    all.push("x ".repeat(17).trim().as_bytes().to_vec());
    all.push([b"vmadm get ".as_slice(), &[0xff, 0xfe, 0xc3]].concat());
    all.push([w.as_bytes(), &[0x80]].concat());
    all.push([format!("vmadm get {w}").as_bytes(), &[0xc3, 0xa4]].concat());
    let mut wrong_script = quoted(&["zlogin", "-Q", w, SCRIPT]);
    all.push([wrong_script.as_slice(), b"x"].concat());
    wrong_script.pop();
    all.push(wrong_script);
    all
}

fn refused_under(shell: &[&'static str]) {
    let gate = Gate::new(shell);
    let all = bad_commands();
    assert!(all.len() > 300, "{}", all.len());
    for bad in &all {
        let shown = String::from_utf8_lossy(&bad[..bad.len().min(300)]);
        assert_eq!(model::allowed(bad), None, "{shown}");
        let answer = gate.run(bad);
        assert_eq!(answer.code, Some(77), "{shell:?} {shown:?} {answer:?}");
        assert!(answer.ran.is_empty(), "{shell:?} {shown:?} {answer:?}");
        assert_eq!(answer.stdout, "", "{shell:?} {shown:?}");
        assert!(
            answer.stderr.starts_with("ntrace-gate: refused: ")
                && answer.stderr.lines().count() == 1
                && answer.stderr.len() < 200,
            "{shell:?} {shown:?} {answer:?}"
        );
    }
    let log = gate.log();
    assert_eq!(log.lines().count(), all.len(), "a line for each call");
    for line in log.lines() {
        assert!(line.contains(" refused: ") && line.len() < 1500, "{line:?}");
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
    }
}

#[test]
fn hostile_commands_are_refused_under_dash() {
    under("/bin/dash");
}

#[test]
fn hostile_commands_are_refused_under_bash() {
    under("/bin/bash");
}

#[test]
fn hostile_commands_are_refused_under_busybox() {
    under("/bin/busybox");
}

#[test]
fn hostile_commands_are_refused_under_ksh93() {
    under("/bin/ksh93");
}

fn under(program: &str) {
    for shell in shells().iter().filter(|shell| shell[0] == program) {
        refused_under(shell);
    }
}

/// Pieces of commands: good ones, and foul ones that would leave a trace.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let good: Vec<Vec<u8>> = good_calls().iter().map(|c| quoted(c)).collect();
    let parts: Vec<Vec<u8>> = good_calls()
        .concat()
        .into_iter()
        .map(|word| word.as_bytes().to_vec())
        .collect();
    prop_oneof![
        3 => prop::sample::select(good),
        4 => prop::sample::select(parts),
        4 => Just(b" ".to_vec()),
        2 => prop::sample::select(vec![
            b";touch canary;".to_vec(),
            b"$(touch canary)".to_vec(),
            b"`touch canary`".to_vec(),
            b"\ntouch canary\n".to_vec(),
            b"|touch canary".to_vec(),
            b">canary".to_vec(),
            b"'".to_vec(),
            b"'\\''".to_vec(),
            b"\\!".to_vec(),
            b"\\".to_vec(),
            b"=1".to_vec(),
        ]),
        1 => prop::collection::vec(1_u8..=255, 1..8),
    ]
}

#[test]
fn whatever_the_bytes_nothing_but_an_allowed_call_is_run() {
    let gates: Vec<Gate> =
        shells().iter().map(|shell| Gate::new(shell)).collect();
    let mut runner = TestRunner::new(Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    });
    let bytes = prop_oneof![
        // A good call with at most one byte changed.
        (
            prop::sample::select(good_calls()),
            any::<prop::sample::Index>(),
            1_u8..=255
        )
            .prop_map(|(call, at, byte)| {
                let mut text = quoted(&call);
                let at = at.index(text.len());
                text[at] = byte;
                text
            }),
        prop::collection::vec(piece(), 1..6).prop_map(|all| all.concat()),
    ];
    runner
        .run(&bytes, |bytes| {
            let wanted: Vec<_> = model::allowed(&bytes).into_iter().collect();
            for gate in &gates {
                let answer = gate.run(&bytes);
                prop_assert_eq!(&answer.ran, &wanted);
                let code = if wanted.is_empty() { 77 } else { 0 };
                prop_assert_eq!(answer.code, Some(code));
                prop_assert!(!gate.path("cwd/canary").exists());
            }
            Ok(())
        })
        .unwrap();
}
