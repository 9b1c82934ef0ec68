//! What other viewers get says the same as the profile.

use std::io::Read as _;

use ntrace_profile::{FrameKind, Header, Profile, Symbol};
use ntrace_profile::{export, folded, pprof};
use serde_json::Value;

const FOLDED: &str = "\
node;main;byHash job.js_[j] 6
node;main;read_[k] 2
sh;main <b> 1
";

fn profile() -> Profile {
    let header = Header { hz: 100, ..Header::default() };
    folded::read(FOLDED.as_bytes(), header).expect("it is folded text")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

#[test]
fn speedscope_has_each_stack_with_its_time() {
    let json = export::speedscope(&profile(), "o/r \"1\"");
    let file: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(file["name"], "o/r \"1\"");
    let shown = &file["profiles"][0];
    assert_eq!(shown["unit"], "nanoseconds");
    assert_eq!(shown["endValue"], 90_000_000);
    let stacks: Vec<String> = shown["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stack| {
            let frames = stack.as_array().unwrap().iter();
            let frames: Vec<&str> = frames
                .map(|id| text(&file["shared"]["frames"][number(id)]["name"]))
                .collect();
            frames.join(";")
        })
        .collect();
    assert_eq!(
        stacks,
        ["node;main;byHash job.js", "node;main;read", "sh;main <b>"]
    );
    let weights = [60_000_000, 20_000_000, 10_000_000];
    assert_eq!(shown["weights"], serde_json::json!(weights));
}

#[test]
fn firefox_has_a_thread_for_each_process_and_every_table_is_whole() {
    let json = export::firefox(&profile(), "o/r");
    let file: Value = serde_json::from_str(&json).unwrap();
    let mut stacks: Vec<(String, u64)> = Vec::new();
    let mut ends = Vec::new();
    for thread in file["threads"].as_array().unwrap() {
        for table in thread.as_object().unwrap().values() {
            let Some(length) = table.get("length") else { continue };
            for column in table.as_object().unwrap().values() {
                if let Some(column) = column.as_array() {
                    assert_eq!(column.len(), number(length));
                }
            }
        }
        let samples = &thread["samples"];
        for (n, stack) in
            samples["stack"].as_array().unwrap().iter().enumerate()
        {
            if stack.is_null() {
                continue;
            }
            let stack = stack_of(thread, stack);
            let weight = samples["weight"][n].as_u64().unwrap();
            match stacks.last_mut() {
                Some((last, sum)) if *last == stack => *sum += weight,
                _ => stacks.push((stack, weight)),
            }
        }
        ends.push(samples["time"].as_array().unwrap().last().unwrap().clone());
    }
    let expected =
        [("node;main;byHash job.js", 6), ("node;main;read", 2)].as_slice();
    let expected = [expected, &[("sh;main <b>", 1)]].concat();
    let stacks: Vec<_> = stacks.iter().map(|(s, n)| (s.as_str(), *n)).collect();
    assert_eq!(stacks, expected);
    // Each thread is as long as its CPU time, in milliseconds.
    assert_eq!(ends, [80.0, 10.0]);
}

/// A stack of a thread of the Firefox profiler, folded.
fn stack_of(thread: &Value, stack: &Value) -> String {
    let mut frames = Vec::new();
    let mut at = stack;
    while !at.is_null() {
        let frame = number(&thread["stackTable"]["frame"][number(at)]);
        let func = number(&thread["frameTable"]["func"][frame]);
        let name = number(&thread["funcTable"]["name"][func]);
        frames.push(text(&thread["stringArray"][name]));
        at = &thread["stackTable"]["prefix"][number(at)];
    }
    frames.reverse();
    frames.join(";")
}

#[test]
fn a_long_profile_has_a_bounded_number_of_rows() {
    let text = b"p;a 1000000\np;b 250001\n";
    let header = Header { hz: 100, ..Header::default() };
    let profile = folded::read(text, header).expect("it is folded text");
    let file: Value =
        serde_json::from_str(&export::firefox(&profile, "x")).unwrap();
    let weights = file["threads"][0]["samples"]["weight"].as_array().unwrap();
    assert!(weights.len() < 100_010, "{}", weights.len());
    let sum: u64 = weights.iter().filter_map(Value::as_u64).sum();
    assert_eq!(sum, 1_250_001);
}

#[test]
fn what_would_command_a_terminal_is_in_no_export() {
    let mut profile = Profile::new(Header { hz: 1, ..Header::default() });
    let process = profile.process("p\u{1b}]0;x\u{7}");
    let hostile = "a\u{202e}b\u{1b}[2J\n\u{9b}c";
    let symbol = Symbol::new(hostile, FrameKind::Native)
        .at(hostile, 1)
        .in_module(hostile);
    let frame = profile.frame(&symbol);
    profile.add_samples(process, &[frame], 1);
    let mut pprof = Vec::new();
    flate2::read::GzDecoder::new(&pprof::write(&profile)[..])
        .read_to_end(&mut pprof)
        .unwrap();
    let texts = [
        folded::write(&profile),
        export::speedscope(&profile, hostile),
        export::firefox(&profile, hostile),
        String::from_utf8_lossy(&pprof).into_owned(),
    ];
    for text in texts {
        assert!(text.contains("a\\"), "{text}");
        for bad in ["\u{1b}", "\u{202e}", "\u{9b}"] {
            assert!(!text.contains(bad), "{bad:?} in {text:?}");
        }
    }
}
