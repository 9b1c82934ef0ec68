//! The spool of one run.
//!
//! Segments are a queue: written at the back, read anywhere, deleted at the
//! front. The last one is never deleted before the run is over, since it
//! knows the numbers that were given out.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use ntrace_protocol::report::{Acked, Data, End, Event, Report};
use ntrace_protocol::{Stream, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::SpoolError;
use crate::cut::Cutter;
use crate::meta::RunMeta;
use crate::record::{Kind, Record, Seqs};
use crate::segment::{self, Segment};
use crate::weight::weight;

/// The longest event, as JSON; a longer one is replaced by a note.
const MAX_OBJECT: usize = 256 * 1024;

/// The longest sentence of a verdict that is too long, in characters.
const MAX_SENTENCE: usize = 4096;

/// The most reports in one reading.
const MAX_REPORTS: usize = 1024;

/// A last segment whose records are all acknowledged is replaced by an empty
/// one once it is this long, so that idle runs do not use up the bound.
const WORTH_FREEING: u64 = 256 * 1024;

/// Begins the name of a directory that is being deleted.
pub(crate) const GONE: &str = "gone-";

/// A place in a run's reports, in order of arrival. The default is the first
/// one that is not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    segment: u64,
    offset: u64,
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of disk that are free again.
    pub freed: u64,
    /// The run's end was acknowledged with all before it: its spool is gone.
    pub finished: bool,
}

/// The spool of one run; cheap to clone.
#[derive(Clone, Debug)]
pub struct RunSpool {
    meta: RunMeta,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    segment_bytes: u64,
    used: Arc<AtomicU64>,
    segments: VecDeque<Segment>,
    acked: Seqs,
    stdout: Cutter,
    stderr: Cutter,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Ended,
    Gone,
}

impl RunSpool {
    /// A new run's spool, in a directory that is not there yet.
    pub(crate) fn create(
        parent: &Path,
        meta: RunMeta,
        segment_bytes: u64,
        used: &Arc<AtomicU64>,
    ) -> Result<Self, SpoolError> {
        let dir = parent.join(meta.run_id.to_string());
        fs::create_dir(&dir).map_err(SpoolError::io("create", &dir))?;
        meta.write(&dir)?;
        sync_dir(parent)?;
        let first = Segment::create(&dir, 1, Seqs::default(), used)?;
        let segments = VecDeque::from([first]);
        let state = State::new(dir, segment_bytes, used, segments);
        Ok(Self { meta, state: Arc::new(Mutex::new(state)) })
    }

    /// A run of a former life. Answers also whether something was cut off.
    pub(crate) fn recover(
        dir: PathBuf,
        meta: RunMeta,
        segment_bytes: u64,
        used: &Arc<AtomicU64>,
    ) -> Result<(Self, bool), SpoolError> {
        let mut segments = VecDeque::new();
        let mut acked = None;
        let mut ended = false;
        let mut cut = false;
        for (number, path) in segment_files(&dir)? {
            let found = if cut || ended {
                None
            } else {
                Segment::recover(&path, number, used, |record| {
                    ended |= record.stream == Stream::Control;
                })?
            };
            let Some(found) = found else {
                // What is behind a gap cannot be numbered densely.
                cut = true;
                fs::remove_file(&path)
                    .map_err(SpoolError::io("remove", &path))?;
                continue;
            };
            cut = !found.whole;
            acked.get_or_insert(found.base);
            segments.push_back(found.segment);
        }
        if segments.is_empty() {
            let first = Segment::create(&dir, 1, Seqs::default(), used)?;
            segments.push_back(first);
        }
        let mut state = State::new(dir, segment_bytes, used, segments);
        state.acked = acked.unwrap_or_default();
        state.phase = if ended { Phase::Ended } else { Phase::Open };
        let state = Arc::new(Mutex::new(state));
        Ok((Self { meta, state }, cut))
    }

    /// Whose it is.
    pub fn meta(&self) -> RunMeta {
        self.meta
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Appends output. The first bytes of a character wait for its rest.
    ///
    /// # Errors
    /// The run has ended or was dropped, or the disk refused; then a part of
    /// the data may have been appended, and the run cannot be byte-exact.
    pub fn append(
        &self,
        stream: Stream,
        when: Timestamp,
        data: &[u8],
    ) -> Result<(), SpoolError> {
        let mut state = self.state();
        state.check_open()?;
        let mut cutter = std::mem::take(state.cutter(stream));
        let outcome = cutter
            .push(data, |piece| state.add(stream, Kind::Output, when, piece));
        *state.cutter(stream) = cutter;
        outcome
    }

    /// Appends an event.
    ///
    /// # Errors
    /// As [`RunSpool::append`].
    pub fn event(
        &self,
        when: Timestamp,
        event: &Event,
    ) -> Result<(), SpoolError> {
        let mut state = self.state();
        state.check_open()?;
        let text = event_text(event);
        state.add(Stream::Events, Kind::Object, when, &text)
    }

    /// Ends the run: what was held back of its output, then the verdict,
    /// with the last number of each stream filled in. Synced.
    ///
    /// # Errors
    /// As [`RunSpool::append`].
    pub fn end(&self, when: Timestamp, end: End) -> Result<(), SpoolError> {
        let mut state = self.state();
        state.check_open()?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = state.cutter(stream).finish();
            if !rest.is_empty() {
                state.add(stream, Kind::Output, when, &rest)?;
            }
        }
        let text = end_text(end, state.last_output());
        state.add(Stream::Control, Kind::Object, when, &text)?;
        state.phase = Phase::Ended;
        for segment in &state.segments {
            segment.sync()?;
        }
        sync_dir(&state.dir)
    }

