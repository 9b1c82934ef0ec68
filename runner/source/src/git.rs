//! The one door to git: a safe environment, a deadline, bounded output.
//!
//! Nothing of the user's or the system's configuration is read, nothing is
//! asked, no hook or filter runs, only the scheme of the source is allowed.
//! A git that is late is killed with its process group. Must not know what a
//! mirror is.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

use crate::template::{Scheme, masked};

/// Where git may be. Not PATH: that is somebody's choice, this is ours.
const PLACES: &[&str] = &[
    "/usr/bin/git",
    "/usr/local/bin/git",
    "/opt/local/bin/git",
    "/opt/homebrew/bin/git",
    "/run/current-system/sw/bin/git",
];

/// What of our environment git gets: how to reach the network, no more.
const PASSED: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "TMPDIR",
];

/// No password prompt, and a dead peer is noticed within a minute.
const SSH: &str = "ssh -oBatchMode=yes -oConnectTimeout=10 \
                   -oServerAliveInterval=15 -oServerAliveCountMax=4";

/// How much of a stderr is kept, from its start.
const KEEP_STDERR: usize = 32 << 10;
/// How long a killed git may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// What is in the one configuration file that all of our gits read. It is a
/// file because upload-pack of a `file://` source drops what is given on the
/// command line, but not `GIT_CONFIG_GLOBAL`. `safe.directory`: the operator
/// named the source, and whose it is does not matter; git runs no code of a
/// repository that it serves. `allowAnySHA1InWant`: commits are fetched by
/// their ids, reachable or not.
const CONFIG: &str = "\
[safe]
\tdirectory = *
[uploadpack]
\tallowAnySHA1InWant = true
";

/// git, ready to be run.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    program: PathBuf,
    config: PathBuf,
    scheme: Scheme,
}

/// Why git gave no answer to judge.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GitError {
    /// There is no git here.
    #[error("git is not installed (looked for {})", PLACES.join(", "))]
    Missing,
    /// It could not be started.
    #[error("cannot start git: {why}")]
    Start {
        /// What the operating system says.
        why: String,
    },
    /// It did not end in time and was killed.
    #[error("git {verb} did not end in time and was killed{said}")]
    Deadline {
        /// Its subcommand.
        verb: String,
        /// What it had said, with a lead-in.
        said: String,
    },
    /// It printed more than is taken.
    #[error("git {verb} printed more than {limit} bytes")]
    TooMuch {
        /// Its subcommand.
        verb: String,
        /// The most that is taken.
        limit: usize,
    },
    /// It failed.
    #[error("git {verb} failed ({status}): {said}")]
    Failed {
        /// Its subcommand.
        verb: String,
        /// How it ended.
        status: String,
        /// Its own words, safe to show.
        said: String,
    },
    /// Its output could not be read.
    #[error("cannot read from git {verb}: {why}")]
    Read {
        /// Its subcommand.
        verb: String,
        /// What the operating system says.
        why: String,
    },
}

impl Git {
    /// Finds git and writes its configuration to `config`.
    pub(crate) fn new(
        config: PathBuf,
        scheme: Scheme,
    ) -> Result<Self, GitError> {
        let program = PLACES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .ok_or(GitError::Missing)?;
        let failed = |error: io::Error| GitError::Start {
            why: format!("cannot write {}: {error}", config.display()),
        };
        let fresh = config.with_extension("new");
        std::fs::write(&fresh, CONFIG).map_err(failed)?;
        std::fs::rename(&fresh, &config).map_err(failed)?;
        Ok(Self { program, config, scheme })
    }

