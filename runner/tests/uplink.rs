//! The promises of the uplink, against a dispatcher that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::time::Duration;

use bytes::Bytes;
use fake::{
    DEADLINE, Fake, Faults, SPOOL, done, files, uplink, uplink_to, uplink_with,
    worker,
};
use ntrace_protocol::report::{Event, Outcome};
use ntrace_protocol::{JobId, Lease, Reason, Stream, Timestamp};
use ntrace_runner::uplink::{Job, StopWhy, Uplink, Waits};
use ntrace_runner::workers::Workers;
use ntrace_spool::{RunMeta, Spool};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

async fn next(uplink: &Uplink, n: u8) -> Job {
    timeout(DEADLINE, uplink.next(worker(n))).await.expect("a job")
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![];
    while bytes.len() < length {
        match rng.u8(0..4) {
            0 => bytes.extend((0..rng.usize(0..5000)).map(|_| rng.u8(..))),
            1 => bytes.extend("gr\u{fc}\u{df}e \u{1f600}\n".repeat(50).bytes()),
            2 => bytes.extend([b'x'; 9000]),
            _ => bytes.push(b'\n'),
        }
    }
    bytes
}

/// Writes a run's noise in odd chunks and ends it.
async fn babble(job: Job, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let (out, err) = (noise(seed, 700_000), noise(seed + 1000, 90_000));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut rest = [&out[..], &err[..]];
    while rest.iter().any(|r| !r.is_empty()) {
        let at = usize::from(rng.bool());
        let size = rng.usize(1..20_000).min(rest[at].len());
        let (chunk, more) = rest[at].split_at(size);
        rest[at] = more;
        let stream = [Stream::Stdout, Stream::Stderr][at];
        let bytes = Bytes::copy_from_slice(chunk);
        job.out.output(stream, bytes).await.unwrap();
    }
    job.out.event(Event::Note { text: "all said".into() }).await;
    job.out.end(done()).await;
    (out, err)
}

async fn settled(uplink: &Uplink) {
    timeout(DEADLINE, uplink.settled()).await.expect("all acknowledged");
}

async fn bytes_arrive_in_spite_of(faults: Faults, answer: Duration) -> u64 {
    let fake = Fake::start(20_000).await;
    fake.state().faults = faults;
    let dir = tempfile::tempdir().unwrap();
    let waits = Waits { answer, ..fake::waits() };
    let addr = fake.addr.to_string();
    let uplink = uplink_with(waits, addr, dir.path(), SPOOL);
    let mut runs = vec![];
    for n in 0..3 {
        let held = fake.queue();
        let job = next(&uplink, n).await;
        assert_eq!(job.assignment.held(), held);
        runs.push((held, tokio::spawn(babble(job, u64::from(n)))));
    }
    for (held, babbling) in runs {
        let (out, err) = babbling.await.unwrap();
        let end = fake.ended(held.run_id).await;
        assert_eq!(end.outcome, Outcome::Done);
        assert!(fake.output(held.run_id, Stream::Stdout) == out);
        assert!(fake.output(held.run_id, Stream::Stderr) == err);
    }
    settled(&uplink).await;
    assert_eq!((files(dir.path()), uplink.unacked_bytes()), (0, 0));
    uplink.shut_down().await;
    let state = fake.state();
    assert_eq!((state.gaps, state.early_ends), (0, 0));
    state.repeats
}

#[tokio::test]
async fn bytes_arrive_as_they_were_written() {
    let repeats = bytes_arrive_in_spite_of(Faults::default(), DEADLINE).await;
    assert_eq!(repeats, 0, "nothing is sent twice without a reason");
}

#[tokio::test]
async fn bytes_arrive_in_spite_of_lost_answers() {
    let faults = Faults { lose_answer: 4, ..Faults::default() };
    let soon = Duration::from_millis(500);
    assert!(bytes_arrive_in_spite_of(faults, soon).await > 0);
}

#[tokio::test]
async fn bytes_arrive_in_spite_of_dropped_connections() {
    let faults = Faults { drop_after: 5, drop_before: 7, ..Faults::default() };
    assert!(bytes_arrive_in_spite_of(faults, DEADLINE).await > 0);
}

