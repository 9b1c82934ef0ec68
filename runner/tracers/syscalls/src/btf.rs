//! The running kernel's description of its types (BTF), as much of it as is
//! needed to find a member of a structure. Pure; the bytes are checked.
//!
//! The format: Documentation/bpf/btf.rst of the kernel.

/// Where the kernel offers it.
pub(crate) const PATH: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

const STRUCT: u32 = 4;

/// Types of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word))
}

impl<'a> Btf<'a> {
    /// None if it is not what it should be.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = bytes.first_chunk::<2>()?;
        if u16::from_le_bytes(*magic) != MAGIC {
            return None;
        }
        let length = word(bytes, 4)? as usize;
        let part = |at: usize| {
            let start = length.checked_add(word(bytes, at)? as usize)?;
            let end = start.checked_add(word(bytes, at + 4)? as usize)?;
            bytes.get(start..end)
        };
        Some(Self { types: part(8)?, strings: part(16)? })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let rest = self.strings.get(name as usize..).unwrap_or_default();
        rest.strip_prefix(wanted.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// How many bytes from the beginning of a structure a member is.
    pub(crate) fn offset(&self, of: &str, member: &str) -> Option<u32> {
        let mut at = 0;
        while at < self.types.len() {
            let name = word(self.types, at)?;
            let info = word(self.types, at + 4)?;
            let (count, kind) = (info as usize & 0xffff, info >> 24 & 0x1f);
            let body = at + 12;
            if kind == STRUCT && self.is_named(name, of) {
                let has_fields = info >> 31 == 1;
                return self.member(body, count, has_fields, member);
            }
            at = body + trailing(kind, count)?;
        }
        None
    }

    fn member(
        &self,
        at: usize,
        count: usize,
        has_fields: bool,
        wanted: &str,
    ) -> Option<u32> {
        (0..count).find_map(|index| {
            let at = at + index * 12;
            self.is_named(word(self.types, at)?, wanted).then_some(())?;
            let bits = word(self.types, at + 8)?;
            // With bit fields the upper byte is a width.
            let bits = if has_fields { bits & 0x00ff_ffff } else { bits };
            (bits % 8 == 0).then_some(bits / 8)
        })
    }
}

/// Bytes that follow the head of a type.
fn trailing(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, wide enumerations.
        4 | 5 | 15 | 19 => count * 12,
        // Enumerations, parameters.
        6 | 13 => count * 8,
        // Pointers, forward declarations, other names, qualifiers,
        // functions, floating point, tags of types.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(types: &[u32], strings: &str) -> Vec<u8> {
        let types: Vec<u8> =
            types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let lengths = [types.len() as u32, strings.len() as u32];
        for word in [24, 0, lengths[0], lengths[0], lengths[1]] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings.bytes());
        bytes
    }

    /// An integer, then `struct ab { int a; int b; }`.
    const TYPES: [u32; 13] = [
        0,
        1 << 24,
        4,
        32, //
        1,
        4 << 24 | 2,
        8, //
        4,
        1,
        0, //
        6,
        1,
        32,
    ];
    const STRINGS: &str = "\0ab\0a\0b\0";

    #[test]
    fn a_member_is_found_behind_other_types() {
        let bytes = blob(&TYPES, STRINGS);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("ab", "b"), Some(4));
        assert_eq!(btf.offset("ab", "a"), Some(0));
        assert_eq!(btf.offset("ab", "ab"), None);
        assert_eq!(btf.offset("a", "b"), None);
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let bytes = blob(&TYPES, STRINGS);
        for end in 0..bytes.len() {
            let cut = Btf::parse(&bytes[..end]);
            assert!(cut.is_none(), "{end}");
        }
        let mut types = TYPES;
        types[1] = 31 << 24;
        let bytes = blob(&types, STRINGS);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("ab", "b"), None);
        assert!(Btf::parse(b"\x7fELF").is_none());
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let Ok(bytes) = std::fs::read(PATH) else {
            eprintln!("SKIPPED: this kernel does not describe its types");
            return;
        };
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("list_head", "prev"), Some(8));
        assert_eq!(btf.offset("task_struct", "thread_info"), Some(0));
    }
}
