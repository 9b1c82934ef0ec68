//! Flags and environment variables, as domain types.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ntrace_protocol::unit::{parse_duration, parse_size};
use ntrace_session::ListenAddr;

/// The shortest lease: below it a busy machine loses runs that live.
const LEASE_MIN: Duration = Duration::from_millis(100);
/// The shortest limit of a line: errors and pages must fit.
const LINE_MIN: u64 = 4096;
/// The longest limit of a line.
const LINE_MAX: u64 = 64 << 20;

/// The ntrace dispatcher: keeps the queue, leases jobs to runners, keeps
/// their output and results.
///
/// Speaks one JSON message a line. Try: printf '["help",[],1]\n' | nc -N
/// localhost 9181
#[derive(Clone, Debug, Parser)]
#[command(name = "ntrace-dispatcher", version)]
pub struct Config {
    /// Where to listen; localhost:PORT means 127.0.0.1 and ::1
    #[arg(
        long,
        env = "NTRACE_LISTEN",
        value_name = "ADDR",
        default_value = "localhost:9181"
    )]
    pub listen: ListenAddr,

    /// Where data is kept [default: /var/lib/ntrace/dispatcher for root,
    /// else $XDG_DATA_HOME/ntrace/dispatcher]
    #[arg(long, env = "NTRACE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// How long a lease lasts without a sign of life of its runner
    #[arg(
        long,
        env = "NTRACE_LEASE",
        value_name = "TIME",
        default_value = "30s",
        value_parser = lease
    )]
    pub lease: Duration,

    /// The longest line that is taken
    #[arg(
        long,
        env = "NTRACE_MAX_LINE",
        value_name = "SIZE",
        default_value = "1MiB",
        value_parser = max_line
    )]
    pub max_line: usize,

    /// How many jobs may be queued; more are refused
    #[arg(
        long,
        env = "NTRACE_MAX_QUEUE",
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub max_queue: u64,

    /// A file to write the port to, once it is open
    #[arg(long, env = "NTRACE_PORT_FILE", value_name = "FILE")]
    pub port_file: Option<PathBuf>,

    /// Listen on addresses that others can reach, although there is no
    /// authentication yet
    #[arg(long, env = "NTRACE_ALLOW_REMOTE_WITHOUT_AUTH")]
    pub allow_remote_without_auth: bool,
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text)?;
    if lease < LEASE_MIN {
        return Err("a lease takes at least 100ms".to_owned());
    }
    Ok(lease)
}

fn max_line(text: &str) -> Result<usize, String> {
    let size = parse_size(text)?;
    if !(LINE_MIN..=LINE_MAX).contains(&size) {
        return Err("a line takes from 4KiB to 64MiB".to_owned());
    }
    usize::try_from(size).map_err(|e| e.to_string())
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
        // Safe to ask: it changes with nothing that we do.
        if is_root() {
            return Ok(PathBuf::from("/var/lib/ntrace/dispatcher"));
        }
        let absolute = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/share")));
        data.map(|data| data.join("ntrace/dispatcher")).ok_or(NoHome)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args =
            std::iter::once("ntrace-dispatcher").chain(args.iter().copied());
        Config::try_parse_from(args).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_as_documented() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.listen, ListenAddr::Localhost(9181));
        assert_eq!(config.lease, Duration::from_secs(30));
        assert_eq!(config.max_line, 1 << 20);
    }

    #[test]
    fn wrong_values_are_refused_with_the_flag() {
        for (flag, value) in [
            ("--lease", "0s"),
            ("--lease", "soon"),
            ("--max-line", "10"),
            ("--max-line", "many"),
            ("--max-queue", "0"),
            ("--listen", "9181"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag), "{error}");
        }
    }
}
