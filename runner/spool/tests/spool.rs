//! The promises of the spool, on real files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ntrace_protocol::report::{Acked, End, EndTag, Event, Outcome, Report};
use ntrace_protocol::{JobId, Lease, RunId, Stream, Timestamp};
use ntrace_spool::{
    Cursor, Options, RunMeta, RunSpool, Spool, SpoolError, weight,
};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const SMALL: Options = Options { segment_bytes: 1000, bound: 1 << 20 };

fn meta(n: u8) -> RunMeta {
    RunMeta {
        job: JobId::from_bytes([n; 16]),
        run_id: RunId::from_bytes([n; 16]),
        lease: Lease(u64::from(n)),
    }
}

fn open(dir: &Path) -> (Spool, Vec<ntrace_spool::Leftover>) {
    let opened = Spool::open(dir, SMALL).unwrap();
    assert!(opened.strange.is_empty(), "{:?}", opened.strange);
    (opened.spool, opened.leftovers)
}

fn end() -> End {
    End {
        event: EndTag::End,
        outcome: Outcome::Done,
        reason: None,
        sentence: None,
        exit: None,
        usage: None,
        trace: None,
        last: Acked::new(),
    }
}

fn note(text: &str) -> Event {
    Event::Note { text: text.into() }
}

fn all(run: &RunSpool) -> Vec<Report> {
    let mut cursor = Cursor::default();
    let mut reports = vec![];
    loop {
        let more = run.read(&mut cursor, 10_000).unwrap();
        if more.is_empty() {
            assert!(!run.has_more(cursor));
            return reports;
        }
        reports.extend(more);
    }
}

fn bytes(reports: &[Report], stream: Stream) -> Vec<u8> {
    let of = reports.iter().filter(|r| r.stream == stream);
    of.flat_map(|r| r.data.as_bytes().to_vec()).collect()
}

fn assert_dense(reports: &[Report]) {
    let mut next = BTreeMap::new();
    for report in reports {
        let n = next.entry(report.stream).or_insert(1);
        assert_eq!(report.seq, *n, "{report:?}");
        *n += 1;
    }
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn reports_come_out_in_order_of_arrival_and_the_end_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let run = spool.begin(meta(1)).unwrap();
    run.event(NOW, &note("begins")).unwrap();
    for n in 0..500 {
        run.append(Stream::Stdout, NOW, format!("{n}\n").as_bytes()).unwrap();
    }
    run.append(Stream::Stderr, NOW, b"\xe2\x82").unwrap();
    run.end(NOW, end()).unwrap();
    let reports = all(&run);
    assert_dense(&reports);
    assert_eq!(reports[0].stream, Stream::Events);
    assert_eq!(bytes(&reports, Stream::Stderr), b"\xe2\x82");
    let verdict = reports.last().unwrap();
    let value = serde_json::to_value(verdict).unwrap();
    assert_eq!(value["stream"], "control");
    let last = serde_json::json!({"stdout": 500, "stderr": 1, "events": 1});
    assert_eq!(value["data"]["last"], last);
    let more = run.append(Stream::Stdout, NOW, b"x");
    assert!(matches!(more, Err(SpoolError::Ended)));
}

#[test]
fn what_is_acknowledged_is_deleted_and_at_the_end_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let run = spool.begin(meta(1)).unwrap();
    let home = dir.path().join(meta(1).run_id.to_string());
    for _ in 0..100 {
        run.append(Stream::Stdout, NOW, &[b'x'; 100]).unwrap();
    }
    let (before, used) = (files(&home), spool.unacked_bytes());
    assert!(before > 10 && used > 10_000);
    let half = run.ack(&Acked::from([(Stream::Stdout, 50)])).unwrap();
    assert!(half.freed > 4000 && !half.finished);
    assert!(files(&home) < before * 2 / 3);
    assert_eq!(all(&run)[0].seq, 51);
    // Old and impossible acknowledgements change nothing for the worse.
    run.ack(&Acked::from([(Stream::Stdout, 3)])).unwrap();
    run.ack(&Acked::from([(Stream::Control, 9)])).unwrap();
    assert_eq!(all(&run)[0].seq, 51);
    run.end(NOW, end()).unwrap();
    // The verdict alone is not enough.
    let early = run.ack(&Acked::from([(Stream::Control, 1)])).unwrap();
    assert!(!early.finished);
    let done = run.ack(&Acked::from([(Stream::Stdout, 100)])).unwrap();
    assert!(done.finished);
    assert_eq!((files(dir.path()), spool.unacked_bytes()), (0, 0));
    assert!(run.ack(&Acked::new()).unwrap().finished);
}

