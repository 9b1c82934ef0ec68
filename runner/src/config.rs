//! What the runner is told at its start: flags and environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use ntrace_protocol::unit::{parse_duration, parse_size};
use ntrace_protocol::{Limits, RunnerName, WorkerUuid};
use ntrace_session::ListenAddr;
use ntrace_source::Template;
use ntrace_zones::SnapshotName;

use crate::job::Policy;

/// Runs jobs in clean zones, for a dispatcher.
///
/// Enroll workers on its own port: nc localhost 9182, then
/// ["enroll", ["<uuid>"], 1]. Ends on TERM or INT once running jobs have
/// ended, and at once on the second.
#[derive(Clone, Debug, Parser)]
#[command(name = "ntrace-runner", version, max_term_width = 80)]
pub struct Config {
    /// The dispatcher, host:port.
    #[arg(long, env = "NTRACE_DISPATCHER", default_value = "127.0.0.1:9181")]
    pub dispatcher: String,

    /// Where to listen for enroll, expel, workers. `localhost` means both
    /// loopback addresses; port 0 takes a free one.
    #[arg(long, env = "NTRACE_LISTEN", default_value = "localhost:9182")]
    pub listen: ListenAddr,

    /// Directory for the spool, the source cache and the enrolled workers.
    /// By default /var/lib/ntrace/runner as root, else
    /// $XDG_DATA_HOME/ntrace/runner.
    #[arg(long, env = "NTRACE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// What this runner calls itself; the host's name by default.
    #[arg(long, env = "NTRACE_NAME")]
    pub name: Option<RunnerName>,

    /// Where vmadm acts: `local`, `ssh://root@HOST[:PORT]`, or `auto` (on
    /// SmartOS the host that `mdata-get parent` names, elsewhere local).
    #[arg(long, env = "NTRACE_GLOBAL_ZONE", default_value = "auto")]
    pub global_zone: GlobalZone,

    /// The private key for ssh.
    #[arg(long, env = "NTRACE_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// The file of host keys for ssh; a host that is not in it is refused.
    #[arg(long, env = "NTRACE_KNOWN_HOSTS", value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,

    /// Where repositories are: any git URL with the two placeholders.
    #[arg(
        long,
        env = "NTRACE_SOURCE",
        default_value = "https://github.com/{owner}/{repo}.git"
    )]
    pub source: Template,

    /// The most that the source cache may hold.
    #[arg(
        long,
        env = "NTRACE_SOURCE_CACHE",
        default_value = "10GiB",
        value_parser = parse_size
    )]
    pub source_cache: u64,

    /// The snapshot to which workers are rolled back.
    #[arg(
        long,
        env = "NTRACE_SNAPSHOT",
        default_value = "clean",
        value_parser = snapshot
    )]
    pub snapshot: String,

    /// A worker to enroll at the start; may be given several times.
    #[arg(
        long = "worker",
        env = "NTRACE_WORKER",
        value_name = "UUID",
        value_delimiter = ','
    )]
    pub workers: Vec<WorkerUuid>,

    /// A clean worker that has waited so long is made clean again.
    #[arg(
        long,
        env = "NTRACE_RESET_AFTER",
        default_value = "1h",
        value_parser = parse_duration
    )]
    pub reset_after: Duration,

    /// Which tracer to use. This version has none: `auto` is `none`.
    #[arg(long, env = "NTRACE_TRACER", default_value = "auto")]
    pub tracer: Tracer,

    /// How long running jobs may take to end once the runner is to end.
    #[arg(
        long,
        env = "NTRACE_DRAIN",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub drain: Duration,

    /// Listen where other machines can connect, though nobody is asked who
    /// he is.
    #[arg(long, env = "NTRACE_ALLOW_REMOTE_WITHOUT_AUTH")]
    pub allow_remote_without_auth: bool,

    /// Limits of jobs.
    #[command(flatten)]
    pub limits: LimitFlags,
}

/// The limits that a job has, and the most that it may ask for. Memory,
/// processors, processes and disk are limited by the worker itself.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits of jobs")]
pub struct LimitFlags {
    /// How long a command may run.
    #[arg(
        long,
        env = "NTRACE_LIMIT_TIME",
        default_value = "1h",
        value_parser = parse_duration
    )]
    pub limit_time: Duration,

    /// How long a set-up may run.
    #[arg(
        long,
        env = "NTRACE_LIMIT_SETUP_TIME",
        default_value = "30m",
        value_parser = parse_duration
    )]
    pub limit_setup_time: Duration,

    /// How long a command may write nothing; without it, as long as it
    /// likes.
    #[arg(
        long,
        env = "NTRACE_LIMIT_SILENCE",
        value_parser = parse_duration
    )]
    pub limit_silence: Option<Duration>,

    /// How much output is kept of a run.
    #[arg(
        long,
        env = "NTRACE_LIMIT_OUTPUT",
        default_value = "4GiB",
        value_parser = parse_size
    )]
    pub limit_output: u64,

    /// How much a run may leave as artefacts.
    #[arg(
        long,
        env = "NTRACE_LIMIT_ARTEFACTS",
        default_value = "1GiB",
        value_parser = parse_size
    )]
    pub limit_artefacts: u64,
}

