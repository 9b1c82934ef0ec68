//! The little of ELF that unwinding needs: where segments lie, and the
//! sections with unwind tables.
//!
//! The files are the job's: every number in them is checked, and what is
//! read is bounded. Symbols are another module's business.

use std::ops::Range;
use std::sync::Arc;

use crate::arch;

/// Bytes of one file's unwind tables that are kept.
const TABLE_MAX: u64 = 48 << 20;

/// Headers that are looked at.
const HEADERS_MAX: usize = 2048;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_EH_FRAME: u32 = 0x6474_e550;
const SEGMENT_EXECUTABLE: u32 = 1;
const SECTION_NO_BITS: u32 = 8;
const SECTION_COMPRESSED: u64 = 0x800;

/// Gives bytes of a file, or none if they are not all there.
pub(crate) trait Source {
    /// Reads exactly `length` bytes at `offset`.
    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>>;
}

impl Source for std::fs::File {
    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let size = self.metadata().ok()?.len();
        if offset.checked_add(length as u64)? > size {
            return None;
        }
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

impl Source for [u8] {
    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let rest = self.get(usize::try_from(offset).ok()?..)?;
        Some(rest.get(..length)?.to_vec())
    }
}

/// A part of a file that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    length: u64,
    has_code: bool,
}

/// A section that was read, and where the file wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its addresses.
    pub addresses: Range<u64>,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// What unwinding wants to know of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// `.eh_frame`.
    pub eh_frame: Option<Table>,
    /// `.eh_frame_hdr`.
    pub eh_frame_hdr: Option<Table>,
    /// `.debug_frame`, if it is not compressed.
    pub debug_frame: Option<Table>,
    /// Addresses of `.text`.
    pub text: Option<Range<u64>>,
    /// Addresses of `.got`.
    pub got: Option<Range<u64>>,
}

/// The headers of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elf {
    segments: Vec<Segment>,
    unwind_header: Option<Segment>,
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    name: Vec<u8>,
    offset: u64,
    address: u64,
    length: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let piece = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_le_bytes(*piece))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let piece = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*piece))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let piece = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*piece))
}

impl Elf {
    /// Reads the headers; none if this is no program of this processor.
    pub(crate) fn read(source: &(impl Source + ?Sized)) -> Option<Elf> {
        let head = source.read(0, 64)?;
        // Magic, 64 bits, little-endian.
        if head.get(..6)? != b"\x7fELF\x02\x01"
            || u16_at(&head, 18)? != arch::ELF_MACHINE
        {
            return None;
        }
        let count = usize::from(u16_at(&head, 56)?).min(HEADERS_MAX);
        let size = usize::from(u16_at(&head, 54)?);
        if size != 56 {
            return None;
        }
        let programs = source.read(u64_at(&head, 32)?, count * size)?;
        let (mut segments, mut unwind_header) = (Vec::new(), None);
        for at in programs.chunks_exact(size) {
            let segment = Segment {
                offset: u64_at(at, 8)?,
                address: u64_at(at, 16)?,
                length: u64_at(at, 32)?,
                has_code: u32_at(at, 4)? & SEGMENT_EXECUTABLE != 0,
            };
            match u32_at(at, 0)? {
                SEGMENT_LOAD => segments.push(segment),
                SEGMENT_EH_FRAME => unwind_header = Some(segment),
                _ => {}
            }
        }
        // Only what is mapped as code is ever asked for, and some linkers
        // let a page of the file begin a segment in which another one ends.
        if segments.iter().any(|segment| segment.has_code) {
            segments.retain(|segment| segment.has_code);
        }
        // A file without section headers can still be unwound.
        let sections = sections(source, &head).unwrap_or_default();
        Some(Elf { segments, unwind_header, sections })
    }

    /// The address that the file states for an offset of code in it.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        let page = rustix::param::page_size() as u64;
        self.segments.iter().find_map(|segment| {
            // Mappings begin at pages, segments where they like.
            let slack = segment.offset % page;
            let begin = segment.offset - slack;
            let within = offset.checked_sub(begin)?;
            (within < segment.length.saturating_add(slack))
                .then(|| segment.address.wrapping_sub(slack))
                .map(|address| address.wrapping_add(within))
        })
    }

    /// Whether there are unwind tables.
    pub(crate) fn tables(
        &self,
        source: &(impl Source + ?Sized),
        budget: &mut u64,
    ) -> Tables {
        let mut table = |name: &[u8]| {
            let section = self.section(name)?;
            read_table(
                source,
                Segment {
                    offset: section.offset,
                    address: section.address,
                    length: section.length,
                    has_code: false,
                },
                budget,
            )
        };
        let eh_frame = table(b".eh_frame");
        let mut eh_frame_hdr = table(b".eh_frame_hdr");
        let debug_frame = match &eh_frame {
            None => table(b".debug_frame"),
            Some(_) => None,
        };
        if eh_frame_hdr.is_none()
            && let Some(found) = self.unwind_header
        {
            eh_frame_hdr = read_table(source, found, budget);
        }
        let range = |name: &[u8]| {
            let section = self.section(name)?;
            let end = section.address.checked_add(section.length)?;
            Some(section.address..end)
        };
        Tables {
            eh_frame,
            eh_frame_hdr,
            debug_frame,
            text: range(b".text"),
            got: range(b".got"),
        }
    }

    /// Whether functions that are not exported have names in it.
    pub(crate) fn has_symbols(&self) -> bool {
        self.section(b".symtab").is_some()
    }

    /// What tells one build from all others, and names its debug file.
    pub(crate) fn build_id(
        &self,
        source: &(impl Source + ?Sized),
    ) -> Option<Vec<u8>> {
        const OF_BUILD: u32 = 3;
        let section = self.section(b".note.gnu.build-id")?;
        let length = usize::try_from(section.length.min(4096)).ok()?;
        let note = source.read(section.offset, length)?;
        let named = u32_at(&note, 0)? == 4 && note.get(12..16)? == b"GNU\0";
        if !named || u32_at(&note, 8)? != OF_BUILD {
            return None;
        }
        let length = u32_at(&note, 4)? as usize;
        // Hashes are 16 or 20 bytes; people may state others.
        let id = note.get(16..)?.get(..length)?;
        (2..=64).contains(&id.len()).then(|| id.to_vec())
    }

    fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }
}

