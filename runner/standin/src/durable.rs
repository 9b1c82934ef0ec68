//! Small files that survive a crash whole: old content or new, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How much a file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// A crash of the machine: synced before the rename and after it.
    Machine,
    /// As above, but a crash soon after may bring the old content back: for
    /// changes whose old content is as good.
    Either,
    /// The death of a process: renamed into place, not synced.
    Process,
}

/// Replaces the file `name` in `dir`.
pub(crate) fn replace(
    dir: &Path,
    name: &str,
    content: &[u8],
    keep: Keep,
) -> io::Result<()> {
    let draft = dir.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    if keep != Keep::Process {
        file.sync_data()?;
    }
    drop(file);
    fs::rename(&draft, dir.join(name))?;
    if keep == Keep::Machine {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads a file, or nothing if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
