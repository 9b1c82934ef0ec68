//! Where control sockets live.
//!
//! A directory of ours, short enough for a socket's name. What killed
//! runners left in it is cleaned: a socket at which nobody listens, with its
//! log. Must not know ssh.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::trouble::ConnectError;

/// The longest directory that leaves room for our name and for what ssh adds
/// to it while it makes the socket (108 bytes in all).
const LONGEST: usize = 70;
/// Names of sockets begin so.
const PREFIX: &str = "gz-";

/// A directory for control sockets.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    /// Made for this process alone, and removed with it.
    is_own: bool,
}

impl Place {
    /// In `wanted`, or in the system's temporary directory if that is too
    /// long or none is given.
    pub(super) fn new(wanted: Option<&Path>) -> Result<Self, ConnectError> {
        let wanted = wanted.filter(|dir| dir.as_os_str().len() <= LONGEST);
        let (dir, is_own) = match wanted {
            Some(dir) => (dir.to_owned(), false),
            None => {
                let id = uuid::Uuid::new_v4().simple().to_string();
                let name = format!("ntrace-ssh-{}", &id[..12]);
                (std::env::temp_dir().join(name), true)
            }
        };
        // Nobody else is to connect to our masters. One of our own must not
        // be there: somebody may have put it there.
        DirBuilder::new().recursive(!is_own).mode(0o700).create(&dir).map_err(
            |source| ConnectError::NoDirectory { path: dir.clone(), source },
        )?;
        clean(&dir);
        Ok(Self { dir, is_own })
    }

    /// A name for a new socket.
    pub(super) fn socket(&self) -> PathBuf {
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.dir.join(format!("{PREFIX}{}", &id[..12]))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_own {
            // What is in it is of connections that are gone.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The log beside a socket.
pub(super) fn log_of(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

/// Removes a socket and its log.
pub(super) fn remove(socket: &Path) {
    for path in [socket.to_owned(), log_of(socket)] {
        // The master has most likely removed its socket by itself.
        let _ = fs::remove_file(path);
    }
}

/// Removes what nobody listens at any more.
fn clean(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        let name = entry.file_name();
        let is_ours = name.to_string_lossy().starts_with(PREFIX);
        let socket = path.with_extension("");
        if is_ours && is_dead(&socket) {
            tracing::debug!(socket = %socket.display(), "stale control socket");
            remove(&socket);
        }
    }
}

fn is_dead(socket: &Path) -> bool {
    let error = UnixStream::connect(socket).err().map(|error| error.kind());
    matches!(
        error,
        Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn stale_sockets_go_and_live_ones_and_strange_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(UnixListener::bind(at("gz-dead")).unwrap());
        let _live = UnixListener::bind(at("gz-live")).unwrap();
        for name in ["gz-dead.log", "gz-live.log", "gz-lone.log", "other"] {
            fs::write(at(name), "").unwrap();
        }
        let place = Place::new(Some(dir.path())).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["gz-live", "gz-live.log", "other"]);
        drop(place);
        assert!(at("other").exists());
    }

    #[test]
    fn a_long_directory_gives_way_to_a_private_short_one() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(80));
        let place = Place::new(Some(&long)).unwrap();
        let path = place.dir.clone();
        assert!(!path.starts_with(&long));
        assert!(path.as_os_str().len() <= LONGEST);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(place);
        assert!(!path.exists());
    }
}
