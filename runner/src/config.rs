//! Flags and environment variables, as domain types.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use ntrace_protocol::unit::{parse_duration, parse_size};
use ntrace_protocol::{Limits, RunnerName, WorkerUuid};
use ntrace_session::ListenAddr;
use ntrace_source::Template;
use ntrace_zones::{BadAddress, SnapshotName, SshAddress};
use serde_json::{Value, json};

/// The shortest time after which a waiting worker is made clean again.
const RESET_LEAST: Duration = Duration::from_secs(10);

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Examples:
  ntrace-runner
      workers of this machine, the dispatcher at 127.0.0.1:9181
  ntrace-runner --worker 8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f
      with this VM as a worker from the start
  ntrace-runner --global-zone ssh://root@10.0.0.2 --identity ~/.ssh/runner
      workers of a SmartOS machine
  ntrace-runner --source 'file:///srv/git/{owner}/{repo}.git'
      commits from bare repositories of this machine
  ntrace-runner check
      what is missing here, and the command that mends it
  printf '[\"workers\",[],1]\\n' | nc -N localhost 9182
      what it is doing";

/// The ntrace runner: keeps workers clean, asks the dispatcher for work,
/// runs jobs in the workers, and reports.
///
/// Every flag has an environment variable. TERM and INT: no new work is
/// taken, jobs may finish, then it ends with 0; a second one ends it at
/// once.
#[derive(Clone, Debug, Parser)]
#[command(name = "ntrace-runner", version, after_long_help = EXAMPLES)]
pub struct Config {
    /// The dispatcher
    #[arg(
        long,
        env = "NTRACE_DISPATCHER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9181",
        value_parser = host_and_port
    )]
    pub dispatcher: String,

    /// Where to listen for enroll, expel, workers …; localhost:PORT means
    /// 127.0.0.1 and ::1
    #[arg(
        long,
        env = "NTRACE_LISTEN",
        value_name = "ADDR",
        default_value = "localhost:9182"
    )]
    pub listen: ListenAddr,

    /// Where data is kept [default: /var/lib/ntrace/runner for root, else
    /// $XDG_DATA_HOME/ntrace/runner]
    #[arg(long, env = "NTRACE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// What this runner is called; no two at one dispatcher may share it
    /// [default: the host's name]
    #[arg(long, env = "NTRACE_NAME", value_name = "NAME")]
    pub name: Option<RunnerName>,

    /// Where vmadm and zlogin are: local, auto or ssh://root@HOST[:PORT].
    /// auto: on SmartOS what `mdata-get parent` says, elsewhere local
    #[arg(
        long,
        env = "NTRACE_GLOBAL_ZONE",
        value_name = "WHERE",
        default_value = "auto"
    )]
    pub global_zone: GlobalZone,

    /// The private key for the global zone [default: ssh's own choice]
    #[arg(long, env = "NTRACE_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// The host keys that are trusted [default: ssh's own]
    #[arg(long, env = "NTRACE_KNOWN_HOSTS", value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,

    /// Where commits come from: a git URL with two placeholders
    #[arg(
        long,
        env = "NTRACE_SOURCE",
        value_name = "URL",
        default_value = "https://github.com/{owner}/{repo}.git"
    )]
    pub source: Template,

    /// The snapshot that a worker is rolled back to, where enroll names none
    #[arg(
        long,
        env = "NTRACE_SNAPSHOT",
        value_name = "NAME",
        default_value = "clean"
    )]
    pub snapshot: SnapshotName,

    /// A VM to enroll at the start; may be given more than once
    #[arg(
        long = "worker",
        env = "NTRACE_WORKER",
        value_name = "UUID",
        value_delimiter = ','
    )]
    pub workers: Vec<WorkerUuid>,

    /// A worker that waited longer is made clean again before use
    #[arg(
        long,
        env = "NTRACE_RESET_AFTER",
        value_name = "TIME",
        default_value = "1h",
        value_parser = reset_after
    )]
    pub reset_after: Duration,

    /// How runs are traced
    #[arg(
        long,
        env = "NTRACE_TRACER",
        value_name = "TRACER",
        value_enum,
        default_value_t = Tracer::Auto
    )]
    pub tracer: Tracer,

    /// How long jobs may take to finish after TERM
    #[arg(
        long,
        env = "NTRACE_DRAIN",
        value_name = "TIME",
        default_value = "1h",
        value_parser = parse_duration
    )]
    pub drain: Duration,

    /// How much output may wait for the dispatcher; then jobs wait
    #[arg(
        long,
        env = "NTRACE_SPOOL",
        value_name = "SIZE",
        default_value = "4GiB",
        value_parser = spool_bound
    )]
    pub spool: u64,

    /// How much the cached repositories may take
    #[arg(
        long,
        env = "NTRACE_SOURCE_CACHE",
        value_name = "SIZE",
        default_value = "20GiB",
        value_parser = parse_size
    )]
    pub source_cache: u64,

    /// What jobs get.
    #[command(flatten)]
    pub limits: LimitFlags,

    /// A file to write the port to, once it is open
    #[arg(long, env = "NTRACE_PORT_FILE", value_name = "FILE")]
    pub port_file: Option<PathBuf>,

    /// Listen on addresses that others can reach, although there is no
    /// authentication yet
    #[arg(long, env = "NTRACE_ALLOW_REMOTE_WITHOUT_AUTH")]
    pub allow_remote_without_auth: bool,
}

