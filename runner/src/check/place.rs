//! The runner's own place: data directory, disk, control port.
//!
//! Looks without disturbing a runner that is at work there: its lock is not
//! touched, a file of our own is made and removed instead.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntrace_client::RunnerControl;
use ntrace_protocol::worker::WorkerView;
use ntrace_session::ListenAddr;
use serde_json::Value;
use tokio::time::timeout;

use super::finding::{Finding, Need};
use super::words::{shell, size};

/// Below this nothing can be written for long.
const LEAST_FREE: u64 = 256 << 20;

/// How the data directory is.
#[derive(Debug)]
pub(super) enum Data {
    /// It is there, can be written and locked.
    Usable,
    /// It will be made below this directory, which can be written.
    ToBeMade,
    /// It cannot be used.
    Unusable {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

pub(super) fn look_at_data(dir: &Path) -> Data {
    match fs::metadata(dir) {
        Ok(_) => match try_directory(dir) {
            Ok(()) => Data::Usable,
            Err((what, error)) => {
                Data::Unusable { what, path: dir.to_owned(), error }
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = existing_above(dir);
            let access =
                rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            match rustix::fs::access(&above, access) {
                Ok(()) => Data::ToBeMade,
                Err(error) => Data::Unusable {
                    what: "make a directory in",
                    path: above,
                    error: error.into(),
                },
            }
        }
        Err(error) => {
            Data::Unusable { what: "look at", path: dir.to_owned(), error }
        }
    }
}

/// Makes, locks and removes a file of our own.
fn try_directory(dir: &Path) -> Result<(), (&'static str, io::Error)> {
    let path = dir.join(format!(".check-{}", std::process::id()));
    let mut options = File::options();
    let made = options.create(true).truncate(false).write(true).open(&path);
    let file = made.map_err(|error| ("write to", error))?;
    let locked = file.try_lock();
    let removed = fs::remove_file(&path);
    locked.map_err(|error| ("lock a file in", error.into()))?;
    removed.map_err(|error| ("remove a file from", error))
}

/// The nearest directory above that is there.
fn existing_above(dir: &Path) -> PathBuf {
    let above = dir.ancestors().skip(1).find(|above| above.exists());
    above.unwrap_or(Path::new("/")).to_owned()
}

pub(super) fn judge_data(dir: &Path, found: &Data) -> Finding {
    let shown = dir.display();
    match found {
        Data::Usable => Finding::ok(Need::Data, format!("{shown} is ours")),
        Data::ToBeMade => Finding::ok(
            Need::Data,
            format!("{shown} is made at the first start"),
        ),
        Data::Unusable { what, path, error } => {
            let says = format!("cannot {what} {}: {error}", path.display());
            let dir = shell(&dir.to_string_lossy());
            let mend = format!(
                "sudo install -d -m 0700 -o \"$(id -un)\" {dir}   (or give \
                 --data another directory)"
            );
            Finding::fail(Need::Data, says, mend)
        }
    }
}

/// What is free where the data are, or will be.
pub(super) fn look_at_disk(dir: &Path) -> io::Result<u64> {
    let at = if dir.exists() { dir.to_owned() } else { existing_above(dir) };
    let found = rustix::fs::statvfs(&at)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) fn judge_disk(
    dir: &Path,
    spool: u64,
    free: &io::Result<u64>,
) -> Finding {
    let at = shell(&dir.to_string_lossy());
    let free = match free {
        Ok(free) => *free,
        Err(error) => {
            let says = format!("cannot see how much is free: {error}");
            return Finding::warn(Need::Disk, says, format!("df -h {at}"));
        }
    };
    let says = format!("{} free at {}", size(free), dir.display());
    let mend = format!(
        "du -xh --max-depth=2 {at} | sort -h | tail   (what is large there; \
         or give --data a directory on another disk)"
    );
    if free < LEAST_FREE {
        Finding::fail(Need::Disk, says, mend)
    } else if free < spool {
        let says = format!("{says}, less than the {} of --spool", size(spool));
        Finding::warn(Need::Disk, says, mend)
    } else {
        Finding::ok(Need::Disk, says)
    }
}

/// Who has the control port.
#[derive(Debug)]
pub(super) enum Port {
    /// Any port will do.
    Any,
    /// Nobody.
    Free,
    /// A runner.
    Runner(Running),
    /// Something that does not answer as a runner does.
    Other(String),
}

/// A runner at work.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) is_connected: bool,
    pub(super) workers: Vec<WorkerView>,
}

impl Running {
    fn from(status: &Value) -> Option<Self> {
        let workers = status.get("workers")?.clone();
        Some(Self {
            name: status.get("name")?.as_str()?.to_owned(),
            is_connected: status.get("connected")?.as_bool()?,
            workers: serde_json::from_value(workers).ok()?,
        })
    }
}

fn address(listen: &ListenAddr) -> Option<SocketAddr> {
    match listen {
        ListenAddr::Localhost(port) => {
            Some(SocketAddr::from(([127, 0, 0, 1], *port)))
        }
        ListenAddr::One(addr) => Some(*addr),
    }
    .filter(|addr| addr.port() != 0)
}

pub(super) async fn look_at_port(listen: &ListenAddr, late: Duration) -> Port {
    let Some(addr) = address(listen) else { return Port::Any };
    let asked = timeout(late, async {
        let Ok(runner) = RunnerControl::connect(&addr.to_string()).await else {
            return Port::Free;
        };
        match runner.status().await {
            Ok(status) => match Running::from(&status) {
                Some(running) => Port::Runner(running),
                None => Port::Other("it answers otherwise".to_owned()),
            },
            Err(error) => Port::Other(error.to_string()),
        }
    });
    asked.await.unwrap_or_else(|_| {
        Port::Other(format!("it does not answer within {late:?}"))
    })
}

pub(super) fn judge_port(
    listen: &ListenAddr,
    name: &str,
    port: &Port,
) -> Finding {
    let who = address(listen).map_or(0, |addr| addr.port());
    let mend = || {
        format!(
            "ss -ltnp 'sport = :{who}'   (who it is; end it, or give \
             --listen another port)"
        )
    };
    match port {
        Port::Any => Finding::ok(Need::Control, "any free port"),
        Port::Free => Finding::ok(Need::Control, format!("{listen} is free")),
        Port::Runner(runner) if runner.name == name => {
            let link = match runner.is_connected {
                true => "connected to its dispatcher",
                false => "without its dispatcher",
            };
            let says = format!("runner {name} is at work on {listen}, {link}");
            Finding::ok(Need::Control, says)
        }
        Port::Runner(runner) => {
            let says = format!("{listen} is runner {}'s", runner.name);
            Finding::fail(Need::Control, says, mend())
        }
        Port::Other(why) => {
            let says = format!("something else has {listen}: {why}");
            Finding::fail(Need::Control, says, mend())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_directory_is_judged_by_what_can_be_done_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let judged = |dir: &Path| judge_data(dir, &look_at_data(dir)).state;
        assert_eq!(judged(at), Level::Ok);
        assert_eq!(judged(&at.join("not/yet/there")), Level::Ok);
        assert_eq!(fs::read_dir(at).unwrap().count(), 0, "something is left");
        fs::write(at.join("file"), "").unwrap();
        assert_eq!(judged(&at.join("file")), Level::Fail);
        assert_eq!(judged(&at.join("file/below")), Level::Fail);
    }

    #[test]
    fn a_full_disk_fails_and_a_filling_one_warns() {
        let judged =
            |free: u64| judge_disk(Path::new("/x"), 4 << 30, &Ok(free)).state;
        assert_eq!(judged(1 << 20), Level::Fail);
        assert_eq!(judged(1 << 30), Level::Warn);
        assert_eq!(judged(5 << 30), Level::Ok);
        let error = Err(io::Error::other("no"));
        let judged = judge_disk(Path::new("/x"), 1, &error);
        assert_eq!(judged.state, Level::Warn);
    }

    #[test]
    fn a_port_may_be_free_or_our_own_runners() {
        let listen = ListenAddr::Localhost(9182);
        let judged = |port: Port| judge_port(&listen, "box", &port);
        let runner = |name: &str| {
            let name = name.to_owned();
            Port::Runner(Running { name, ..Running::default() })
        };
        assert_eq!(judged(Port::Any).state, Level::Ok);
        assert_eq!(judged(Port::Free).state, Level::Ok);
        assert_eq!(judged(runner("box")).state, Level::Ok);
        let other = judged(runner("tower"));
        assert_eq!(other.state, Level::Fail);
        assert!(other.mend.unwrap().contains(":9182"));
        let other = judged(Port::Other("silence".to_owned()));
        assert_eq!(other.state, Level::Fail);
    }
}
