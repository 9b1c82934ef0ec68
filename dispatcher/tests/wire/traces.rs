//! Traces: what the record says of them, pictures, exports, differences.

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::profiles::{Traced, commit, fetch, profile, put, traced};
use crate::support::{Dispatcher, Run, Wire};

async fn start() -> (tempfile::TempDir, Dispatcher, Wire) {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, &[]).await;
    let wire = dispatcher.connect().await;
    (temp, dispatcher, wire)
}

async fn end_with(wire: &mut Wire, run: &Run, last: Value, trace: Value) {
    let mut end = run.end("done", last);
    end["data"]["trace"] = trace;
    wire.call("result", json!([end])).await;
}

#[tokio::test]
async fn the_record_says_what_became_of_a_trace_and_what_came_before() {
    let (_temp, dispatcher, mut wire) = start().await;
    let id = wire.push().await;
    let run = wire.next().await;
    let parents = vec!["a".repeat(40); 20];
    let source = json!({"event": "source", "parents": parents});
    wire.report(&run, "events", 1, source).await;
    let hung = json!({"event": "evidence_summary", "sentence": "in a lock"});
    wire.report(&run, "events", 2, hung).await;
    let trace = json!({"state": "stored", "tracer": "sample", "hz": 99,
        "profiles": 1, "samples": 500, "cpu_seconds": 5.0,
        "samples_over_cpu": 1.01, "kernel": true, "new": "field",
        "warnings": vec!["\u{1b}[2J".repeat(400); 100]});
    end_with(&mut wire, &run, json!({"events": 2}), trace).await;
    let shown = &wire.status(&id).await["runs"][0];
    assert_eq!(shown["parents"].as_array().unwrap().len(), 16);
    assert_eq!(shown["notes"], json!(["evidence: in a lock"]));
    assert_eq!(shown["trace"]["samples"], 500);
    assert_eq!(shown["trace"]["tracer"], "sample");
    let warnings = shown["trace"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 16);
    assert!(!warnings[0].as_str().unwrap().contains('\u{1b}'));
    dispatcher.end().await;
}

#[tokio::test]
async fn a_trace_that_is_not_there_says_why_after_a_restart_too() {
    let (_temp, dispatcher, mut wire) = start().await;
    let id = wire.push().await;
    let run = wire.next().await;
    let failed = json!({"state": "failed", "tracer": "from the future"});
    end_with(&mut wire, &run, json!({}), failed).await;
    drop(wire);
    let dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    let shown = &wire.status(&id).await["runs"][0]["trace"];
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["tracer"], "other");
    assert_eq!(shown["why"], "the runner did not say why");
    drop(wire);
    dispatcher.end().await;
}

const STACKS: &[(&str, u64)] =
    &[("work;hot", 70), ("work;warm", 20), ("work;<script>alert(1)", 10)];

#[tokio::test]
async fn a_flame_graph_comes_in_pieces_and_is_the_same_each_time() {
    let (_temp, dispatcher, mut wire) = start().await;
    let run = traced(&mut wire, 'c', &[], STACKS).await;
    let (document, svg) =
        fetch(&mut wire, "flame", json!([run.job, {}]), 1000).await;
    let digest = sha2::Sha256::digest(&svg);
    let hash: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(document["sha256"], hash);
    assert_eq!(document["bytes"], svg.len());
    assert_eq!(document["mime"], "image/svg+xml");
    assert_eq!(document["of"]["samples"], 100);
    assert_eq!(document["of"]["cpu_seconds"], 1.0);
    assert_eq!(document["of"]["runs"][0]["run_id"], run.run);
    let svg = String::from_utf8(svg).unwrap();
    assert!(svg.contains("hot") && svg.contains("o/r"), "{svg}");
    assert!(!svg.contains("<script>alert"), "a name is text");
    // Named by the run and by the commit, after a restart too, it is the
    // same picture.
    drop(wire);
    let dispatcher = dispatcher.restart().await;
    let mut wire = dispatcher.connect().await;
    let by_commit = format!("o/r@{}", commit('c'));
    for named in [&run.run, &run.job[..8].to_owned(), &by_commit] {
        let again = wire.try_call("flame", json!([named])).await.unwrap();
        assert_eq!(again[0]["sha256"], hash, "{named}");
        assert_eq!(again[2], true);
    }
    let icicle = json!([run.job, {"icicle": true}]);
    let (document, _) = fetch(&mut wire, "flame", icicle, 1 << 20).await;
    assert_ne!(document["sha256"], hash);
    drop(wire);
    dispatcher.end().await;
}

