//! What the kernel writes into a ring. Pure: bytes in, records out; a record
//! that makes no sense is none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use perf_event_open_sys::bindings as abi;

use crate::arch::{self, Registers};

/// A record of which the time is known, as raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    kind: u32,
    misc: u16,
    body: Box<[u8]>,
}

/// One moment of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample<'a> {
    /// The process, in the opener's pid namespace.
    pub pid: u32,
    /// Frames of the kernel, innermost first.
    pub kernel: Vec<u64>,
    /// Registers of the user's part, if it has one.
    pub registers: Option<Registers>,
    /// The user's stack from the stack pointer on.
    pub stack: &'a [u8],
}

/// A file or memory became visible to a process as code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// The process.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Device and inode of the file.
    pub inode: (u32, u32, u64),
    /// Its path, as that process sees it; `//anon`, `[vdso]` and the like.
    pub path: PathBuf,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// A stack.
    Sample(Sample<'a>),
    /// New code.
    Mapped(Mapped),
    /// A thread changed its name.
    Named {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
        /// Whether a new program began.
        exec: bool,
        /// The name, at most 15 bytes.
        name: String,
    },
    /// A process or thread was made.
    Forked {
        /// The new one.
        pid: u32,
        /// Its parent.
        parent: u32,
    },
    /// A process or thread ended.
    Exited {
        /// Its process.
        pid: u32,
        /// The thread.
        tid: u32,
    },
    /// So many records did not fit into the ring.
    Lost(u64),
    /// The kernel slowed sampling down.
    Throttled,
    /// Of no interest.
    Other,
}

/// Bytes that follow each record but samples: pid, tid, time.
const TRAILER: usize = 16;

/// Takes bytes apart, from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(piece)
    }

    fn u32(&mut self) -> Option<u32> {
        let (piece, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*piece))
    }

    fn u64(&mut self) -> Option<u64> {
        let (piece, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*piece))
    }

    fn u64s(&mut self, count: u64) -> Option<Vec<u64>> {
        let count = usize::try_from(count).ok()?;
        let piece = self.take(count.checked_mul(8)?)?;
        let (words, _) = piece.as_chunks::<8>();
        Some(words.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    }
}

/// Cuts what was read from a ring into records.
pub(crate) fn split(mut bytes: &[u8]) -> Vec<Raw> {
    let mut found = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<8>() {
        let kind =
            u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let misc = u16::from_ne_bytes([header[4], header[5]]);
        let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
        let Some(body) = bytes.get(8..size) else { break };
        found.extend(Raw::new(kind, misc, body));
        bytes = &bytes[size..];
    }
    found
}

impl Raw {
    fn new(kind: u32, misc: u16, body: &[u8]) -> Option<Raw> {
        let time = if kind == abi::PERF_RECORD_SAMPLE {
            // After ip, pid and tid.
            Cursor(body.get(16..)?).u64()?
        } else {
            Cursor(body.get(body.len().checked_sub(8)?..)?).u64()?
        };
        Some(Raw { time, kind, misc, body: body.into() })
    }

    /// Says what it is; `kernel` as in the event's settings.
    pub(crate) fn parse(&self, kernel: bool) -> Record<'_> {
        self.read(kernel).unwrap_or(Record::Other)
    }

    fn read(&self, kernel: bool) -> Option<Record<'_>> {
        if self.kind == abi::PERF_RECORD_SAMPLE {
            return sample(Cursor(&self.body), kernel).map(Record::Sample);
        }
        let body = self.body.get(..self.body.len().checked_sub(TRAILER)?)?;
        let mut at = Cursor(body);
        Some(match self.kind {
            abi::PERF_RECORD_MMAP2 => Record::Mapped(mapped(at)?),
            abi::PERF_RECORD_COMM => Record::Named {
                pid: at.u32()?,
                tid: at.u32()?,
                exec: u32::from(self.misc) & abi::PERF_RECORD_MISC_COMM_EXEC
                    != 0,
                name: String::from_utf8_lossy(until_zero(at.0)).into_owned(),
            },
            abi::PERF_RECORD_FORK => {
                Record::Forked { pid: at.u32()?, parent: at.u32()? }
            }
            abi::PERF_RECORD_EXIT => {
                let (pid, _, tid) = (at.u32()?, at.u32()?, at.u32()?);
                Record::Exited { pid, tid }
            }
            abi::PERF_RECORD_LOST => {
                at.u64()?;
                Record::Lost(at.u64()?)
            }
            abi::PERF_RECORD_LOST_SAMPLES => Record::Lost(at.u64()?),
            abi::PERF_RECORD_THROTTLE => Record::Throttled,
            _ => return None,
        })
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

