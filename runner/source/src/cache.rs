//! The source cache: bare mirrors, one per repository.
//!
//! [`Cache::ensure`] gives a [`Tree`] or says why not. A commit that is
//! there costs no network; one fetch per repository at a time, and those who
//! came while a fetch for the same commit failed share its failure. A
//! damaged mirror is set aside and fetched anew, once. Must not know what a
//! tree is used for.

use std::collections::HashMap;
use std::error::Error as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::{Meaning, SourceError, meaning};
use crate::git::{Git, GitError};
use crate::mirror::{self, Mirror};
use crate::name::{CommitId, Format, Repository};
use crate::template::Template;
use crate::tree::Tree;
use crate::upkeep;

/// A look into the object store may take this long.
pub(crate) const LOOK: Duration = Duration::from_secs(20);
/// What a fetch may print; it is asked to be quiet.
const FETCH_OUTPUT: usize = 1 << 20;
/// The commit and its parents: enough to run it and to compare it.
const DEPTH: &str = "--depth=2";

/// Where the cache is and how it is filled.
#[derive(Debug, Clone)]
pub struct Config {
    /// A directory of its own.
    pub directory: PathBuf,
    /// Where repositories are.
    pub source: Template,
    /// The cache is kept below this size, as far as mirrors in use allow.
    pub max_bytes: u64,
}

/// Why a cache cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error("cannot use {} as source cache", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process uses the source cache {}", directory.display())]
    InUse {
        /// Which.
        directory: PathBuf,
    },
    /// git cannot be used.
    #[error("git cannot be used here")]
    Git(#[from] GitError),
}

/// The source cache.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    source: Template,
    max_bytes: u64,
    git: Git,
    slots: Mutex<HashMap<PathBuf, Arc<Slot>>>,
    tidying: tokio::sync::Mutex<()>,
    /// Held as long as the cache is.
    _lock: File,
}

/// A mirror in memory. Whoever holds one keeps the mirror from eviction.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) mirror: Mirror,
    fetching: tokio::sync::Mutex<Option<Failure>>,
}

/// How the last fetch of a mirror failed.
#[derive(Debug, Clone)]
struct Failure {
    commit: CommitId,
    at: Instant,
    error: SourceError,
}

impl Cache {
    /// Opens the cache, making its directory if need be.
    ///
    /// # Errors
    /// When the directory or git cannot be used, or another process has the
    /// cache.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let Config { directory, source, max_bytes } = config;
        let root = directory.join("mirrors");
        let failed = |source| OpenError::Directory {
            directory: directory.clone(),
            source,
        };
        fs::create_dir_all(&root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { directory });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let config = root.with_file_name("git.config");
        let git = Git::new(config, source.scheme())?;
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                source,
                max_bytes,
                git,
                slots: Mutex::default(),
                tidying: tokio::sync::Mutex::new(()),
                _lock: lock,
            }),
        })
    }

    /// Makes sure that a commit is in the cache, with its parents if it has
    /// to be fetched, and gives its tree.
    ///
    /// # Errors
    /// When the commit is not to be had by the deadline; the error says
    /// whether another try may help.
    pub async fn ensure(
        &self,
        repository: &Repository,
        commit: &CommitId,
        deadline: Instant,
    ) -> Result<Tree, SourceError> {
        let came = Instant::now();
        let slot = self.inner.slot(repository, commit.format());
        if slot.mirror.has(commit)
            && self.inner.is_readable(&slot, commit).await?
        {
            return Ok(self.tree(slot, commit));
        }
        let Ok(mut last) = timeout_at(deadline, slot.fetching.lock()).await
        else {
            return Err(SourceError::Busy { repository: repository.clone() });
        };
        if let Some(failure) = last.as_ref()
            && failure.commit == *commit
            && failure.at >= came
            && !failure.error.is_only_ours()
        {
            return Err(failure.error.clone());
        }
        let done = self.inner.get(&slot, repository, commit, deadline).await;
        *last = done.as_ref().err().map(|error| Failure {
            commit: commit.clone(),
            at: Instant::now(),
            error: error.clone(),
        });
        drop(last);
        let fetched = done?;
        let tree = self.tree(slot, commit);
        if fetched {
            self.tidy_in_background(&tree);
        }
        Ok(tree)
    }

    fn tree(&self, slot: Arc<Slot>, commit: &CommitId) -> Tree {
        slot.mirror.touch();
        Tree::new(self.inner.git.clone(), slot, commit.clone())
    }

    /// After a fetch: one mirror has one pack more, and the cache may have
    /// grown above its size. Nobody waits for this.
    fn tidy_in_background(&self, tree: &Tree) {
        let inner = Arc::clone(&self.inner);
        let slot = Arc::clone(tree.slot());
        tokio::spawn(async move {
            // One at a time; who finds one running need not wait for it.
            let Ok(_guard) = inner.tidying.try_lock() else { return };
            inner.keep_up(&slot).await;
            drop(slot);
            let inner = Arc::clone(&inner);
            let done = tokio::task::spawn_blocking(move || inner.evict()).await;
            if let Ok(Err(error)) = done {
                tracing::warn!(%error, "cannot look through the source cache");
            }
        });
    }

    /// Removes mirrors, least recently used first, until the cache is below
    /// its size; those in use stay. Gives the bytes that were freed. Blocks.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn evict(&self) -> io::Result<u64> {
        self.inner.evict()
    }
}

