//! Where a sampler without privileges waits for the job's first process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Callers that may wait; more than one happens only by mistake.
const BACKLOG: i32 = 8;

/// A socket with a name; the name goes with this value.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens; the name of an earlier sampler that died is taken over.
    pub(crate) fn bind(path: &Path) -> io::Result<Listener> {
        let parts = path.parent().zip(path.file_name());
        let (dir, name) =
            parts.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let dir = std::fs::File::open(dir)?;
        // A socket's path has little room: this one is always short.
        let short = Path::new("/proc/self/fd")
            .join(dir.as_raw_fd().to_string())
            .join(name);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(short)?)?;
        let listener = Listener { socket, path: path.to_owned() };
        rustix::net::listen(&listener.socket, BACKLOG)?;
        Ok(listener)
    }

    /// For poll.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next caller, if one waits.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(caller) => Ok(Some(caller)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_dead_sampler_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tracer");
        let first = Listener::bind(&path).unwrap();
        let _second = Listener::bind(&path).unwrap();
        assert!(path.exists());
        assert!(first.accept().unwrap().is_none());
    }

    #[test]
    fn the_name_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tracer");
        drop(Listener::bind(&path).unwrap());
        assert!(!path.exists());
        assert!(Listener::bind(&dir.path().join("no/such")).is_err());
    }
}
