//! Commands over multiplexed ssh connections to a global zone.
//!
//! # What is sent
//!
//! A command is the absolute path of its program and its arguments, each
//! quoted for the remote shell, with one blank between them; nothing else:
//! no `cd`, no pipe, no `; echo rc=$?`. These are all there are, with `U` a
//! VM's whole UUID in small letters, and a gate in the global zone may
//! refuse anything else:
//!
//! ```text
//! /usr/sbin/vmadm get U
//! /usr/sbin/vmadm lookup -j
//! /usr/sbin/vmadm start U
//! /usr/sbin/vmadm stop U -F
//! /usr/sbin/vmadm rollback-snapshot U NAME
//! /usr/sbin/vmadm update U max_physical_memory=N max_swap=N cpu_cap=N ...
//! /usr/sbin/zlogin -Q U /native/zone-job run|unpack|collect|kill|ps
//! /usr/sbin/zlogin -Q U 'one of the constant scripts of gate_calls()'
//! ```
//!
//! # Ends
//!
//! A session's exit status is the program's own: ssh's 255 does not occur,
//! since no ssh program is run for it. A session without one means that the
//! program died of a signal, or that the connection was lost; the latter is
//! told apart by the connection itself, and is an error.
//!
//! A server sends the exit status before the last output, and the
//! multiplexer's library throws away what comes after it. So the status is
//! asked for only when both streams have ended.
//!
//! ssh carries no signals. A command that is given up goes on: zlogin sees
//! its pipes close, and what runs in the zone is for the zone's own `kill`
//! or for the rollback. A change of a VM that is given up stays known until
//! it ends, and no second one is started on that VM beside it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use openssh::{Child, Session, Stdio};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::pool::{Pool, Seat};
use super::{Handle, Process, Reader};
use crate::command::{Command, Exit, Program};

mod address;
mod master;
mod place;
mod pool;
mod trouble;

pub use address::{BadAddress, SshAddress};
pub use trouble::{ConnectError, Trouble};

/// How long a command may wait for a connection.
const CONNECT: Duration = Duration::from_secs(45);
/// How long a command that was given up is remembered at most.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How long it takes at most until a lost connection is known to be lost.
const LOSS: Duration = Duration::from_secs(1);
/// After so many refusals of a single session the server gives none.
const REFUSALS: u32 = 5;
/// Sessions that conversations with zones leave to vmadm.
const FOR_VMADM: usize = 8;

/// What identifies the two sides.
#[derive(Debug, Clone)]
pub struct SshOptions {
    /// The private key; ssh's own choice without one.
    pub identity: Option<PathBuf>,
    /// The file of known host keys; ssh's own without one.
    pub known_hosts: Option<PathBuf>,
    /// Where control sockets live; a temporary directory without one.
    pub control_directory: Option<PathBuf>,
    /// The pause between signs of life, in whole seconds; three missing
    /// ones end the connection.
    pub alive: Duration,
}

impl Default for SshOptions {
    fn default() -> Self {
        Self {
            identity: None,
            known_hosts: None,
            control_directory: None,
            alive: Duration::from_secs(10),
        }
    }
}

/// A way to a global zone over ssh. Connections come and go; this stays.
#[derive(Debug)]
pub struct Ssh {
    pool: Arc<Pool>,
    long: Arc<Semaphore>,
    changes: Arc<Changes>,
}

/// Changes that were given up and go on in the global zone, by VM.
type Changes = Mutex<HashMap<String, (String, Instant)>>;

impl Ssh {
    /// A way that is connected when it is first used.
    ///
    /// # Errors
    /// When there is no place for control sockets.
    pub fn new(
        address: SshAddress,
        options: SshOptions,
    ) -> Result<Self, ConnectError> {
        let pool = Arc::new(Pool::new(address, options)?);
        let long = Arc::new(Semaphore::new(pool::ALL - FOR_VMADM));
        Ok(Self { pool, long, changes: Arc::default() })
    }

