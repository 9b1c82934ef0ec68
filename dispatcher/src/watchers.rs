//! Who waits for changes of a job.
//!
//! Must not know what changed: whoever is woken looks again. A change that
//! nobody waits for costs one look into a map.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ntrace_protocol::JobId;
use tokio::sync::watch;

/// The jobs that somebody watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers {
    jobs: Arc<Mutex<HashMap<JobId, watch::Sender<()>>>>,
}

/// One who watches a job.
#[derive(Debug)]
pub(crate) struct Watcher {
    watchers: Watchers,
    job: JobId,
    changes: watch::Receiver<()>,
}

impl Watchers {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a job from now on.
    pub(crate) fn watch(&self, job: JobId) -> Watcher {
        let mut jobs = self.jobs();
        let sender = jobs.entry(job).or_insert_with(|| watch::channel(()).0);
        let changes = sender.subscribe();
        Watcher { watchers: self.clone(), job, changes }
    }

    /// The job has changed, and the change is kept.
    pub(crate) fn changed(&self, job: JobId) {
        if let Some(sender) = self.jobs().get(&job) {
            sender.send_replace(());
        }
    }
}

impl Watcher {
    /// From here on changes count.
    pub(crate) fn look(&mut self) {
        self.changes.mark_unchanged();
    }

    /// Waits for a change since the last look.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as there are receivers.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut jobs = self.watchers.jobs();
        let is_last =
            jobs.get(&self.job).is_some_and(|s| s.receiver_count() <= 1);
        if is_last {
            jobs.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_wakes_all_and_nothing_stays_behind() {
        let watchers = Watchers::default();
        let job = crate::clock::job_id();
        let (mut one, mut two) = (watchers.watch(job), watchers.watch(job));
        watchers.changed(job);
        one.changed().await;
        two.changed().await;
        drop(one);
        watchers.changed(job);
        two.changed().await;
        drop(two);
        assert!(watchers.jobs().is_empty());
    }
}
