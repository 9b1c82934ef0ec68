//! The data directory: ours alone, and locked against a second process.
//!
//! Must not know what is kept in it. A directory that is a symbolic link,
//! belongs to somebody else or is open to others is refused, since whoever
//! can write there can forge results.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// A directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It cannot be made, read or changed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is a link, or no directory at all.
    #[error("{path} is not a directory of its own; name one that is no link")]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// Another user's.
    #[error("{path} belongs to user {owner}, not to user {us}")]
    NotOurs {
        /// What was named.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may read or write it.
    #[error("{path} is open to others; run `chmod 700` on it")]
    TooOpen {
        /// What was named.
        path: PathBuf,
    },
    /// Somebody holds it.
    #[error(
        "{path} is in use by process {holder}; stop that one or name \
         another directory"
    )]
    InUse {
        /// What was named.
        path: PathBuf,
        /// The other process, as it wrote itself down.
        holder: String,
    },
}

impl DataDir {
    /// Makes the directory if need be, and takes it.
    ///
    /// # Errors
    /// It is not fit to be used, or in use.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        ensure(path)?;
        let lock = take_lock(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn ensure(path: &Path) -> Result<(), DirError> {
    let fail =
        |doing, source| DirError::Io { doing, path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|e| fail("make", e))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(fail("make", e)),
    }
    let meta = fs::symlink_metadata(path).map_err(|e| fail("look at", e))?;
    if !meta.is_dir() {
        return Err(DirError::NotADirectory { path: path.to_owned() });
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        let owner = meta.uid();
        return Err(DirError::NotOurs { path: path.to_owned(), owner, us });
    }
    if meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    // Closing an empty directory harms nobody; closing somebody's full one
    // (`--data /tmp`) would.
    let mut entries = fs::read_dir(path).map_err(|e| fail("read", e))?;
    if entries.next().is_some() {
        return Err(DirError::TooOpen { path: path.to_owned() });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|e| fail("close", e))
}

fn take_lock(dir: &Path) -> Result<File, DirError> {
    let path = dir.join("lock");
    let fail =
        |doing, source| DirError::Io { doing, path: path.clone(), source };
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.cast_signed())
        .open(&path)
        .map_err(|e| fail("open", e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Only for the message; an unreadable number is no other error.
            let _ = (&file).take(20).read_to_string(&mut holder);
            let known = holder.trim().parse::<u32>().is_ok();
            let holder = if known { holder.trim() } else { "unknown" };
            return Err(DirError::InUse {
                path: dir.to_owned(),
                holder: holder.to_owned(),
            });
        }
        Err(e) => return Err(fail("lock", e.into())),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| fail("write", e))?;
    Ok(file)
}

/// Makes a directory and, if it was not there, makes that durable in its
/// parent.
pub(crate) fn ensure_durable_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes a new, renamed or removed name durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a directory with all in it; one that is not there is no error.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether the disk is what is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let held = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        DataDir::open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_link_or_an_open_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("real");
        fs::create_dir(&real).unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let error = DataDir::open(&link).unwrap_err();
        assert!(matches!(error, DirError::NotADirectory { .. }), "{error}");
        fs::write(real.join("other"), "x").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
        let error = DataDir::open(&real).unwrap_err();
        assert!(matches!(error, DirError::TooOpen { .. }), "{error}");
    }
}