/// What a job gets that asks for nothing, and what it gets at most.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits of jobs that name none themselves")]
pub struct LimitFlags {
    /// How long the command may run
    #[arg(long = "limit-time", env = "NTRACE_LIMIT_TIME",
        value_name = "TIME", default_value = "1h",
        value_parser = duration)]
    time: Duration,
    /// How long the set-up may run
    #[arg(long = "limit-setup-time", env = "NTRACE_LIMIT_SETUP_TIME",
        value_name = "TIME", default_value = "30m",
        value_parser = duration)]
    setup_time: Duration,
    /// How long it may go without output [default: no limit]
    #[arg(long = "limit-silence", env = "NTRACE_LIMIT_SILENCE",
        value_name = "TIME", value_parser = duration)]
    silence: Option<Duration>,
    /// Memory of all processes [default: the VM's]
    #[arg(long = "limit-memory", env = "NTRACE_LIMIT_MEMORY",
        value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Processors, with a fraction if wanted [default: the VM's]
    #[arg(long = "limit-cpus", env = "NTRACE_LIMIT_CPUS", value_name = "N")]
    cpus: Option<f64>,
    /// Processes and threads [default: the VM's]
    #[arg(long = "limit-pids", env = "NTRACE_LIMIT_PIDS", value_name = "N")]
    pids: Option<u64>,
    /// Output of both streams
    #[arg(long = "limit-output", env = "NTRACE_LIMIT_OUTPUT",
        value_name = "SIZE", default_value = "1GiB",
        value_parser = parse_size)]
    output: u64,
    /// What may be written to disk [default: the VM's]
    #[arg(long = "limit-disk", env = "NTRACE_LIMIT_DISK",
        value_name = "SIZE", value_parser = parse_size)]
    disk: Option<u64>,
    /// What is kept as artefacts
    #[arg(long = "limit-artefacts", env = "NTRACE_LIMIT_ARTEFACTS",
        value_name = "SIZE", default_value = "1GiB",
        value_parser = parse_size)]
    artefacts: u64,
    /// What a job may ask for at most: NAME=VALUE, like time=24h or
    /// memory=8GiB; may be given more than once. Names: time, setup_time,
    /// silence, memory, cpus, pids, output, disk, artefacts
    #[arg(long = "most", env = "NTRACE_MOST", value_name = "NAME=VALUE",
        value_delimiter = ',', default_value = "time=24h",
        value_parser = ceiling)]
    most: Vec<Ceiling>,
}