    /// A way that is connected. Only known host keys are accepted, and
    /// nothing is asked.
    ///
    /// # Errors
    /// When the host cannot be reached or refuses us.
    pub async fn connect(
        address: &SshAddress,
        options: &SshOptions,
    ) -> Result<Self, ConnectError> {
        let ssh = Self::new(address.clone(), options.clone())?;
        ssh.ready(Instant::now()).await?;
        Ok(ssh)
    }

    /// Connects if there is no connection, trying until the deadline, but
    /// once at least.
    ///
    /// # Errors
    /// When the host cannot be reached or refuses us.
    pub async fn ready(&self, deadline: Instant) -> Result<(), ConnectError> {
        self.pool.seat(deadline).await.map(drop)
    }

    /// How many connections there are; one, unless many sessions are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pool.connections().len()
    }

    pub(super) async fn spawn(&self, command: &Command) -> io::Result<Process> {
        let change = self.begin(command)?;
        let long = match command.program {
            Program::Vmadm => None,
            _ => Some(
                Arc::clone(&self.long)
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed"),
            ),
        };
        let (seat, mut child) = self.open(command).await?;
        let stdin = child.stdin().take().expect("stdin was set to a pipe");
        let stdout = child.stdout().take().expect("stdout was set to a pipe");
        let stderr = child.stderr().take().expect("stderr was set to a pipe");
        let ends = [CancellationToken::new(), CancellationToken::new()];
        let [out_end, err_end] = ends.clone();
        let (end, ended) = oneshot::channel();
        // `wait` of the session consumes it, so a task of its own waits.
        let task = tokio::spawn(async move {
            for stream in ends {
                stream.cancelled().await;
            }
            let exit = wait(child, &seat).await;
            drop((seat, long));
            let _ = end.send(exit);
        });
        Ok(Process {
            stdin: Box::new(stdin),
            stdout: Watched::boxed(stdout, out_end),
            stderr: Watched::boxed(stderr, err_end),
            handle: Handle::Ssh(Remote {
                ended: Some(ended),
                exit: None,
                task: Some(task),
                change,
            }),
        })
    }

    /// Whether the command changes a VM, and nobody is at that already.
    fn begin(&self, command: &Command) -> io::Result<Option<Change>> {
        let is_change = command.program == Program::Vmadm
            && !matches!(command.args[0].as_str(), "get" | "lookup");
        let Some(uuid) = command.args.get(1).filter(|_| is_change) else {
            return Ok(None);
        };
        let mut changes =
            self.changes.lock().expect("nobody panics while holding it");
        changes.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        if let Some((other, since)) = changes.get(uuid) {
            let text = format!(
                "{other} still runs in the global zone, {:.0?} after its \
                 start; no second command is started beside it",
                since.elapsed()
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        Ok(Some(Change {
            uuid: uuid.clone(),
            command: command.to_string(),
            since: Instant::now(),
            changes: Arc::clone(&self.changes),
        }))
    }

    /// Opens a session. A server that gives less sessions than we thought is
    /// asked on another connection. What may be run twice is tried again on
    /// a new connection when the old one turns out to be lost.
    async fn open(
        &self,
        command: &Command,
    ) -> io::Result<(Seat, Child<Arc<Session>>)> {
        let deadline = Instant::now() + CONNECT;
        let mut may_repeat = command.program == Program::Vmadm;
        let mut alone = 0;
        loop {
            let seat = self.pool.seat(deadline).await;
            let seat = seat.map_err(ConnectError::into_io)?;
            let error = match session(command, &seat).await {
                Ok(child) => return Ok((seat, child)),
                Err(error) => error,
            };
            let gone = seat.master().gone();
            if is_refusal(&error) {
                if seat.is_shared_and_full() {
                    continue;
                }
                // The last other one may have ended just now.
                alone += 1;
                if alone == REFUSALS {
                    return Err(io::Error::other(error));
                }
            } else if may_repeat
                && timeout(LOSS, gone.cancelled()).await.is_ok()
            {
                may_repeat = false;
            } else {
                return Err(io::Error::other(error));
            }
        }
    }
}

async fn session(
    command: &Command,
    seat: &Seat,
) -> Result<Child<Arc<Session>>, openssh::Error> {
    seat.master()
        .session()
        .arc_command(command.program.path())
        .args(&command.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .await
}

/// Whether the server opens no further session on this connection.
fn is_refusal(error: &openssh::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.to_string().contains("refused"))
}

async fn wait(child: Child<Arc<Session>>, seat: &Seat) -> io::Result<Exit> {
    match child.wait().await {
        Ok(status) => Ok(status.code().map_or(Exit::Unknown, Exit::Code)),
        // The library takes this status for a report of the shell's.
        Err(openssh::Error::Remote(error))
            if error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(Exit::Code(127))
        }
        Err(error) => {
            let master = seat.master();
            let lost = timeout(LOSS, master.gone().cancelled()).await.is_ok();
            if lost {
                let text = format!(
                    "lost the connection to the global zone at {}; ssh said: \
                     {}",
                    seat.address(),
                    master.last_words()
                );
                Err(io::Error::new(io::ErrorKind::ConnectionReset, text))
            } else if matches!(error, openssh::Error::RemoteProcessTerminated) {
                Ok(Exit::Unknown)
            } else {
                Err(io::Error::other(error))
            }
        }
    }
}