    /// Whether the run has its end.
    pub fn is_ended(&self) -> bool {
        self.state().phase != Phase::Open
    }

    /// The highest number of each stream that has any.
    pub fn last(&self) -> Acked {
        let last = self.state().last();
        Stream::ALL
            .into_iter()
            .map(|stream| (stream, last.get(stream)))
            .filter(|(_, seq)| *seq > 0)
            .collect()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.state().segments.iter().map(Segment::length).sum()
    }

    /// Whether there is something behind the cursor.
    pub fn has_more(&self, cursor: Cursor) -> bool {
        let state = self.state();
        let Some(back) = state.segments.back() else { return false };
        (cursor.segment, cursor.offset) < (back.number, back.length())
            && !state.acked.covers(&back.last())
    }

    /// Reads on behind the cursor, in order of arrival, and moves it. What
    /// is acknowledged is passed over. Stops before the reports are longer
    /// than `most` bytes as JSON (but hands out at least one), or a fixed
    /// number.
    ///
    /// # Errors
    /// The disk refused, or what it held is damaged.
    pub fn read(
        &self,
        cursor: &mut Cursor,
        most: usize,
    ) -> Result<Vec<Report>, SpoolError> {
        let state = self.state();
        let mut reader = Reader {
            meta: self.meta,
            acked: state.acked,
            room: most,
            reports: vec![],
            full: false,
        };
        for segment in &state.segments {
            if segment.number < cursor.segment {
                continue;
            }
            if segment.number > cursor.segment {
                *cursor = Cursor { segment: segment.number, offset: 0 };
            }
            if !state.acked.covers(&segment.last()) {
                let walked = segment.walk(cursor.offset, |r| reader.take(r));
                cursor.offset = walked?;
                if reader.full {
                    break;
                }
                if cursor.offset < segment.length() {
                    let damaged = std::io::ErrorKind::InvalidData.into();
                    let path = segment::path_of(&state.dir, segment.number);
                    return Err(SpoolError::io("make sense of", &path)(
                        damaged,
                    ));
                }
            }
            cursor.offset = segment.length();
        }
        Ok(reader.reports)
    }

    /// Takes note of what the dispatcher has; deletes what is not needed any
    /// more.
    ///
    /// # Errors
    /// The disk refused to delete something.
    pub fn ack(&self, acked: &Acked) -> Result<Progress, SpoolError> {
        self.state().ack(acked)
    }

    /// Throws everything away: the run was fenced. Harmless if it is gone.
    ///
    /// # Errors
    /// The disk refused to delete something.
    pub fn discard(&self) -> Result<(), SpoolError> {
        self.state().remove_all()
    }
}

impl State {
    fn new(
        dir: PathBuf,
        segment_bytes: u64,
        used: &Arc<AtomicU64>,
        segments: VecDeque<Segment>,
    ) -> Self {
        Self {
            dir,
            segment_bytes,
            used: used.clone(),
            segments,
            acked: Seqs::default(),
            stdout: Cutter::default(),
            stderr: Cutter::default(),
            phase: Phase::Open,
        }
    }

