//! Perf events as this sampler uses them: one event per processor that
//! counts the processor's clock and records stacks.
//!
//! Must not know who opens the events, nor what the records mean to whom.

pub(crate) mod open;
pub(crate) mod record;
pub(crate) mod sys;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use perf_event_open_sys::bindings::{
    self as abi, perf_event_attr, perf_event_attr__bindgen_ty_1,
    perf_event_attr__bindgen_ty_2,
};

use self::sys::Ring;
use crate::arch;

/// Pages of a ring, tried from the largest: what may be locked is limited
/// for ordinary users (`perf_event_mlock_kb` and `ulimit -l`).
const RING_PAGES: [usize; 4] = [128, 64, 32, 16];

/// What to sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Samples per second of processor time.
    pub hz: u32,
    /// Bytes of user stack in each sample.
    pub stack_bytes: u32,
    /// Whether frames of the kernel are recorded too.
    pub kernel: bool,
    /// Whether children are followed from process to process, beginning
    /// with the next exec of the opener; else all of a cgroup is meant.
    pub inherit: bool,
}

impl Settings {
    /// Nanoseconds between two samples.
    pub(crate) fn period(&self) -> u64 {
        1_000_000_000 / u64::from(self.hz.max(1))
    }

    /// The attributes for the kernel.
    pub(crate) fn attr(&self) -> perf_event_attr {
        let mut sample = abi::PERF_SAMPLE_IP
            | abi::PERF_SAMPLE_TID
            | abi::PERF_SAMPLE_TIME
            | abi::PERF_SAMPLE_REGS_USER
            | abi::PERF_SAMPLE_STACK_USER;
        if self.kernel {
            sample |= abi::PERF_SAMPLE_CALLCHAIN;
        }
        let mut attr = perf_event_attr::default();
        attr.type_ = abi::PERF_TYPE_SOFTWARE;
        attr.size = size_of::<perf_event_attr>() as u32;
        attr.config = abi::PERF_COUNT_SW_CPU_CLOCK.into();
        attr.sample_type = sample.into();
        attr.sample_regs_user = arch::REGISTERS;
        attr.sample_stack_user = self.stack_bytes & !7;
        attr.clockid = libc::CLOCK_MONOTONIC;
        attr.__bindgen_anon_1 =
            perf_event_attr__bindgen_ty_1 { sample_period: self.period() };
        // Wakes us when a third of the smallest ring is full.
        attr.__bindgen_anon_2 =
            perf_event_attr__bindgen_ty_2 { wakeup_watermark: 20 << 10 };
        attr.set_watermark(1);
        attr.set_disabled(1);
        attr.set_exclude_hv(1);
        attr.set_exclude_kernel(u64::from(!self.kernel));
        attr.set_exclude_callchain_user(u64::from(self.kernel));
        attr.set_comm(1);
        attr.set_comm_exec(1);
        attr.set_mmap(1);
        attr.set_mmap2(1);
        attr.set_task(1);
        attr.set_sample_id_all(1);
        attr.set_use_clockid(1);
        attr.set_inherit(u64::from(self.inherit));
        attr.set_enable_on_exec(u64::from(self.inherit));
        attr
    }
}

/// An event with its ring.
#[derive(Debug)]
pub(crate) struct Event {
    ring: Ring,
    fd: OwnedFd,
}

impl Event {
    /// Gives an event the largest ring that this user may have.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Event> {
        let mut last = io::Error::from_raw_os_error(libc::EINVAL);
        for pages in RING_PAGES {
            match Ring::map(fd.as_fd(), pages) {
                Ok(ring) => return Ok(Event { ring, fd }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Its descriptor, for poll.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Begins, where the event does not begin by itself.
    pub(crate) fn enable(&self) -> io::Result<()> {
        sys::enable(self.fd.as_fd())
    }

    /// Stops.
    pub(crate) fn disable(&self) {
        sys::disable(self.fd.as_fd());
    }

    /// Processor time that it has seen, in nanoseconds.
    pub(crate) fn counted(&self) -> u64 {
        let mut value = [0_u8; 8];
        match rustix::io::read(&self.fd, &mut value) {
            Ok(8) => u64::from_ne_bytes(value),
            _ => 0,
        }
    }

    /// Appends its new records.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>) {
        self.ring.take(into);
    }
}

/// The first event of a machine makes its opener wait for a grace period of
/// the kernel, some 10 ms; while this one is held, others open at once.
#[derive(Debug)]
pub(crate) struct Warmth {
    _event: Option<OwnedFd>,
}

impl Warmth {
    /// Waits in place of those who come later. Where that is refused, they
    /// wait themselves, or say why they cannot be opened.
    pub(crate) fn make() -> Warmth {
        Warmth { _event: sys::open_idle().ok() }
    }
}

/// Numbers of the processors that are switched on.
pub(crate) fn processors() -> io::Result<Vec<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(parse_list(text.trim()))
}

/// Reads `0-3,8`.
fn parse_list(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse(), last.parse::<u32>()) {
            found.extend(first..=last.min(first + 4096));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_has_single_ones_and_ranges() {
        assert_eq!(parse_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_list("0"), [0]);
        assert_eq!(parse_list(""), [0_u32; 0]);
    }

    #[test]
    fn attributes_carry_their_own_size() {
        let settings = Settings {
            hz: 199,
            stack_bytes: 8191,
            kernel: false,
            inherit: true,
        };
        let bytes = sys::bytes_of(&settings.attr());
        let told = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        assert_eq!(told as usize, bytes.len());
        assert_eq!(settings.attr().sample_stack_user, 8184);
        assert_eq!(settings.period(), 5_025_125);
    }
}