/// One limit that a job cannot exceed.
#[derive(Clone, Debug)]
struct Ceiling(Limits);

impl LimitFlags {
    /// For what a job does not name.
    ///
    /// # Errors
    /// A sentence that names the limit that is wrong.
    pub fn defaults(&self) -> Result<Limits, String> {
        let limits = Limits {
            time: Some(self.time),
            setup_time: Some(self.setup_time),
            silence: self.silence,
            memory: self.memory,
            cpus: self.cpus,
            pids: self.pids,
            output: Some(self.output),
            disk: self.disk,
            artefacts: Some(self.artefacts),
        };
        // The same bounds as for what comes over the wire.
        Limits::from_value(&limits.to_value()).map_err(|e| e.message)?;
        let above = limits.above(&self.ceiling());
        if above.is_empty() {
            return Ok(limits);
        }
        Err(format!(
            "--limit-… gives more than --most allows: {}",
            above.join(", ")
        ))
    }

    /// What a job may ask for at most.
    pub fn ceiling(&self) -> Limits {
        self.most
            .iter()
            .rev()
            .fold(Limits::default(), |all, one| all.or(&one.0))
    }
}

/// How runs are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tracer {
    /// The best that is here.
    Auto,
    /// DTrace in the global zone.
    Dtrace,
    /// The built-in sampler of Linux.
    Sample,
    /// Linux's perf.
    Perf,
    /// Not at all.
    None,
}

/// Where vmadm and zlogin are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GlobalZone {
    /// Processes of this machine.
    Local,
    /// On SmartOS what the metadata say, elsewhere local.
    Auto,
    /// Over ssh.
    Ssh(SshAddress),
}

impl FromStr for GlobalZone {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        match text {
            "local" => Ok(Self::Local),
            "auto" => Ok(Self::Auto),
            other => other.parse().map(Self::Ssh),
        }
    }
}

/// Nobody said where to keep data, and there is no home to keep it in.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("there is no home directory to keep data in; give --data DIR")]
pub struct NoHome;

impl Config {
    /// Where data is kept.
    ///
    /// # Errors
    /// It was not said, and the user has no home.
    pub fn data_dir(&self) -> Result<PathBuf, NoHome> {
        if let Some(dir) = &self.data {
            return Ok(dir.clone());
        }
        let is_root = rustix::process::geteuid().is_root();
        let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
        data_dir(is_root, var("XDG_DATA_HOME"), var("HOME"))
    }

    /// What this runner is called.
    pub fn runner_name(&self) -> RunnerName {
        self.name.clone().unwrap_or_else(|| clean_name(&host_name()))
    }
}

