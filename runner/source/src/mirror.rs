//! One bare mirror on disk: making, sweeping, setting aside.
//!
//! Must not know the network or other mirrors. Invariants: the ref
//! `refs/ntrace/<commit>` is there only after a fetch of that commit was
//! complete; attributes in a tree change nothing on its way out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::name::{CommitId, Format, Repository};

/// Outranks every `.gitattributes` of a tree: an archive leaves nothing out
/// and changes no byte.
const ATTRIBUTES: &str = "* -export-ignore -export-subst -text -eol -ident \
                          -filter -working-tree-encoding -crlf\n";

/// Says that a read found the mirror damaged.
const DISTRUSTED: &str = "ntrace-distrusted";
/// Its time is that of the last use.
const USED: &str = "ntrace-used";

/// Where a mirror is.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    pub(crate) path: PathBuf,
}

impl Mirror {
    /// The mirror of a repository below the cache's directory. Mirrors of
    /// the two object formats are apart.
    pub(crate) fn at(
        root: &Path,
        repository: &Repository,
        format: Format,
    ) -> Self {
        let (owner, repo) = repository.directory();
        let end = match format {
            Format::Sha1 => "git",
            Format::Sha256 => "sha256.git",
        };
        Self { path: root.join(owner).join(format!("{repo}.{end}")) }
    }

    /// Makes the directories that git takes for an empty bare repository,
    /// unless they are there. Needs no git, and is safe to repeat.
    pub(crate) fn ensure_made(&self, format: Format) -> io::Result<()> {
        let path = &self.path;
        for dir in ["objects/pack", "objects/info", "refs/ntrace", "info"] {
            fs::create_dir_all(path.join(dir))?;
        }
        let config = match format {
            Format::Sha1 => {
                "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
            }
            Format::Sha256 => {
                "[core]\n\trepositoryformatversion = 1\n\tbare = true\n\
                 [extensions]\n\tobjectformat = sha256\n"
            }
        };
        write(&path.join("config"), config)?;
        write(&path.join("info/attributes"), ATTRIBUTES)?;
        // Written last: with it git takes the directory for a repository.
        write(&path.join("HEAD"), "ref: refs/heads/none\n")
    }

    /// Removes what a killed git leaves. Only with the mirror's lock held:
    /// then no git of ours writes here, and nobody else may.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        sweep_locks(&self.path, 0)?;
        let pack = self.path.join("objects/pack");
        for entry in fs::read_dir(&pack)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("tmp_") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Whether this commit was fetched whole.
    pub(crate) fn has(&self, commit: &CommitId) -> bool {
        !self.path.join(DISTRUSTED).exists()
            && self.path.join("refs/ntrace").join(commit.as_str()).exists()
    }

    /// Forgets that this was fetched: it turned out to be no commit.
    pub(crate) fn unpin(&self, commit: &CommitId) -> io::Result<()> {
        let path = self.path.join("refs/ntrace").join(commit.as_str());
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether only some of the history is here.
    pub(crate) fn is_shallow(&self) -> bool {
        self.path.join("shallow").exists()
    }

    /// Remembers that a read found damage; the next use makes it anew.
    pub(crate) fn distrust(&self) {
        if let Err(error) = fs::write(self.path.join(DISTRUSTED), "") {
            tracing::warn!(
                mirror = %self.path.display(),
                %error,
                "cannot mark a mirror as damaged"
            );
        }
    }

    pub(crate) fn is_distrusted(&self) -> bool {
        self.path.join(DISTRUSTED).exists()
    }

    /// Remembers the use, for eviction.
    pub(crate) fn touch(&self) {
        // A lost touch only makes the mirror look older than it is.
        let _ = fs::write(self.path.join(USED), "");
    }

    /// Puts a damaged mirror out of the way, for somebody to look at; one
    /// such per repository is kept.
    pub(crate) fn set_aside(&self) -> io::Result<PathBuf> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".damaged");
        let aside = PathBuf::from(aside);
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    match fs::read(path) {
        Ok(found) if found == text.as_bytes() => Ok(()),
        _ => fs::write(path, text),
    }
}

/// Locks are at the top and among the refs; objects have none.
fn sweep_locks(dir: &Path, depth: usize) -> io::Result<()> {
    const DEEPEST: usize = 8;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        if kind.is_dir() && name != "objects" && depth < DEEPEST {
            sweep_locks(&entry.path(), depth + 1)?;
        } else if kind.is_file() && name.to_string_lossy().ends_with(".lock") {
            tracing::info!(
                lock = %entry.path().display(),
                "removed the lock of a killed git"
            );
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A mirror on disk as eviction sees it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) used: std::time::SystemTime,
}

/// All mirrors below the cache's directory, damaged ones too.
pub(crate) fn all(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for owner in fs::read_dir(root)? {
        let owner = owner?;
        if !owner.file_type()?.is_dir() {
            continue;
        }
        for repo in fs::read_dir(owner.path())? {
            let path = repo?.path();
            let used = fs::metadata(path.join(USED))
                .and_then(|meta| meta.modified())
                .unwrap_or(std::time::UNIX_EPOCH);
            found.push(Found { bytes: size(&path), used, path });
        }
    }
    Ok(found)
}

/// Bytes of all files below; what vanishes meanwhile counts nothing.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            Ok(_) => entry.metadata().map_or(0, |meta| meta.len()),
            Err(_) => 0,
        })
        .sum()
}
