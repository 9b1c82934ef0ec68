//! A place with repositories and a cache, and what is in a tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ntrace_source::{
    Cache, CommitId, Config, OpenError, Repository, SourceError, Tree,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

/// A directory of repositories and a cache that fills from it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) cache: Cache,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), u64::MAX).unwrap();
        Self { dir, cache }
    }

    pub(crate) fn repository(&self, owner: &str, repo: &str) -> Made {
        let path = self.dir.path().join("git").join(owner).join(repo);
        fs::create_dir_all(&path).unwrap();
        let made = Made { path };
        made.git(&["init", "-q", "-b", "main"]);
        made
    }

    pub(crate) async fn ensure(
        &self,
        commit: &CommitId,
    ) -> Result<Tree, SourceError> {
        self.cache.ensure(&name("o", "r"), commit, soon()).await
    }

    pub(crate) fn mirror(&self) -> PathBuf {
        self.dir.path().join("cache/mirrors/o/r.git")
    }
}

pub(crate) fn open(dir: &Path, max_bytes: u64) -> Result<Cache, OpenError> {
    let source = format!("file://{}/git/{{owner}}/{{repo}}", dir.display());
    Cache::open(Config {
        directory: dir.join("cache"),
        source: source.parse().unwrap(),
        max_bytes,
    })
}

pub(crate) fn name(owner: &str, repo: &str) -> Repository {
    Repository::new(owner, repo).unwrap()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A repository with a work tree.
pub(crate) struct Made {
    pub(crate) path: PathBuf,
}

impl Made {
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(["-c", "safe.directory=*"])
            .args(["-c", "protocol.file.allow=always"])
            .args(args)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn commit(&self) -> CommitId {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }
}

/// Path, mode and bytes (a link's target) of everything in a tree's archive.
pub(crate) async fn unpacked(tree: &Tree) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let mut tar = Vec::new();
    let mut archive = tree.archive(soon()).unwrap();
    archive.read_to_end(&mut tar).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tar"), tar).unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let done = Command::new("tar")
        .args(["-xpf", "../tar"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(done.success());
    let mut all = BTreeMap::new();
    walk(&root, &root, &mut all);
    all
}

fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<Vec<u8>, (u32, Vec<u8>)>) {
    use std::os::unix::ffi::OsStrExt as _;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_dir() {
            walk(root, &path, all);
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap();
        let mode = meta.permissions().mode();
        all.insert(name.as_os_str().as_bytes().to_vec(), (mode, bytes));
    }
}
