//! A copy of the running program for use inside zones, one per build.
//!
//! Zones see it read-only as `/native/zone-job`, and under the names of the
//! metadata programs. It is a copy, so that an
//! upgrade of the program does not change it under a running zone.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use crate::mdata::client::Verb;
use crate::place::{Place, make_dir};

/// Gives the directory to show as `/native`, made if it is missing.
pub(crate) fn ensure(place: &Place) -> io::Result<PathBuf> {
    let meta = fs::metadata("/proc/self/exe")?;
    let id = format!(
        "2-{:x}-{:x}-{:x}-{:x}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime() as u64 ^ ((meta.mtime_nsec() as u64) << 32)
    );
    let done = place.native().join(&id);
    if done.is_dir() {
        return Ok(done);
    }
    let draft = place.native().join(format!(".{id}.{}", std::process::id()));
    make_dir(&draft)?;
    let program = draft.join("zone-job");
    fs::copy("/proc/self/exe", &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o555))?;
    for name in Verb::NAMES {
        symlink("zone-job", draft.join(name))?;
    }
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::File::open(&program)?.sync_all()?;
    match fs::rename(&draft, &done) {
        Err(_) if done.is_dir() => fs::remove_dir_all(&draft)?,
        other => other?,
    }
    Ok(done)
}
