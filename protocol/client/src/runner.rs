//! The runner's commands on port 9182.

use std::sync::Arc;
use std::time::Duration;

use ntrace_protocol::worker::WorkerView;
use ntrace_session::{CallError, Config, Peer, spawn};
use serde_json::{Value, json};

use crate::connect::{ConnectError, Open, connect};
use crate::logs::ClientService;
use crate::result;

/// How long a command may take; `enroll` looks at the VM.
const PROMPT: Duration = Duration::from_secs(120);

/// A runner's control port at the other end of a connection.
#[derive(Clone)]
pub struct RunnerControl {
    peer: Peer,
    /// Closes the connection with the last handle.
    _open: Arc<Open>,
}

impl RunnerControl {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nobody is there.
    pub async fn connect(addr: &str) -> Result<Self, ConnectError> {
        let stream = connect(addr).await?;
        let service = Arc::new(ClientService::default());
        let session = spawn(stream, Config::default(), |_| service).map_err(
            |source| ConnectError::Connect { addr: addr.to_owned(), source },
        )?;
        let open = Open::new(&session.peer);
        Ok(Self { peer: session.peer, _open: open })
    }

    /// The connection.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn worker(
        &self,
        name: &str,
        args: &[Value],
    ) -> Result<WorkerView, CallError> {
        let mut results = self.peer.call(name, args, PROMPT).await?;
        result(name, &mut results, 0)
    }

    /// `enroll`: takes a VM as a worker.
    ///
    /// # Errors
    /// As every call.
    pub async fn enroll(
        &self,
        uuid: &str,
        options: Value,
    ) -> Result<WorkerView, CallError> {
        self.worker("enroll", &[json!(uuid), options]).await
    }

    /// `expel`: lets a worker go.
    ///
    /// # Errors
    /// As every call.
    pub async fn expel(&self, uuid: &str) -> Result<WorkerView, CallError> {
        self.worker("expel", &[json!(uuid)]).await
    }

    /// `clean`: resets a defunct worker now.
    ///
    /// # Errors
    /// As every call.
    pub async fn clean(&self, uuid: &str) -> Result<WorkerView, CallError> {
        self.worker("clean", &[json!(uuid)]).await
    }

    /// `workers`.
    ///
    /// # Errors
    /// As every call.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, CallError> {
        let mut results = self.peer.call("workers", &[], PROMPT).await?;
        result("workers", &mut results, 0)
    }

    /// `status`.
    ///
    /// # Errors
    /// As every call.
    pub async fn status(&self) -> Result<Value, CallError> {
        let mut results = self.peer.call("status", &[], PROMPT).await?;
        result("status", &mut results, 0)
    }

    /// `drain`: no new work; answers when idle.
    ///
    /// # Errors
    /// As every call.
    pub async fn drain(&self) -> Result<(), CallError> {
        self.peer.call_unbounded("drain", &[]).await.map(drop)
    }
}
