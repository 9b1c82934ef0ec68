//! Many at once: jobs, readers, bytes.

use std::collections::{BTreeMap, BTreeSet};

use ntrace_client::LogsOptions;
use ntrace_e2e::{Setup, Stage, is_full};
use ntrace_protocol::{JobId, JobState, JobView, Stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The most memory that dispatcher or runner may ever have.
const MEMORY: u64 = 200 << 20;

/// How many workers were busy at once at most.
fn busy_at_once(jobs: &[JobView]) -> usize {
    let mut edges = Vec::new();
    for run in jobs.iter().flat_map(|job| &job.runs) {
        let mut times: Vec<_> = run.times.values().collect();
        times.sort_unstable();
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            continue;
        };
        edges.push((first.0, 1));
        edges.push((last.0, -1));
    }
    // An end goes before a beginning in the same millisecond.
    edges.sort_unstable();
    let mut now = 0_i32;
    let most = edges.iter().map(|(_, step)| {
        now += step;
        now
    });
    usize::try_from(most.max().unwrap_or(0)).unwrap()
}

#[tokio::test]
async fn two_hundred_jobs_run_once_each_on_four_workers() {
    let mut stage = Stage::start(Setup::workers(4)).await;
    stage.all_available().await;
    let submits = (0..200).map(|n| {
        let script = format!("echo job {n}; sleep 0.1");
        let stage = &stage;
        async move { stage.submit(&script, Value::Null).await }
    });
    let ids: Vec<JobId> = futures::future::join_all(submits).await;
    let mut jobs = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let job = stage.finished(*id).await;
        assert_eq!(job.state, JobState::Done, "{job:?}");
        assert_eq!(job.runs.len(), 1, "it ran once: {job:?}");
        assert_eq!(stage.output(*id).await.text(), format!("job {n}\n"));
        jobs.push(job);
    }
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for job in &jobs {
        let worker = job.runs[0].worker.unwrap().to_string();
        *shares.entry(worker).or_default() += 1;
    }
    assert_eq!(shares.len(), 4, "each worker had its share: {shares:?}");
    assert_eq!(busy_at_once(&jobs), 4, "{shares:?}");
    let leases: BTreeSet<_> =
        jobs.iter().map(|job| job.runs[0].lease).collect();
    assert_eq!(leases.len(), 200, "each run has a lease of its own");
    assert!(stage.dispatcher().peak_memory() < MEMORY);
    assert!(stage.runner().peak_memory() < MEMORY);
}

#[tokio::test]
async fn fifty_readers_get_identical_bytes() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    let script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; \
                  head -c 5000 /dev/urandom; sleep 0.02; done; \
                  head -c 2000000 /dev/urandom; echo end";
    let job = stage.submit(script, Value::Null).await;
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..50_u64 {
        let client = stage.client().await;
        readers.spawn(async move {
            let follow = LogsOptions { follow: Some(true), ..<_>::default() };
            let mut logs = client.logs(job, &follow).unwrap();
            let mut output = Vec::new();
            while let Some(record) = logs.next().await {
                if record.stream == Stream::Stdout {
                    output.extend(record.data.as_bytes());
                }
                // Some read slowly.
                if n % 10 == 9 {
                    tokio::time::sleep(std::time::Duration::from_millis(3))
                        .await;
                }
            }
            let end = logs.end().unwrap();
            assert!(end.ended, "{end:?}");
            (output.len(), crate::sha256(&output))
        });
    }
    let read = readers.join_all().await;
    let different: BTreeSet<_> = read.iter().collect();
    assert_eq!(different.len(), 1, "{different:?}");
    let whole = stage.output(job).await.stdout;
    assert_eq!(whole.len(), read[0].0);
    assert_eq!(crate::sha256(&whole), read[0].1);
    assert!(whole.ends_with(b"end\n"));
    assert!(stage.dispatcher().peak_memory() < MEMORY);
}

