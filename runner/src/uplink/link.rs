//! The connection: made, kept alive, found dead, made again.

use std::sync::Arc;
use std::time::Duration;

use ntrace_client::{Backoff, CallError, ConnectError, Dispatcher, connect};
use ntrace_protocol::runner::{Hello, Welcome};
use ntrace_session::{Config, spawn};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, info, warn};

use super::service::FromDispatcher;
use super::{Link, Shared, chain, ship};

/// A connection on which nothing came for so many beats is dead, although
/// both of its ends may stand: a tunnel can die in its middle.
const BEATS: u32 = 2;

/// But not in less than this: short beats are for tests, and a busy machine
/// is not a dead one.
const SILENCE_LEAST: Duration = Duration::from_secs(1);

/// So many beats an answer to one may take while other things come.
const BEATS_LATE: u32 = 6;

/// The bounds of what a dispatcher may ask for as the time between beats.
const BEAT_LEAST: Duration = Duration::from_millis(10);
const BEAT_MOST: Duration = Duration::from_secs(60);

/// The least time between two hellos that tell of changed workers.
const REFRESH: Duration = Duration::from_millis(250);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no connection")]
    Connect(#[from] ConnectError),
    #[error("the connection could not be set up")]
    Setup(#[from] std::io::Error),
    #[error("hello was not answered within {0:?}")]
    HelloLate(Duration),
    #[error("hello failed")]
    Hello(#[source] CallError),
    #[error("the dispatcher closed the connection")]
    Ended,
    #[error("nothing came from the dispatcher for {0:?}")]
    Silent(Duration),
    #[error("a beat was not answered")]
    Beat(#[source] CallError),
}

/// Keeps a connection until it is told to stop. Only changes are logged.
pub(super) async fn keep(shared: Arc<Shared>) {
    let waits = shared.config.waits;
    let mut backoff = Backoff::new(waits.pause_least, waits.pause_most);
    let mut is_known_away = false;
    let mut number = 0;
    while !shared.stop.is_cancelled() {
        let began = Instant::now();
        number += 1;
        let over = tokio::select! {
            () = shared.stop.cancelled() => break,
            over = converse(&shared, number) => over,
        };
        let was_up = shared.link.send_replace(None).is_some();
        let error = chain(&over);
        let addr = &shared.config.dispatcher;
        if was_up {
            backoff.lasted(began.elapsed());
            warn!(dispatcher = addr, error, "connection lost");
        } else if is_known_away {
            debug!(dispatcher = addr, error, "still no dispatcher");
        } else {
            warn!(dispatcher = addr, error, "no dispatcher, trying on");
        }
        is_known_away = !was_up;
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
    if let Some(link) = shared.link.send_replace(None) {
        link.dispatcher.peer().close();
    }
}

/// One connection, from beginning to end.
async fn converse(shared: &Arc<Shared>, number: u64) -> LinkError {
    // Before hello is built, so that no change falls between the two.
    let changes = shared.workers.changes();
    let opened = open(shared).await;
    let (dispatcher, welcome) = match opened {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    let peer = dispatcher.peer().clone();
    // However this future ends, the connection ends with it.
    let _closing = closing(peer.clone());
    let beat = Duration::from_millis(welcome.beat_ms);
    let beat = beat.clamp(BEAT_LEAST, BEAT_MOST);
    info!(dispatcher = %peer.addr(), ?beat, kept = welcome.keep.len(),
        dropped = welcome.drop.len(), "connected");
    drop_all(shared, &welcome);
    let link = Link { dispatcher: dispatcher.clone(), number };
    shared.link.send_replace(Some(link));
    let silence = (beat * BEATS).max(SILENCE_LEAST);
    tokio::select! {
        () = peer.silent_for(silence) => LinkError::Silent(silence),
        () = peer.ended_sending() => LinkError::Ended,
        error = beats(shared, &dispatcher, beat) => error,
        error = refresh(shared, &dispatcher, changes) => error,
        () = ship::ship(shared, &dispatcher) => LinkError::Ended,
    }
}

async fn open(
    shared: &Arc<Shared>,
) -> Result<(Dispatcher, Welcome), LinkError> {
    let stream = connect(&shared.config.dispatcher).await?;
    let service = Arc::new(FromDispatcher(shared.clone()));
    let session = spawn(stream, Config::default(), |_| service)?;
    let dispatcher = Dispatcher::over(session.peer);
    match hello(shared, &dispatcher).await {
        Ok(welcome) => Ok((dispatcher, welcome)),
        Err(error) => {
            dispatcher.peer().close();
            Err(error)
        }
    }
}

async fn hello(
    shared: &Shared,
    dispatcher: &Dispatcher,
) -> Result<Welcome, LinkError> {
    let hello = Hello {
        name: shared.config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: shared.config.zone.clone(),
        workers: shared.workers.views(),
        runs: shared.held(),
    };
    let late = shared.config.waits.hello;
    timeout(late, dispatcher.hello(&hello))
        .await
        .map_err(|_| LinkError::HelloLate(late))?
        .map_err(LinkError::Hello)
}

fn drop_all(shared: &Shared, welcome: &Welcome) {
    for run_id in &welcome.drop {
        shared.drop_run(*run_id, "the dispatcher gave it to somebody else");
    }
}

/// Gives signs of life for all held runs, the first at once: from then on
/// the dispatcher expects them, and lets a connection go that has none.
async fn beats(
    shared: &Shared,
    dispatcher: &Dispatcher,
    every: Duration,
) -> LinkError {
    let mut ticks = interval_at(Instant::now(), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let held = shared.held();
        match dispatcher.beat(&held, every * BEATS_LATE).await {
            Ok(dropped) => {
                for run_id in dropped {
                    shared.drop_run(run_id, "its lease is over");
                }
            }
            // It is there and has its reasons; the lease rule knows them.
            Err(CallError::Refused(error)) => {
                warn!(%error, "a beat was refused");
            }
            Err(error) => return LinkError::Beat(error),
        }
    }
}

/// Says hello again when a worker has changed, not too often.
async fn refresh(
    shared: &Shared,
    dispatcher: &Dispatcher,
    mut changes: watch::Receiver<u64>,
) -> LinkError {
    loop {
        if changes.changed().await.is_err() {
            // Nobody is left who could change.
            return std::future::pending().await;
        }
        match hello(shared, dispatcher).await {
            Ok(welcome) => drop_all(shared, &welcome),
            Err(error) => return error,
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// Closes the connection when it is dropped.
fn closing(peer: ntrace_client::Peer) -> impl Drop {
    struct Close(ntrace_client::Peer);
    impl Drop for Close {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    Close(peer)
}
