//! Finding the way to the global zone.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ntrace_zones::{Carrier, Local, Programs, Ssh, SshAddress, SshOptions};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::info;

use crate::config::{Config, GlobalZone};

/// Where SmartOS has its programs.
const VMADM: &str = "/usr/sbin/vmadm";
const ZLOGIN: &str = "/usr/sbin/zlogin";
const MDATA_GET: &str = "/usr/sbin/mdata-get";

/// How long the metadata agent may take; it can block for ever.
const METADATA: Duration = Duration::from_secs(30);

/// Makes the carrier that the flags ask for.
///
/// # Errors
/// The address is bad, or the global zone does not answer.
pub(crate) async fn carrier(config: &Config) -> anyhow::Result<Carrier> {
    match &config.global_zone {
        GlobalZone::Ssh(address) => ssh(config, address).await,
        GlobalZone::Auto if is_smartos() && !has_vmadm() => {
            let parent = parent().await?;
            ssh(config, &format!("ssh://root@{parent}")).await
        }
        GlobalZone::Auto | GlobalZone::Local => local(),
    }
}

fn is_smartos() -> bool {
    rustix::system::uname().sysname().to_bytes() == b"SunOS"
}

fn has_vmadm() -> bool {
    Path::new(VMADM).exists()
}

fn local() -> anyhow::Result<Carrier> {
    let programs = if is_smartos() {
        Programs::Files {
            vmadm: PathBuf::from(VMADM),
            zlogin: PathBuf::from(ZLOGIN),
        }
    } else {
        info!("zones are made on this host, by the embedded vmadm");
        Programs::Embedded
    };
    let local = Local::new(programs).context("cannot drive local zones")?;
    Ok(Carrier::Local(local))
}

async fn ssh(config: &Config, address: &str) -> anyhow::Result<Carrier> {
    let address: SshAddress =
        address.parse().context("--global-zone is no address")?;
    let options = SshOptions {
        identity: config.identity.clone(),
        known_hosts: config.known_hosts.clone(),
        control_directory: Some(config.data()),
    };
    let ssh = Ssh::connect(&address, &options).await?;
    Ok(Carrier::Ssh(ssh))
}

/// The global zone's address, as the runner VM's metadata names it.
async fn parent() -> anyhow::Result<String> {
    let asked = Command::new(MDATA_GET)
        .arg("parent")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = timeout(METADATA, asked)
        .await
        .context("mdata-get parent does not answer")?
        .context("cannot run mdata-get")?;
    let parent = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if !said.status.success() || parent.is_empty() {
        bail!(
            "this VM has no metadata `parent`; in the global zone run \
             mdata-put, or give --global-zone ssh://root@HOST"
        );
    }
    Ok(parent)
}
