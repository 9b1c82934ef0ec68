//! The tree of one commit, read from the object store: no checkout.
//!
//! Must not know the network. Invariants: links are never followed; an
//! archive is the whole tree as committed, or its stream ends in an error.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream::try_unfold;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::process::ChildStdout;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::io::StreamReader;

use crate::cache::{LOOK, Slot};
use crate::git::{Git, GitError, Running, keep};
use crate::name::CommitId;

/// The most that a listing of one directory may take.
const LISTING: usize = 16 << 20;
/// The most that a commit may take, its message included.
const COMMIT: usize = 1 << 20;
/// How much of an archive is read at once.
const CHUNK: usize = 64 << 10;

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A regular file that can be run.
    Executable,
    /// A symbolic link.
    Link,
    /// A directory.
    Directory,
    /// A commit of another repository; its files are not here.
    Submodule,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    object: String,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kind, String::from_utf8_lossy(&self.name))
    }
}

/// Why a file of a tree could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// It is longer than was allowed.
    #[error("{path} is longer than {limit} bytes")]
    TooLong {
        /// Which.
        path: String,
        /// What was allowed.
        limit: usize,
    },
    /// git failed.
    #[error("cannot read commit {commit}")]
    Git {
        /// Of which commit.
        commit: CommitId,
        /// Why.
        source: GitError,
    },
    /// git printed what is no listing.
    #[error("cannot understand the listing of commit {commit}")]
    Listing {
        /// Of which commit.
        commit: CommitId,
    },
}

/// The tree of a commit in the cache. While it is held, its mirror is not
/// evicted.
#[derive(Debug, Clone)]
pub struct Tree {
    git: Git,
    slot: Arc<Slot>,
    commit: CommitId,
}

impl Tree {
    pub(crate) fn new(git: Git, slot: Arc<Slot>, commit: CommitId) -> Self {
        Self { git, slot, commit }
    }

    /// Which commit it is of.
    #[must_use]
    pub fn commit(&self) -> &CommitId {
        &self.commit
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    async fn run(
        &self,
        args: &[&str],
        limit: usize,
    ) -> Result<Vec<u8>, GitError> {
        let deadline = Instant::now() + LOOK;
        let path = &self.slot.mirror.path;
        let done = self.git.run(path, args, limit, deadline).await;
        if let Err(GitError::Failed { .. }) = &done {
            self.slot.mirror.distrust();
        }
        done
    }

    fn failed(&self, source: GitError) -> ReadError {
        ReadError::Git { commit: self.commit.clone(), source }
    }

    /// The entries of the tree's root.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn list_root(&self) -> Result<Vec<Entry>, ReadError> {
        let args = ["ls-tree", "-z", "--full-tree", self.commit.as_str()];
        self.listing(&args).await
    }

    async fn listing(&self, args: &[&str]) -> Result<Vec<Entry>, ReadError> {
        let listed =
            self.run(args, LISTING).await.map_err(|e| self.failed(e))?;
        let listing = || ReadError::Listing { commit: self.commit.clone() };
        listed
            .split(|b| *b == 0)
            .filter(|line| !line.is_empty())
            .map(|line| parse_entry(line).ok_or_else(listing))
            .collect()
    }

    /// A regular file; None when there is none of that name. Links are not
    /// followed: they are no regular files.
    ///
    /// # Errors
    /// When it is longer than `max_bytes`, or cannot be read.
    pub async fn read_file(
        &self,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let odd = |part: &str| matches!(part, "" | "." | "..");
        if path.contains('\0') || path.split('/').any(odd) {
            // No tree has such a name, and git would complain of it.
            return Ok(None);
        }
        let commit = self.commit.as_str();
        let args = ["ls-tree", "-z", "--full-tree", commit, "--", path];
        // A pathspec `dir` also names `dir` itself only, since no `-r`.
        let entry = self
            .listing(&args)
            .await?
            .into_iter()
            .find(|entry| entry.name == path.as_bytes());
        match entry {
            Some(entry) => self.read_entry(&entry, max_bytes).await,
            None => Ok(None),
        }
    }

    /// The commits before this one, as the commit itself says, the first one
    /// first and no more than `most`. They need not be in the cache.
    ///
    /// # Errors
    /// When the commit cannot be read.
    pub async fn parents(
        &self,
        most: usize,
    ) -> Result<Vec<CommitId>, ReadError> {
        let args = ["cat-file", "commit", self.commit.as_str()];
        let text = self.run(&args, COMMIT).await;
        let text = text.map_err(|e| self.failed(e))?;
        Ok(parents_of(&text, most))
    }

