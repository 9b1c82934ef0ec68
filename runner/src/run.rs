//! The whole runner: everything made, joined, and ended in order.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ntrace_protocol::unit::format_duration;
use ntrace_session::Listener;
use ntrace_source::Cache;
use ntrace_spool::{Options, Spool};
use ntrace_tracers::Choice;
use ntrace_zones::{
    Carrier, Driver, Local, Programs, Ssh, SshAddress, SshOptions,
};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, GlobalZone, Tracer, host_name};
use crate::control::{self, Control};
use crate::job::{Context, Policy, Tracers};
use crate::uplink::{Uplink, UplinkConfig, Waits};
use crate::worker::{Roster, RosterConfig};
use crate::workers::Workers;

/// How long the last reports may take to arrive when we end.
const LAST_REPORTS: Duration = Duration::from_secs(10);

/// How long tasks may take to end when nothing is left to do.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// How long `mdata-get` may take.
const METADATA: Duration = Duration::from_secs(10);

/// Why the data directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another runner has it.
    #[error(
        "another ntrace-runner uses {}; end it or give --data another \
         directory", .0.display()
    )]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot lock {}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs until `stop`, then drains.
///
/// # Errors
/// Something that is needed is not to be had.
pub async fn run(
    config: Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let data = config.data_dir()?;
    let _lock = lock(&data)?;
    let listener =
        Listener::bind(&config.listen, config.allow_remote_without_auth)
            .await?;
    let name = config.runner_name();
    info!(%name, data = %data.display(), dispatcher = config.dispatcher,
        "runner starts");
    let roster = roster(&config, &data).await?;
    let workers: Arc<dyn Workers> = Arc::new(roster.clone());
    let ended = CancellationToken::new();
    let bound = config.spool;
    let options = Options { bound, ..Options::default() };
    let spool = Spool::open(&data.join("spool"), options)?;
    let uplink_config = UplinkConfig {
        dispatcher: config.dispatcher.clone(),
        name: name.clone(),
        zone: Some(host_name()),
        waits: Waits::default(),
    };
    let uplink =
        Uplink::start(uplink_config, spool, workers.clone(), ended.clone())?;
    roster.start(uplink.clone())?;
    for addr in listener.addrs() {
        // Scripts read the port from this line.
        info!("listening on {addr}");
    }
    if let Some(file) = &config.port_file {
        write_port(file, &listener)?;
    }
    let identity = json!({"name": name, "dispatcher": config.dispatcher});
    let control = Control { workers, uplink: uplink.clone(), identity };
    let serving =
        tokio::spawn(control::serve(listener, control, ended.clone()));
    stop.cancelled().await;
    drain(&config, &roster, &uplink).await;
    ended.cancel();
    let tasks = async {
        uplink.shut_down().await;
        serving.await
    };
    if timeout(LAST_TASKS, tasks).await.is_err() {
        warn!("gave up waiting for tasks");
    }
    Ok(())
}

/// No new work; jobs may finish and their reports arrive.
async fn drain(config: &Config, roster: &Roster, uplink: &Uplink) {
    info!(limit = format_duration(config.drain), "draining");
    if timeout(config.drain, roster.shut_down()).await.is_err() {
        warn!("jobs still run; they will be reported as lost");
    }
    if timeout(LAST_REPORTS, uplink.settled()).await.is_err() {
        let bytes = uplink.unacked_bytes();
        warn!(bytes, "reports wait in the spool for the next start");
    }
}

/// Takes the data directory for this process.
fn lock(data: &Path) -> Result<File, LockError> {
    let path = data.join("runner.lock");
    let io = |source| LockError::Io { path: path.clone(), source };
    // What jobs print is nobody else's business.
    let mut dirs = fs::DirBuilder::new();
    dirs.recursive(true).mode(0o700).create(data).map_err(io)?;
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = options.open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::InUse(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Makes the workers' side; they do not live yet.
async fn roster(config: &Config, data: &Path) -> anyhow::Result<Roster> {
    let policy = Policy {
        defaults: config.limits.defaults().map_err(anyhow::Error::msg)?,
        ceiling: config.limits.ceiling(),
    };
    let sources = Cache::open(ntrace_source::Config {
        directory: data.join("source"),
        source: config.source.clone(),
        max_bytes: config.source_cache,
    })?;
    let driver = Driver::new(Arc::new(carrier(config).await?));
    let roster_config = RosterConfig {
        data: data.to_owned(),
        workers: config.workers.clone(),
        snapshot: config.snapshot.as_str().to_owned(),
        reset_after: config.reset_after,
    };
    let tracers = Tracers::new(choice(config.tracer), data);
    let context = Context { sources, policy, tracers };
    Ok(Roster::new(roster_config, driver, context))
}

fn choice(tracer: Tracer) -> Choice {
    use ntrace_protocol::trace::Tracer as Kind;
    match tracer {
        Tracer::Auto => Choice::Auto,
        Tracer::Dtrace => Choice::Only(Kind::Dtrace),
        Tracer::Sample => Choice::Only(Kind::Sample),
        Tracer::Perf => Choice::Only(Kind::Perf),
        Tracer::None => Choice::Never,
    }
}

/// The way to the global zone.
pub(crate) async fn carrier(config: &Config) -> anyhow::Result<Carrier> {
    let address = match &config.global_zone {
        GlobalZone::Local => None,
        GlobalZone::Ssh(address) => Some(address.clone()),
        GlobalZone::Auto => parent().await?,
    };
    let Some(address) = address else {
        return Ok(Carrier::Local(Local::new(Programs::Embedded)?));
    };
    let options = SshOptions {
        identity: config.identity.clone(),
        known_hosts: config.known_hosts.clone(),
        control_directory: None,
    };
    info!(%address, "connecting to the global zone");
    Ok(Carrier::Ssh(Ssh::connect(&address, &options).await?))
}

/// The global zone of a SmartOS zone, as its operator wrote it down; none on
/// other systems.
async fn parent() -> anyhow::Result<Option<SshAddress>> {
    const PROGRAM: &str = "/usr/sbin/mdata-get";
    if !cfg!(any(target_os = "illumos", target_os = "solaris")) {
        return Ok(None);
    }
    let mut command = tokio::process::Command::new(PROGRAM);
    command.arg("parent").env_clear().current_dir("/").kill_on_drop(true);
    let output = timeout(METADATA, command.output())
        .await
        .with_context(|| format!("{PROGRAM} parent did not end"))?
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(
        output.status.success() && !text.is_empty(),
        "the metadata have no key parent; set it to the global zone's \
         address, or give --global-zone ssh://root@HOST"
    );
    let address = match text.contains("://") {
        true => text,
        false => format!("ssh://root@{text}"),
    };
    Ok(Some(address.parse()?))
}

/// Written beside and renamed, so that nobody reads half of it.
fn write_port(file: &Path, listener: &Listener) -> anyhow::Result<()> {
    let addrs = listener.addrs();
    let port = addrs.first().context("nothing is listened on")?.port();
    let new = file.with_extension("new");
    fs::write(&new, format!("{port}\n"))
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_on_the_same_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err();
        assert!(matches!(error, LockError::InUse(_)), "{error}");
        drop(held);
        lock(dir.path()).unwrap();
    }
}
