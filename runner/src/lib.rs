//! The agent beside the zones: asks for work, keeps workers clean, runs
//! jobs, reports.
//!
//! Outward: [`uplink`] is the way to the dispatcher, [`control`] the
//! runner's own port. Inward: [`worker`] keeps zones clean and gives them to
//! jobs, [`job`] runs one. Both halves meet at [`workers`] and at the
//! uplink's types.

pub mod config;
pub mod control;
mod global_zone;
pub mod job;
pub mod uplink;
pub mod worker;
pub mod workers;

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use ntrace_session::{Config as SessionConfig, Listener, accept_loop, spawn};
use ntrace_source::Cache;
use ntrace_spool::{Options as SpoolOptions, Spool};
use ntrace_zones::Driver;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use config::Config;
use control::Control;
use uplink::{Uplink, UplinkConfig};
use worker::{Roster, RosterConfig};
use workers::Workers;

/// Runs until `stop`, then lets running jobs end, for a while.
///
/// # Errors
/// Something that is needed is not there: the data directory, git, the
/// port, the global zone.
pub async fn run(
    config: Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let data = config.data();
    let _lock = take_data(&data)?;
    info!(data = %data.display(), "data");
    let listener =
        Listener::bind(&config.listen, config.allow_remote_without_auth)
            .await?;
    let carrier = global_zone::carrier(&config).await?;
    let sources = Cache::open(ntrace_source::Config {
        directory: data.join("source"),
        source: config.source.clone(),
        max_bytes: config.source_cache,
    })?;
    let opened = Spool::open(&data.join("spool"), SpoolOptions::default())?;
    let roster = Roster::new(
        RosterConfig {
            data: data.clone(),
            workers: config.workers.clone(),
            snapshot: config.snapshot.clone(),
            reset_after: config.reset_after,
        },
        Driver::new(Arc::new(carrier)),
        job::Context { sources, policy: config.limits.policy() },
    );
    let workers: Arc<dyn Workers> = Arc::new(roster.clone());
    let ended = CancellationToken::new();
    let uplink = Uplink::start(
        UplinkConfig {
            dispatcher: config.dispatcher.clone(),
            name: config.name(),
            zone: None,
            waits: uplink::Waits::default(),
        },
        opened,
        workers.clone(),
        ended.clone(),
    )?;
    roster.start(uplink.clone())?;
    config::announce(&listener.addrs());
    info!(dispatcher = config.dispatcher, name = %config.name(), "runner");
    let control = control(&config, workers, uplink.clone());
    tokio::spawn(accept_loop(
        listener,
        ended.clone(),
        move |stream, permit| {
            let control = control.clone();
            let session = spawn(stream, SessionConfig::default(), |peer| {
                Arc::new(control::Session { control, peer: peer.clone() })
            });
            if let Ok(session) = session {
                tokio::spawn(async move {
                    session.ended().await;
                    drop(permit);
                });
            }
        },
    ));
    stop.cancelled().await;
    shut_down(&config, &roster, &uplink).await;
    ended.cancel();
    Ok(())
}

/// Running jobs may end and be delivered, for a while. What does not end is
/// run again by somebody else: its zone dies with this process.
async fn shut_down(config: &Config, roster: &Roster, uplink: &Uplink) {
    info!(within = ?config.drain, "ending; running jobs may finish");
    let finish = async {
        roster.shut_down().await;
        // Without a dispatcher there is nobody to deliver to; the spool
        // keeps it for the next start.
        if uplink.is_connected() {
            uplink.settled().await;
        }
    };
    if timeout(config.drain, finish).await.is_err() {
        warn!("gave up waiting for jobs or for their delivery");
    }
    if timeout(config.drain, uplink.shut_down()).await.is_err() {
        warn!("gave up waiting for the connection to end");
    }
}

/// Makes the data directory and keeps others out of it.
fn take_data(data: &Path) -> anyhow::Result<File> {
    let at = || format!("cannot use the data directory {}", data.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(at)?;
    let lock = File::create(data.join("lock")).with_context(at)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another runner uses {}; give this one --data DIR",
            data.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(at),
    }
}

fn control(
    config: &Config,
    workers: Arc<dyn Workers>,
    uplink: Uplink,
) -> Arc<Control> {
    let (name, dispatcher) = (config.name(), config.dispatcher.clone());
    let of_status = workers.clone();
    let status = move || {
        json!({
            "name": name,
            "version": env!("CARGO_PKG_VERSION"),
            "dispatcher": dispatcher,
            "connected": uplink.is_connected(),
            "workers": of_status.views(),
            "runs": uplink.held(),
            "unacked_bytes": uplink.unacked_bytes(),
        })
    };
    Arc::new(Control { workers, status: Arc::new(status) })
}