    fn command(&self, git_dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        let scheme = self.scheme.as_str();
        let settings = [
            "protocol.allow=never",
            &format!("protocol.{scheme}.allow=always"),
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.attributesFile=/dev/null",
            "credential.helper=",
            "gc.auto=0",
            "maintenance.auto=false",
            // Always a pack: it is there whole or not at all.
            "fetch.unpackLimit=1",
            "fetch.recurseSubmodules=false",
            "submodule.recurse=false",
            "http.lowSpeedLimit=1000",
            "http.lowSpeedTime=30",
            "tar.umask=0022",
        ];
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let mut here = OsString::from("--git-dir=");
        here.push(git_dir);
        command
            .arg(here)
            .env_clear()
            .envs(
                PASSED
                    .iter()
                    .filter_map(|name| Some((*name, std::env::var_os(name)?))),
            )
            .env("PATH", "/usr/bin:/bin:/usr/local/bin:/opt/local/bin")
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", &self.config)
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS", "/bin/false")
            .env("GIT_SSH_COMMAND", SSH)
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts `git --git-dir=… args`. Values stand behind `--` or are ids.
    pub(crate) fn start(
        &self,
        git_dir: &Path,
        args: &[&str],
    ) -> Result<Running, GitError> {
        let verb = args.first().copied().unwrap_or_default().to_owned();
        let child = self.command(git_dir).args(args).spawn();
        match child {
            Ok(child) => Ok(Running { child, verb }),
            Err(error) => Err(GitError::Start { why: error.to_string() }),
        }
    }

    /// Runs git to its end and gives its stdout, of at most `limit` bytes.
    pub(crate) async fn run(
        &self,
        git_dir: &Path,
        args: &[&str],
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, GitError> {
        let mut running = self.start(git_dir, args)?;
        let (stdout, stderr) = running.streams();
        let mut err = Vec::new();
        let talk = async {
            let reading = async {
                let out = read_up_to(stdout, limit).await;
                (out, running.child.wait().await)
            };
            let (ended, read) = tokio::join!(reading, keep(stderr, &mut err));
            read.and_then(|()| Ok((ended.0?, ended.1?)))
        };
        let ended = timeout_at(deadline, talk).await;
        match ended {
            Ok(Ok((Some(out), status))) if status.success() => Ok(out),
            Ok(Ok((Some(_), status))) => Err(running.failed(status, &err)),
            Ok(Ok((None, _))) => {
                running.end().await;
                Err(GitError::TooMuch { verb: running.verb.clone(), limit })
            }
            Ok(Err(error)) => {
                running.end().await;
                Err(GitError::Read {
                    verb: running.verb.clone(),
                    why: error.to_string(),
                })
            }
            Err(_) => {
                running.end().await;
                Err(running.late(&err))
            }
        }
    }
}

/// A started git. Dropped, it is killed with its process group.
pub(crate) struct Running {
    pub(crate) child: Child,
    verb: String,
}

impl Running {
    /// Takes both streams; may be called once.
    pub(crate) fn streams(
        &mut self,
    ) -> (tokio::process::ChildStdout, tokio::process::ChildStderr) {
        let child = &mut self.child;
        let stdout = child.stdout.take().expect("stdout was set to a pipe");
        let stderr = child.stderr.take().expect("stderr was set to a pipe");
        (stdout, stderr)
    }

    pub(crate) fn failed(&self, status: ExitStatus, stderr: &[u8]) -> GitError {
        let status = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown exit".to_owned(),
        };
        let said = match words(stderr) {
            said if said.is_empty() => "it said nothing".to_owned(),
            said => said,
        };
        GitError::Failed { verb: self.verb.clone(), status, said }
    }

    pub(crate) fn late(&self, stderr: &[u8]) -> GitError {
        let said = match words(stderr) {
            said if said.is_empty() => said,
            said => format!("; it said: {said}"),
        };
        GitError::Deadline { verb: self.verb.clone(), said }
    }

    /// Kills the whole group and waits for git to be gone.
    pub(crate) async fn end(&mut self) {
        self.kill();
        let _ = timeout(KILL_GRACE, self.child.wait()).await;
    }

    fn kill(&self) {
        // None once it was waited for: its number may be someone else's.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All of a stream, or None when it is longer than `limit`.
async fn read_up_to(
    stream: impl AsyncRead + Unpin,
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    stream.take(most).read_to_end(&mut all).await?;
    Ok((all.len() <= limit).then_some(all))
}

/// Reads a stream to its end and keeps its beginning.
pub(crate) async fn keep(
    mut stream: impl AsyncRead + Unpin,
    into: &mut Vec<u8>,
) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let room = KEEP_STDERR.saturating_sub(into.len()).min(read);
        into.extend_from_slice(&buffer[..room]);
    }
}

/// git's own words for a message: lines joined, progress dropped, control
/// characters escaped, credentials masked, cut.
pub(crate) fn words(stderr: &[u8]) -> String {
    const MOST: usize = 1000;
    let text = masked(&String::from_utf8_lossy(stderr));
    let mut shown = String::new();
    let lines =
        text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    for line in lines {
        if !shown.is_empty() {
            shown.push_str(" | ");
        }
        for c in line.chars() {
            let hidden = matches!(
                c,
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}' | '\u{feff}'
            );
            if c.is_control() || hidden {
                let _ = write!(shown, "{}", c.escape_default());
            } else {
                shown.push(c);
            }
        }
        if shown.len() > MOST {
            let end = shown.floor_char_boundary(MOST);
            shown.truncate(end);
            shown.push_str("...");
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_to_show() {
        let stderr = b"fatal: unable to access \
            'https://joe:pw@h/x/': \x1b[31mred\nremote: \xff\n\n\r  \r\n";
        assert_eq!(
            words(stderr),
            "fatal: unable to access 'https://***@h/x/': \\u{1b}[31mred | \
             remote: \u{fffd}"
        );
        assert!(words(&[b'x'; 5000]).len() < 1100);
    }
}
