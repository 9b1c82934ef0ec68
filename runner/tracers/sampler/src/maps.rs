//! `/proc/PID/maps`, and what the names in it and in perf's records mean.
//! Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::perf::record::Mapped;

/// What lies behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A file with code.
    File,
    /// The kernel's page of code for everybody.
    Vdso,
    /// Memory; code in it was made by the process.
    Memory,
}

/// Tells by the name.
pub(crate) fn backing(path: &Path) -> Backing {
    let bytes = path.as_os_str().as_bytes();
    if bytes == b"[vdso]" {
        return Backing::Vdso;
    }
    let memory: [&[u8]; 6] = [
        b"//",
        b"/memfd:",
        b"/dev/zero",
        b"/dev/shm/",
        b"/SYSV",
        b"/anon_hugepage",
    ];
    if !bytes.starts_with(b"/")
        || memory.iter().any(|name| bytes.starts_with(name))
    {
        return Backing::Memory;
    }
    Backing::File
}

/// The mappings with code.
pub(crate) fn parse(pid: u32, text: &[u8]) -> Vec<Mapped> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| parse_line(pid, line))
        .collect()
}

fn parse_line(pid: u32, line: &[u8]) -> Option<Mapped> {
    // 7f01-7f02 r-xp 00001000 fe:00 1234    /usr/lib/x.so
    let mut parts = line.splitn(6, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (start, end) = text()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    if text()?.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let offset = hex(text()?)?;
    let (major, minor) = text()?.split_once(':')?;
    let device = (hex(major)? as u32, hex(minor)? as u32);
    let inode = text()?.parse().ok()?;
    let path = parts.next().unwrap_or_default().trim_ascii_start();
    let path = if path.is_empty() { b"//anon" } else { path };
    Some(Mapped {
        pid,
        start,
        length: end.checked_sub(start)?,
        offset,
        inode: (device.0, device.1, inode),
        path: PathBuf::from(OsStr::from_bytes(path)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_listed_with_its_file() {
        let text = b"5581-5582 r--p 00000000 fe:00 12  /usr/bin/a b\n\
            5582-5590 r-xp 00001000 fe:00 12                 /usr/bin/a b\n\
            7f00-7f10 rwxp 00000000 00:00 0 \n\
            7fff-8000 r-xp 00000000 00:00 0   [vdso]\n\
            nonsense\n";
        let found = parse(3, text);
        let paths: Vec<_> =
            found.iter().map(|one| one.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/usr/bin/a b", "//anon", "[vdso]"]);
        assert_eq!((found[0].start, found[0].length), (0x5582, 0xe));
        assert_eq!(found[0].offset, 0x1000);
        assert_eq!(found[0].inode, (0xfe, 0, 12));
    }

    #[test]
    fn names_tell_files_from_memory() {
        let of = |path: &str| backing(Path::new(path));
        assert_eq!(of("/usr/bin/x"), Backing::File);
        assert_eq!(of("/tmp/gone (deleted)"), Backing::File);
        assert_eq!(of("[vdso]"), Backing::Vdso);
        for path in ["//anon", "[heap]", "/memfd:x (deleted)", "", "[stack]"] {
            assert_eq!(of(path), Backing::Memory, "{path}");
        }
    }
}
