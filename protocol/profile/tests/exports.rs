//! What other viewers get says the same as the profile.

use ntrace_profile::{Header, Profile, export, folded};
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
    let mut stacks = Vec::new();
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
            let mut frames = Vec::new();
            let mut at = stack.clone();
            while !at.is_null() {
                let frame = number(&thread["stackTable"]["frame"][number(&at)]);
                let func = number(&thread["frameTable"]["func"][frame]);
                let name = number(&thread["funcTable"]["name"][func]);
                frames.push(text(&thread["stringArray"][name]).to_owned());
                at = thread["stackTable"]["prefix"][number(&at)].clone();
            }
            frames.reverse();
            let weight = number(&samples["weight"][n]);
            stacks.push(format!("{} {weight}", frames.join(";")));
        }
    }
    assert_eq!(
        stacks,
        ["node;main;byHash job.js 6", "node;main;read 2", "sh;main <b> 1"]
    );
}
