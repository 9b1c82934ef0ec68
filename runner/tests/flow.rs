//! Much output through little memory and disk. A file of its own, since it
//! looks at its process's memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use bytes::Bytes;
use fake::{DEADLINE, Fake, done, uplink_to, worker};
use ntrace_protocol::Stream;
use ntrace_spool::Options;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

const CHUNK: usize = 64 << 10;
const SPOOL: Options = Options { segment_bytes: 1 << 20, bound: 16 << 20 };

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_and_fifty_six_mebibytes_need_little_memory_and_disk() {
    let fake = Fake::start(5000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink_to(fake.addr.to_string(), dir.path(), SPOOL);
    let held = fake.queue();
    let job = timeout(DEADLINE, uplink.next(worker(1))).await.unwrap();
    // No newline in it, and no two chunks alike.
    let mut hash = Sha256::new();
    let mut most_disk = 0;
    for n in 0..(256 << 20) / CHUNK {
        let mut chunk = vec![b'a' + u8::try_from(n % 26).unwrap(); CHUNK];
        chunk[..8].copy_from_slice(format!("{n:08}").as_bytes());
        hash.update(&chunk);
        let chunk = Bytes::from(chunk);
        job.out.output(Stream::Stdout, chunk).await.unwrap();
        most_disk = most_disk.max(uplink.unacked_bytes());
    }
    job.out.end(done()).await;
    fake.ended(held.run_id).await;
    timeout(DEADLINE, uplink.settled()).await.unwrap();
    {
        let state = fake.state();
        let kept = &state.runs[&held.run_id].streams[&Stream::Stdout];
        assert_eq!(kept.length, 256 << 20);
        assert_eq!(kept.hash.clone().finalize(), hash.finalize());
        assert_eq!((state.gaps, state.early_ends), (0, 0));
    }
    let peak = peak_memory();
    eprintln!("peak memory {} MiB, disk {} MiB", peak >> 20, most_disk >> 20);
    // The dispatcher of this test keeps 32 MiB of it.
    assert!(peak < 200 << 20, "{peak}");
    assert!(most_disk <= SPOOL.bound + (1 << 20), "{most_disk}");
    uplink.shut_down().await;
}
