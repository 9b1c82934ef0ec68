//! The image `host`: a skeleton root below which the host's own system
//! directories are bound.
//!
//! Nothing of the host is in a zone but what is listed here. `/etc` is not
//! the host's: it is made anew from a short list of harmless files, each
//! readable by everybody on the host; accounts are written by us. A skeleton
//! is never changed once it has its name; a zone keeps the one with which it
//! was created.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::place::{Owner, Place, make_dir};
use crate::spec::HOST_IMAGE;

/// Host directories that a zone sees, read-only. Each may also be a symlink
/// on the host, which is then made anew.
const SYSTEM: [&str; 9] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu"];

/// What is copied from the host's `/etc`; directories with all below.
const ETC: [&str; 44] = [
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "default/locale",
    "dpkg/origins",
    "fonts",
    "gai.conf",
    "group.conf",
    "host.conf",
    "inputrc",
    "issue",
    "java",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "locale.gen",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "mailcap",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls",
    "protocols",
    "rpc",
    "services",
    "shells",
    "ssl",
    "terminfo",
    "timezone",
];

/// Names that are never copied, wherever they are.
const SECRET: [&str; 5] = ["private", "snakeoil", "secret", "token", ".key"];

/// Directories of the skeleton, with mode and owner (zone ids).
const DIRS: [(&str, u32, u32); 24] = [
    (".zonecontrol", 0o700, 0),
    ("checkpoints", 0o755, 0),
    ("dev", 0o755, 0),
    ("etc", 0o755, 0),
    ("home", 0o755, 0),
    ("home/job", 0o755, 1000),
    ("media", 0o755, 0),
    ("mnt", 0o755, 0),
    ("native", 0o755, 0),
    ("opt", 0o755, 0),
    ("proc", 0o555, 0),
    ("root", 0o700, 0),
    ("run", 0o755, 0),
    ("srv", 0o755, 0),
    ("sys", 0o555, 0),
    ("tmp", 0o1777, 0),
    ("var", 0o755, 0),
    ("var/cache", 0o755, 0),
    ("var/lib", 0o755, 0),
    ("var/local", 0o755, 0),
    ("var/log", 0o755, 0),
    ("var/mail", 0o755, 0),
    ("var/spool", 0o755, 0),
    ("var/tmp", 0o1777, 0),
];

/// A directory of the host to be bound, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDir {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Path below the zone's root.
    pub target: PathBuf,
}

/// The directories of the host that a zone on this image sees.
pub(crate) fn host_dirs(skeleton: &Path) -> Vec<HostDir> {
    let mut found = Vec::new();
    for name in SYSTEM {
        let source = Path::new("/").join(name);
        let real = fs::symlink_metadata(&source).is_ok_and(|m| m.is_dir());
        if real && skeleton.join(name).is_dir() {
            found.push(HostDir { source, target: PathBuf::from(name) });
        }
    }
    // The children of /opt one by one, so that /opt itself can be written.
    for name in children_of_opt() {
        let target = Path::new("opt").join(&name);
        if skeleton.join(&target).is_dir() {
            found
                .push(HostDir { source: Path::new("/opt").join(name), target });
        }
    }
    found
}

fn children_of_opt() -> Vec<std::ffi::OsString> {
    let Ok(entries) = fs::read_dir("/opt") else { return Vec::new() };
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
}

/// A file of `/etc` to be copied.
#[derive(Debug)]
enum Item {
    Dir,
    File,
    Link(PathBuf),
}

/// Lists what of the host's `/etc` is copied, parents first.
fn listing(etc: &Path) -> Vec<(PathBuf, Item)> {
    let mut found = Vec::new();
    for name in ETC {
        if let Some(above) = Path::new(name).parent()
            && above != Path::new("")
            && etc.join(name).exists()
        {
            found.push((above.to_owned(), Item::Dir));
        }
        list(etc, Path::new(name), &mut found, 8);
    }
    found
}

fn list(etc: &Path, at: &Path, found: &mut Vec<(PathBuf, Item)>, depth: u8) {
    let full = etc.join(at);
    let name = at.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let Ok(meta) = fs::symlink_metadata(&full) else { return };
    if is_secret(name) || depth == 0 {
        return;
    }
    if meta.is_symlink() {
        if let Ok(target) = fs::read_link(&full) {
            found.push((at.to_owned(), Item::Link(target)));
        }
    } else if meta.mode() & 0o004 == 0 {
        // Not for everybody on the host, so not for a zone.
    } else if meta.is_dir() {
        found.push((at.to_owned(), Item::Dir));
        let Ok(entries) = fs::read_dir(&full) else { return };
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            list(etc, &at.join(name), found, depth - 1);
        }
    } else if meta.is_file() {
        found.push((at.to_owned(), Item::File));
    }
}

/// A name for exactly this skeleton: changes when the host's files do.
fn fingerprint(etc: &Path, owner: Owner) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("3 {owner:?} {}\n", env!("CARGO_PKG_VERSION")));
    for name in ETC {
        stamp(&etc.join(name), &mut hash, 8);
    }
    for name in SYSTEM {
        let path = Path::new("/").join(name);
        let link = fs::read_link(&path).ok();
        hash.update(format!("{name} {link:?} {}\n", path.is_dir()));
    }
    hash.update(format!("{:?}\n", children_of_opt()));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Notes what tells a file or a tree of files from an earlier one. A link