    /// The bytes of an entry of [`Tree::list_root`]; None when it is no
    /// regular file.
    ///
    /// # Errors
    /// As [`Tree::read_file`].
    pub async fn read_entry(
        &self,
        entry: &Entry,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        if !matches!(entry.kind, Kind::File | Kind::Executable) {
            return Ok(None);
        }
        let args = ["cat-file", "blob", entry.object.as_str()];
        match self.run(&args, max_bytes).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(GitError::TooMuch { limit, .. }) => Err(ReadError::TooLong {
                path: crate::git::words(&entry.name),
                limit,
            }),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The whole tree as a tar stream, exactly as committed: no attribute
    /// of the tree leaves out or changes a file; links and modes are kept,
    /// a submodule is an empty directory. A stream that is not whole ends in
    /// an error.
    ///
    /// # Errors
    /// When git cannot be started.
    pub fn archive(&self, deadline: Instant) -> Result<Archive, ReadError> {
        let args = ["archive", "--format=tar", self.commit.as_str()];
        let path = &self.slot.mirror.path;
        let mut running =
            self.git.start(path, &args).map_err(|e| self.failed(e))?;
        let (stdout, stderr) = running.streams();
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            let _ = keep(stderr, &mut said).await;
            said
        });
        let packing = Packing {
            running,
            stdout,
            said,
            buffer: BytesMut::new(),
            slot: Arc::clone(&self.slot),
            deadline,
        };
        let chunks: Chunks = Box::pin(try_unfold(packing, Packing::next));
        Ok(Archive { reader: StreamReader::new(chunks) })
    }
}

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A tar stream of a tree.
pub struct Archive {
    reader: StreamReader<Chunks, Bytes>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Archive")
    }
}

impl AsyncRead for Archive {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

/// A git archive that runs.
struct Packing {
    running: Running,
    stdout: ChildStdout,
    said: JoinHandle<Vec<u8>>,
    buffer: BytesMut,
    slot: Arc<Slot>,
    deadline: Instant,
}

impl Packing {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        self.buffer.reserve(CHUNK);
        let read = self.stdout.read_buf(&mut self.buffer);
        match timeout_at(self.deadline, read).await {
            Ok(Ok(0)) => self.finish().await.map(|()| None),
            Ok(Ok(_)) => {
                let chunk = self.buffer.split().freeze();
                Ok(Some((chunk, self)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.running.end().await;
                let late = self.running.late(b"");
                Err(io::Error::new(io::ErrorKind::TimedOut, late))
            }
        }
    }

    /// The stream is whole only if git says so by its exit.
    async fn finish(mut self) -> io::Result<()> {
        let wait = self.running.child.wait();
        let status = match timeout_at(self.deadline, wait).await {
            Ok(status) => status?,
            Err(_) => {
                self.running.end().await;
                let late = self.running.late(b"");
                return Err(io::Error::new(io::ErrorKind::TimedOut, late));
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = self.said.await.unwrap_or_default();
        self.slot.mirror.distrust();
        Err(io::Error::other(self.running.failed(status, &said)))
    }
}

/// The parents in the head of a commit. What the author wrote comes after
/// the first empty line, and is no head.
fn parents_of(commit: &[u8], most: usize) -> Vec<CommitId> {
    commit
        .split(|b| *b == b'\n')
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix(b"parent "))
        .filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok())
        .take(most)
        .collect()
}

/// `100644 blob <id>\t<name>`.
fn parse_entry(line: &[u8]) -> Option<Entry> {
    let tab = line.iter().position(|b| *b == b'\t')?;
    let (head, name) = line.split_at(tab);
    let head = std::str::from_utf8(head).ok()?;
    let mut words = head.split(' ');
    let (mode, kind, object) = (words.next()?, words.next()?, words.next()?);
    let kind = match (mode, kind) {
        ("120000", "blob") => Kind::Link,
        ("100755", "blob") => Kind::Executable,
        (_, "blob") => Kind::File,
        (_, "tree") => Kind::Directory,
        (_, "commit") => Kind::Submodule,
        _ => return None,
    };
    let name = name[1..].to_vec();
    Some(Entry { name, kind, object: object.to_owned() })
}
