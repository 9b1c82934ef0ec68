//! `zone-job collect`: brings files that the job left out of the zone.
//!
//! Runs as the job's user, so that nothing comes out that the job could not
//! read itself. Follows no link; takes regular files only.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Nonce, close_stdin, failed, glob, in_child};
use crate::identity::Account;

/// Reasons that are listed one by one; further ones are counted.
const REASONS_MAX: usize = 50;

/// Directories are followed this deep.
const DEPTH_MAX: usize = 128;

/// The request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub nonce: Nonce,
    user: String,
    dir: String,
    globs: Vec<String>,
    max_bytes: u64,
    max_files: u64,
}

/// Writes a tar of the files to stdout; gives the status.
pub(super) fn run(header: &Header) -> Value {
    let Some(account) = Account::of_zone(&header.user) else {
        return failed(format!("no user {:?} in this zone", header.user));
    };
    close_stdin();
    in_child(|| {
        if let Err(error) = account.assume() {
            return failed(format!("cannot become {}: {error}", account.name));
        }
        let mut collector = Collector {
            header,
            tar: tar::Builder::new(std::io::stdout()),
            files: 0,
            bytes: 0,
            skipped: Vec::new(),
            unlisted: 0,
        };
        let done = collector.all().and_then(|()| collector.tar.finish());
        if let Err(error) = done {
            return failed(format!("cannot write the archive: {error}"));
        }
        if collector.unlisted > 0 {
            let more = format!("and {} more", collector.unlisted);
            collector.skipped.push(more);
        }
        json!({
            "code": 0,
            "files": collector.files,
            "bytes": collector.bytes,
            "skipped": collector.skipped,
        })
    })
}

struct Collector<'a, W: Write> {
    header: &'a Header,
    tar: tar::Builder<W>,
    files: u64,
    bytes: u64,
    skipped: Vec<String>,
    unlisted: u64,
}

impl<W: Write> Collector<'_, W> {
    fn skip(&mut self, path: &Path, why: &str) {
        if self.skipped.len() >= REASONS_MAX {
            self.unlisted += 1;
            return;
        }
        let bytes = path.as_os_str().as_bytes();
        let shown = bytes.get(..200).unwrap_or(bytes).escape_ascii();
        self.skipped.push(format!("{shown}: {why}"));
    }

    fn all(&mut self) -> std::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(
            CWD,
            self.header.dir.as_str(),
            flags,
            Mode::empty(),
        );
        match dir {
            Ok(dir) => self.walk(&dir, Path::new(""), 0),
            Err(error) => {
                let why = std::io::Error::from(error).to_string();
                self.skip(Path::new("."), &why);
                Ok(())
            }
        }
    }

    fn walk(
        &mut self,
        dir: &OwnedFd,
        at: &Path,
        depth: usize,
    ) -> std::io::Result<()> {
        let mut names: Vec<_> = Dir::read_from(dir)?
            .flatten()
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        names.sort();
        for name in names {
            let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let stat =
                rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW);
            let Ok(stat) = stat else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < DEPTH_MAX => {
                    let flags = OFlags::RDONLY
                        | OFlags::DIRECTORY
                        | OFlags::NOFOLLOW
                        | OFlags::CLOEXEC;
                    let sub =
                        rustix::fs::openat(dir, &name, flags, Mode::empty());
                    if let Ok(sub) = sub {
                        self.walk(&sub, &path, depth + 1)?;
                    }
                }
                FileType::RegularFile if self.wanted(&path) => {
                    self.take(dir, &path, &stat)?;
                }
                FileType::RegularFile => {}
                _ if self.wanted(&path) => {
                    self.skip(&path, "not a regular file");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn wanted(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        self.header.globs.iter().any(|glob| glob::matches(glob, &path))
    }

    fn take(
        &mut self,
        dir: &OwnedFd,
        path: &PathBuf,
        stat: &Stat,
    ) -> std::io::Result<()> {
        let size = stat.st_size as u64;
        if self.files >= self.header.max_files {
            self.skip(path, "too many files");
            return Ok(());
        }
        if self.bytes + size > self.header.max_bytes {
            self.skip(path, "too many bytes");
            return Ok(());
        }
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let name = path.file_name().unwrap_or_default();
        let opened = rustix::fs::openat(dir, name, flags, Mode::empty());
        let file = match opened {
            Ok(file) => File::from(file),
            Err(error) => {
                let why = std::io::Error::from(error).to_string();
                self.skip(path, &why);
                return Ok(());
            }
        };
        // It may have been replaced between the look and the opening.
        if !file.metadata()?.is_file() {
            self.skip(path, "not a regular file");
            return Ok(());
        }
        let mut entry = tar::Header::new_gnu();
        entry.set_size(size);
        entry.set_mode(stat.st_mode & 0o777);
        entry.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        entry.set_entry_type(tar::EntryType::Regular);
        let mut content = Exactly { file, left: size, short: false };
        self.tar.append_data(&mut entry, path, &mut content)?;
        if content.short {
            self.skip(path, "became shorter while it was read");
        }
        self.files += 1;
        self.bytes += size;
        Ok(())
    }
}

/// As many bytes as were announced, whatever happens to the file: a longer
/// one is cut, a shorter one is filled with zeros.
struct Exactly {
    file: File,
    left: u64,
    short: bool,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let mut count = 0;
        if !self.short {
            count = self.file.read(&mut buffer[..room]).unwrap_or(0);
        }
        if count == 0 && room > 0 {
            self.short = true;
            buffer[..room].fill(0);
            count = room;
        }
        self.left -= count as u64;
        Ok(count)
    }
}
