//! The life of the dispatcher: opens the store, listens, serves, drains.
//!
//! Invariant: whatever was acknowledged is synced, so a drain only spares
//! peers a repetition; nothing depends on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ntrace_scheduler::{ConnId, Known, Scheduler, Settings};
use ntrace_session::{BindError, Listener, accept_loop, spawn};
use ntrace_store::{Caps, LiveRun, OpenError, Store};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, NoHome};
use crate::connection::{Busy, Connection, Shared};
use crate::documents::Documents;
use crate::engine::{self, Request};
use crate::stats::Stats;
use crate::watchers::Watchers;

/// How long commands that are under way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long connections may take to close at the end.
const CLOSE: Duration = Duration::from_secs(5);

/// Why the dispatcher did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no place for data.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// The data directory cannot be used.
    #[error("cannot open the data directory")]
    Store(#[from] OpenError),
    /// The port cannot be had.
    #[error("cannot listen")]
    Listen(#[from] BindError),
    /// The port cannot be written down.
    #[error("cannot write the port to {path}")]
    PortFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The disk failed.
    #[error("the store has failed: {0}; start again once the disk is well")]
    Failed(String),
    /// A task ended that must not.
    #[error("the engine ended early")]
    Engine,
}

/// A dispatcher that is listening.
pub struct Server {
    listener: Listener,
    shared: Shared,
    engine_task: tokio::task::JoinHandle<()>,
    engine_stop: CancellationToken,
}

/// Runs a dispatcher until `stop`, then drains it.
///
/// # Errors
/// It cannot start, or its disk fails.
pub async fn run(
    config: Config,
    stop: CancellationToken,
) -> Result<(), RunError> {
    Server::start(config).await?.serve(stop).await
}

impl Server {
    /// Opens the store and the port.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub async fn start(config: Config) -> Result<Self, RunError> {
        let data = config.data_dir()?;
        let (store, live) = Store::open(&data, Caps::default()).await?;
        info!(data = %data.display(), runs = live.len(), "store opened");
        let listener =
            Listener::bind(&config.listen, config.allow_remote_without_auth)
                .await?;
        for addr in listener.addrs() {
            info!("listening on {addr}");
        }
        if let Some(path) = &config.port_file {
            write_port(path, &listener.addrs())?;
        }
        let engine_stop = CancellationToken::new();
        let (shared, engine_task) =
            assemble(&config, store, live, engine_stop.clone());
        Ok(Self { listener, shared, engine_task, engine_stop })
    }

    /// Where it listens.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.listener.addrs()
    }

    /// Serves until `stop`, then drains.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), RunError> {
        let Self { listener, shared, mut engine_task, engine_stop } = self;
        let sessions = TaskTracker::new();
        let closing = CancellationToken::new();
        let accepting = stop.child_token();
        let accept = tokio::spawn(accept_loop(listener, accepting.clone(), {
            let (shared, sessions) = (shared.clone(), sessions.clone());
            let (closing, last) = (closing.clone(), AtomicU64::new(0));
            move |stream, permit| {
                let id = ConnId(last.fetch_add(1, Ordering::Relaxed) + 1);
                let closing = closing.clone();
                admit(&shared, &sessions, id, stream, permit, closing);
            }
        }));
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            why = shared.store.failure() => Err(RunError::Failed(why)),
            _ = &mut engine_task => Err(RunError::Engine),
        };
        info!("draining");
        accepting.cancel();
        // It ends at once, and what it holds is only the port.
        let _ = accept.await;
        if outcome.is_ok() && timeout(DRAIN, shared.busy.idle()).await.is_err()
        {
            warn!("commands were still under way at the end");
        }
        closing.cancel();
        sessions.close();
        shared.tasks.close();
        let closed = async {
            sessions.wait().await;
            shared.tasks.wait().await;
        };
        if timeout(CLOSE, closed).await.is_err() {
            warn!("connections were still open at the end");
        }
        engine_stop.cancel();
        if outcome.is_ok() {
            // It ends at once.
            let _ = engine_task.await;
        }
        outcome
    }
}

fn assemble(
    config: &Config,
    store: Store,
    live: Vec<LiveRun>,
    stop: CancellationToken,
) -> (Shared, tokio::task::JoinHandle<()>) {
    let began = tokio::time::Instant::now();
    let settings = Settings { lease: config.lease, ..Settings::default() };
    let known = live.into_iter().map(|run| Known {
        job: run.job,
        run: run.run,
        lease: run.lease,
        runner: run.runner,
        worker: run.worker,
        stop: run.stop,
    });
    let scheduler = Scheduler::new(settings, Duration::ZERO, known);
    let parts = engine::Parts {
        store: store.clone(),
        watchers: Watchers::default(),
        stats: Arc::new(Stats::new()),
        lease: config.lease,
    };
    let (engine, task) = engine::start(parts.clone(), scheduler, began, stop);
    let shared = Shared {
        store,
        engine,
        watchers: parts.watchers,
        documents: Documents::new(),
        stats: parts.stats,
        tasks: TaskTracker::new(),
        busy: Arc::new(Busy::default()),
        max_line: config.max_line,
        max_queue: config.max_queue,
        lease: config.lease,
        began: began.into_std(),
    };
    (shared, task)
}

/// Serves a connection until it ends.
fn admit(
    shared: &Shared,
    sessions: &TaskTracker,
    id: ConnId,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    closing: CancellationToken,
) {
    let shared = shared.clone();
    sessions.spawn(async move {
        let _permit = permit;
        shared.stats.connections.fetch_add(1, Ordering::Relaxed);
        let config = ntrace_session::Config {
            max_line: shared.max_line,
            ..ntrace_session::Config::default()
        };
        let engine = shared.engine.clone();
        let session = spawn(stream, config, |peer| {
            Arc::new(Connection::new(id, peer.clone(), shared))
        });
        let Ok(session) = session else {
            // It was gone before it was there.
            return;
        };
        let peer = session.peer.clone();
        let ended = session.ended();
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => {}
            () = closing.cancelled() => {
                peer.close();
                ended.await;
            }
        }
        engine.tell(Request::Closed(id)).await;
    });
}

/// Writes the port for whoever started us, whole or not at all.
fn write_port(path: &Path, addrs: &[SocketAddr]) -> Result<(), RunError> {
    let port = addrs.first().map_or(0, SocketAddr::port);
    let fail = |source| RunError::PortFile { path: path.to_owned(), source };
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{port}\n")).map_err(fail)?;
    std::fs::rename(&new, path).map_err(fail)
}