#[tokio::test]
async fn live_output_does_not_wait_for_more() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let held = fake.queue();
    let job = next(&uplink, 1).await;
    for n in 1..=20_u64 {
        let line = Bytes::from_static(b"line\n");
        job.out.output(Stream::Stdout, line).await.unwrap();
        // Only what is written can wake the shipping: no further output
        // comes before this has arrived.
        let seq = |s: &mut fake::State| {
            let run = s.runs.get(&held.run_id);
            run.and_then(|r| Some(r.streams.get(&Stream::Stdout)?.seq))
        };
        fake.until(|s| seq(s) == Some(n)).await;
    }
    job.out.end(done()).await;
    settled(&uplink).await;
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_fenced_run_is_told_and_its_spool_deleted() {
    let fake = Fake::start(30_000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let held = fake.queue();
    let mut job = next(&uplink, 1).await;
    fake.state().fenced.insert(held.run_id);
    let line = Bytes::from_static(b"too late");
    job.out.output(Stream::Stdout, line.clone()).await.unwrap();
    let stopped = timeout(DEADLINE, job.stop.stopped()).await.unwrap();
    assert_eq!(stopped.why, StopWhy::Dropped);
    settled(&uplink).await;
    assert_eq!(files(dir.path()), 0);
    // What it still says goes nowhere, and hurts nobody.
    job.out.output(Stream::Stdout, line).await.unwrap();
    job.out.end(done()).await;
    assert!(uplink.held().is_empty());
    uplink.shut_down().await;
}

#[tokio::test]
async fn beats_name_all_held_runs_and_heed_the_answer() {
    let fake = Fake::start(20).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let mut jobs = vec![];
    for n in 0..2 {
        fake.queue();
        jobs.push(next(&uplink, n).await);
    }
    let mut held: Vec<_> = jobs.iter().map(|j| j.assignment.held()).collect();
    held.sort_by_key(|held| held.run_id);
    fake.until(|s| s.beats.last() == Some(&held)).await;
    fake.state().fenced.insert(held[0].run_id);
    fake.until(|s| s.beats.last() == Some(&vec![held[1]])).await;
    for job in &mut jobs {
        let is_fenced = job.assignment.run_id == held[0].run_id;
        assert_eq!(job.stop.get().is_some(), is_fenced);
    }
    uplink.shut_down().await;
}

#[tokio::test]
async fn changed_workers_are_told_on_the_same_connection() {
    let fake = Fake::start(20_000).await;
    let dir = tempfile::tempdir().unwrap();
    let list = fake::List::new();
    let uplink = fake::uplink_of(&fake, dir.path(), list.clone());
    fake.until(|s| s.hellos.len() == 1).await;
    for n in 1..6 {
        list.enroll(worker(n), None, vec![]).await.unwrap();
    }
    let told = |s: &mut fake::State| s.hellos.last().unwrap().workers.len();
    fake.until(|s| told(s) == 5).await;
    let (peers, hellos) = {
        let state = fake.state();
        (state.peers.len(), state.hellos.len())
    };
    assert_eq!(peers, 1);
    assert!(hellos <= 3, "told once or twice, not five times: {hellos}");
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_stop_reaches_its_run_with_the_grace() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    fake.queue();
    let mut job = next(&uplink, 1).await;
    let peer = fake.state().peers.last().unwrap().clone();
    let args = [json!(job.assignment.run_id), json!(1234)];
    peer.call("stop", &args, DEADLINE).await.unwrap();
    let stop = timeout(DEADLINE, job.stop.stopped()).await.unwrap();
    assert_eq!(stop.grace, Duration::from_millis(1234));
    assert_eq!((stop.why, stop.evidence), (StopWhy::Asked, false));
    // Asked again, now with evidence, by a dispatcher that is newer still.
    let options = json!({"evidence": true, "later": 1});
    let args = [args[0].clone(), json!(5), options];
    peer.call("stop", &args, DEADLINE).await.unwrap();
    let stop = timeout(DEADLINE, job.stop.changed()).await.unwrap();
    assert_eq!((stop.grace.as_millis(), stop.evidence), (5, true));
    for (args, code) in [
        (vec![json!(fake::new_run())], "ENOENT"),
        (vec![json!("x")], "EINVAL"),
        (vec![args[0].clone(), json!("soon")], "EINVAL"),
        (vec![args[0].clone(), json!(1), json!(true)], "EINVAL"),
        (vec![args[0].clone(), json!(1), json!({"evidence": 1})], "EINVAL"),
    ] {
        let error = peer.call("stop", &args, DEADLINE).await.unwrap_err();
        assert_eq!(error.wire().unwrap().code.as_str(), code);
    }
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_former_life_is_announced_and_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let meta = |n| RunMeta {
        job: JobId::from_bytes([n; 16]),
        run_id: fake::new_run(),
        lease: Lease(u64::from(n)),
    };
    let (whole, cut) = (meta(1), meta(2));
    let spool = Spool::open(dir.path(), SPOOL).unwrap().spool;
    for meta in [whole, cut] {
        let run = spool.begin(meta).unwrap();
        run.append(Stream::Stdout, Timestamp(5), b"before").unwrap();
        if meta == whole {
            run.end(Timestamp(6), done()).unwrap();
        }
    }
    drop(spool);
    let fake = Fake::start(1000).await;
    let uplink = uplink(&fake, dir.path());
    assert_eq!(fake.ended(whole.run_id).await.outcome, Outcome::Done);
    let end = fake.ended(cut.run_id).await;
    assert_eq!(end.outcome, Outcome::Lost);
    assert_eq!(end.reason, Some(Reason::RunnerLost));
    for meta in [whole, cut] {
        assert_eq!(fake.output(meta.run_id, Stream::Stdout), b"before");
        assert!(fake.state().hellos[0].runs.contains(&meta.held()));
    }
    settled(&uplink).await;
    assert_eq!(files(dir.path()), 0);
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_former_life_that_was_fenced_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(1000).await;
    let run_id = fake::new_run();
    let job = JobId::from_bytes([1; 16]);
    let meta = RunMeta { job, run_id, lease: Lease(1) };
    let spool = Spool::open(dir.path(), SPOOL).unwrap().spool;
    drop(spool.begin(meta).unwrap());
    fake.state().fenced.insert(run_id);
    let uplink = uplink(&fake, dir.path());
    settled(&uplink).await;
    assert_eq!(files(dir.path()), 0);
    assert!(fake.state().runs.is_empty());
    uplink.shut_down().await;
}

#[tokio::test]
async fn work_is_waited_for_through_reconnects() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let waiting = tokio::spawn({
        let uplink = uplink.clone();
        async move { uplink.next(worker(1)).await }
    });
    fake.until(|s| s.waiting > 0).await;
    for hellos in 1..4 {
        fake.drop_connections();
        fake.until(|s| s.hellos.len() > hellos).await;
    }
    // The old connections' waiting calls must be gone, or they take it.
    fake.until(|s| s.waiting == 1).await;
    let held = fake.queue();
    let job = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!(job.assignment.held(), held);
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_job_that_nobody_waits_for_any_more_is_given_back() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let waiting = tokio::spawn({
        let uplink = uplink.clone();
        async move { uplink.next(worker(1)).await }
    });
    fake.until(|s| s.waiting == 1).await;
    waiting.abort();
    assert!(waiting.await.is_err_and(|e| e.is_cancelled()));
    let held = fake.queue();
    let end = fake.ended(held.run_id).await;
    assert_eq!(end.outcome, Outcome::Lost);
    settled(&uplink).await;
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_wish_that_is_made_anew_finds_the_open_request() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    for _ in 0..5 {
        let short = uplink.next(worker(1));
        let none = timeout(Duration::from_millis(20), short).await;
        assert!(none.is_err());
        assert!(fake.state().waiting <= 1);
    }
    let held = fake.queue();
    let job = next(&uplink, 1).await;
    assert_eq!(job.assignment.held(), held);
    uplink.shut_down().await;
}

