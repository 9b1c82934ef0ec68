//! Opens a tracer's perf events on behalf of it, from inside the zone.
//!
//! An ordinary user may count only processes of its own, and the records
//! carry the pids that the opener sees. So it is the job's first process
//! that opens them on itself, before it becomes the job, and hands them out:
//! one packet with the attributes and processors comes in, packets with the
//! descriptors go out, then one byte lets it go on. All is closed before the
//! job's program runs. Whatever goes wrong here, the program runs.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::clock::Deadline;
use crate::enter::TRACER;
use crate::sys;

/// Longest that a tracer may hold the program up, in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest packet of a tracer.
const PACKET_MAX: usize = 16 << 10;

/// Descriptors in one packet; the kernel takes at most 253.
const BATCH: usize = 64;

/// A tracer that waits for the events.
#[derive(Debug)]
pub(super) struct Tracer {
    socket: OwnedFd,
}

impl AsRawFd for Tracer {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Tracer {
    /// The one that zlogin found waiting, if any.
    pub(super) fn waiting() -> Option<Tracer> {
        let number = std::env::var(TRACER).ok()?.parse().ok()?;
        let socket = sys::adopt(number).ok()?;
        Some(Tracer { socket })
    }

    /// Gives the tracer what it asks for, then closes the way to it.
    pub(super) fn serve(self) {
        let deadline = Deadline::after(PATIENCE);
        let done = self.open_and_send(&deadline);
        let last = match &done {
            Ok(()) => b".".to_vec(),
            Err(error) => {
                let code = error.raw_os_error().unwrap_or(libc::EIO);
                format!("E{code}").into_bytes()
            }
        };
        let sent = rustix::net::send(&self.socket, &last, SendFlags::NOSIGNAL);
        if done.is_ok() && sent.is_ok() {
            // Its word, or its end.
            self.await_readable(&deadline);
        }
    }

    fn open_and_send(&self, deadline: &Deadline) -> io::Result<()> {
        let mut packet = vec![0_u8; PACKET_MAX];
        if !self.await_readable(deadline) {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        let (count, _) = rustix::net::recv(
            &self.socket,
            packet.as_mut_slice(),
            RecvFlags::DONTWAIT,
        )?;
        packet.truncate(count);
        let mut request = Request::parse(&packet)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))?;
        let mut events = Vec::with_capacity(request.cpus.len());
        for cpu in &request.cpus {
            match sys::perf_event_open(&mut request.attr, *cpu) {
                Ok(event) => events.push(event),
                // A processor that is switched off.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        for batch in events.chunks(BATCH) {
            let batch: Vec<BorrowedFd<'_>> =
                batch.iter().map(AsFd::as_fd).collect();
            let mut room =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = SendAncillaryBuffer::new(&mut room);
            ancillary.push(SendAncillaryMessage::ScmRights(&batch));
            rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(b"F")],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?;
        }
        Ok(())
    }

    fn await_readable(&self, deadline: &Deadline) -> bool {
        while let Some(left) = deadline.left() {
            let left = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if matches!(rustix::event::poll(&mut fds, Some(&left)), Ok(1..)) {
                return true;
            }
        }
        false
    }
}

/// What a tracer asks for: attributes, and processors.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    attr: Vec<u8>,
    cpus: Vec<u32>,
}

impl Request {
    /// Four bytes that count the attributes', these, then four for each
    /// processor.
    fn parse(packet: &[u8]) -> Option<Request> {
        let (length, rest) = packet.split_first_chunk::<4>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        let (attr, cpus) = rest.split_at_checked(length)?;
        let (cpus, rest) = cpus.as_chunks::<4>();
        let cpus = cpus.iter().map(|cpu| u32::from_ne_bytes(*cpu)).collect();
        rest.is_empty().then(|| Request { attr: attr.to_vec(), cpus })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_cut_is_refused() {
        let mut packet = 3_u32.to_ne_bytes().to_vec();
        packet.extend([7, 8, 9]);
        packet.extend(5_u32.to_ne_bytes());
        let wanted = Request { attr: vec![7, 8, 9], cpus: vec![5] };
        assert_eq!(Request::parse(&packet), Some(wanted));
        for end in 1..4 {
            assert_eq!(Request::parse(&packet[..packet.len() - end]), None);
        }
        assert_eq!(Request::parse(&packet[..5]), None);
        assert_eq!(Request::parse(&[]), None);
    }
}