fn data_dir(
    is_root: bool,
    xdg: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Result<PathBuf, NoHome> {
    if is_root {
        return Ok("/var/lib/ntrace/runner".into());
    }
    let absolute = |path: &PathBuf| Path::is_absolute(path);
    let home = home.filter(absolute).map(|home| home.join(".local/share"));
    let base = xdg.filter(absolute).or(home).ok_or(NoHome)?;
    Ok(base.join("ntrace/runner"))
}

/// The host's name, as the system says it.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// A host's name as a runner's: what is not allowed becomes a dash.
fn clean_name(host: &str) -> RunnerName {
    let word: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(ntrace_protocol::name::MAX_LABEL)
        .collect();
    let word = word.trim_matches('-');
    let word = if word.is_empty() { "runner" } else { word };
    word.parse().expect("letters, digits and inner dashes are a name")
}

fn host_and_port(text: &str) -> Result<String, String> {
    let well = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(char::is_whitespace)
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    well.then(|| text.to_owned()).ok_or_else(|| {
        "it takes host:port, like 127.0.0.1:9181 or [::1]:9181".to_owned()
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

fn reset_after(text: &str) -> Result<Duration, String> {
    let after = parse_duration(text)?;
    if after < RESET_LEAST {
        return Err("it takes at least 10s".to_owned());
    }
    Ok(after)
}

fn spool_bound(text: &str) -> Result<u64, String> {
    let bound = parse_size(text)?;
    // A few segments for each of a few runs.
    if bound < 64 << 20 {
        return Err("it takes at least 64MiB".to_owned());
    }
    Ok(bound)
}

fn ceiling(text: &str) -> Result<Ceiling, String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "it takes NAME=VALUE, like time=24h".to_owned())?;
    let value = match name {
        "cpus" => value.parse::<f64>().map_or(json!(value), Value::from),
        _ => json!(value),
    };
    Limits::from_value(&json!({ name: value }))
        .map(Ceiling)
        .map_err(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("ntrace-runner").chain(args.iter().copied());
        Config::try_parse_from(args).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_as_documented() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.dispatcher, "127.0.0.1:9181");
        assert_eq!(config.listen, ListenAddr::Localhost(9182));
        assert_eq!(config.global_zone, GlobalZone::Auto);
        assert_eq!(config.snapshot.as_str(), "clean");
        assert_eq!(config.reset_after, Duration::from_secs(3600));
        let limits = config.limits.defaults().unwrap();
        assert_eq!(limits.time, Some(Duration::from_secs(3600)));
        assert_eq!(limits.output, Some(1 << 30));
        assert_eq!(limits.silence, None);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(config.limits.ceiling().time, Some(day));
    }

    #[test]
    fn a_ceiling_is_named_and_the_last_one_counts() {
        let config = parse(&[
            "--most",
            "time=2h",
            "--most",
            "cpus=1.5,memory=1GiB",
            "--most",
            "time=3h",
        ])
        .unwrap();
        let most = config.limits.ceiling();
        assert_eq!(most.time, Some(Duration::from_secs(3 * 3600)));
        assert_eq!((most.cpus, most.memory), (Some(1.5), Some(1 << 30)));
        let config = parse(&["--most", "time=1m"]).unwrap();
        let error = config.limits.defaults().unwrap_err();
        assert!(error.contains("time"), "{error}");
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_taken() {
        for (args, says) in [
            (&["--dispatcher", "here"][..], "host:port"),
            (&["--listen", "nowhere"], "localhost:9181"),
            (&["--name=-x"], "letters"),
            (&["--global-zone", "ssh://-oProxyCommand=x@y"], "ssh://user@"),
            (&["--source", "/srv/git"], "begins with https://"),
            (&["--snapshot=-r"], "snapshot"),
            (&["--worker", "w1"], "not a UUID"),
            (&["--reset-after", "1"], "duration"),
            (&["--limit-time", "0s"], "longer"),
            (&["--limit-memory", "much"], "512MiB"),
            (&["--most", "colour=1"], "there is no limit"),
            (&["--tracer", "magic"], "dtrace"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(says), "{args:?}: {error}");
        }
    }

    #[test]
    fn data_is_kept_where_the_user_may_write() {
        let dir = |root, xdg: Option<&str>, home: Option<&str>| {
            data_dir(root, xdg.map(Into::into), home.map(Into::into)).ok()
        };
        let home = Some("/home/u");
        let of = |text: &str| Some(PathBuf::from(text));
        assert_eq!(dir(true, None, home), of("/var/lib/ntrace/runner"));
        assert_eq!(
            dir(false, None, home),
            of("/home/u/.local/share/ntrace/runner")
        );
        assert_eq!(dir(false, Some("/x"), home), of("/x/ntrace/runner"));
        assert_eq!(
            dir(false, Some("relative"), home),
            of("/home/u/.local/share/ntrace/runner")
        );
        assert_eq!(dir(false, None, None), None);
    }

    #[test]
    fn any_host_name_becomes_a_name() {
        for (host, name) in [
            ("box", "box"),
            ("box.example.org", "box-example-org"),
            ("-\u{fc}\n", "runner"),
            ("", "runner"),
        ] {
            assert_eq!(clean_name(host).as_str(), name);
        }
        assert_eq!(clean_name(&"x".repeat(300)).as_str().len(), 64);
    }
}