#[tokio::test]
async fn every_format_holds_what_was_measured() {
    let (_temp, dispatcher, mut wire) = start().await;
    traced(&mut wire, 'a', &[], &[("work;hot", 50), ("work;gone", 9)]).await;
    let run = traced(&mut wire, 'c', &['a'], STACKS).await;
    let mut get = async |format: &str| {
        let args = json!([run.job, format, {}]);
        fetch(&mut wire, "export", args, 1 << 20).await
    };
    let (_, pprof) = get("pprof").await;
    let read = ntrace_profile::pprof::read(&pprof).unwrap();
    assert_eq!(read.total().samples, 100);
    let (document, folded) = get("folded").await;
    let folded = String::from_utf8(folded).unwrap();
    assert!(folded.contains("job;main;work;hot 70\n"), "{folded}");
    assert!(document["name"].as_str().unwrap().ends_with(".folded"));
    for format in ["speedscope", "firefox"] {
        let (_, bytes) = get(format).await;
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let text = value.to_string();
        assert!(text.contains("\"hot\"") && text.contains("o/r"), "{format}");
    }
    let (new, svg) = get("diff-svg").await;
    let why = new["base"]["why"].as_str().unwrap();
    assert!(why.contains("the parent commit aaaaaaaaaaaa"), "{why}");
    let (_, from_base) = get("diff-svg-base").await;
    let (svg, from_base) = (
        String::from_utf8(svg).unwrap(),
        String::from_utf8(from_base).unwrap(),
    );
    assert!(svg.contains("warm") && from_base.contains("gone"));
    dispatcher.end().await;
}

#[tokio::test]
async fn repetitions_are_summed_unless_one_is_picked() {
    let (_temp, dispatcher, mut wire) = start().await;
    let profiles = vec![profile(&[("a", 5)]), profile(&[("b", 7)])];
    let made = Traced { commit: 'c', parents: &[], command: None, profiles };
    let run = made.run(&mut wire).await;
    let mut folded = async |options: Value| {
        let args = json!([run.job, "folded", options]);
        let (document, bytes) = fetch(&mut wire, "export", args, 999).await;
        (document["of"]["profiles"].clone(), String::from_utf8(bytes).unwrap())
    };
    let (profiles, text) = folded(json!({})).await;
    assert_eq!(profiles, 2);
    assert!(text.contains("main;a 5") && text.contains("main;b 7"), "{text}");
    let (profiles, text) = folded(json!({"repetition": 2})).await;
    assert_eq!(profiles, 1);
    assert_eq!(text, "job;main;b 7\n");
    let none = json!([run.job, "folded", {"repetition": 3}]);
    assert_eq!(wire.refused("export", none).await, "ENOENT repetition");
    dispatcher.end().await;
}

/// The arguments of a difference to whatever comes before.
fn against(job: &str) -> Value {
    json!([job, "diff-svg", {}])
}

