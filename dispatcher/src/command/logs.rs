//! `logs`: the output of a job, over all its runs.
//!
//! Reads the files and holds one piece of them; a reader that is slow slows
//! nobody but itself.

use ntrace_protocol::report::LogRecord;
use ntrace_protocol::{Code, JobId, RunId, Stream, WireError};
use ntrace_store::{Extent, LogFile, ReadError, Record};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Answer;
use super::job::{find, look};
use crate::args::Options;
use crate::connection::Connection;
use crate::refusal::Refusal as _;

struct Wanted {
    from: u64,
    follow: bool,
    streams: Vec<Stream>,
}

/// `logs`.
pub(crate) async fn logs(conn: &Connection, args: &[Value]) -> Answer {
    let known = ["from", "follow", "streams"];
    let options = Options::read(args, 1, "options", &known)?;
    let streams =
        "a list of \"stdout\", \"stderr\", \"events\" and \"control\"";
    let wanted = Wanted {
        from: options.typed("from", "a whole number from 0")?.unwrap_or(0),
        follow: options.typed("follow", "true or false")?.unwrap_or(false),
        streams: options
            .typed("streams", streams)?
            .unwrap_or_else(|| Stream::ALL.to_vec()),
    };
    let job = find(&conn.shared, args).await?;
    let mut reading =
        Reading { conn, job, wanted, n: 0, file: None, extent: None };
    reading.run().await
}

/// One reader.
struct Reading<'a> {
    conn: &'a Connection,
    job: JobId,
    wanted: Wanted,
    /// The position of the next record.
    n: u64,
    file: Option<LogFile>,
    extent: Option<watch::Receiver<Extent>>,
}

impl Reading<'_> {
    async fn run(&mut self) -> Answer {
        let shared = self.conn.shared.clone();
        let mut watcher = shared.watchers.watch(self.job);
        let mut runs_read = 0;
        loop {
            watcher.look();
            let job = look(&shared, self.job).await?;
            for run in job.runs.iter().skip(runs_read) {
                if !self.read_run(run.run_id).await? {
                    return Ok(vec![self.end(false, None)]);
                }
                runs_read += 1;
            }
            if job.state.is_final() {
                return Ok(vec![self.end(true, json!(job.exit).into())]);
            }
            if !self.wanted.follow {
                return Ok(vec![self.end(false, None)]);
            }
            watcher.changed().await;
        }
    }

    fn end(&self, ended: bool, exit: Option<Value>) -> Value {
        let next = self.n.max(self.wanted.from);
        let mut end = json!({"next": next, "ended": ended});
        if let Some(exit) = exit.filter(|exit| !exit.is_null()) {
            end["exit"] = exit;
        }
        end
    }

    /// Reads a run to its end. False: it goes on, and is not followed.
    async fn read_run(&mut self, run: RunId) -> Result<bool, WireError> {
        self.file = None;
        self.extent = self.conn.shared.store.output().extent(run);
        loop {
            let extent = self.extent(run).await?;
            while let Some(records) = self.piece(run, extent.bytes).await? {
                for record in records {
                    self.send(run, record).await?;
                }
            }
            if extent.is_closed {
                return Ok(true);
            }
            if !self.wanted.follow {
                return Ok(false);
            }
            if let Some(changes) = &mut self.extent
                && changes.changed().await.is_err()
                && !changes.borrow().is_closed
            {
                return Err(crate::engine::Stopped.into());
            }
        }
    }

    /// How far the run can be read now.
    async fn extent(&mut self, run: RunId) -> Result<Extent, WireError> {
        if let Some(extent) = &mut self.extent {
            return Ok(*extent.borrow_and_update());
        }
        let bytes = self.with_file(run, |file| Ok(file.len()?)).await?;
        Ok(Extent { bytes: bytes.unwrap_or(0), is_closed: true })
    }

    /// The next records that may be wanted; none at the end.
    async fn piece(
        &mut self,
        run: RunId,
        end: u64,
    ) -> Result<Option<Vec<Record>>, WireError> {
        if end == 0 {
            return Ok(None);
        }
        let skip = self.wanted.from.saturating_sub(self.n);
        if skip > 0 {
            let skipped =
                self.with_file(run, move |file| file.skip(skip, end)).await?;
            self.n += skipped.unwrap_or(0);
        }
        let batch = self.with_file(run, move |file| file.next_batch(end));
        Ok(batch.await?.flatten())
    }

    /// Does something with the run's file, if there is one, on a thread that
    /// may block.
    async fn with_file<T: Send + 'static>(
        &mut self,
        run: RunId,
        op: impl FnOnce(&mut LogFile) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<Option<T>, WireError> {
        let output = self.conn.shared.store.output().clone();
        let (job, file) = (self.job, self.file.take());
        let done = tokio::task::spawn_blocking(move || {
            let file = match file {
                Some(file) => Some(file),
                None => output.reader(job, run)?,
            };
            let Some(mut file) = file else {
                return Ok((None, None));
            };
            let result = op(&mut file)?;
            Ok::<_, ReadError>((Some(file), Some(result)))
        });
        let done = done.await.map_err(|error| {
            WireError::new(Code::Einternal, error.to_string())
        })?;
        let (file, result) = done.map_err(|e| e.wire())?;
        self.file = file;
        Ok(result)
    }

    async fn send(
        &mut self,
        run: RunId,
        record: Record,
    ) -> Result<(), WireError> {
        let n = self.n;
        self.n += 1;
        if !self.wanted.streams.contains(&record.stream) {
            return Ok(());
        }
        let record = LogRecord {
            job: self.job,
            run_id: run,
            n,
            stream: record.stream,
            seq: record.seq,
            when: record.when,
            data: record.data,
        };
        let sent = self.conn.peer.notify("log", &[json!(record)]).await;
        sent.map_err(|_| {
            WireError::new(Code::Eagain, "the connection has ended")
        })
    }
}
