//! Documents made of traces: made off the async threads, a few at once, and
//! kept for as long as they are being fetched.
//!
//! Must not know what is in them. A document is a function of its key: the
//! traces never change, so one that was let go is made again, and a caller
//! may fetch its pieces over any number of connections. Invariants: at most
//! [`AT_ONCE`] are being made, [`KEPT_BYTES`] are kept, and none outlives the
//! removal of a job that it shows.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ntrace_protocol::compare::Document;
use ntrace_protocol::{Code, JobId, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How many are made at the same time.
const AT_ONCE: usize = 2;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(30);
/// How long the making may take.
const WORK: Duration = Duration::from_secs(60);
/// How many bytes are kept, over all documents.
const KEPT_BYTES: usize = 64 << 20;
/// How many documents are kept.
const KEPT: usize = 32;

/// A document with its bytes.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) document: Document,
    pub(crate) bytes: Vec<u8>,
    /// The jobs that it shows.
    pub(crate) jobs: Vec<JobId>,
}

/// Makes documents, and keeps a few.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    turns: Arc<Semaphore>,
    kept: Arc<Mutex<Kept>>,
}

/// The right to work off the async threads; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// Says whether anybody still waits for a piece of work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// Refuses to go on with what nobody waits for: the caller went away, or
    /// was told that it takes too long.
    pub(crate) fn check(&self) -> Result<(), WireError> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(late()),
        }
    }
}

/// Whoever waits; work that is not waited for ends at its next check.
struct Waiter(Wanted);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

fn late() -> WireError {
    WireError::new(
        Code::Etime,
        format!(
            "the trace is too large to be worked on in {}s; fetch the \
             profile itself with blob-get",
            WORK.as_secs()
        ),
    )
}

impl Documents {
    pub(crate) fn new() -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { turns, kept: Arc::default() }
    }

    /// Waits for a turn. What takes memory is read only after it.
    pub(crate) async fn turn(&self) -> Result<Turn, WireError> {
        let busy = || {
            WireError::new(
                Code::Eagain,
                "too many traces are being worked on; try again later",
            )
        };
        let turn = timeout(TURN, self.turns.clone().acquire_owned()).await;
        let permit = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        Ok(Turn { _permit: permit })
    }

    /// Does the work of a turn. After its deadline the caller is told; the
    /// thread goes on to its next check, and keeps the turn until then. So
    /// it does when the caller goes away.
    pub(crate) async fn work<T: Send + 'static>(
        turn: Turn,
        work: impl FnOnce(&Wanted) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let wanted = Wanted::default();
        let _waiter = Waiter(wanted.clone());
        let working = tokio::task::spawn_blocking(move || {
            let done = wanted.check().and_then(|()| work(&wanted));
            drop(turn);
            done
        });
        match timeout(WORK, working).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                tracing::error!(%error, "work on a trace ended badly");
                let text = "the work on the trace ended badly; the log of \
                            the dispatcher says how";
                Err(WireError::new(Code::Einternal, text))
            }
            Err(_) => Err(late()),
        }
    }

    /// The document of that key, if it is still kept.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Made>> {
        self.lock().get(key)
    }

    /// Keeps a document for those who fetch the rest of it.
    pub(crate) fn keep(&self, key: String, made: Made) -> Arc<Made> {
        let made = Arc::new(made);
        self.lock().keep(key, made.clone());
        made
    }

    /// Lets go of all that shows a job.
    pub(crate) fn forget(&self, job: JobId) {
        self.lock().all.retain(|(_, made)| !made.jobs.contains(&job));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Documents, the last used at the end.
#[derive(Debug, Default)]
struct Kept {
    all: VecDeque<(String, Arc<Made>)>,
}

impl Kept {
    fn get(&mut self, key: &str) -> Option<Arc<Made>> {
        let at = self.all.iter().position(|(known, _)| known == key)?;
        let entry = self.all.remove(at)?;
        let made = entry.1.clone();
        self.all.push_back(entry);
        Some(made)
    }

    fn keep(&mut self, key: String, made: Arc<Made>) {
        self.all.retain(|(known, _)| *known != key);
        // One that is too large alone is made again for each piece.
        if made.bytes.len() > KEPT_BYTES {
            return;
        }
        self.all.push_back((key, made));
        while self.all.len() > KEPT || self.bytes() > KEPT_BYTES {
            self.all.pop_front();
        }
    }

    fn bytes(&self) -> usize {
        self.all.iter().map(|(_, made)| made.bytes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use ntrace_protocol::compare::Side;

    use super::*;

    fn made(job: u128, bytes: usize) -> Made {
        let of = Side {
            runs: Vec::new(),
            source: None,
            profiles: 1,
            samples: 1,
            cpu_seconds: 1.0,
        };
        let document = Document {
            name: "x".to_owned(),
            mime: "x".to_owned(),
            bytes: bytes as u64,
            sha256: "x".to_owned(),
            of,
            base: None,
            warnings: Vec::new(),
        };
        let jobs = vec![JobId::generate(0, job)];
        Made { document, bytes: vec![0; bytes], jobs }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let documents = Documents::new();
        documents.keep("a".into(), made(1, KEPT_BYTES / 2));
        documents.keep("b".into(), made(2, KEPT_BYTES / 2));
        assert!(documents.get("a").is_some());
        documents.keep("c".into(), made(3, 1));
        assert!(documents.get("b").is_none());
        assert!(documents.get("a").is_some() && documents.get("c").is_some());
        documents.keep("d".into(), made(4, KEPT_BYTES + 1));
        assert!(documents.get("d").is_none() && documents.get("c").is_some());
        for n in 0..2 * KEPT as u128 {
            documents.keep(format!("{n}"), made(n, 1));
        }
        assert_eq!(documents.lock().all.len(), KEPT);
    }

    #[test]
    fn what_shows_a_removed_job_is_let_go() {
        let documents = Documents::new();
        documents.keep("a".into(), made(1, 1));
        documents.keep("b".into(), made(2, 1));
        documents.forget(JobId::generate(0, 1));
        assert!(documents.get("a").is_none());
        assert!(documents.get("b").is_some());
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_turn_back() {
        let documents = Documents::new();
        for _ in 0..2 * AT_ONCE {
            let turn = documents.turn().await.unwrap();
            let done = Documents::work::<()>(turn, |_| panic!("a bug")).await;
            assert_eq!(done.unwrap_err().code, Code::Einternal);
        }
        assert_eq!(documents.turns.available_permits(), AT_ONCE);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_and_gives_its_turn_back() {
        let documents = Documents::new();
        let turn = documents.turn().await.unwrap();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let work = Documents::work::<()>(turn, move |wanted| {
            begun.send(()).unwrap();
            loop {
                wanted.check()?;
                std::thread::yield_now();
            }
        });
        let working = tokio::spawn(work);
        has_begun.await.unwrap();
        assert_eq!(documents.turns.available_permits(), AT_ONCE - 1);
        working.abort();
        let all = documents.turns.acquire_many(AT_ONCE as u32);
        let all = timeout(Duration::from_secs(60), all).await;
        assert!(all.is_ok(), "the turn is kept for ever");
    }
}
