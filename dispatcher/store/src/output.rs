//! The output of runs: one append-only file for each, written by one thread.
//!
//! Must not know the database or connections. Invariants: what was answered
//! as kept is synced; the reports of a run and stream are dense from 1; the
//! verdict is taken only when every other stream is complete; after a run's
//! log is closed nothing is added to it, so its length never changes again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ntrace_protocol::report::{Acked, End};
use ntrace_protocol::{JobId, Lease, Report, RunId, Stream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::dir;
use crate::frame::{self, Record};
use crate::line::Line;
use crate::reader::LogFile;

/// Calls that wait for the thread. Past this, callers wait: that is the
/// back-pressure on runners.
const WAITING_MAX: usize = 32;
/// Calls for which one sync is made.
const BATCH_MAX: usize = 32;

/// How far a run's log can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes that are synced.
    pub bytes: u64,
    /// Whether nothing will come any more.
    pub is_closed: bool,
}

/// What is kept after an append.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// The highest number of each stream.
    pub acked: Acked,
}

/// Why reports were not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The run is not open, or under another lease.
    #[error("the run {0} is not under this lease")]
    Fenced(RunId),
    /// The control stream carries the verdict and nothing else.
    #[error("data of the stream control must be {{\"event\":\"end\",…}}: {0}")]
    NotAnEnd(String),
    /// The verdict counts fewer reports than there are.
    #[error("the stream {stream} has {kept} reports, not {last}")]
    WrongLast {
        /// The stream.
        stream: Stream,
        /// How many are kept.
        kept: u64,
        /// How many the verdict says there are.
        last: u64,
    },
    /// The disk is full; nothing of it was kept.
    #[error("the disk of the data directory is full; nothing was kept")]
    NoSpace,
    /// The file could not be written.
    #[error("cannot write the log of the run")]
    Io(#[source] io::Error),
    /// The store was closed or has failed.
    #[error("the store is closed")]
    Closed,
}

/// The output of all runs, to be shared.
#[derive(Clone, Debug)]
pub struct Output {
    root: Arc<Path>,
    thread: Line<Call>,
    open: Arc<Mutex<HashMap<RunId, Open>>>,
    failed: watch::Receiver<Option<String>>,
}

/// What others may know of an open log.
#[derive(Debug)]
struct Open {
    job: JobId,
    lease: Lease,
    extent: watch::Sender<Extent>,
}

enum Call {
    Append {
        run: RunId,
        lease: Lease,
        reports: Vec<Report>,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
    },
    Close {
        run: RunId,
        reply: oneshot::Sender<Option<Acked>>,
    },
}

impl Output {
    /// Starts the thread for logs below the given directory.
    pub(crate) fn start(root: &Path) -> io::Result<Self> {
        dir::ensure_durable_dir(root)?;
        let (tx, rx) = mpsc::channel(WAITING_MAX);
        let (failed_tx, failed) = watch::channel(None);
        let open = Arc::new(Mutex::new(HashMap::new()));
        let root: Arc<Path> = root.into();
        let thread = Thread {
            root: root.clone(),
            rx,
            open: open.clone(),
            logs: HashMap::new(),
            failed: failed_tx,
        };
        std::thread::Builder::new()
            .name("store-output".to_owned())
            .spawn(move || thread.run())?;
        Ok(Self { root, thread: Line::new(tx), open, failed })
    }

    /// Says why the thread has failed, once it has.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Opens the log of a run under its lease. Nothing is written yet.
    pub fn open(&self, job: JobId, run: RunId, lease: Lease) {
        self.open_at(job, run, lease, Extent::default());
    }

    fn open_at(&self, job: JobId, run: RunId, lease: Lease, extent: Extent) {
        let (extent, _) = watch::channel(extent);
        lock(&self.open).insert(run, Open { job, lease, extent });
    }

