//! The workers of a stage: made, enrolled, waited for.

use ntrace_protocol::WorkerState;
use ntrace_protocol::worker::WorkerView;
use serde_json::{Value, json};

use super::Stage;
use crate::wait::until;

impl Stage {
    /// Makes one more worker and enrolls it.
    pub async fn add_worker(&mut self, manifest: &Value) -> String {
        let mut manifest = manifest.clone();
        let alias = format!("worker{}", self.workers.len());
        manifest["alias"] = json!(alias);
        manifest["hostname"] = json!(alias);
        let uuid = self.zones.create(&manifest);
        self.workers.push(uuid.clone());
        self.list(&uuid);
        self.control()
            .await
            .enroll(&uuid, Value::Null)
            .await
            .unwrap_or_else(|error| panic!("enroll {uuid}: {error}"));
        uuid
    }

    /// Lets the runner act on a VM, where there is a gate.
    pub fn list(&self, uuid: &str) {
        if let Some(gate) = &self.gate {
            gate.list(uuid, "clean");
        }
    }

    /// A worker as the runner shows it.
    pub async fn worker(&self, uuid: &str) -> Option<WorkerView> {
        let control = self.control().await;
        let workers = control.workers().await.expect("the runner answers");
        workers.into_iter().find(|worker| worker.uuid.to_string() == uuid)
    }

    /// Waits until a worker is in a state.
    pub async fn worker_reaches(
        &self,
        uuid: &str,
        state: WorkerState,
    ) -> WorkerView {
        until(&format!("worker {uuid} is {state}"), async || {
            let worker = self.worker(uuid).await?;
            (worker.state == state).then_some(worker)
        })
        .await
    }

    /// Waits until all workers are clean.
    pub async fn all_available(&self) {
        for uuid in &self.workers {
            self.worker_reaches(uuid, WorkerState::Available).await;
        }
    }
}