/// Follows a job and hashes its standard output as it comes.
async fn hash_of(stage: &Stage, job: JobId) -> (u64, String, Vec<u8>) {
    let client = stage.client().await;
    let follow = LogsOptions { follow: Some(true), ..<_>::default() };
    let mut logs = client.logs(job, &follow).unwrap();
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut errors = Vec::new();
    while let Some(record) = logs.next().await {
        let bytes = record.data.as_bytes();
        match record.stream {
            Stream::Stdout => {
                hash.update(bytes);
                length += bytes.len() as u64;
            }
            Stream::Stderr => errors.extend(bytes),
            Stream::Events | Stream::Control => {}
        }
    }
    assert!(logs.end().unwrap().ended);
    let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    (length, hex, errors)
}

async fn arrives_intact(script: &str, bytes: u64) {
    let mut stage = Stage::start(
        Setup::workers(1).runner_args(&["--limit-output", "4GiB"]),
    )
    .await;
    let options = json!({"limits": {"output": "4GiB", "time": "30m"}});
    let job = stage.submit(script, options).await;
    let (length, hash, errors) = hash_of(&stage, job).await;
    let view = stage.finished(job).await;
    assert_eq!(view.state, JobState::Done, "{view:?}");
    assert_eq!(length, bytes);
    let sum = String::from_utf8(errors).unwrap();
    assert!(sum.starts_with(&hash), "{hash} was {sum}");
    // A second reader, after the end, gets the same.
    assert_eq!(hash_of(&stage, job).await.1, hash);
    let (dispatcher, runner) =
        (stage.dispatcher().peak_memory(), stage.runner().peak_memory());
    eprintln!(
        "{bytes} bytes: dispatcher {} MiB, runner {} MiB at most, {:?}",
        dispatcher >> 20,
        runner >> 20,
        view.runs[0].usage.as_ref().map(|usage| &usage.phases_ms),
    );
    assert!(dispatcher < MEMORY, "the dispatcher had {dispatcher} bytes");
    assert!(runner < MEMORY, "the runner had {runner} bytes");
}

#[tokio::test]
async fn a_line_without_end_arrives_intact_in_bounded_memory() {
    let bytes: u64 = if is_full() { 1 << 30 } else { 48 << 20 };
    let script = format!(
        "head -c {bytes} /dev/zero | tr '\\0' x; \
         head -c {bytes} /dev/zero | tr '\\0' x | sha256sum >&2"
    );
    arrives_intact(&script, bytes).await;
}

#[tokio::test]
async fn random_bytes_arrive_intact_in_bounded_memory() {
    let bytes: u64 = if is_full() { 64 << 20 } else { 16 << 20 };
    let script =
        format!("head -c {bytes} /dev/urandom > r; sha256sum r >&2; cat r");
    arrives_intact(&script, bytes).await;
}

#[tokio::test]
async fn many_small_writes_keep_their_order_on_each_stream() {
    let stage = Stage::start(Setup::workers(1)).await;
    let script = "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); \
                  echo o$i; echo e$i >&2; done";
    let (job, output) = stage.run(script, Value::Null).await;
    assert_eq!(job.state, JobState::Done);
    let lines = |letter: &str| -> String {
        (1..=5000).map(|i| format!("{letter}{i}\n")).collect()
    };
    assert_eq!(output.text(), lines("o"));
    assert_eq!(output.errors(), lines("e"));
    let numbers: Vec<_> = output.records.iter().map(|r| r.n).collect();
    let dense: Vec<_> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, dense);
}

#[tokio::test]
async fn higher_priority_goes_first_and_then_the_oldest() {
    let stage = Stage::start(Setup::workers(1)).await;
    let gate = "echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done";
    let gate = stage.submit(gate, Value::Null).await;
    stage.says(gate, "up").await;
    let mut ids = Vec::new();
    for priority in [0, 5, 0, -5, 5] {
        let options = json!({"priority": priority});
        ids.push(stage.submit("true", options).await);
    }
    stage.zones.zlogin(&stage.workers[0], &["/usr/bin/touch", "/tmp/go"]);
    let mut begun = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let job = stage.finished(*id).await;
        begun.push((job.runs[0].lease, n));
    }
    begun.sort_unstable();
    let order: Vec<_> = begun.iter().map(|(_, n)| *n).collect();
    assert_eq!(order, [1, 4, 0, 2, 3]);
}
