//! Copies a tree of files as an overlay needs it: owners, modes, extended
//! attributes, whiteouts and hard links are kept.
//!
//! Used for the writable layer of a running zone, whose files change while
//! they are copied: one that vanishes is left out. No link is followed.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Files with several names: (device, inode) to the first copy.
type Links = HashMap<(u64, u64), PathBuf>;

/// Copies the directory `from` to `to`, which must not exist.
pub(crate) fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut links = Links::new();
    let mut todo = vec![(from.to_owned(), to.to_owned())];
    let mut made = Vec::new();
    while let Some((from, to)) = todo.pop() {
        let meta = match fs::symlink_metadata(&from) {
            Err(error) if gone(&error) => continue,
            other => other?,
        };
        if meta.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&to)?;
            for entry in fs::read_dir(&from)? {
                let name = entry?.file_name();
                todo.push((from.join(&name), to.join(&name)));
            }
            made.push((from, to, meta));
            continue;
        }
        match one(&from, &to, &meta, &mut links) {
            Err(error) if gone(&error) => {}
            other => other?,
        }
    }
    // Modes and times last: a directory may be closed to its own owner.
    for (from, to, meta) in made.iter().rev() {
        attributes(from, to, meta)?;
    }
    Ok(())
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn one(
    from: &Path,
    to: &Path,
    meta: &fs::Metadata,
    links: &mut Links,
) -> io::Result<()> {
    if meta.nlink() > 1 {
        let key = (meta.dev(), meta.ino());
        if let Some(first) = links.get(&key) {
            return fs::hard_link(first, to);
        }
        links.insert(key, to.to_owned());
    }
    let kind = meta.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return lchown(to, Some(meta.uid()), Some(meta.gid())).or_else(single);
    }
    if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        let kind = if kind.is_char_device() {
            FileType::CharacterDevice
        } else if kind.is_fifo() {
            FileType::Fifo
        } else {
            // Sockets and block devices mean nothing in a copy.
            return Ok(());
        };
        let mode = Mode::from_raw_mode(meta.mode() & 0o7777);
        rustix::fs::mknodat(CWD, to, kind, mode, meta.rdev())?;
    }
    attributes(from, to, meta)
}

/// An ordinary user's files all have one owner already.
fn single(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(error),
    }
}

fn attributes(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid())).or_else(single)?;
    let mut names = vec![0_u8; 65_536];
    let count = rustix::fs::llistxattr(from, &mut names[..]).unwrap_or(0);
    for name in names[..count].split(|byte| *byte == 0) {
        let Ok(name) = CString::new(name) else { continue };
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0_u8; 65_536];
        let got = rustix::fs::lgetxattr(from, &name, &mut value[..]);
        if let Ok(length) = got {
            let value = &value[..length];
            rustix::fs::lsetxattr(to, &name, value, XattrFlags::empty())?;
        }
    }
    let mode = fs::Permissions::from_mode(meta.mode() & 0o7777);
    fs::set_permissions(to, mode)?;
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: meta.atime(),
            tv_nsec: meta.atime_nsec(),
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: meta.mtime(),
            tv_nsec: meta.mtime_nsec(),
        },
    };
    rustix::fs::utimensat(
        CWD,
        to,
        &times,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_modes_links_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("d")).unwrap();
        fs::write(from.join("d/a"), "x").unwrap();
        fs::hard_link(from.join("d/a"), from.join("b")).unwrap();
        symlink("/nowhere", from.join("l")).unwrap();
        let mode = fs::Permissions::from_mode(0o4711);
        fs::set_permissions(from.join("b"), mode).unwrap();
        fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o500))
            .unwrap();
        let to = dir.path().join("to");
        tree(&from, &to).unwrap();
        let meta = fs::metadata(to.join("d/a")).unwrap();
        assert_eq!(meta.ino(), fs::metadata(to.join("b")).unwrap().ino());
        assert_eq!(meta.mode() & 0o7777, 0o4711);
        assert_eq!(fs::metadata(to.join("d")).unwrap().mode() & 0o777, 0o500);
        assert_eq!(fs::read_link(to.join("l")).unwrap(), Path::new("/nowhere"));
        for path in [from.join("d"), to.join("d")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .unwrap();
        }
    }
}
