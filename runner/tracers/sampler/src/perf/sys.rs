//! The system calls of perf events, and the ring that the kernel fills.

#![expect(
    unsafe_code,
    reason = "perf events have no safe wrapper that takes foreign descriptors"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use perf_event_open_sys as perf;
use perf_event_open_sys::bindings::{perf_event_attr, perf_event_mmap_page};

/// The attributes as the kernel wants them.
pub(crate) fn bytes_of(attr: &perf_event_attr) -> Vec<u8> {
    let at = std::ptr::from_ref(attr).cast::<u8>();
    // SAFETY: the structure is plain and was made from zeros, so each of its
    // bytes is set; it outlives the copy.
    unsafe { std::slice::from_raw_parts(at, size_of_val(attr)) }.to_vec()
}

/// Opens an event on the processes of a cgroup, on one processor.
pub(crate) fn open_on_group(
    attr: &perf_event_attr,
    group: BorrowedFd<'_>,
    cpu: u32,
) -> io::Result<OwnedFd> {
    let mut attr = *attr;
    let flags = perf::bindings::PERF_FLAG_PID_CGROUP
        | perf::bindings::PERF_FLAG_FD_CLOEXEC;
    let cpu = i32::try_from(cpu)
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the attributes are initialised and outlive the call; sampling
    // writes to nothing but the ring.
    let fd = unsafe {
        perf::perf_event_open(
            &raw mut attr,
            group.as_raw_fd(),
            cpu,
            -1,
            flags.into(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens an event on this very process that never counts anything.
pub(crate) fn open_idle() -> io::Result<OwnedFd> {
    let mut attr = perf_event_attr::default();
    attr.type_ = perf::bindings::PERF_TYPE_SOFTWARE;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.config = perf::bindings::PERF_COUNT_SW_DUMMY.into();
    attr.set_disabled(1);
    attr.set_exclude_kernel(1);
    attr.set_exclude_hv(1);
    let flags = perf::bindings::PERF_FLAG_FD_CLOEXEC;
    // SAFETY: the attributes are initialised and outlive the call; without a
    // ring nothing is written.
    let fd = unsafe {
        perf::perf_event_open(&raw mut attr, 0, -1, -1, flags.into())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Switches an event on.
pub(crate) fn enable(event: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let done = unsafe { perf::ioctls::ENABLE(event.as_raw_fd(), 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches an event off.
pub(crate) fn disable(event: BorrowedFd<'_>) {
    // SAFETY: takes no pointers. An event that is gone counts nothing.
    unsafe { perf::ioctls::DISABLE(event.as_raw_fd(), 0) };
}

/// The memory that the kernel writes an event's records to.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    length: usize,
    page: usize,
}

impl Ring {
    /// Maps the ring of an event; `pages` is a power of two.
    pub(crate) fn map(event: BorrowedFd<'_>, pages: usize) -> io::Result<Ring> {
        let page = rustix::param::page_size();
        let length = page * (pages + 1);
        // SAFETY: a new shared mapping; the kernel chooses where.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap gave nothing"))?;
        Ok(Ring { base, length, page })
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the first page of the mapping is a perf_event_mmap_page,
        // in which these aligned words are shared with the kernel.
        unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// Appends all that was written since the last time.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>) {
        const HEAD: usize =
            std::mem::offset_of!(perf_event_mmap_page, data_head);
        const TAIL: usize =
            std::mem::offset_of!(perf_event_mmap_page, data_tail);
        let size = self.length - self.page;
        let head = self.word(HEAD).load(Ordering::Acquire);
        let tail = self.word(TAIL).load(Ordering::Relaxed);
        let fresh = head.wrapping_sub(tail).min(size as u64) as usize;
        let start = (tail % size as u64) as usize;
        let first = fresh.min(size - start);
        for (from, count) in [(start, first), (0, fresh - first)] {
            // SAFETY: both pieces lie in the data pages, which follow the
            // first page. The kernel writes only what lies past `head`.
            let piece = unsafe {
                let at = self.base.as_ptr().add(self.page + from);
                std::slice::from_raw_parts(at, count)
            };
            into.extend_from_slice(piece);
        }
        fence(Ordering::SeqCst);
        self.word(TAIL).store(head, Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