#[tokio::test]
async fn a_base_is_the_parents_last_run_then_an_earlier_one_and_says_so() {
    let (_temp, dispatcher, mut wire) = start().await;
    let stacks = &[("f", 100)];
    let first = traced(&mut wire, 'a', &[], stacks).await;
    assert_eq!(
        wire.refused("export", against(&first.job)).await,
        "ENOENT base",
        "nothing comes before"
    );
    let second = traced(&mut wire, 'b', &['a'], stacks).await;
    // Its parent was never run.
    let third = traced(&mut wire, 'd', &['c'], stacks).await;
    let newer = traced(&mut wire, 'a', &[], stacks).await;
    let mut with = against(&third.job);
    with[2] = json!({"base": second.run});
    let asked = wire.call("export", with).await["base"].take();
    assert_eq!(asked["runs"][0]["run_id"], second.run);
    for (new, base, said) in [
        (&second, &newer, "last done run of the parent commit aaaaaaaaaaaa"),
        (&third, &second, "no done run of the parent commit cccccccccccc"),
        (&newer, &third, "no parent commit is known"),
    ] {
        let diff = wire.call("export", against(&new.job)).await;
        assert_eq!(diff["base"]["runs"][0]["job"], base.job, "{diff}");
        let why = diff["base"]["why"].as_str().unwrap();
        assert!(why.contains(said), "{why}");
    }
    // What ran another command is no base, and a removed one neither.
    let command = Some("make other");
    let profiles = vec![profile(stacks)];
    let other = Traced { commit: 'a', parents: &[], command, profiles };
    other.run(&mut wire).await;
    let diff = wire.call("export", against(&second.job)).await;
    assert_eq!(diff["base"]["runs"][0]["job"], newer.job);
    wire.call("remove", json!([newer.job])).await;
    let diff = wire.call("export", against(&second.job)).await;
    assert_eq!(diff["base"]["runs"][0]["job"], first.job);
    dispatcher.end().await;
}

#[tokio::test]
async fn a_planted_change_is_named_by_its_function() {
    let (_temp, dispatcher, mut wire) = start().await;
    // Eight runs each, a little unlike each other as runs are.
    let many = |hot: u64| -> Vec<Vec<u8>> {
        let one = |n: u64| {
            profile(&[
                ("work;hot", hot + n * 7 % 11),
                ("work;same", 1500 + n * 5 % 13),
                ("other", 900 + n * 3 % 7),
            ])
        };
        (0..8).map(one).collect()
    };
    let of = |commit, profiles| Traced {
        commit,
        parents: &['a'],
        command: None,
        profiles,
    };
    of('a', many(1000)).run(&mut wire).await;
    let same = of('b', many(1000)).run(&mut wire).await;
    let slow = of('c', many(1160)).run(&mut wire).await;
    let diff = wire.call("diff", json!([slow.job, null, {"top": 2}])).await;
    let row = &diff["rows"][0];
    assert_eq!(row["name"], "hot", "{diff}");
    assert_eq!(row["self"]["level"], "changed", "{diff}");
    let by = row["self"]["new"].as_f64().unwrap()
        - row["self"]["base"].as_f64().unwrap();
    assert!((by - 1.6).abs() < 1e-6, "seconds of one run, not of all: {by}");
    assert_eq!(diff["rows"].as_array().unwrap().len(), 2);
    assert!(diff["left_out"].as_u64().unwrap() > 0);
    let diff = wire.call("diff", json!([same.job])).await;
    for row in diff["rows"].as_array().unwrap() {
        assert_eq!(row["self"]["level"], "none", "{diff}");
    }
    assert_eq!(diff["total"]["level"], "none", "{diff}");
    // The runs of a commit are taken together.
    let (a, c) = (commit('a'), commit('c'));
    of('c', many(1160)).run(&mut wire).await;
    let args = json!([format!("o/r@{c}"), format!("o/r@{a}")]);
    let diff = wire.call("diff", args).await;
    assert_eq!(diff["new"]["profiles"], 16);
    assert_eq!(diff["new"]["runs"].as_array().unwrap().len(), 2);
    dispatcher.end().await;
}

