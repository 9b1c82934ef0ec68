//! `zone-job unpack`: puts a tree of files into the zone as the job's user.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Nonce, failed, in_child};
use crate::identity::Account;
use crate::sys;

/// The request; a tar follows it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub nonce: Nonce,
    user: String,
    dir: String,
    /// Whether the directory must not be there yet.
    #[serde(default)]
    first: bool,
}

/// Unpacks the rest of the input; gives the status.
pub(super) fn run(header: &Header, input: &mut impl Read) -> Value {
    let Some(account) = Account::of_zone(&header.user) else {
        return failed(format!("no user {:?} in this zone", header.user));
    };
    let dir = match reach(Path::new(&header.dir), &account, header.first) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::EXIST) => {
            let dir = &header.dir;
            return failed(format!("{dir} is there: somebody was here first"));
        }
        Err(error) => {
            return failed(format!("cannot make {}: {error}", header.dir));
        }
    };
    let status = in_child(|| {
        if let Err(error) = account.assume() {
            return failed(format!("cannot become {}: {error}", account.name));
        }
        if let Err(error) = rustix::process::fchdir(&dir) {
            return failed(format!("cannot enter {}: {error}", header.dir));
        }
        sys::umask(0o022);
        match unpack(input) {
            Ok(files) => json!({ "code": 0, "files": files }),
            Err(why) => failed(why),
        }
    });
    // The sender must not meet a closed pipe before it hears why.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    status
}

/// Reaches a directory, making what is missing for the job; no link is
/// followed, since we are the zone's root here. `first`: the last part must
/// be made by us, or it is EEXIST.
fn reach(
    path: &Path,
    account: &Account,
    first: bool,
) -> rustix::io::Result<OwnedFd> {
    let flags =
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let name = match part {
            Component::RootDir => continue,
            Component::Normal(name) => Path::new(name),
            _ => return Err(rustix::io::Errno::INVAL),
        };
        at = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::mkdirat(&at, name, mode)?;
                // In a zone of one id it is the job's already.
                let _ = rustix::fs::chownat(
                    &at,
                    name,
                    Some(rustix::fs::Uid::from_raw(account.uid)),
                    Some(rustix::fs::Gid::from_raw(account.gid)),
                    AtFlags::SYMLINK_NOFOLLOW,
                );
                rustix::fs::openat(&at, name, flags, Mode::empty())?
            }
            Ok(_) if first && parts.peek().is_none() => {
                return Err(rustix::io::Errno::EXIST);
            }
            other => other?,
        };
    }
    Ok(at)
}

fn unpack(input: &mut impl Read) -> Result<u64, String> {
    let mut archive = tar::Archive::new(input);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.set_overwrite(true);
    let mut count = 0;
    let bad = |error: &std::io::Error| match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    // Modes of directories come last: one may forbid writing into it.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(|e| bad(&e))? {
        let mut entry = entry.map_err(|e| bad(&e))?;
        if entry.header().entry_type().is_dir() {
            directories.push(entry);
            continue;
        }
        put(&mut entry)?;
        count += 1;
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut entry in directories {
        put(&mut entry)?;
        count += 1;
    }
    Ok(count)
}

fn put(entry: &mut tar::Entry<'_, impl Read>) -> Result<(), String> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let shown = name.escape_default();
    match entry.unpack_in(".") {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{shown} leaves the directory")),
        Err(error) => Err(format!("cannot unpack {shown}: {error}")),
    }
}