/// A command that changes a VM.
#[derive(Debug)]
struct Change {
    uuid: String,
    command: String,
    since: Instant,
    changes: Arc<Changes>,
}

impl Change {
    /// Remembers it until its session ends.
    fn leave(self, task: tokio::task::JoinHandle<()>) {
        let Self { uuid, command, since, changes } = self;
        tracing::warn!(
            worker = uuid,
            command,
            "was given up and goes on in the global zone"
        );
        let lock = || changes.lock().expect("nobody panics while holding it");
        lock().insert(uuid.clone(), (command, since));
        let changes = Arc::clone(&changes);
        tokio::spawn(async move {
            let mut task = AbortOnDrop(task);
            let _ = timeout(REMEMBERED, &mut task.0).await;
            changes
                .lock()
                .expect("nobody panics while holding it")
                .remove(&uuid);
        });
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A session on a connection.
#[derive(Debug)]
pub struct Remote {
    ended: Option<oneshot::Receiver<io::Result<Exit>>>,
    exit: Option<Exit>,
    task: Option<tokio::task::JoinHandle<()>>,
    change: Option<Change>,
}

impl Remote {
    pub(super) async fn wait(&mut self) -> io::Result<Exit> {
        if let Some(ended) = self.ended.as_mut() {
            let exit = ended.await.unwrap_or(Ok(Exit::Unknown));
            (self.ended, self.task, self.change) = (None, None, None);
            self.exit = Some(exit?);
        }
        Ok(self.exit.unwrap_or(Exit::Unknown))
    }

    /// Gives the command up. ssh cannot signal it; it sees its pipes close.
    pub(super) fn kill(&mut self) {
        let Some(task) = self.task.take() else { return };
        match self.change.take() {
            Some(change) if !task.is_finished() => change.leave(task),
            _ => task.abort(),
        }
        self.ended = None;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stream that tells when it has ended, or when nobody reads it any more.
struct Watched<R> {
    reader: R,
    /// Gone at the end.
    ended: Option<DropGuard>,
}

impl<R: AsyncRead + Send + Unpin + 'static> Watched<R> {
    fn boxed(reader: R, ended: CancellationToken) -> Reader {
        Box::new(Self { reader, ended: Some(ended.drop_guard()) })
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let polled = Pin::new(&mut self.reader).poll_read(cx, buf);
        let is_end = match &polled {
            Poll::Ready(Ok(())) => had_room && buf.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if is_end {
            self.ended = None;
        }
        polled
    }
}
