//! bpf(2).

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The programs' licence, which the kernel wants to know since they read its
/// memory; MIT alone it would not take.
const LICENCE: &CStr = c"Dual MIT/GPL";

/// Room for the kernel's words on a program.
const LOG_ROOM: usize = 64 << 10;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const RAW_TRACEPOINT_OPEN: i32 = 17;

const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;

/// A kind of map.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Map {
    /// Of memory, apart for each processor.
    PerCpuArray = 6,
    /// Of cgroups.
    CgroupArray = 8,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct RawTracepoint {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// Calls bpf(2).
///
/// # Safety
/// Each address in the attributes is of memory that is as long as the
/// command makes the kernel read or write, and outlives the call.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are plain structures of the kernel's layout, of
    // the length that is given; for what they point to see above.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the descriptor is new, so nobody else owns it. The kernel makes
    // it close on exec.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn short_name(name: &str) -> [u8; 16] {
    let mut room = [0; 16];
    let bytes = name.as_bytes();
    let length = bytes.len().min(15);
    room[..length].copy_from_slice(&bytes[..length]);
    room
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    // Descriptors are not negative.
    fd.as_raw_fd().unsigned_abs()
}

/// Makes a map of one value.
pub(crate) fn create_map(
    kind: Map,
    value_size: u32,
    name: &str,
) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: kind as u32,
        key_size: 4,
        value_size,
        max_entries: 1,
        map_name: short_name(name),
        ..MapCreate::default()
    };
    // SAFETY: no addresses.
    unsafe { bpf(MAP_CREATE, &mut attr) }.map(owned)
}

/// Puts a cgroup into a map.
pub(crate) fn put_group(
    map: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
) -> io::Result<()> {
    let (key, value) = (0_u32, descriptor(group));
    let mut attr = Element {
        map_fd: descriptor(map),
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(&value) as u64,
        ..Element::default()
    };
    // SAFETY: key and value have four bytes each, as the map was made, and
    // outlive the call.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Reads the one value of a map that is apart for each processor: so many
/// words for each of all processors that there could be.
pub(crate) fn read_per_cpu(
    map: BorrowedFd<'_>,
    words: usize,
    cpus: usize,
) -> io::Result<Vec<u64>> {
    let key = 0_u32;
    let mut values = vec![0_u64; words * cpus];
    let mut attr = Element {
        map_fd: descriptor(map),
        key: std::ptr::from_ref(&key) as u64,
        value: values.as_mut_ptr() as u64,
        ..Element::default()
    };
    // SAFETY: the kernel writes a value of whole words for each possible
    // processor, which is what the room was made for; both outlive the call.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(values)
}

/// Loads a program for a raw tracepoint; with the error what the kernel's
/// check says.
pub(crate) fn load(
    code: &[u64],
    name: &str,
) -> Result<OwnedFd, (io::Error, Vec<u8>)> {
    let mut attr = ProgLoad {
        prog_type: PROG_TYPE_RAW_TRACEPOINT,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: LICENCE.as_ptr() as u64,
        prog_name: short_name(name),
        ..ProgLoad::default()
    };
    // SAFETY: the code is as long as is said, the licence ends with a zero,
    // and both outlive the call; there is no room for a log.
    let error = match unsafe { bpf(PROG_LOAD, &mut attr) } {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    // Once more, for its words: to ask for them always would cost always.
    let mut log = vec![0_u8; LOG_ROOM];
    attr.log_level = 1;
    attr.log_size = LOG_ROOM as u32;
    attr.log_buf = log.as_mut_ptr() as u64;
    // SAFETY: as above; the log has the room that is said.
    if let Ok(fd) = unsafe { bpf(PROG_LOAD, &mut attr) } {
        return Ok(owned(fd));
    }
    let length = log.iter().position(|byte| *byte == 0).unwrap_or(0);
    log.truncate(length);
    Err((error, log))
}

/// Has a program run at a tracepoint, until what this gives is closed.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    tracepoint: &CStr,
) -> io::Result<OwnedFd> {
    let mut attr = RawTracepoint {
        name: tracepoint.as_ptr() as u64,
        prog_fd: descriptor(program),
        pad: 0,
    };
    // SAFETY: the name ends with a zero and outlives the call.
    unsafe { bpf(RAW_TRACEPOINT_OPEN, &mut attr) }.map(owned)
}
