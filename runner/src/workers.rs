//! How the outward half of the runner sees its workers.
//!
//! The uplink and the control port speak to this trait and nothing behind
//! it; so both are tested without a zone.

use futures::future::BoxFuture;
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{Label, WireError, WorkerUuid};
use tokio::sync::watch;

/// The workers of a runner.
pub trait Workers: Send + Sync + 'static {
    /// Takes a VM as a worker; again is no error.
    fn enroll(
        &self,
        uuid: WorkerUuid,
        snapshot: Option<String>,
        labels: Vec<Label>,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>>;

    /// Lets a worker go; a running job may finish.
    fn expel(
        &self,
        uuid: WorkerUuid,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>>;

    /// Resets a defunct worker now.
    fn clean(
        &self,
        uuid: WorkerUuid,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>>;

    /// All workers as they are now.
    fn views(&self) -> Vec<WorkerView>;

    /// Counts the changes of any worker.
    fn changes(&self) -> watch::Receiver<u64>;

    /// No new work from now on; resolves when no job runs.
    fn drain(&self) -> BoxFuture<'_, ()>;
}
