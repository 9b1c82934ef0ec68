//! Durable pushes a second, against what the disk can do in the same run.
//!
//! Prints ratios, since the disk of one machine says nothing about another:
//! pushes for each sync of a probe that only writes 4 KiB and syncs, and
//! acknowledgements for each commit. `cargo bench -p ntrace-store`.
#![expect(clippy::unwrap_used, reason = "a measurement ends at what is wrong")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt as _};
use ntrace_protocol::{JobId, JobSpec, Source, Timestamp};
use ntrace_store::{Caps, NewJob, Store};

/// How long each measurement takes.
const SPAN: Duration = Duration::from_secs(2);

fn main() {
    let temp = tempfile::tempdir_in(place()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let data = temp.path().join("data");
        let (store, _) = Store::open(&data, Caps::default()).await.unwrap();
        for (clients, depth) in [(1, 1), (64, 1), (64, 16)] {
            let probe = probe(temp.path());
            measure(&store, clients, depth, probe).await;
        }
    });
}

/// A directory on a real disk: `/tmp` may be memory.
fn place() -> std::path::PathBuf {
    std::env::var_os("NTRACE_BENCH_DIR")
        .map_or_else(std::env::temp_dir, Into::into)
}

/// Syncs a second of a file that is there already.
fn probe(dir: &Path) -> f64 {
    let file = File::create(dir.join("probe")).unwrap();
    let block = [7; 4096];
    for at in 0..256 {
        file.write_all_at(&block, at * 4096).unwrap();
    }
    file.sync_all().unwrap();
    let began = Instant::now();
    let mut syncs = 0;
    while began.elapsed() < SPAN / 2 {
        file.write_all_at(&block, (syncs % 256) * 4096).unwrap();
        file.sync_data().unwrap();
        syncs += 1;
    }
    syncs as f64 / began.elapsed().as_secs_f64()
}

async fn measure(store: &Store, clients: usize, depth: usize, probe: f64) {
    let counts = store.counts();
    let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let before = (read(&counts.operations), read(&counts.commits));
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| tokio::spawn(client(store.clone(), depth, began)))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let elapsed = began.elapsed().as_secs_f64();
    let operations = read(&counts.operations) - before.0;
    let commits = read(&counts.commits) - before.1;
    times.sort_unstable();
    let percentile =
        |p: usize| times[(times.len() - 1) * p / 100].as_secs_f64() * 1e3;
    let rate = operations as f64 / elapsed;
    println!(
        "{clients:>3} x {depth:<2} {rate:>9.0} pushes/s = {:>6.2} x probe \
         ({probe:.0} syncs/s), {:>6.1} acks a commit, p50 {:.2} ms, \
         p99 {:.2} ms",
        rate / probe,
        operations as f64 / commits as f64,
        percentile(50),
        percentile(99),
    );
}

/// Keeps so many pushes under way until the time is over.
async fn client(store: Store, depth: usize, began: Instant) -> Vec<Duration> {
    let push = || {
        let store = store.clone();
        async move {
            let asked = Instant::now();
            store.push(job()).await.unwrap();
            asked.elapsed()
        }
    };
    let mut open: FuturesUnordered<_> = (0..depth).map(|_| push()).collect();
    let mut times = Vec::new();
    while let Some(time) = open.next().await {
        times.push(time);
        if began.elapsed() < SPAN {
            open.push(push());
        }
    }
    times
}

fn job() -> NewJob {
    let random = uuid::Uuid::new_v4().as_u128();
    let now = Timestamp::from_system(std::time::SystemTime::now());
    NewJob {
        id: JobId::generate(now.0, random),
        is_own_id: false,
        spec: JobSpec {
            source: Some(Source {
                owner: "owner".parse().unwrap(),
                repo: "repo".parse().unwrap(),
                commit: "0f16cfe0d6a3b8e87229c91bee901fad5dae9878"
                    .parse()
                    .unwrap(),
            }),
            ..JobSpec::default()
        },
        submitted: now,
        max_queue: u64::MAX,
    }
}