#[test]
fn an_idle_run_whose_output_is_acknowledged_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Spool::open(dir.path(), Options::default()).unwrap();
    let run = opened.spool.begin(meta(1)).unwrap();
    for _ in 0..20 {
        run.append(Stream::Stdout, NOW, &[b'x'; 40_000]).unwrap();
    }
    run.ack(&run.last()).unwrap();
    assert!(opened.spool.unacked_bytes() < 1000);
    run.append(Stream::Stderr, NOW, b"more").unwrap();
    drop((run, opened));
    // The numbers go on after a restart, though all before was deleted.
    let opened = Spool::open(dir.path(), Options::default()).unwrap();
    let run = &opened.leftovers[0].run;
    assert_eq!(
        run.last(),
        Acked::from([(Stream::Stdout, 20), (Stream::Stderr, 1)])
    );
    run.append(Stream::Stdout, NOW, b"y").unwrap();
    assert_eq!(all(run)[1].seq, 21);
}

#[test]
fn a_former_life_is_taken_up_with_its_end_or_without() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, none) = open(dir.path());
    assert!(none.is_empty());
    let ended = spool.begin(meta(1)).unwrap();
    ended.append(Stream::Stdout, NOW, b"whole").unwrap();
    ended.end(NOW, end()).unwrap();
    let cut = spool.begin(meta(2)).unwrap();
    for n in 0..50 {
        cut.append(Stream::Stdout, NOW, &[n; 100]).unwrap();
    }
    let before = (all(&ended), all(&cut));
    let used = spool.unacked_bytes();
    drop((ended, cut, spool));
    let (spool, left) = open(dir.path());
    assert_eq!(spool.unacked_bytes(), used);
    let found: Vec<_> =
        left.iter().map(|l| (l.run.meta(), l.ended, l.cut)).collect();
    assert_eq!(found, [(meta(1), true, false), (meta(2), false, false)]);
    assert_eq!((all(&left[0].run), all(&left[1].run)), before);
    left[1].run.end(NOW, end()).unwrap();
    assert!(matches!(left[0].run.end(NOW, end()), Err(SpoolError::Ended)));
    assert_dense(&all(&left[1].run));
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let run = spool.begin(meta(1)).unwrap();
    run.append(Stream::Stdout, NOW, b"first").unwrap();
    let path = dir.path().join(meta(1).run_id.to_string()).join("00000001.seg");
    let sound = fs::metadata(&path).unwrap().len();
    run.append(Stream::Stdout, NOW, b"second").unwrap();
    drop((run, spool));
    let whole = fs::read(&path).unwrap();
    for cut in usize::try_from(sound).unwrap() + 1..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (_, left) = open(dir.path());
        assert!(left[0].cut && !left[0].ended);
        let run = &left[0].run;
        assert_eq!(bytes(&all(run), Stream::Stdout), b"first");
        run.append(Stream::Stdout, NOW, b"again").unwrap();
        assert_dense(&all(run));
        drop(left);
        let (_, left) = open(dir.path());
        assert_eq!(bytes(&all(&left[0].run), Stream::Stdout), b"firstagain");
    }
}

#[test]
fn what_lies_behind_damage_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let run = spool.begin(meta(1)).unwrap();
    for n in 0..100 {
        run.append(Stream::Stdout, NOW, &[n; 100]).unwrap();
    }
    run.end(NOW, end()).unwrap();
    drop((run, spool));
    let home = dir.path().join(meta(1).run_id.to_string());
    let victim = home.join("00000004.seg");
    let mut damaged = fs::read(&victim).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&victim, damaged).unwrap();
    let (_, left) = open(dir.path());
    assert!(left[0].cut && !left[0].ended);
    let reports = all(&left[0].run);
    assert_dense(&reports);
    assert!(reports.len() > 20 && reports.len() < 100);
}

#[test]
fn a_run_that_was_only_half_begun_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join(meta(1).run_id.to_string());
    fs::create_dir(&half).unwrap();
    fs::write(half.join("meta.new"), b"{\"job\"").unwrap();
    fs::create_dir(dir.path().join("gone-x")).unwrap();
    fs::create_dir(dir.path().join("else")).unwrap();
    let opened = Spool::open(dir.path(), SMALL).unwrap();
    assert!(opened.leftovers.is_empty());
    assert_eq!(opened.strange, [dir.path().join("else")]);
    assert_eq!(files(dir.path()), 1);
}