#[tokio::test]
async fn a_run_that_is_given_up_without_a_word_is_lost() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let held = fake.queue();
    drop(next(&uplink, 1).await);
    let end = fake.ended(held.run_id).await;
    assert_eq!(end.outcome, Outcome::Lost);
    settled(&uplink).await;
    uplink.shut_down().await;
}

#[tokio::test]
async fn an_artefact_arrives_whole_through_dropped_connections() {
    let fake = Fake::start(1000).await;
    fake.state().faults.drop_blob = 2;
    let dir = tempfile::tempdir().unwrap();
    let uplink = uplink(&fake, dir.path());
    let held = fake.queue();
    let job = next(&uplink, 1).await;
    let bytes = noise(5, 1_000_000);
    let sending = job.out.artefact("a/b.bin", &bytes[..]);
    let sent = timeout(DEADLINE, sending).await.unwrap().unwrap();
    assert_eq!(sent, bytes.len() as u64);
    {
        let state = fake.state();
        let (kept, sum) = &state.runs[&held.run_id].blobs["a/b.bin"];
        assert!(*kept == bytes);
        assert_eq!(sum.as_ref().unwrap().len(), 64);
    }
    uplink.shut_down().await;
}

/// Forwards bytes until it is told to hold still, keeping connections open.
async fn proxy(to: std::net::SocketAddr, still: CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut first = Some(still);
        loop {
            let (inward, _) = listener.accept().await.unwrap();
            let outward = TcpStream::connect(to).await.unwrap();
            // Only the first connection ever holds still.
            let still = first.take().unwrap_or_default();
            let (a, b) = inward.into_split();
            let (c, d) = outward.into_split();
            tokio::spawn(forward(a, d, still.clone()));
            tokio::spawn(forward(c, b, still));
        }
    });
    addr
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    still: CancellationToken,
) {
    let mut bytes = [0; 8192];
    loop {
        let n = tokio::select! {
            n = from.read(&mut bytes) => n.unwrap_or(0),
            () = still.cancelled() => {
                // Neither closed nor forwarded.
                std::future::pending().await
            }
        };
        if n == 0 || to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_link_that_is_half_dead_is_noticed_and_made_anew() {
    let fake = Fake::start(50).await;
    let dir = tempfile::tempdir().unwrap();
    let still = CancellationToken::new();
    let addr = proxy(fake.addr, still.clone()).await;
    let uplink = uplink_to(addr, dir.path(), SPOOL);
    let held = fake.queue();
    let job = next(&uplink, 1).await;
    still.cancel();
    let line = Bytes::from_static(b"into the void?");
    job.out.output(Stream::Stdout, line).await.unwrap();
    job.out.end(done()).await;
    fake.ended(held.run_id).await;
    let output = fake.output(held.run_id, Stream::Stdout);
    assert_eq!(output, b"into the void?");
    assert!(fake.state().hellos.len() > 1);
    uplink.shut_down().await;
}

#[tokio::test]
async fn without_a_dispatcher_output_waits_at_the_bound_and_then_goes_on() {
    let fake = Fake::start(1000).await;
    let dir = tempfile::tempdir().unwrap();
    let still = CancellationToken::new();
    let addr = proxy(fake.addr, still.clone()).await;
    let uplink = uplink_to(addr, dir.path(), SPOOL);
    let held = fake.queue();
    let job = next(&uplink, 1).await;
    still.cancel();
    let writing = tokio::spawn(async move {
        for _ in 0..1000 {
            let chunk = Bytes::from(vec![b'x'; 16 << 10]);
            job.out.output(Stream::Stdout, chunk).await.unwrap();
            // One chunk and a frame over the bound, never more.
        }
        job.out.end(done()).await;
    });
    let full = async {
        while uplink.unacked_bytes() < SPOOL.bound && !writing.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, full).await.unwrap();
    assert!(uplink.unacked_bytes() <= SPOOL.bound + (32 << 10));
    fake.ended(held.run_id).await;
    assert!(fake.output(held.run_id, Stream::Stdout) == vec![b'x'; 16_384_000]);
    writing.await.unwrap();
    uplink.shut_down().await;
}
