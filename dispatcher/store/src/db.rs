//! The database: one writer thread with group commit, a few readers.
//!
//! Must not know what the tables mean. Invariant: an operation's result
//! reaches its asker only after the transaction that holds it was committed
//! and synced. A commit that fails for another cause than a full disk ends
//! the store: nothing is answered any more, and [`Db::failed`] says why.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::line::Line;
use crate::schema;

/// Operations that wait for the writer. Past this, askers wait: that is the
/// back-pressure on those who push.
const WAITING_MAX: usize = 4096;
/// Operations in one transaction.
const BATCH_MAX: usize = 1024;
/// Connections for reading.
const READERS: usize = 3;
/// How long one reading may take, in virtual-machine steps of SQLite times
/// a thousand: some seconds. It bounds filters that match nothing.
const READ_STEPS: u32 = 200_000;

/// Why the database did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The disk is full; nothing was changed.
    #[error("the disk of the data directory is full; nothing was changed")]
    NoSpace,
    /// The store was closed or has failed.
    #[error("the store is closed")]
    Closed,
    /// A reading took too long.
    #[error("the search took too long; narrow the filter")]
    TooSlow,
    /// SQLite refused.
    #[error("the database refused")]
    Sql(#[source] rusqlite::Error),
    /// A row does not hold what it should.
    #[error("the database holds a bad {what}")]
    Corrupt {
        /// Which value.
        what: &'static str,
    },
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoSpace,
            Some(ErrorCode::OperationInterrupted) => Self::TooSlow,
            _ => Self::Sql(error),
        }
    }
}

/// The database, to be shared.
#[derive(Clone, Debug)]
pub struct Db {
    writer: Line<Box<dyn Entry>>,
    readers: Arc<Readers>,
    failed: watch::Receiver<Option<String>>,
    counts: Arc<Counts>,
}

/// What the writer has done since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Transactions that were committed, each with one sync.
    pub commits: AtomicU64,
    /// Operations in them.
    pub operations: AtomicU64,
    /// Jobs that are queued now.
    pub queued: AtomicU64,
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// The writer's view during one operation.
pub(crate) struct Tx<'a> {
    /// The transaction, inside the operation's own savepoint.
    pub(crate) sql: &'a Connection,
    /// Jobs that are queued, this operation's changes included.
    pub(crate) queued: &'a mut u64,
}

/// One waiting operation.
trait Entry: Send {
    fn apply(&mut self, tx: &mut Tx<'_>) -> bool;
    fn answer(self: Box<Self>, commit: Result<(), Fault>);
}

struct Operation<T, E, F> {
    op: Option<F>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Entry for Operation<T, E, F>
where
    T: Send,
    E: Send + From<Fault>,
    F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> bool {
        let op = self.op.take();
        self.result = op.map(|op| op(tx));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, commit: Result<(), Fault>) {
        let result = match (commit, self.result) {
            (Ok(()), Some(result)) => result,
            (Err(fault), Some(Ok(_)) | None) => Err(E::from(fault)),
            (Err(_), Some(Err(error))) => Err(error),
            (Ok(()), None) => Err(E::from(Fault::Closed)),
        };
        // An asker may have left; what was committed stays.
        let _ = self.reply.send(result);
    }
}

impl Db {
    /// Opens or makes the database and starts its writer.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenDbError> {
        let mut sql = connect(path).map_err(|source| OpenDbError::Open {
            path: path.to_owned(),
            source,
        })?;
        schema::migrate(&mut sql)?;
        let queued = sql
            .query_row(
                "SELECT count(*) FROM jobs WHERE state = 'queued'",
                [],
                |row| row.get::<_, i64>(0),
            )
            .map_err(|source| OpenDbError::Open {
                path: path.to_owned(),
                source,
            })?;
        let counts = Arc::new(Counts::default());
        counts.queued.store(queued.cast_unsigned(), Ordering::Relaxed);
        let (tx, rx) = mpsc::channel(WAITING_MAX);
        let (failed_tx, failed) = watch::channel(None);
        let writer =
            Writer { sql, rx, failed: failed_tx, counts: counts.clone() };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenDbError::Thread)?;
        let readers = Arc::new(Readers {
            path: path.to_owned(),
            permits: Semaphore::new(READERS),
            idle: Mutex::new(Vec::new()),
        });
        Ok(Self { writer: Line::new(tx), readers, failed, counts })
    }

    /// Says why the store has failed, once it has.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// What the writer has done.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Runs an operation in the writer; the answer comes after the sync.
    pub(crate) async fn write<T, E>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Send + From<Fault> + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let entry = Operation { op: Some(op), result: None, reply };
        let sent = self.writer.send(Box::new(entry)).await;
        sent.map_err(|_| E::from(Fault::Closed))?;
        answer.await.unwrap_or_else(|_| Err(E::from(Fault::Closed)))
    }

    /// Runs a reading on a connection of its own, beside the writer.
    pub(crate) async fn read<T, E>(
        &self,
        op: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Send + From<Fault> + 'static,
    {
        let readers = self.readers.clone();
        let permit = self.readers.permits.acquire().await;
        let _permit = permit.map_err(|_| E::from(Fault::Closed))?;
        let done = tokio::task::spawn_blocking(move || {
            let mut sql = readers.take()?;
            let mut steps = 0;
            sql.progress_handler(
                1000,
                Some(move || {
                    steps += 1;
                    steps > READ_STEPS
                }),
            )
            .map_err(Fault::from)?;
            let result = op(&sql);
            readers.put_back(sql);
            result
        });
        done.await.unwrap_or_else(|_| Err(E::from(Fault::Closed)))
    }
}