#[test]
fn a_run_cannot_be_begun_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    spool.begin(meta(1)).unwrap();
    assert!(spool.begin(meta(1)).is_err());
}

#[test]
fn a_dropped_run_is_gone_and_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let run = spool.begin(meta(1)).unwrap();
    run.append(Stream::Stdout, NOW, b"x").unwrap();
    run.discard().unwrap();
    run.discard().unwrap();
    let more = run.append(Stream::Stdout, NOW, b"x");
    assert!(matches!(more, Err(SpoolError::Discarded)));
    assert!(run.read(&mut Cursor::default(), 1000).unwrap().is_empty());
    assert_eq!((files(dir.path()), spool.unacked_bytes()), (0, 0));
}

#[test]
fn the_bound_is_seen_and_lifted_by_an_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1000, bound: 20_000 };
    let spool = Spool::open(dir.path(), options).unwrap().spool;
    let run = spool.begin(meta(1)).unwrap();
    while spool.has_room() {
        run.append(Stream::Stdout, NOW, &[0; 100]).unwrap();
    }
    run.event(NOW, &note("events are let in")).unwrap();
    run.ack(&run.last()).unwrap();
    assert!(spool.has_room());
}

#[test]
fn a_reading_is_bounded_by_its_length_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Spool::open(dir.path(), Options::default()).unwrap();
    let run = opened.spool.begin(meta(1)).unwrap();
    run.append(Stream::Stdout, NOW, &vec![1; 3 << 20]).unwrap();
    let long = Event::Note { text: "\u{1}".repeat(300_000) };
    run.event(NOW, &long).unwrap();
    let mut cursor = Cursor::default();
    let mut total = 0;
    while run.has_more(cursor) {
        let reports = run.read(&mut cursor, 512 * 1024).unwrap();
        total += bytes(&reports, Stream::Stdout).len();
        let length = serde_json::to_vec(&reports).unwrap().len();
        assert!(length < 512 * 1024, "{length}");
        assert!(reports.iter().map(weight).sum::<usize>() >= length / 2);
    }
    assert_eq!(total, 3 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Appends, acknowledgements and restarts in any order: what comes out
    /// is what went in.
    #[test]
    fn any_history_is_byte_exact(
        steps in prop::collection::vec(
            (0..6_u8, prop::collection::vec(any::<u8>(), 0..400)), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        let mut run = spool.begin(meta(1)).unwrap();
        let mut wanted = BTreeMap::<_, Vec<u8>>::new();
        let mut got = BTreeMap::<(Stream, u64), Vec<u8>>::new();
        for (what, data) in steps {
            match what {
                0..=3 => {
                    let stream = [Stream::Stdout, Stream::Stderr]
                        [usize::from(what % 2)];
                    run.append(stream, NOW, &data).unwrap();
                    wanted.entry(stream).or_default().extend(data);
                }
                4 => {
                    let mut cursor = Cursor::default();
                    let mut acked = Acked::new();
                    for report in run.read(&mut cursor, 3000).unwrap() {
                        acked.insert(report.stream, report.seq);
                        let bytes = report.data.as_bytes().to_vec();
                        got.insert((report.stream, report.seq), bytes);
                    }
                    run.ack(&acked).unwrap();
                }
                _ => {
                    // Whole characters only, so that nothing is held back.
                    for stream in [Stream::Stdout, Stream::Stderr] {
                        run.append(stream, NOW, b"\xff").unwrap();
                        wanted.entry(stream).or_default().push(0xff);
                    }
                    drop((run, spool));
                    let (again, mut left) = open(dir.path());
                    spool = again;
                    run = left.remove(0).run;
                }
            }
        }
        run.end(NOW, end()).unwrap();
        for report in all(&run) {
            let bytes = report.data.as_bytes().to_vec();
            got.insert((report.stream, report.seq), bytes);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let found: Vec<u8> = got.iter()
                .filter(|((s, _), _)| *s == stream)
                .flat_map(|(_, bytes)| bytes.clone())
                .collect();
            prop_assert_eq!(
                &found, &wanted.get(&stream).cloned().unwrap_or_default());
            let highest = got.keys()
                .filter(|(s, _)| *s == stream).count() as u64;
            prop_assert_eq!(
                highest, run.last().get(&stream).copied().unwrap_or(0));
        }
    }
}