fn mapped(mut at: Cursor<'_>) -> Option<Mapped> {
    let (pid, _) = (at.u32()?, at.u32()?);
    let (start, length, offset) = (at.u64()?, at.u64()?, at.u64()?);
    let (major, minor, inode) = (at.u32()?, at.u32()?, at.u64()?);
    // Generation of the inode, protection, flags.
    at.take(16)?;
    let path = Path::new(OsStr::from_bytes(until_zero(at.0))).to_owned();
    let inode = (major, minor, inode);
    Some(Mapped { pid, start, length, offset, inode, path })
}

fn sample(mut at: Cursor<'_>, kernel: bool) -> Option<Sample<'_>> {
    let _ip = at.u64()?;
    let (pid, _) = (at.u32()?, at.u32()?);
    let _time = at.u64()?;
    let mut frames = Vec::new();
    if kernel {
        let count = at.u64()?;
        let words = at.u64s(count)?;
        // Negative words between the addresses say whose they are; only the
        // kernel's were asked for.
        let marks = (-4096_i64) as u64;
        frames = words.into_iter().filter(|word| *word < marks).collect();
    }
    let mut registers = None;
    let word_size = at.u64()?;
    if word_size != u64::from(abi::PERF_SAMPLE_REGS_ABI_NONE) {
        let values = at.u64s(u64::from(arch::REGISTERS.count_ones()))?;
        if word_size == u64::from(abi::PERF_SAMPLE_REGS_ABI_64) {
            registers = Registers::from_perf(&values);
        }
    }
    let mut stack: &[u8] = &[];
    let size = at.u64()?;
    if size > 0 {
        let all = at.take(usize::try_from(size).ok()?)?;
        let filled = usize::try_from(at.u64()?).ok()?;
        stack = all.get(..filled.min(all.len()))?;
    }
    Some(Sample { pid, kernel: frames, registers, stack })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend((body.len() as u16 + 8).to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_sample_has_kernel_frames_registers_and_stack() {
        let pid_tid = 7 | (8_u64 << 32);
        let mut body = words(&[0xfff0, pid_tid, 99]);
        let kernel_mark = (-128_i64) as u64;
        body.extend(words(&[2, kernel_mark, 0xffff_ffff_8100_0000]));
        let count = arch::REGISTERS.count_ones();
        body.extend(words(&[2]));
        body.extend(words(&(1..=u64::from(count)).collect::<Vec<_>>()));
        body.extend(words(&[16, 0x11, 0x22, 8]));
        let bytes = record(abi::PERF_RECORD_SAMPLE, 2, &body);
        let found = split(&bytes);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].time, 99);
        let Record::Sample(sample) = found[0].parse(true) else {
            panic!("{found:?}")
        };
        assert_eq!(sample.pid, 7);
        assert_eq!(sample.kernel, [0xffff_ffff_8100_0000]);
        assert!(sample.registers.is_some());
        assert_eq!(sample.stack, words(&[0x11]));
    }

    #[test]
    fn a_mapping_has_its_path() {
        let mut body = words(&[7 | (7 << 32), 0x1000, 0x2000, 0x3000]);
        body.extend(words(&[1 | (2 << 32), 77, 0, 0]));
        body.extend(b"/usr/bin/x\0\0\0\0\0\0");
        body.extend(words(&[0, 5]));
        let bytes = record(abi::PERF_RECORD_MMAP2, 2, &body);
        let found = split(&bytes);
        let Record::Mapped(mapped) = found[0].parse(false) else {
            panic!("{found:?}")
        };
        assert_eq!(mapped.path, Path::new("/usr/bin/x"));
        assert_eq!(mapped.inode, (1, 2, 77));
        assert_eq!((mapped.start, mapped.offset), (0x1000, 0x3000));
        assert_eq!(found[0].time, 5);
    }

    #[test]
    fn cut_or_wild_bytes_are_no_records() {
        let body = words(&[1, 2, 3]);
        let whole = record(abi::PERF_RECORD_SAMPLE, 0, &body);
        for end in 0..whole.len() {
            assert!(split(&whole[..end]).is_empty());
        }
        // A count that reaches past the end.
        let wild =
            record(abi::PERF_RECORD_SAMPLE, 0, &words(&[1, 2, 3, u64::MAX, 0]));
        assert_eq!(split(&wild)[0].parse(true), Record::Other);
        // A record that claims to be shorter than its header.
        assert!(split(&[9, 0, 0, 0, 0, 0, 3, 0, 1, 1]).is_empty());
    }
}
