//! The zone's files, held from the start, so that they can be read after
//! the zone is gone, and without entering it.
//!
//! Paths come from the job. They are resolved below a root that is held,
//! follow no link of /proc, and only regular files are opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The roots of one zone.
#[derive(Debug)]
pub struct ZoneFiles {
    root: OwnedFd,
    /// Its /proc, by the zone's pids; none if that is not a proc file system.
    proc: Option<OwnedFd>,
}

/// The zone's files could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the root of the zone's process {pid}")]
pub struct NoRoot {
    pid: i32,
    source: io::Error,
}

fn open_path(at: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

impl ZoneFiles {
    /// Takes hold of the files of the zone whose process 1 is given.
    ///
    /// # Errors
    /// When that process is gone, or not ours to look at.
    pub fn hold(init: i32) -> Result<ZoneFiles, NoRoot> {
        let path = format!("/proc/{init}/root");
        let root = open_path(rustix::fs::CWD, &path)
            .map_err(|source| NoRoot { pid: init, source })?;
        let proc = open_path(root.as_fd(), "proc").ok().filter(|proc| {
            rustix::fs::fstatfs(proc)
                .is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
        });
        Ok(ZoneFiles { root, proc })
    }

    /// A file of the zone that all its processes see alike.
    ///
    /// # Errors
    /// When there is no such regular file.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        open_below(self.root.as_fd(), path)
    }

    /// The root itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The first names in a directory of the zone, those that are text.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn names(&self, path: &str, most: usize) -> io::Result<Vec<String>> {
        let dir = rustix::fs::openat2(
            &self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir)?.take(most) {
            let name = entry?.file_name().to_str().map(str::to_owned);
            names.extend(name.ok());
        }
        Ok(names)
    }

    /// A file as a process of the zone sees it.
    pub(crate) fn open_as(&self, pid: u32, path: &Path) -> io::Result<File> {
        let root = self.of_process(pid, "root")?;
        open_below(root.as_fd(), path)
    }

    /// The file that is mapped at an address range of a process: right even
    /// if it has no name any more. Needs privileges.
    pub(crate) fn open_mapped(
        &self,
        pid: u32,
        start: u64,
        end: u64,
    ) -> io::Result<File> {
        let proc = self.proc()?;
        let path = format!("{pid}/map_files/{start:x}-{end:x}");
        reopen(&rustix::fs::openat(
            proc,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// The program that a process runs, if that had this name, whatever
    /// became of the name.
    pub(crate) fn open_program(
        &self,
        pid: u32,
        path: &Path,
    ) -> io::Result<File> {
        const GONE: &[u8] = b" (deleted)";
        let proc = self.proc()?;
        let link = rustix::fs::readlinkat(proc, format!("{pid}/exe"), [])?;
        let bare =
            |name: &[u8]| name.strip_suffix(GONE).unwrap_or(name).to_vec();
        if bare(link.to_bytes()) != bare(path.as_os_str().as_bytes()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        reopen(&rustix::fs::openat(
            proc,
            format!("{pid}/exe"),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// A small file of /proc about a process.
    pub(crate) fn about(&self, pid: u32, name: &str) -> io::Result<Vec<u8>> {
        use std::io::Read as _;
        /// More than any such file is read of.
        const ABOUT_MAX: u64 = 4 << 20;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("{pid}/{name}");
        let file =
            rustix::fs::openat(self.proc()?, path, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        File::from(file).take(ABOUT_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The pid of a process in its innermost pid namespace, which is the
    /// one it writes into names of files.
    pub(crate) fn innermost_pid(&self, pid: u32) -> Option<u32> {
        let status = self.about(pid, "status").ok()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let line =
            status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        line.split_whitespace().last()?.parse().ok()
    }

    fn proc(&self) -> io::Result<BorrowedFd<'_>> {
        let none = || io::Error::other("the zone has no /proc");
        self.proc.as_ref().map(AsFd::as_fd).ok_or_else(none)
    }

    fn of_process(&self, pid: u32, name: &str) -> io::Result<OwnedFd> {
        open_path(self.proc()?, &format!("{pid}/{name}"))
    }
}

fn open_below(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let found = rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    reopen(&found)
}

/// Opens for reading what a path led to, if it is a regular file: anything
/// else could block or act when opened.
fn reopen(found: &OwnedFd) -> io::Result<File> {
    let kind = rustix::fs::fstat(found)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(kind)
        != rustix::fs::FileType::RegularFile
    {
        return Err(io::Error::other("not a regular file"));
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(file.into())
}

/// The name under which this process can open a file that it holds.
pub(crate) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_of(dir: &Path) -> OwnedFd {
        open_path(rustix::fs::CWD, dir.to_str().unwrap()).unwrap()
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("in"), "x").unwrap();
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
        };
        link("/etc/passwd", "out");
        link("/in", "absolute");
        let root = root_of(dir.path());
        let open = |path: &str| open_below(root.as_fd(), Path::new(path));
        assert!(open("/in").is_ok());
        assert!(open("/absolute").is_ok());
        assert!(open("/out").is_err());
        assert!(open("/../../../etc/passwd").is_err());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let root = root_of(dir.path());
        assert!(open_below(root.as_fd(), Path::new("/pipe")).is_err());
        assert!(open_below(root.as_fd(), Path::new("/")).is_err());
    }
}