fn read_table(
    source: &(impl Source + ?Sized),
    at: Segment,
    budget: &mut u64,
) -> Option<Table> {
    let end = at.address.checked_add(at.length)?;
    if at.length == 0 || at.length > TABLE_MAX.min(*budget) {
        return None;
    }
    let length = usize::try_from(at.length).ok()?;
    let bytes = source.read(at.offset, length)?.into();
    *budget -= at.length;
    Some(Table { addresses: at.address..end, bytes })
}

fn sections(
    source: &(impl Source + ?Sized),
    head: &[u8],
) -> Option<Vec<Section>> {
    let (offset, size) = (u64_at(head, 40)?, usize::from(u16_at(head, 58)?));
    let count = usize::from(u16_at(head, 60)?).min(HEADERS_MAX);
    let names = usize::from(u16_at(head, 62)?);
    if size != 64 || names >= count {
        return None;
    }
    let headers = source.read(offset, count * size)?;
    let of = |index: usize| headers.get(index * size..(index + 1) * size);
    let strings = of(names)?;
    let length = u64_at(strings, 32)?.min(1 << 20);
    let strings =
        source.read(u64_at(strings, 24)?, usize::try_from(length).ok()?)?;
    let mut found = Vec::new();
    for index in 0..count {
        let at = of(index)?;
        if u32_at(at, 4)? == SECTION_NO_BITS
            || u64_at(at, 8)? & SECTION_COMPRESSED != 0
        {
            continue;
        }
        let name = strings.get(u32_at(at, 0)? as usize..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        found.push(Section {
            name: name[..end].to_vec(),
            address: u64_at(at, 16)?,
            offset: u64_at(at, 24)?,
            length: u64_at(at, 32)?,
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_an_id_where_its_linker_gave_it_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        for (id, wanted) in [("0x0123abcd", true), ("none", false)] {
            let mut cc = std::process::Command::new("cc")
                .args(["-x", "c", "-shared", "-o"])
                .arg(&path)
                .args([format!("-Wl,--build-id={id}"), "-".to_owned()])
                .stdin(std::process::Stdio::null())
                .spawn()
                .unwrap();
            assert!(cc.wait().unwrap().success());
            let file = std::fs::File::open(&path).unwrap();
            let Some(elf) = Elf::read(&file) else {
                eprintln!("SKIPPED: cc builds for another processor");
                return;
            };
            let found = elf.build_id(&file);
            let wanted = wanted.then(|| vec![0x01, 0x23, 0xab, 0xcd]);
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn our_own_program_has_unwind_tables() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let elf = Elf::read(&file).unwrap();
        let mut budget = 256 << 20;
        let tables = elf.tables(&file, &mut budget);
        assert!(tables.eh_frame.is_some());
        assert!(tables.eh_frame_hdr.is_some());
        assert!(budget < 256 << 20);
        let text = tables.text.unwrap();
        let section = elf.section(b".text").unwrap();
        assert_eq!(elf.address_of(section.offset), Some(text.start));
    }

    #[test]
    fn a_page_that_two_segments_share_is_the_one_with_code() {
        // As lld lays programs out: headers and constants up to 0x1320, and
        // from there code, an address page further.
        let mut file = vec![0_u8; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&arch::ELF_MACHINE.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&2_u16.to_le_bytes());
        let parts = [(4_u32, 0_u64, 0_u64, 0x1320_u64), (5, 0x1320, 0x2320, 9)];
        for (index, (flags, offset, address, length)) in
            parts.into_iter().enumerate()
        {
            let at = &mut file[64 + index * 56..][..56];
            at[..4].copy_from_slice(&SEGMENT_LOAD.to_le_bytes());
            at[4..8].copy_from_slice(&flags.to_le_bytes());
            at[8..16].copy_from_slice(&offset.to_le_bytes());
            at[16..24].copy_from_slice(&address.to_le_bytes());
            at[32..40].copy_from_slice(&length.to_le_bytes());
        }
        let elf = Elf::read(file.as_slice()).unwrap();
        assert_eq!(elf.address_of(0x1000), Some(0x2000));
        assert_eq!(elf.address_of(0x1320), Some(0x2320));
        assert_eq!(elf.address_of(0x1329), None);
    }

    #[test]
    fn nothing_is_read_beyond_the_budget() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let elf = Elf::read(&file).unwrap();
        let mut budget = 16;
        let tables = elf.tables(&file, &mut budget);
        assert!(tables.eh_frame.is_none());
        assert_eq!(budget, 16);
    }

    #[test]
    fn damaged_files_are_refused_or_read_without_harm() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let head = &whole[..whole.len().min(64 << 10)];
        // Each byte of the headers once wrong, in the file and cut short.
        for at in 0..64 {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = head.to_vec();
                bytes[at] = value;
                if let Some(elf) = Elf::read(bytes.as_slice()) {
                    let mut budget = 1 << 20;
                    let _ = elf.tables(bytes.as_slice(), &mut budget);
                    let _ = elf.address_of(u64::MAX);
                }
            }
        }
        for end in 0..128 {
            assert!(Elf::read(&head[..end]).is_none());
        }
    }
}
