//! Moves bytes between a program in a zone and zlogin's own descriptors.
//!
//! The program gets pipes made by us, never the caller's own descriptors:
//! those would let it reopen the caller's terminal, file or pipe. Between
//! pipes the kernel moves pages (splice), so a gigabyte costs no copy.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

/// Bytes moved in one go, and the size that pipes are asked to have.
const CHUNK: usize = 1 << 20;

/// What a pump waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Something to read.
    Source,
    /// Room to write.
    Sink,
    /// Nothing; it is done.
    Over,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pump {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    wait: Wait,
    /// Set when the kernel cannot splice between the two.
    copy: bool,
    held: Vec<u8>,
}

impl Pump {
    /// A pump between two descriptors; it closes them when it is done.
    pub(crate) fn new(from: OwnedFd, to: OwnedFd) -> Pump {
        let (from, to) = (Some(from), Some(to));
        Pump { from, to, wait: Wait::Source, copy: false, held: Vec::new() }
    }

    /// Whether there is nothing more to come.
    pub(crate) fn is_over(&self) -> bool {
        self.wait == Wait::Over
    }

    /// Whether it holds bytes that its reader does not take.
    pub(crate) fn is_held_up(&self) -> bool {
        self.wait == Wait::Sink
    }

    /// What to poll for, unless it is over.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match self.wait {
            Wait::Source => {
                self.from.as_ref().map(|fd| (fd.as_fd(), PollFlags::IN))
            }
            Wait::Sink => {
                self.to.as_ref().map(|fd| (fd.as_fd(), PollFlags::OUT))
            }
            Wait::Over => None,
        }
    }

    /// Ends it: both sides are closed.
    pub(crate) fn close(&mut self) {
        self.from = None;
        self.to = None;
        self.wait = Wait::Over;
    }

    /// Moves what can be moved now; says how much.
    pub(crate) fn go(&mut self) -> usize {
        let result = if self.copy { self.copy() } else { self.splice() };
        match result {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(_) => {
                self.close();
                0
            }
        }
    }

    fn splice(&mut self) -> Result<usize, Errno> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else {
            self.wait = Wait::Over;
            return Ok(0);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match rustix::pipe::splice(from, None, to, None, CHUNK, flags) {
            Ok(0) => {
                self.close();
                Ok(0)
            }
            Ok(count) => {
                self.wait = Wait::Source;
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                // Which side held us up is what we were not waiting for.
                self.wait = match self.wait {
                    Wait::Source => Wait::Sink,
                    _ => Wait::Source,
                };
                Ok(0)
            }
            Err(Errno::INVAL) => {
                self.copy = true;
                self.copy()
            }
            Err(error) => Err(error),
        }
    }

    fn copy(&mut self) -> Result<usize, Errno> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else {
            self.wait = Wait::Over;
            return Ok(0);
        };
        if self.held.is_empty() {
            let mut buffer = vec![0_u8; 65_536];
            let count = match rustix::io::read(from, &mut buffer[..]) {
                Err(Errno::AGAIN) => {
                    self.wait = Wait::Source;
                    return Ok(0);
                }
                other => other?,
            };
            if count == 0 {
                self.close();
                return Ok(0);
            }
            buffer.truncate(count);
            self.held = buffer;
        }
        let count = match rustix::io::write(to, &self.held) {
            Err(Errno::AGAIN) => 0,
            other => other?,
        };
        self.held.drain(..count);
        self.wait =
            if self.held.is_empty() { Wait::Source } else { Wait::Sink };
        Ok(count)
    }
}

/// A pipe for a program in a zone: its end and ours, both owned by the
/// zone's user, so that the program may reopen `/dev/stdout`.
pub(crate) fn pipe_for(uid: u32, gid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&write, CHUNK);
    let (uid, gid) =
        (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    let _ = rustix::fs::fchown(&write, Some(uid), Some(gid));
    Ok((read, write))
}

/// Makes our end of a pipe refuse rather than wait.
pub(crate) fn never_wait(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    debug_assert!(fd.as_raw_fd() > 2, "the caller's own are left alone");
    Ok(())
}