    /// Opens the log of a run that was under way when the last process
    /// ended: what is not whole at its end is cut off. Blocks.
    pub(crate) fn recover(
        &self,
        job: JobId,
        run: RunId,
        lease: Lease,
    ) -> io::Result<()> {
        let path = path_of(&self.root, job, run);
        let (acked, bytes) = scan(&path)?;
        if !acked.is_empty() {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        self.open_at(job, run, lease, Extent { bytes, is_closed: false });
        Ok(())
    }

    /// Whether the run is open under this lease.
    pub fn is_current(&self, run: RunId, lease: Lease) -> bool {
        lock(&self.open).get(&run).is_some_and(|open| open.lease == lease)
    }

    /// The job of an open run under this lease.
    pub fn job_of(&self, run: RunId, lease: Lease) -> Option<JobId> {
        let open = lock(&self.open);
        open.get(&run).filter(|open| open.lease == lease).map(|open| open.job)
    }

    /// Adds reports; answers when they are synced.
    ///
    /// # Errors
    /// The lease is not the current one, a report is wrong, or the disk is
    /// full.
    pub async fn append(
        &self,
        run: RunId,
        lease: Lease,
        reports: Vec<Report>,
    ) -> Result<Appended, AppendError> {
        let (reply, answer) = oneshot::channel();
        let call = Call::Append { run, lease, reports, reply };
        let sent = self.thread.send(call).await;
        sent.map_err(|_| AppendError::Closed)?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Closes the log of a run; answers with what is kept of it, or none if
    /// it was not open.
    pub async fn close(&self, run: RunId) -> Option<Acked> {
        let (reply, answer) = oneshot::channel();
        self.thread.send(Call::Close { run, reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// How far the log of an open run can be read; none for a run that is
    /// over, whose file can be read to its end.
    pub fn extent(&self, run: RunId) -> Option<watch::Receiver<Extent>> {
        lock(&self.open).get(&run).map(|open| open.extent.subscribe())
    }

    /// Opens a run's log for reading; none if nothing was ever written.
    /// Blocks.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reader(
        &self,
        job: JobId,
        run: RunId,
    ) -> io::Result<Option<LogFile>> {
        LogFile::open(&path_of(&self.root, job, run))
    }

    /// Removes all output of a job. Blocks.
    pub(crate) fn remove(&self, job: JobId) -> io::Result<()> {
        dir::remove_dir(&job_dir(&self.root, job))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A job's directory. The first digits of an id are its time, so the last
/// ones spread the jobs.
pub(crate) fn job_dir(root: &Path, job: JobId) -> PathBuf {
    let shard = format!("{:02x}", job.as_bytes()[15]);
    root.join(shard).join(job.to_string())
}

fn path_of(root: &Path, job: JobId, run: RunId) -> PathBuf {
    job_dir(root, job).join(format!("{run}.log"))
}

/// What a log holds up to its first damage, and where that is.
fn scan(path: &Path) -> io::Result<(Acked, u64)> {
    let mut acked = Acked::new();
    let Some(mut log) = LogFile::open(path)? else {
        return Ok((acked, 0));
    };
    let end = log.len()?;
    while let Ok(Some(batch)) = log.next_batch(end) {
        for record in batch {
            acked.insert(record.stream, record.seq);
        }
    }
    Ok((acked, log.position()))
}

struct Thread {
    root: Arc<Path>,
    rx: mpsc::Receiver<Call>,
    open: Arc<Mutex<HashMap<RunId, Open>>>,
    logs: HashMap<RunId, Log>,
    failed: watch::Sender<Option<String>>,
}

/// A log that is being written.
struct Log {
    path: PathBuf,
    file: Option<File>,
    acked: Acked,
    bytes: u64,
}

/// What is answered once all is synced.
enum Answer {
    Append(
        oneshot::Sender<Result<Appended, AppendError>>,
        Result<Appended, AppendError>,
    ),
    Close(oneshot::Sender<Option<Acked>>, RunId, Option<Acked>),
}

impl Thread {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.rx.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            if let Err(error) = self.work(&mut batch) {
                tracing::error!(%error, "the output cannot be kept");
                let why = format!("the output cannot be kept: {error}");
                self.failed.send_replace(Some(why));
                return;
            }
        }
    }

    /// Does all calls, syncs each changed file once, and answers. An error
    /// is one after which nothing may go on.
    fn work(&mut self, batch: &mut Vec<Call>) -> io::Result<()> {
        let mut dirty = BTreeMap::new();
        let mut answers = Vec::with_capacity(batch.len());
        for call in batch.drain(..) {
            match call {
                Call::Append { run, lease, reports, reply } => {
                    let result = self.append(run, lease, &reports)?;
                    if result.is_ok() {
                        dirty.insert(run, ());
                    }
                    answers.push(Answer::Append(reply, result));
                }
                Call::Close { run, reply } => {
                    let acked = self.acked_at_close(run)?;
                    answers.push(Answer::Close(reply, run, acked));
                }
            }
        }
        for run in dirty.keys() {
            self.sync(*run)?;
        }
        answers.into_iter().for_each(|answer| self.answer(answer));
        Ok(())
    }

    fn answer(&mut self, answer: Answer) {
        // An asker may have left; what was kept stays.
        match answer {
            Answer::Append(reply, result) => {
                let _ = reply.send(result);
            }
            Answer::Close(reply, run, acked) => {
                self.logs.remove(&run);
                if let Some(open) = lock(&self.open).remove(&run) {
                    open.extent.send_modify(|e| e.is_closed = true);
                }
                let _ = reply.send(acked);
            }
        }
    }

    /// The log of an open run; none if it is not open under this lease.
    fn log(
        &mut self,
        run: RunId,
        lease: Option<Lease>,
    ) -> io::Result<Option<&mut Log>> {
        let job = {
            let open = lock(&self.open);
            let fits = |o: &&Open| lease.is_none_or(|l| o.lease == l);
            open.get(&run).filter(fits).map(|open| open.job)
        };
        let Some(job) = job else {
            return Ok(None);
        };
        if !self.logs.contains_key(&run) {
            let path = path_of(&self.root, job, run);
            let (acked, bytes) = scan(&path)?;
            let log = Log { path, file: None, acked, bytes };
            self.logs.insert(run, log);
        }
        Ok(self.logs.get_mut(&run))
    }

    fn acked_at_close(&mut self, run: RunId) -> io::Result<Option<Acked>> {
        Ok(self.log(run, None)?.map(|log| log.acked.clone()))
    }

    fn append(
        &mut self,
        run: RunId,
        lease: Lease,
        reports: &[Report],
    ) -> io::Result<Result<Appended, AppendError>> {
        let root = self.root.clone();
        let log = match self.log(run, Some(lease)) {
            Ok(Some(log)) => log,
            Ok(None) => return Ok(Err(AppendError::Fenced(run))),
            Err(error) => return Ok(Err(AppendError::Io(error))),
        };
        let mut after = log.acked.clone();
        let mut bytes = Vec::new();
        for report in reports {
            if let Err(error) = take(report, &mut after, &mut bytes) {
                return Ok(Err(error));
            }
        }
        // Nothing was written yet, so a file that cannot be opened now (too
        // many are open) may be opened later.
        if let Err(error) = log.open(&root, &bytes) {
            return Ok(Err(if dir::is_no_space(&error) {
                AppendError::NoSpace
            } else {
                AppendError::Io(error)
            }));
        }
        if let Err(error) = log.write(&bytes) {
            return if dir::is_no_space(&error) {
                log.cut()?;
                Ok(Err(AppendError::NoSpace))
            } else {
                Err(error)
            };
        }
        log.bytes += bytes.len() as u64;
        log.acked = after;
        Ok(Ok(Appended { acked: log.acked.clone() }))
    }

    fn sync(&mut self, run: RunId) -> io::Result<()> {
        let Some(log) = self.logs.get(&run) else {
            return Ok(());
        };
        if let Some(file) = &log.file {
            file.sync_data()?;
        }
        let bytes = log.bytes;
        if let Some(open) = lock(&self.open).get(&run) {
            open.extent.send_if_modified(|extent| {
                let is_news = extent.bytes != bytes;
                extent.bytes = bytes;
                is_news
            });
        }
        Ok(())
    }
}

/// Takes a report if it is the next of its stream. The same again is
/// ignored; one behind a gap is not taken, and the answer shows it.
fn take(
    report: &Report,
    acked: &mut Acked,
    bytes: &mut Vec<u8>,
) -> Result<(), AppendError> {
    let kept = acked.get(&report.stream).copied().unwrap_or(0);
    if report.seq != kept + 1 {
        return Ok(());
    }
    if report.stream == Stream::Control {
        if !is_complete(report, acked)? {
            return Ok(());
        }
    } else if acked.contains_key(&Stream::Control) {
        return Err(AppendError::Fenced(report.run_id));
    }
    let record = Record {
        stream: report.stream,
        seq: report.seq,
        when: report.when,
        data: report.data.clone(),
    };
    frame::write(&record, bytes);
    acked.insert(report.stream, report.seq);
    Ok(())
}

/// Whether all that the verdict counts is there.
fn is_complete(report: &Report, acked: &Acked) -> Result<bool, AppendError> {
    let data = serde_json::to_value(&report.data);
    let end = data.and_then(serde_json::from_value::<End>);
    let end = end.map_err(|e| AppendError::NotAnEnd(e.to_string()))?;
    let others = Stream::ALL.into_iter().filter(|s| *s != Stream::Control);
    for stream in others {
        let kept = acked.get(&stream).copied().unwrap_or(0);
        let last = end.last.get(&stream).copied().unwrap_or(0);
        if kept > last {
            return Err(AppendError::WrongLast { stream, kept, last });
        }
        if kept < last {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Log {
    /// Opens the file if there is something to write.
    fn open(&mut self, root: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && !bytes.is_empty() {
            self.file = Some(create(root, &self.path)?);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.file {
            Some(file) => file.write_all_at(bytes, self.bytes),
            None => Ok(()),
        }
    }

    /// Takes back a write that did not fit.
    fn cut(&self) -> io::Result<()> {
        match &self.file {
            Some(file) => file.set_len(self.bytes),
            None => Ok(()),
        }
    }
}

/// Opens a log for writing; its name and its directories are durable.
fn create(root: &Path, path: &Path) -> io::Result<File> {
    let job = path.parent().unwrap_or(root);
    dir::ensure_durable_dir(job.parent().unwrap_or(root))?;
    dir::ensure_durable_dir(job)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    dir::sync_parent(path)?;
    Ok(file)
}
