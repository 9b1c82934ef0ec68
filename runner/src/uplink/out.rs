//! Where a run's reports go: into the spool, whatever the connection does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ntrace_protocol::report::{End, Event};
use ntrace_protocol::runner::Held as HeldRun;
use ntrace_protocol::{Reason, Stream};
use ntrace_spool::SpoolError;
use tokio::io::AsyncRead;
use tracing::{error, warn};

use super::artefact::{self, ArtefactError};
use super::held::HeldSpool;
use super::{Shared, chain, lost, now};

/// How often an end is tried to be written, and the pause between.
const END_TRIES: u32 = 5;
const END_PAUSE: Duration = Duration::from_secs(1);

/// Where a run's reports go; cheap to clone.
#[derive(Clone)]
pub struct RunOut {
    writer: Arc<Writer>,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) run: Arc<HeldSpool>,
    ended: AtomicBool,
}

impl RunOut {
    pub(super) fn new(shared: Arc<Shared>, run: Arc<HeldSpool>) -> Self {
        let ended = AtomicBool::new(false);
        Self { writer: Arc::new(Writer { shared, run, ended }) }
    }

    /// The run as the dispatcher knows it.
    pub fn held(&self) -> HeldRun {
        self.writer.run.spool.meta().held()
    }

    /// Appends output. While the spool is full it waits, and with it the
    /// job. The output of a dropped run goes nowhere.
    ///
    /// # Errors
    /// The disk refused: the bytes are lost, which is to be told.
    pub async fn output(
        &self,
        stream: Stream,
        bytes: Bytes,
    ) -> Result<(), SpoolError> {
        let Writer { shared, run, .. } = &*self.writer;
        if !shared.spool.has_room() {
            self.room().await;
        }
        match run.spool.append(stream, now(), &bytes) {
            Ok(()) => shared.wake.notify_one(),
            Err(SpoolError::Discarded) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits until the spool has room, or the run is dropped. It has no
    /// deadline of its own: that is the run's time limit.
    async fn room(&self) {
        let Writer { shared, run, .. } = &*self.writer;
        let mut freed = shared.freed.subscribe();
        warn!(run = %self.held().run_id, "the spool is full, the job waits");
        while !shared.spool.has_room() && !run.is_dropped() {
            if freed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Appends an event. One that cannot be kept is logged.
    pub async fn event(&self, event: Event) {
        let Writer { shared, run, .. } = &*self.writer;
        match run.spool.event(now(), &event) {
            Ok(()) => shared.wake.notify_one(),
            Err(SpoolError::Discarded) => {}
            Err(error) => warn!(run = %self.held().run_id,
                error = chain(&error), "an event could not be kept"),
        }
    }

    /// Ends the run; the last number of each stream is filled in. If that
    /// cannot be written down the run is let go, and the dispatcher's lease
    /// rule does the rest.
    pub async fn end(self, end: End) {
        self.writer.ended.store(true, Ordering::Release);
        write_end(&self.writer.shared, &self.writer.run, end).await;
    }

    /// Sends a file that the job left, and waits until the dispatcher has
    /// it.
    ///
    /// # Errors
    /// It could not be read, the dispatcher refused it, or was away for too
    /// long.
    pub async fn artefact(
        &self,
        name: &str,
        reader: impl AsyncRead + Send + Unpin,
    ) -> Result<u64, ArtefactError> {
        artefact::send(&self.writer, name, reader).await
    }
}

pub(super) async fn write_end(
    shared: &Arc<Shared>,
    run: &Arc<HeldSpool>,
    end: End,
) {
    let run_id = run.spool.meta().run_id;
    for _ in 0..END_TRIES {
        let (spool, end) = (run.spool.clone(), end.clone());
        let written =
            tokio::task::spawn_blocking(move || spool.end(now(), end)).await;
        match written {
            Ok(Ok(()) | Err(SpoolError::Ended)) => {
                shared.wake.notify_one();
                return;
            }
            Ok(Err(SpoolError::Discarded)) => return,
            Ok(Err(error)) => warn!(run = %run_id, error = chain(&error),
                "the end could not be written, trying again"),
            // The runtime is going down: the next start ends it.
            Err(_) => return,
        }
        tokio::time::sleep(END_PAUSE).await;
    }
    error!(run = %run_id, "the end cannot be written, the run is let go");
    shared.drop_run(run_id, "its end cannot be written");
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Acquire) || self.run.is_dropped() {
            return;
        }
        // Whoever had the run went away without a word. Without an end it
        // would be beaten for, for ever. Outside of a runtime the process
        // is ending, and the next start does this.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (shared, run) = (self.shared.clone(), self.run.clone());
        let end = lost(Reason::Internal, "the run was given up by the runner");
        runtime.spawn(async move { write_end(&shared, &run, end).await });
    }
}