    fn check_open(&self) -> Result<(), SpoolError> {
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Ended => Err(SpoolError::Ended),
            Phase::Gone => Err(SpoolError::Discarded),
        }
    }

    fn cutter(&mut self, stream: Stream) -> &mut Cutter {
        if stream == Stream::Stderr {
            &mut self.stderr
        } else {
            &mut self.stdout
        }
    }

    fn last(&self) -> Seqs {
        self.segments.back().map(Segment::last).unwrap_or_default()
    }

    fn last_output(&self) -> Acked {
        let last = self.last();
        [Stream::Stdout, Stream::Stderr, Stream::Events]
            .into_iter()
            .map(|stream| (stream, last.get(stream)))
            .filter(|(_, seq)| *seq > 0)
            .collect()
    }

    fn add(
        &mut self,
        stream: Stream,
        kind: Kind,
        when: Timestamp,
        payload: &[u8],
    ) -> Result<(), SpoolError> {
        let full = |segment: &Segment| segment.length() >= self.segment_bytes;
        if self.segments.back().is_none_or(full) {
            self.rotate()?;
        }
        let seq = self.last().get(stream) + 1;
        let segment = self.segments.back_mut().ok_or(SpoolError::Discarded)?;
        segment.append(&Record { stream, kind, seq, when: when.0, payload })
    }

    fn rotate(&mut self) -> Result<(), SpoolError> {
        let number = self.segments.back().map_or(1, |s| s.number + 1);
        let next = Segment::create(&self.dir, number, self.last(), &self.used)?;
        self.segments.push_back(next);
        Ok(())
    }

    fn ack(&mut self, acked: &Acked) -> Result<Progress, SpoolError> {
        if self.phase == Phase::Gone {
            return Ok(Progress { freed: 0, finished: true });
        }
        let last = self.last();
        for (stream, seq) in acked {
            // More than there is cannot be meant.
            let seq = (*seq).min(last.get(*stream));
            let have = self.acked.get_mut(*stream);
            *have = seq.max(*have);
        }
        let mut progress = Progress::default();
        if self.phase == Phase::Ended && self.acked.covers(&last) {
            progress.freed = self.segments.iter().map(Segment::length).sum();
            progress.finished = true;
            self.remove_all()?;
            return Ok(progress);
        }
        let worth = |s: &Segment| s.length() >= WORTH_FREEING;
        if self.acked.covers(&last) && self.segments.back().is_some_and(worth) {
            self.rotate()?;
        }
        while self.segments.len() > 1 {
            let done = |s: &mut Segment| self.acked.covers(&s.last());
            let Some(front) = self.segments.pop_front_if(done) else { break };
            progress.freed += front.length();
            front.remove()?;
        }
        Ok(progress)
    }

    fn remove_all(&mut self) -> Result<(), SpoolError> {
        if self.phase == Phase::Gone {
            return Ok(());
        }
        self.phase = Phase::Gone;
        self.segments.clear();
        // Renamed first, so that half of it is never taken for a run.
        let name = self.dir.file_name().unwrap_or_default();
        let mut gone = std::ffi::OsString::from(GONE);
        gone.push(name);
        let gone = self.dir.with_file_name(gone);
        fs::rename(&self.dir, &gone)
            .and_then(|()| fs::remove_dir_all(&gone))
            .map_err(SpoolError::io("remove", &self.dir))
    }
}

/// Gathers reports up to a bound.
struct Reader {
    meta: RunMeta,
    acked: Seqs,
    room: usize,
    reports: Vec<Report>,
    full: bool,
}

impl Reader {
    /// False: no more; the record is not passed.
    fn take(&mut self, record: &Record<'_>) -> bool {
        let known = record.seq <= self.acked.get(record.stream);
        if record.kind == Kind::Base || known {
            return true;
        }
        let report = Report {
            job: self.meta.job,
            run_id: self.meta.run_id,
            lease: self.meta.lease,
            stream: record.stream,
            seq: record.seq,
            when: Timestamp(record.when),
            data: data_of(record),
        };
        let weight = weight(&report);
        let fits = weight <= self.room && self.reports.len() < MAX_REPORTS;
        if !fits && !self.reports.is_empty() {
            self.full = true;
            return false;
        }
        self.room = self.room.saturating_sub(weight);
        self.reports.push(report);
        true
    }
}

fn data_of(record: &Record<'_>) -> Data {
    match record.kind {
        Kind::Output | Kind::Base => Data::from_output(record.payload),
        Kind::Object => match serde_json::from_slice(record.payload) {
            Ok(Value::Object(map)) => Data::Object(map),
            // The checksum was good, so we wrote it; it is never silent.
            _ => Data::Object(Map::from_iter([(
                "event".into(),
                json!("unreadable"),
            )])),
        },
    }
}

fn json_text(value: &impl Serialize) -> Vec<u8> {
    let Data::Object(map) = Data::from_event(value) else {
        unreachable!("an event is always made an object");
    };
    serde_json::to_vec(&map).expect("a JSON object can be written")
}

fn event_text(event: &Event) -> Vec<u8> {
    let text = json_text(event);
    if text.len() <= MAX_OBJECT {
        return text;
    }
    let bytes = text.len();
    json_text(&Event::Note {
        text: format!("an event of {bytes} bytes was too long to be kept"),
    })
}

fn end_text(mut end: End, last: Acked) -> Vec<u8> {
    end.last = last;
    let text = json_text(&end);
    if text.len() <= MAX_OBJECT {
        return text;
    }
    end.sentence = end.sentence.map(|s| s.chars().take(MAX_SENTENCE).collect());
    let text = json_text(&end);
    if text.len() <= MAX_OBJECT {
        return text;
    }
    // Only the usage's free words can be that long.
    end.usage = None;
    json_text(&end)
}

fn segment_files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
    let io = || SpoolError::io("list", dir);
    let mut found = vec![];
    for entry in fs::read_dir(dir).map_err(io())? {
        let entry = entry.map_err(io())?;
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(segment::number_of) {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(SpoolError::io("sync", dir))
}
