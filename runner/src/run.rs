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
use tokio::time::{Instant, timeout};
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

/// SmartOS's program for the metadata of a zone.
const MDATA_GET: &str = "/usr/sbin/mdata-get";

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
    let driver = Driver::new(Arc::new(carrier_of(config, data).await?));
    let roster_config = RosterConfig {
        data: data.to_owned(),
        workers: config.workers.clone(),
        snapshot: config.snapshot.as_str().to_owned(),
        reset_after: config.reset_after,
    };
    let tracers = Tracers::find(choice(config.tracer), data).await;
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

/// The way to the global zone. Over ssh it need not be there yet: workers
/// show why they cannot be reached, and are reached once it is.
async fn carrier_of(config: &Config, data: &Path) -> anyhow::Result<Carrier> {
    let Some(address) = global_zone(config).await? else {
        return Ok(Carrier::Local(Local::new(Programs::Embedded)?));
    };
    info!(%address, "connecting to the global zone");
    let control = Some(data.join("ssh"));
    let ssh = Ssh::new(address, ssh_options(config, control))?;
    match ssh.ready(Instant::now()).await {
        Err(error) if error.is_lasting() => return Err(error.into()),
        Err(_) | Ok(()) => {}
    }
    Ok(Carrier::Ssh(ssh))
}

/// A way to the global zone that is there now, beside a runner that may
/// have its own.
pub(crate) async fn carrier(config: &Config) -> anyhow::Result<Carrier> {
    Ok(match global_zone(config).await? {
        None => Carrier::Local(Local::new(Programs::Embedded)?),
        Some(address) => {
            let options = ssh_options(config, None);
            Carrier::Ssh(Ssh::connect(&address, &options).await?)
        }
    })
}

fn ssh_options(config: &Config, control: Option<PathBuf>) -> SshOptions {
    SshOptions {
        identity: config.identity.clone(),
        known_hosts: config.known_hosts.clone(),
        control_directory: control,
        ..SshOptions::default()
    }
}

/// Where the global zone is; none: here.
async fn global_zone(config: &Config) -> anyhow::Result<Option<SshAddress>> {
    match &config.global_zone {
        GlobalZone::Local => Ok(None),
        GlobalZone::Ssh(address) => Ok(Some(address.clone())),
        GlobalZone::Auto => parent(Path::new(MDATA_GET)).await,
    }
}

/// The global zone of a SmartOS zone, as its operator wrote it down; none
/// where there are no metadata. On Linux a zone of another make may have the
/// program and no such key: then the global zone is here.
async fn parent(program: &Path) -> anyhow::Result<Option<SshAddress>> {
    let is_smartos = cfg!(any(target_os = "illumos", target_os = "solaris"));
    if !program.exists() && !is_smartos {
        return Ok(None);
    }
    let shown = program.display();
    let mut command = tokio::process::Command::new(program);
    command.arg("parent").env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    let output = timeout(METADATA, command.output())
        .await
        .with_context(|| format!("{shown} parent did not end"))
        .and_then(|ran| ran.with_context(|| format!("cannot run {shown}")));
    let text = match &output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) => String::new(),
        Err(error) if !is_smartos => {
            warn!(error = format!("{error:#}"), "no metadata");
            String::new()
        }
        Err(error) => anyhow::bail!("{error:#}"),
    };
    if text.is_empty() {
        anyhow::ensure!(
            !is_smartos,
            "the metadata have no key parent; set it to the global zone's \
             address, or give --global-zone ssh://root@HOST"
        );
        return Ok(None);
    }
    Ok(Some(parent_address(&text)?))
}

/// `HOST`, `USER@HOST[:PORT]` or a whole address.
fn parent_address(text: &str) -> anyhow::Result<SshAddress> {
    let address = if text.contains("://") {
        text.to_owned()
    } else if text.contains('@') {
        format!("ssh://{text}")
    } else {
        format!("ssh://root@{text}")
    };
    address.parse().with_context(|| "the metadata's key parent".to_owned())
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

    /// A program that prints this and ends so.
    fn mdata_get(dir: &Path, line: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("mdata-get");
        // Written by another process: none of our own forks can hold it open
        // for writing while it is run.
        let script =
            format!("cat >{} <<'E'\n#!/bin/sh\n{line}\nE", path.display());
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .status();
        assert!(status.unwrap().success());
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).unwrap();
        path
    }

    #[tokio::test]
    async fn the_metadata_say_where_the_global_zone_is() {
        let dir = tempfile::tempdir().unwrap();
        for (said, address) in [
            ("gz", "ssh://root@gz"),
            ("10.0.0.2:2222", "ssh://root@10.0.0.2:2222"),
            ("ops@gz", "ssh://ops@gz"),
            ("ssh://root@[fe80::1]", "ssh://root@[fe80::1]"),
        ] {
            let line = format!("[ \"$1\" = parent ] && echo '{said}'");
            let program = mdata_get(dir.path(), &line);
            let found = parent(&program).await.unwrap().unwrap();
            assert_eq!(found.to_string(), address);
        }
        let program = mdata_get(dir.path(), "echo -oProxyCommand=x");
        assert!(parent(&program).await.is_err());
    }

    #[tokio::test]
    async fn without_the_key_or_the_program_it_is_here() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("none");
        assert!(parent(&program).await.unwrap().is_none());
        let line = "echo \"No metadata for 'parent'\" >&2; exit 1";
        let program = mdata_get(dir.path(), line);
        assert!(parent(&program).await.unwrap().is_none());
    }

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