/// Gzip of what compresses well.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let best = flate2::Compression::best();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), best);
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn a_hostile_profile_is_refused_by_name_and_harms_nobody() {
    let (_temp, dispatcher, mut wire) = start().await;
    let good = profile(STACKS);
    // One string of 1 GiB, in a few bytes.
    let mut bomb = vec![0x32, 0x80, 0x80, 0x80, 0x80, 0x04];
    bomb.resize(4 << 20, 0);
    let bomb = gzip(&bomb);
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    // A sample whose location, and a location whose function, is not there.
    let bad_index = gzip(&[0x12, 2, 0x08, 99, 0x32, 0]);
    for bytes in [
        bomb,
        damaged,
        good[..good.len() - 9].to_vec(),
        bad_index,
        b"<svg onload='alert(1)'/>".to_vec(),
        gzip(b"\xff\xff\xff\xff\xff"),
    ] {
        let profiles = vec![bytes];
        let made =
            Traced { commit: 'c', parents: &[], command: None, profiles };
        let run = made.run(&mut wire).await;
        for (name, args) in [
            ("flame", json!([run.job])),
            ("export", json!([run.job, "pprof"])),
            ("diff", json!([run.job, run.run])),
        ] {
            let error = wire.try_call(name, args).await.unwrap_err();
            assert_eq!(error.code.as_str(), "EINVAL", "{error}");
            assert!(
                error.message.starts_with("trace/cpu.pb.gz of run"),
                "{error}"
            );
        }
        wire.call("ping", json!([1])).await;
    }
    dispatcher.end().await;
}

#[tokio::test]
async fn without_a_profile_the_reason_is_the_answer() {
    let (_temp, dispatcher, mut wire) = start().await;
    let id = wire.push().await;
    let queued = wire.try_call("flame", json!([id])).await.unwrap_err();
    assert_eq!(queued.code.as_str(), "EBUSY", "{queued}");
    let run = wire.next().await;
    let failed = json!({"state": "failed", "why": "perf was \u{1b} refused"});
    end_with(&mut wire, &run, json!({}), failed).await;
    for named in [&run.job, &run.run] {
        let error = wire.try_call("flame", json!([named])).await.unwrap_err();
        assert_eq!(error.code.as_str(), "ENOENT");
        assert_eq!(error.field.as_deref(), Some("trace"));
        let said = "has no profile: perf was \\x1b refused";
        assert!(error.message.contains(said), "{error}");
    }
    // A job's own file of such a name in another place is no profile.
    wire.push().await;
    let run = wire.next().await;
    put(&mut wire, &run, "x/trace/cpu.pb.gz", &profile(STACKS)).await;
    wire.call("result", json!([run.end("done", json!({}))])).await;
    let refused = wire.refused("flame", json!([run.job])).await;
    assert_eq!(refused, "ENOENT trace");
    // Without a commit there is nothing before it, but it has a picture.
    wire.call("submit", json!([{"argv": ["x"]}])).await;
    let run = wire.next().await;
    put(&mut wire, &run, "trace/cpu.pb.gz", &profile(STACKS)).await;
    wire.call("result", json!([run.end("done", json!({}))])).await;
    assert_eq!(wire.refused("export", against(&run.job)).await, "ENOENT base");
    fetch(&mut wire, "flame", json!([run.job, {}]), 1 << 20).await;
    dispatcher.end().await;
}