impl Inner {
    fn slot(&self, repository: &Repository, format: Format) -> Arc<Slot> {
        let mirror = Mirror::at(&self.root, repository, format);
        let mut slots = self.slots();
        let slot = slots.entry(mirror.path.clone()).or_insert_with(|| {
            Arc::new(Slot { mirror, fetching: tokio::sync::Mutex::default() })
        });
        Arc::clone(slot)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<Slot>>> {
        self.slots.lock().expect("nobody panics while holding the slots")
    }

    /// Whether the commit and its tree can be read at all.
    async fn is_readable(
        &self,
        slot: &Slot,
        commit: &CommitId,
    ) -> Result<bool, SourceError> {
        let object = format!("{commit}^{{tree}}");
        let args = ["cat-file", "-e", &object];
        let deadline = Instant::now() + LOOK;
        let looked = self.git.run(&slot.mirror.path, &args, 0, deadline).await;
        match looked {
            Ok(_) => Ok(true),
            Err(source @ (GitError::Missing | GitError::Start { .. })) => {
                Err(SourceError::NoGit { source })
            }
            Err(_) => Ok(false),
        }
    }

    /// With the slot's lock held: looks again, fetches, and makes a damaged
    /// mirror anew, once. Gives whether something was fetched.
    async fn get(
        &self,
        slot: &Slot,
        repository: &Repository,
        commit: &CommitId,
        deadline: Instant,
    ) -> Result<bool, SourceError> {
        let mirror = &slot.mirror;
        let pinned = mirror.has(commit);
        if pinned && self.is_readable(slot, commit).await? {
            return Ok(false);
        }
        if pinned || mirror.is_distrusted() {
            set_aside(mirror, repository, "a read found it damaged")?;
        }
        match self.fetch(slot, repository, commit, deadline).await {
            Err(SourceError::Damaged { source, .. }) => {
                set_aside(mirror, repository, &source.to_string())?;
                self.fetch(slot, repository, commit, deadline).await?;
            }
            other => other?,
        }
        Ok(true)
    }

    async fn fetch(
        &self,
        slot: &Slot,
        repository: &Repository,
        commit: &CommitId,
        deadline: Instant,
    ) -> Result<(), SourceError> {
        let mirror = &slot.mirror;
        let made =
            mirror.ensure_made(commit.format()).and_then(|()| mirror.sweep());
        if let Err(error) = made {
            return Err(disk("prepare", repository, &error));
        }
        let url = self.source.url(repository);
        let started = Instant::now();
        let to = format!("+{commit}:refs/ntrace/{commit}");
        let refs = [to.as_str()];
        match self.fetch_refs(mirror, &[DEPTH], &url, &refs, deadline).await {
            Ok(()) => {}
            Err(error) if meaning(&error) == Meaning::AskForAll => {
                tracing::debug!(
                    %repository,
                    "the server wants no ids: fetching all branches and tags"
                );
                self.fetch_all(mirror, &url, deadline)
                    .await
                    .map_err(|error| judge(error, repository, commit))?;
                self.pin(mirror, repository, commit).await?;
            }
            Err(error) => return Err(judge(error, repository, commit)),
        }
        self.check(slot, repository, commit).await?;
        let elapsed_ms = started.elapsed().as_millis();
        tracing::info!(%repository, %commit, elapsed_ms, "fetched a commit");
        Ok(())
    }

    async fn fetch_all(
        &self,
        mirror: &Mirror,
        url: &str,
        deadline: Instant,
    ) -> Result<(), GitError> {
        let refs = [
            "+refs/heads/*:refs/remote/heads/*",
            "+refs/tags/*:refs/remote/tags/*",
        ];
        // A history that was cut is made whole, else the commit may be
        // behind the cut.
        let depth: &[&str] =
            if mirror.is_shallow() { &["--unshallow"] } else { &[] };
        self.fetch_refs(mirror, depth, url, &refs, deadline).await
    }

    async fn fetch_refs(
        &self,
        mirror: &Mirror,
        options: &[&str],
        url: &str,
        refs: &[&str],
        deadline: Instant,
    ) -> Result<(), GitError> {
        let mut args = vec![
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
        ];
        args.extend_from_slice(options);
        args.extend(["--", url]);
        args.extend_from_slice(refs);
        self.git
            .run(&mirror.path, &args, FETCH_OUTPUT, deadline)
            .await
            .map(drop)
    }

    /// After a fetch of all branches: keeps the commit, if it came.
    async fn pin(
        &self,
        mirror: &Mirror,
        repository: &Repository,
        commit: &CommitId,
    ) -> Result<(), SourceError> {
        let name = format!("refs/ntrace/{commit}");
        let args = ["update-ref", &name, commit.as_str()];
        let deadline = Instant::now() + LOOK;
        match self.git.run(&mirror.path, &args, 1024, deadline).await {
            Ok(_) => Ok(()),
            Err(source) => Err(SourceError::NoCommit {
                repository: repository.clone(),
                commit: commit.clone(),
                source: Some(Box::new(source)),
            }),
        }
    }

    /// After a fetch: is it a commit, and can it be read?
    async fn check(
        &self,
        slot: &Slot,
        repository: &Repository,
        commit: &CommitId,
    ) -> Result<(), SourceError> {
        let args = ["cat-file", "-t", commit.as_str()];
        let deadline = Instant::now() + LOOK;
        let kind = self.git.run(&slot.mirror.path, &args, 64, deadline).await;
        match kind {
            Ok(kind) if kind.trim_ascii() == b"commit" => Ok(()),
            Ok(_) => {
                slot.mirror
                    .unpin(commit)
                    .map_err(|error| disk("tidy", repository, &error))?;
                Err(SourceError::NoCommit {
                    repository: repository.clone(),
                    commit: commit.clone(),
                    source: None,
                })
            }
            Err(source) => Err(SourceError::Damaged {
                repository: repository.clone(),
                source,
            }),
        }
    }

    async fn keep_up(&self, slot: &Slot) {
        let mirror = &slot.mirror;
        if !upkeep::is_due(mirror).unwrap_or(false) {
            return;
        }
        let _held = slot.fetching.lock().await;
        if let Err(error) = upkeep::keep_up(&self.git, mirror).await {
            let mirror = mirror.path.display();
            let why = error.source().map(ToString::to_string);
            tracing::warn!(%mirror, %error, why, "cannot keep up a mirror");
        }
    }

    fn evict(&self) -> io::Result<u64> {
        let mut found = mirror::all(&self.root)?;
        found.sort_by_key(|one| one.used);
        let mut total: u64 = found.iter().map(|one| one.bytes).sum();
        let mut freed = 0;
        for one in found {
            if total <= self.max_bytes {
                break;
            }
            if !self.remove_unused(&one.path)? {
                continue;
            }
            tracing::info!(
                mirror = %one.path.display(),
                bytes = one.bytes,
                "evicted a mirror"
            );
            total -= one.bytes;
            freed += one.bytes;
        }
        Ok(freed)
    }

    /// Removes a mirror that nobody has in hand. Renamed under the lock of
    /// the slots, so that who comes next finds no half of it.
    fn remove_unused(&self, path: &Path) -> io::Result<bool> {
        let mut gone = path.as_os_str().to_owned();
        gone.push(".gone");
        {
            let mut slots = self.slots();
            let in_use = |slot: &Arc<Slot>| Arc::strong_count(slot) > 1;
            if slots.get(path).is_some_and(in_use) {
                return Ok(false);
            }
            slots.remove(path);
            fs::rename(path, &gone)?;
        }
        fs::remove_dir_all(&gone)?;
        Ok(true)
    }
}

fn set_aside(
    mirror: &Mirror,
    repository: &Repository,
    why: &str,
) -> Result<(), SourceError> {
    match mirror.set_aside() {
        Ok(aside) => {
            tracing::warn!(
                %repository,
                aside = %aside.display(),
                why,
                "a damaged mirror was set aside and is fetched anew"
            );
            Ok(())
        }
        Err(error) => Err(disk("set aside", repository, &error)),
    }
}

fn disk(
    what: &'static str,
    repository: &Repository,
    error: &io::Error,
) -> SourceError {
    SourceError::Disk {
        what,
        repository: repository.clone(),
        why: error.to_string(),
    }
}

fn judge(
    source: GitError,
    repository: &Repository,
    commit: &CommitId,
) -> SourceError {
    let repository = repository.clone();
    match meaning(&source) {
        Meaning::NoRepository => {
            SourceError::NoRepository { repository, source }
        }
        Meaning::NoCommit | Meaning::AskForAll => SourceError::NoCommit {
            repository,
            commit: commit.clone(),
            source: Some(Box::new(source)),
        },
        Meaning::Network => SourceError::Network { repository, source },
        Meaning::DiskFull => SourceError::DiskFull { source },
        Meaning::NoGit => SourceError::NoGit { source },
        Meaning::Damaged => SourceError::Damaged { repository, source },
    }
}
