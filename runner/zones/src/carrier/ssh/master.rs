//! One ssh connection: a master process, reached by its control socket.
//!
//! `ssh -M -N -f` goes to the background once it is let in. We keep a
//! connection of our own to its control socket, the line: when that ends,
//! the master is gone; when *we* are gone, however that came, the master
//! has nobody left and ends by itself a little later. Must not know what is
//! run over it.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use openssh::Session;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::SshOptions;
use super::address::SshAddress;
use super::place::{self, Place};
use super::trouble::{self, ConnectError};

/// How long the network may take to connect.
const CONNECT: u64 = 10;
/// How long all of a connection may take: names, keys, authentication.
const LAUNCH: Duration = Duration::from_secs(30);
/// How many missing signs of life end a connection.
const MISSING: u32 = 3;
/// How long a master without anybody stays, in seconds.
const LINGER: u64 = 5;

/// What of our environment ssh gets. All else is cleared.
const PASSED: &[&str] =
    &["HOME", "PATH", "USER", "LOGNAME", "SSH_AUTH_SOCK", "TMPDIR"];

/// The two messages of the multiplex protocol that end a master: hello in
/// version 4, and terminate. Each is a length, a kind and an argument.
const TERMINATE: [u32; 6] = [8, 1, 4, 8, 0x1000_0005, 0];

/// A connection to a global zone. Dropped, it ends with all its sessions.
#[derive(Debug)]
pub(super) struct Master {
    session: Arc<Session>,
    socket: PathBuf,
    line: StdStream,
    gone: CancellationToken,
    /// Kept until the last socket in it is gone.
    _place: Arc<Place>,
}

impl Master {
    /// Connects. Only known host keys are accepted, and nothing is asked.
    pub(super) async fn connect(
        address: &SshAddress,
        options: &SshOptions,
        place: &Arc<Place>,
    ) -> Result<Self, ConnectError> {
        let socket = place.socket();
        let connected = launch(address, options, &socket).await;
        let line = match connected {
            Ok(()) => StdStream::connect(&socket).and_then(|line| {
                line.set_nonblocking(true)?;
                Ok((line.try_clone()?, UnixStream::from_std(line)?))
            }),
            Err(error) => {
                place::remove(&socket);
                return Err(error);
            }
        };
        let (line, reader) = line.map_err(|source| {
            place::remove(&socket);
            ConnectError::Gone { address: address.clone(), source }
        })?;
        let gone = CancellationToken::new();
        tokio::spawn(watch(reader, gone.clone()));
        let session = Session::resume_mux(socket.as_path().into(), None);
        Ok(Self {
            session: Arc::new(session),
            socket,
            line,
            gone,
            _place: Arc::clone(place),
        })
    }

    /// The session of the multiplexer.
    pub(super) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// Cancelled when the connection is lost.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// What ssh said last.
    pub(super) fn last_words(&self) -> String {
        trouble::shown(&read_log(&self.socket))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if !self.gone.is_cancelled() {
            let words = TERMINATE.map(u32::to_be_bytes).concat();
            // It may be gone just now; else it ends when nobody is left.
            let _ = (&self.line).write_all(&words);
        }
        self.gone.cancel();
        place::remove(&self.socket);
    }
}

/// Reads the line to its end, which is the master's.
async fn watch(mut line: UnixStream, gone: CancellationToken) {
    let mut buffer = [0; 256];
    loop {
        tokio::select! {
            read = line.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return gone.cancel(),
                Ok(_) => {}
            },
            () = gone.cancelled() => return,
        }
    }
}

async fn launch(
    address: &SshAddress,
    options: &SshOptions,
    socket: &Path,
) -> Result<(), ConnectError> {
    let mut command = tokio::process::Command::new("ssh");
    let env =
        PASSED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    command
        .args(arguments(address, options, socket)?)
        .env_clear()
        .envs(env)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(ConnectError::NoProgram)?;
    let Ok(status) = tokio::time::timeout(LAUNCH, child.wait()).await else {
        let address = address.clone();
        return Err(ConnectError::Late { address, after: LAUNCH });
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(ConnectError::from_log(
            &read_log(socket),
            address,
            options.identity.as_deref(),
            options.known_hosts.as_deref(),
        )),
        Err(source) => {
            Err(ConnectError::Gone { address: address.clone(), source })
        }
    }
}