impl LimitFlags {
    /// The limits as a policy.
    pub fn policy(&self) -> Policy {
        let limits = Limits {
            time: Some(self.limit_time),
            setup_time: Some(self.limit_setup_time),
            silence: self.limit_silence,
            output: Some(self.limit_output),
            artefacts: Some(self.limit_artefacts),
            ..Limits::default()
        };
        Policy { defaults: limits.clone(), ceiling: limits }
    }
}

fn snapshot(text: &str) -> Result<String, String> {
    let name: SnapshotName = text.parse().map_err(|e| format!("{e}"))?;
    Ok(name.to_string())
}

/// Where the global zone is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GlobalZone {
    /// This machine.
    Local,
    /// Found out at the start.
    Auto,
    /// Another machine.
    Ssh(String),
}

impl FromStr for GlobalZone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "auto" => Ok(Self::Auto),
            _ if text.starts_with("ssh://") => Ok(Self::Ssh(text.to_owned())),
            _ => Err("write local, auto or ssh://root@HOST[:PORT]".to_owned()),
        }
    }
}

/// A tracer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tracer {
    /// Whatever is there.
    Auto,
    /// DTrace in the global zone.
    Dtrace,
    /// The built-in sampler.
    Sample,
    /// perf.
    Perf,
    /// Nothing is traced.
    None,
}

impl Config {
    /// The data directory.
    pub fn data(&self) -> PathBuf {
        if let Some(data) = &self.data {
            return data.clone();
        }
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/ntrace/runner");
        }
        let home = || std::env::var_os("HOME").map(PathBuf::from);
        std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(home()?.join(".local/share")))
            .unwrap_or_else(|| PathBuf::from("."))
            .join("ntrace/runner")
    }

    /// What this runner calls itself.
    pub fn name(&self) -> RunnerName {
        self.name.clone().unwrap_or_else(|| {
            name_of(rustix::system::uname().nodename().to_bytes())
        })
    }
}

/// A host's name, cut to what a runner's name may be.
fn name_of(host: &[u8]) -> RunnerName {
    let host = String::from_utf8_lossy(host);
    let name: String = host
        .trim_start_matches(['-', '.'])
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(64)
        .collect();
    let fallback = "runner";
    let name = if name.is_empty() { fallback } else { &name };
    name.parse().expect("only allowed characters are left")
}

/// The addresses as people read them in the log: `listening on ADDR`.
pub(crate) fn announce(addrs: &[SocketAddr]) {
    for addr in addrs {
        tracing::info!("listening on {addr}");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent_and_have_defaults() {
        Config::command().debug_assert();
        let config = Config::parse_from(["ntrace-runner"]);
        assert_eq!(config.listen, ListenAddr::Localhost(9182));
        assert_eq!(config.global_zone, GlobalZone::Auto);
        let policy = config.limits.policy();
        assert_eq!(policy.ceiling.time, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn every_flag_has_its_variable() {
        for arg in Config::command().get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            if ["help", "version"].contains(&long) {
                continue;
            }
            let expected =
                format!("NTRACE_{}", long.to_uppercase().replace('-', "_"));
            let env = arg.get_env().map(|e| e.to_string_lossy().into_owned());
            assert_eq!(env, Some(expected));
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for args in [
            ["--listen", "here"],
            ["--worker", "worker0"],
            ["--snapshot", "-x"],
            ["--source", "ext::sh -c id"],
            ["--global-zone", "root@host"],
            ["--name", "-"],
            ["--reset-after", "5"],
        ] {
            let args = ["ntrace-runner"].into_iter().chain(args);
            assert!(Config::try_parse_from(args.clone()).is_err(), "{args:?}");
        }
    }

    #[test]
    fn any_host_has_a_name_for_a_runner() {
        for (host, name) in [
            (&b"lab-7.example.org"[..], "lab-7.example.org"),
            (b"-x y\xff", "xy"),
            (b"", "runner"),
            (b"...", "runner"),
        ] {
            assert_eq!(name_of(host).as_str(), name);
        }
    }
}