#[tokio::test]
async fn an_empty_profile_has_a_picture_that_says_why() {
    let (_temp, dispatcher, mut wire) = start().await;
    let run = traced(&mut wire, 'c', &[], &[]).await;
    let (document, svg) =
        fetch(&mut wire, "flame", json!([run.job, {}]), 1 << 20).await;
    let warning = document["warnings"][0].as_str().unwrap();
    assert!(warning.contains("there is no sample"), "{warning}");
    assert!(!svg.is_empty());
    dispatcher.end().await;
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    let (_temp, dispatcher, mut wire) = start().await;
    let run = traced(&mut wire, 'c', &[], STACKS).await;
    let id = run.job;
    let nobody = "0192d3a4-5b6c-7d8e-9f00-112233445566";
    let unknown = format!("o/r@{}", commit('9'));
    for (name, args, refused) in [
        ("flame", json!([]), "EINVAL trace"),
        ("flame", json!([5]), "EINVAL trace"),
        ("flame", json!(["short"]), "EINVAL trace"),
        ("flame", json!(["o/r@HEAD"]), "EINVAL trace"),
        ("flame", json!(["-/../x@y"]), "EINVAL trace"),
        ("flame", json!([nobody]), "ENOENT trace"),
        ("flame", json!(["ffffffff"]), "ENOENT trace"),
        ("flame", json!([unknown]), "ENOENT trace"),
        ("flame", json!([id, 5]), "EINVAL options"),
        ("flame", json!([id, {"color": 1}]), "EINVAL options"),
        ("flame", json!([id, {"icicle": 1}]), "EINVAL icicle"),
        ("flame", json!([id, {"order": "best"}]), "EINVAL order"),
        ("flame", json!([id, {"repetition": 0}]), "EINVAL repetition"),
        ("flame", json!([id, {"repetition": 51}]), "EINVAL repetition"),
        ("flame", json!([id, {"offset": -1}]), "EINVAL offset"),
        ("flame", json!([id, {"length": "x"}]), "EINVAL length"),
        ("flame", json!([id, {}, 1]), "EINVAL argument 3"),
        ("export", json!([id]), "EINVAL format"),
        ("export", json!([id, "png"]), "EINVAL format"),
        ("export", json!([id, "svg", {"base": id}]), "EINVAL base"),
        ("diff", json!([id, "x"]), "EINVAL base"),
        ("diff", json!([id, nobody]), "ENOENT base"),
        ("diff", json!([id, id, {"top": 0}]), "EINVAL top"),
        ("diff", json!([id, id, {"top": 501}]), "EINVAL top"),
        ("diff", json!([id, id, {"top": 1.5}]), "EINVAL top"),
        ("diff", json!([id, id, {"limit": 1}]), "EINVAL options"),
        ("export", json!([id, "diff-svg", {"base": 5}]), "EINVAL base"),
        ("export", json!([id, "diff-svg", {"base": nobody}]), "ENOENT base"),
    ] {
        let shown = args.to_string();
        assert_eq!(wire.refused(name, args).await, refused, "{name} {shown}");
    }
    let behind = json!([id, {"offset": 1_000_000_000, "length": 9}]);
    let behind = wire.try_call("flame", behind).await.unwrap();
    assert_eq!(behind[1..], [json!(""), json!(true)]);
    dispatcher.end().await;
}

#[tokio::test]
async fn pieces_fit_the_shortest_line() {
    let temp = tempfile::tempdir().unwrap();
    let dispatcher = Dispatcher::start(&temp, &["--max-line", "4KiB"]).await;
    let mut wire = dispatcher.connect().await;
    let run = traced(&mut wire, 'c', &[], STACKS).await;
    let args = json!([run.job, {}]);
    let (document, svg) = fetch(&mut wire, "flame", args, u64::MAX).await;
    assert_eq!(document["bytes"], svg.len());
    dispatcher.end().await;
}

#[tokio::test]
async fn a_removed_job_leaves_no_trace() {
    let (_temp, dispatcher, mut wire) = start().await;
    let run = traced(&mut wire, 'c', &[], STACKS).await;
    fetch(&mut wire, "flame", json!([run.job, {}]), 1 << 20).await;
    wire.call("remove", json!([run.job])).await;
    for named in [&run.job, &run.run] {
        let refused = wire.refused("flame", json!([named])).await;
        assert_eq!(refused, "ENOENT trace");
    }
    let by_commit = json!([format!("o/r@{}", commit('c'))]);
    assert_eq!(wire.refused("flame", by_commit).await, "ENOENT trace");
    let artefacts = dispatcher.data().join("artefacts");
    assert_eq!(files(&artefacts), 0);
    dispatcher.end().await;
}

/// How many files are below a directory.
fn files(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let count = |entry: std::fs::DirEntry| {
        let path = entry.path();
        if path.is_dir() { files(&path) } else { 1 }
    };
    entries.map(count).sum()
}