impl Readers {
    fn take(&self) -> Result<Connection, Fault> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        match idle {
            Some(sql) => Ok(sql),
            None => connect_reader(&self.path).map_err(Fault::from),
        }
    }

    fn put_back(&self, sql: Connection) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(sql);
        }
    }
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDbError {
    /// SQLite refused.
    #[error("cannot open the database {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The tables cannot be brought to the present version.
    #[error(transparent)]
    Schema(#[from] schema::SchemaError),
    /// No thread could be started.
    #[error("cannot start the writer's thread")]
    Thread(#[source] std::io::Error),
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let sql = Connection::open_with_flags(path, flags)?;
    sql.pragma_update(None, "journal_mode", "WAL")?;
    sql.pragma_update(None, "synchronous", "FULL")?;
    sql.pragma_update(None, "temp_store", "MEMORY")?;
    sql.pragma_update(None, "cache_size", -16_384)?;
    // The same few pages change again and again, so a longer log means fewer
    // of them written twice; 16 MiB are read back in well under a second.
    sql.pragma_update(None, "wal_autocheckpoint", 4096)?;
    // A reader that holds the file for long only delays a checkpoint.
    sql.busy_timeout(Duration::from_secs(10))?;
    sql.set_prepared_statement_cache_capacity(128);
    Ok(sql)
}

fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let sql = Connection::open_with_flags(path, flags)?;
    sql.pragma_update(None, "cache_size", -4096)?;
    sql.busy_timeout(Duration::from_secs(10))?;
    Ok(sql)
}

struct Writer {
    sql: Connection,
    rx: mpsc::Receiver<Box<dyn Entry>>,
    failed: watch::Sender<Option<String>>,
    counts: Arc<Counts>,
}

impl Writer {
    /// Takes whatever waits, commits it with one sync, answers all of it. It
    /// does not delay to make a batch.
    fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.rx.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            if let Err(error) = self.commit(&mut batch) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the database failed"
                );
                self.failed.send_replace(Some(error.to_string()));
                return;
            }
        }
    }

    /// Commits a batch. An error is one after which nothing may go on.
    fn commit(
        &mut self,
        batch: &mut Vec<Box<dyn Entry>>,
    ) -> Result<(), rusqlite::Error> {
        let mut queued = self.counts.queued.load(Ordering::Relaxed);
        let result = apply(&mut self.sql, batch, &mut queued);
        match result.map_err(Fault::from) {
            Ok(()) => {
                let size = batch.len() as u64;
                self.counts.queued.store(queued, Ordering::Relaxed);
                self.counts.commits.fetch_add(1, Ordering::Relaxed);
                self.counts.operations.fetch_add(size, Ordering::Relaxed);
                batch.drain(..).for_each(|entry| entry.answer(Ok(())));
                Ok(())
            }
            // SQLite has rolled all of it back, so this is safe to say.
            Err(Fault::NoSpace) => {
                batch
                    .drain(..)
                    .for_each(|entry| entry.answer(Err(Fault::NoSpace)));
                Ok(())
            }
            Err(Fault::Sql(error)) => Err(error),
            Err(_) => Err(rusqlite::Error::InvalidQuery),
        }
    }
}

fn apply(
    sql: &mut Connection,
    batch: &mut [Box<dyn Entry>],
    queued: &mut u64,
) -> Result<(), rusqlite::Error> {
    let tx: Transaction<'_> = sql.transaction()?;
    for entry in batch.iter_mut() {
        tx.prepare_cached("SAVEPOINT op")?.execute([])?;
        let mut after = *queued;
        let is_done = entry.apply(&mut Tx { sql: &tx, queued: &mut after });
        if is_done {
            *queued = after;
        } else if tx.is_autocommit() {
            // A full disk has rolled back the whole transaction already.
            return Err(full());
        } else {
            tx.prepare_cached("ROLLBACK TO op")?.execute([])?;
        }
        tx.prepare_cached("RELEASE op")?.execute([])?;
    }
    tx.commit()
}

fn full() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
        None,
    )
}