/// cannot be changed, only replaced, which its directory's time tells; so
/// the hundreds of links to certificates need not be looked at.
fn stamp(path: &Path, hash: &mut Sha256, depth: u8) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let times = (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino());
    hash.update(format!("{} {} {times:?}\n", path.display(), meta.mode()));
    if meta.is_symlink() {
        hash.update(format!("{:?}\n", fs::read_link(path).ok()));
    }
    if !meta.is_dir() || depth == 0 {
        return;
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| !entry.file_type().is_ok_and(|t| t.is_symlink()))
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        stamp(&path.join(name), hash, depth - 1);
    }
}

/// Makes the skeleton for the host as it is now, if it is not there yet;
/// gives its directory below that of images.
pub(crate) fn ensure(place: &Place) -> io::Result<String> {
    let etc = Path::new("/etc");
    let print = fingerprint(etc, place.owner);
    let name = format!("{HOST_IMAGE}/{print}");
    let done = place.images().join(&name);
    if done.is_dir() {
        return Ok(name);
    }
    let items = listing(etc);
    make_dir(&place.images().join(HOST_IMAGE))?;
    let draft = place
        .images()
        .join(HOST_IMAGE)
        .join(format!(".{print}.{}", std::process::id()));
    let _ = fs::remove_dir_all(&draft);
    make_dir(&draft)?;
    fill(&draft, &items, place.owner)?;
    rustix::fs::syncfs(fs::File::open(&draft)?)?;
    match fs::rename(&draft, &done) {
        Err(_) if done.is_dir() => fs::remove_dir_all(&draft)?,
        other => other?,
    }
    Ok(name)
}

fn own(path: &Path, owner: Owner, id: u32) -> io::Result<()> {
    if !owner.is_root() {
        return Ok(());
    }
    let (uid, gid) = owner.host_ids(id, id);
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

fn fill(
    root: &Path,
    items: &[(PathBuf, Item)],
    owner: Owner,
) -> io::Result<()> {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    own(root, owner, 0)?;
    for (name, mode, id) in DIRS {
        let path = root.join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        own(&path, owner, id)?;
    }
    symlink("/run", root.join("var/run"))?;
    symlink("/run/lock", root.join("var/lock"))?;
    for name in SYSTEM {
        let host = Path::new("/").join(name);
        match fs::symlink_metadata(&host) {
            Ok(meta) if meta.is_symlink() => {
                symlink(fs::read_link(&host)?, root.join(name))?;
            }
            Ok(meta) if meta.is_dir() => {
                fs::create_dir(root.join(name))?;
                own(&root.join(name), owner, 0)?;
            }
            _ => {}
        }
    }
    for name in children_of_opt() {
        let path = root.join("opt").join(name);
        fs::create_dir(&path)?;
        own(&path, owner, 0)?;
    }
    fill_etc(&root.join("etc"), items, owner)
}

fn fill_etc(
    etc: &Path,
    items: &[(PathBuf, Item)],
    owner: Owner,
) -> io::Result<()> {
    for (path, item) in items {
        let (from, to) = (Path::new("/etc").join(path), etc.join(path));
        match item {
            Item::Dir if to.is_dir() => continue,
            Item::Dir => {
                fs::create_dir(&to)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
            }
            Item::Link(target) => symlink(target, &to)?,
            // A file may vanish or close between listing and copying.
            Item::File => match fs::read(&from) {
                Ok(content) => write(&to, &content, 0o644)?,
                Err(_) => continue,
            },
        }
        own(&to, owner, 0)?;
    }
    for (name, content, mode) in accounts() {
        write(&etc.join(name), content.as_bytes(), mode)?;
        own(&etc.join(name), owner, 0)?;
    }
    symlink("/run/resolv.conf", etc.join("resolv.conf"))?;
    symlink("/proc/self/mounts", etc.join("mtab"))?;
    let nsswitch = etc.join("nsswitch.conf");
    write(&nsswitch, NSSWITCH.as_bytes(), 0o644)?;
    own(&nsswitch, owner, 0)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\n\
                        hosts: files dns\nservices: files\n\
                        protocols: files\n";

/// The files that say who is who in a zone.
fn accounts() -> [(&'static str, &'static str, u32); 4] {
    [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\n\
             daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
             job:x:1000:1000:job:/home/job:/bin/sh\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
            0o644,
        ),
        (
            "group",
            "root:x:0:\ndaemon:x:1:\ntty:x:5:\njob:x:1000:\n\
             nogroup:x:65534:\n",
            0o644,
        ),
        ("shadow", "root:*:19000::::::\njob:*:19000::::::\n", 0o600),
        ("hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n", 0o644),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_of_etc_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path();
        fs::create_dir_all(etc.join("ssl/private")).unwrap();
        fs::create_dir_all(etc.join("ssl/certs")).unwrap();
        fs::create_dir_all(etc.join("ssh")).unwrap();
        for name in [
            "passwd",
            "environment",
            "ssh/sshd_config",
            "ssl/private/x.pem",
            "ssl/certs/ssl-cert-snakeoil.pem",
            "ssl/certs/ca.pem",
            "ssl/server.key",
            "ssl/hidden.cnf",
            "services",
        ] {
            fs::write(etc.join(name), name).unwrap();
        }
        let closed = fs::Permissions::from_mode(0o640);
        fs::set_permissions(etc.join("ssl/hidden.cnf"), closed).unwrap();
        let names: Vec<String> = listing(etc)
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        assert_eq!(names, ["services", "ssl", "ssl/certs", "ssl/certs/ca.pem"]);
    }
}