/// The log of a connection; of a long one the end.
fn read_log(socket: &Path) -> String {
    const MOST: u64 = 16 << 10;
    let read = || -> io::Result<Vec<u8>> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = std::fs::File::open(place::log_of(socket))?;
        let from = file.metadata()?.len().saturating_sub(MOST);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn arguments(
    address: &SshAddress,
    options: &SshOptions,
    socket: &Path,
) -> Result<Vec<OsString>, ConnectError> {
    let mut args: Vec<OsString> =
        ["-M", "-N", "-f", "-T", "-a", "-x"].map(OsString::from).to_vec();
    args.push("-S".into());
    args.push(escaped(socket)?.into());
    args.push("-E".into());
    args.push(place::log_of(socket).into());
    let mut set = |option: String| {
        args.push("-o".into());
        args.push(option.into());
    };
    for fixed in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "CheckHostIP=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "LogLevel=INFO",
    ] {
        set(fixed.to_owned());
    }
    set(format!("ControlPersist={LINGER}"));
    set(format!("ConnectTimeout={CONNECT}"));
    let alive = options.alive.as_secs().max(1);
    set(format!("ServerAliveInterval={alive}"));
    set(format!("ServerAliveCountMax={MISSING}"));
    if let Some(known) = &options.known_hosts {
        set(format!("UserKnownHostsFile=\"{}\"", escaped(known)?));
        set("GlobalKnownHostsFile=/dev/null".to_owned());
    }
    if let Some(identity) = &options.identity {
        set("IdentitiesOnly=yes".to_owned());
        args.push("-i".into());
        args.push(escaped(identity)?.into());
    }
    if let Some(port) = address.port {
        args.push("-p".into());
        args.push(port.to_string().into());
    }
    args.extend(["-l".into(), address.user.clone().into()]);
    args.extend(["--".into(), address.host.clone().into()]);
    Ok(args)
}

/// A path in which ssh replaces nothing.
fn escaped(path: &Path) -> Result<String, ConnectError> {
    let bad = || {
        let shown = crate::quote::visible(&path.to_string_lossy());
        ConnectError::BadPath(shown)
    };
    let text = path.to_str().ok_or_else(bad)?;
    let is_strange = text.contains(['"', '\\'])
        || text.contains("${")
        || text.starts_with(['~', '-'])
        || text.chars().any(char::is_control);
    if is_strange { Err(bad()) } else { Ok(text.replace('%', "%%")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments_of(known: &str) -> Result<Vec<String>, ConnectError> {
        let address = "ssh://root@[::1]:2222".parse().unwrap();
        let options = SshOptions {
            known_hosts: Some(known.into()),
            identity: Some("/k 100%".into()),
            ..SshOptions::default()
        };
        let args = arguments(&address, &options, Path::new("/s"))?;
        Ok(args.into_iter().map(|arg| arg.into_string().unwrap()).collect())
    }

    #[test]
    fn ssh_is_asked_for_no_tty_no_questions_and_known_keys_only() {
        let args = arguments_of("/known hosts").unwrap();
        for wanted in [
            "-T",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=3",
            "ConnectTimeout=10",
            "UserKnownHostsFile=\"/known hosts\"",
            "/k 100%%",
        ] {
            assert!(args.iter().any(|arg| arg == wanted), "{wanted}: {args:?}");
        }
        assert!(!args.iter().any(|arg| arg == "-t" || arg == "-tt"));
        assert_eq!(args[args.len() - 2..], ["--", "::1"]);
    }

    #[test]
    fn a_path_that_ssh_would_misread_is_refused() {
        for bad in ["/a\"b", "/a${HOME}", "~/x", "-x", "/a\nb"] {
            assert!(arguments_of(bad).is_err(), "{bad:?}");
        }
    }
}
