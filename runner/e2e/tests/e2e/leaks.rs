//! Nothing is left behind, however many runs there were and however they
//! ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ntrace_client::StopOptions;
use ntrace_e2e::{Setup, Stage, is_full, leftovers, until};
use ntrace_protocol::{JobState, Reason};
use serde_json::{Value, json};

/// How much dispatcher and runner may grow over all runs.
const GROWTH: u64 = 32 << 20;

/// Descriptors that may come late: readers of a pool, made when needed. One
/// that leaked with each run would be far more.
const SPARE: usize = 8;

/// What a stage has at rest.
#[derive(Debug, PartialEq)]
struct Rest {
    processes: usize,
    mounts: usize,
    cgroups: usize,
    dispatcher_files: usize,
    runner_files: usize,
    /// Entries by directory of the zones' state.
    zones: BTreeMap<String, usize>,
    spool: usize,
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, |dir| dir.count())
}

fn at_rest(stage: &mut Stage) -> Rest {
    let mut zones = BTreeMap::new();
    for name in ["layers", "trash", "images", "native"] {
        let count = entries(&stage.zones.root.join(name));
        zones.insert(name.to_owned(), count);
    }
    for uuid in &stage.workers {
        let mut names: Vec<_> = fs::read_dir(stage.zones.dir(uuid))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // Generations count up; how many there are is what matters.
        for name in &mut names {
            name.truncate(
                name.find(|c: char| c.is_ascii_digit()).unwrap_or(99),
            );
        }
        zones.insert(uuid.clone(), names.len());
    }
    Rest {
        processes: leftovers::processes_of(stage.path()).len(),
        mounts: leftovers::mounts_of(stage.path()).len(),
        cgroups: leftovers::cgroups_of(&stage.workers).len(),
        dispatcher_files: stage.dispatcher().descriptors(),
        runner_files: stage.runner().descriptors(),
        zones,
        spool: entries(&stage.runner_data().join("spool")),
    }
}

/// What a stage has once nothing changes any more.
async fn settled(stage: &mut Stage) -> Rest {
    let mut last = at_rest(stage);
    let mut same = 0;
    until("nothing changes any more", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = at_rest(stage);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same >= 20).then_some(())
    })
    .await;
    last
}

/// One job of a kind; how it must end.
async fn one(stage: &Stage, n: usize) {
    let mess = "echo dirt >$HOME/dirt; (setsid sleep 83.25 &); ";
    let (script, options) = match n % 6 {
        0 => ("sleep 83.5", json!({"limits": {"time": "200ms"}})),
        1 => ("sleep 83.5", Value::Null),
        2 => ("exit 3", Value::Null),
        3 => ("head -c 200000 /dev/urandom", Value::Null),
        _ => ("echo done", Value::Null),
    };
    let script = format!("{mess}{script}");
    let job = stage.submit(&script, options).await;
    if n % 6 == 1 {
        stage.reaches(job, JobState::Running).await;
        let client = stage.client().await;
        let grace = StopOptions::within(Duration::from_millis(50));
        client.stop(&job.to_string(), grace).await.unwrap();
    }
    let view = stage.finished(job).await;
    let expected = match n % 6 {
        0 => Some(Reason::Timeout),
        1 => Some(Reason::Stopped),
        2 => Some(Reason::Exit),
        _ => None,
    };
    assert_eq!(view.reason, expected, "{view:?}");
    assert_eq!(view.runs.len(), 1, "{view:?}");
}

async fn runs(stage: &Stage, from: usize, to: usize) {
    // Four wait at once, so that queueing is part of it.
    for at in (from..to).step_by(4) {
        let batch = (at..to.min(at + 4)).map(|n| one(stage, n));
        futures::future::join_all(batch).await;
    }
    stage.all_available().await;
}

#[tokio::test]
async fn nothing_is_left_after_many_runs() {
    let count = if is_full() { 1000 } else { 60 };
    let mut stage = Stage::start(Setup::workers(2)).await;
    // The first runs make what stays: caches, pools, arenas.
    let warm = count / 5;
    runs(&stage, 0, warm).await;
    let before = settled(&mut stage).await;
    let memory = (stage.dispatcher().memory(), stage.runner().memory());
    runs(&stage, warm, count).await;
    // What is thrown away in the background is gone in a while.
    let found = settled(&mut stage).await;
    let more = |now: usize, then: usize| now > then + SPARE;
    assert!(
        !more(found.dispatcher_files, before.dispatcher_files),
        "{found:?}"
    );
    assert!(!more(found.runner_files, before.runner_files), "{found:?}");
    let like_before = Rest {
        dispatcher_files: before.dispatcher_files,
        runner_files: before.runner_files,
        ..found
    };
    assert_eq!(like_before, before);
    let now = (stage.dispatcher().memory(), stage.runner().memory());
    eprintln!("{count} runs: memory {memory:?} then {now:?}; {before:?}");
    assert!(now.0 < memory.0 + GROWTH, "dispatcher: {memory:?} {now:?}");
    assert!(now.1 < memory.1 + GROWTH, "runner: {memory:?} {now:?}");
    assert!(leftovers::with_word("sleep 83.25").is_empty());
    // And a removed job leaves no output.
    let client = stage.client().await;
    let all = client.list(&<_>::default()).await.unwrap().jobs;
    let job = all.last().unwrap().id.to_string();
    let size = |stage: &Stage| files_below(&stage.dispatcher_data());
    let files = size(&stage);
    client.remove(&job).await.unwrap();
    until("its files are gone", async || (size(&stage) < files).then_some(()))
        .await;
}

fn files_below(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}
