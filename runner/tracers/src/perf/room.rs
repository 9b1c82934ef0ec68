//! Private directories for what perf records, one a trace.
//!
//! What a runner that died left behind is removed when the next one starts;
//! nobody else uses the directory above.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// Free bytes below which nothing is recorded.
const LEAST: u64 = 64 << 20;

/// Bytes of a recording at most.
const MOST: u64 = 1 << 30;

/// The directory above.
#[derive(Debug)]
pub(super) struct Rooms {
    dir: PathBuf,
    next: AtomicU64,
}

impl Rooms {
    /// Takes a directory over, and removes what is in it.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, next: AtomicU64::new(1) })
    }

    /// Bytes that a recording may have: what is free is shared with others.
    pub(super) fn allowance(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.dir)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < LEAST {
            let text = format!("only {} MiB are free", free >> 20);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        Ok((free / 4).min(MOST))
    }

    /// A room for one trace.
    pub(super) fn take(&self) -> io::Result<Room> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let room = Room { dir: self.dir.join(number.to_string()) };
        DirBuilder::new().mode(0o700).create(&room.dir)?;
        DirBuilder::new().mode(0o755).create(room.shelf())?;
        // Whatever the umask says: nobody gets here but through us.
        fs::set_permissions(room.shelf(), Permissions::from_mode(0o755))?;
        Ok(room)
    }
}

/// A private directory; gone with this value.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
}

impl Room {
    /// What perf records into.
    pub(super) fn recording(&self) -> PathBuf {
        self.dir.join("perf.data")
    }

    /// The part in which everybody may read who gets there.
    pub(super) fn shelf(&self) -> PathBuf {
        self.dir.join("shelf")
    }

    /// Puts the recording into the part for readers, under this name.
    pub(super) fn hand_over(&self, name: &str) -> io::Result<()> {
        let from = self.recording();
        fs::set_permissions(&from, Permissions::from_mode(0o644))?;
        fs::rename(from, self.shelf().join(name))
    }

    /// Copies at most so many bytes into the part for readers.
    pub(super) fn copy(
        &self,
        from: impl io::Read,
        name: &str,
        most: u64,
    ) -> io::Result<u64> {
        let path = self.shelf().join(name);
        let mut to = fs::File::create(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        io::copy(&mut from.take(most), &mut to)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            let dir = Path::display(&self.dir);
            warn!(%dir, %error, "cannot remove a recording of perf");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_goes_with_its_user_and_what_was_left_with_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("perf");
        fs::create_dir_all(at.join("7/shelf")).unwrap();
        fs::write(at.join("7/perf.data"), "left by a crash").unwrap();
        let rooms = Rooms::open(at.clone()).unwrap();
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
        assert!(rooms.allowance().unwrap() <= MOST);
        let (one, two) = (rooms.take().unwrap(), rooms.take().unwrap());
        fs::write(one.recording(), "x").unwrap();
        one.hand_over("data").unwrap();
        one.copy(&b"0123456789"[..], "map", 4).unwrap();
        assert_eq!(fs::read(one.shelf().join("map")).unwrap(), b"0123");
        assert_eq!(fs::read(one.shelf().join("data")).unwrap(), b"x");
        let mode = fs::metadata(&one.dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(one);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 1);
        drop(two);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    }
}
