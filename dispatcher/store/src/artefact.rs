//! Artefacts: named files that a run leaves behind, sent in pieces.
//!
//! A name is data only: the file is stored under the artefact's own id. A
//! piece goes to a temporary file; with the last one the content is hashed,
//! synced and renamed, and only then does its row appear, so nothing is ever
//! visible half written.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ntrace_protocol::id::ArtefactId;
use ntrace_protocol::runner::ArtefactView;
use ntrace_protocol::{JobId, Lease, RunId};
use rusqlite::{OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use crate::db::{Db, Fault, Tx};
use crate::dir;
use crate::output::job_dir;
use crate::row::{Id as _, int, uint};

/// The longest name, in bytes.
const NAME_MAX: usize = 255;
/// Uploads that go on at once without waiting for each other.
const STRIPES: usize = 16;

/// How much a run may leave behind.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Bytes of one artefact.
    pub bytes: u64,
    /// Bytes of all artefacts of a run.
    pub run_bytes: u64,
    /// Artefacts of a run.
    pub count: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { bytes: 1 << 30, run_bytes: 4 << 30, count: 1000 }
    }
}

/// An artefact's name: a relative path that is safe to show and to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactName(String);

/// Why a text is no name of an artefact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name must be a relative path of 1 to {NAME_MAX} bytes without `..`, \
     `.`, empty parts, backslashes and control characters"
)]
pub struct BadName;

impl std::str::FromStr for ArtefactName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let is_part =
            |part: &str| !part.is_empty() && part != "." && part != "..";
        let fits = text.len() <= NAME_MAX
            && text.split('/').all(is_part)
            && !text.contains('\\')
            && !text.chars().any(ntrace_protocol::text::is_unsafe);
        fits.then(|| Self(text.to_owned())).ok_or(BadName)
    }
}

/// One piece of an artefact.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// Its fencing number.
    pub lease: Lease,
    /// The id that the artefact gets, if this makes it whole.
    pub id: ArtefactId,
    /// Its name.
    pub name: ArtefactName,
    /// Where the piece belongs.
    pub offset: u64,
    /// The piece.
    pub bytes: Vec<u8>,
    /// Whether it is the last.
    pub is_last: bool,
    /// The hash of the whole in hex, if the sender said it.
    pub sha256: Option<String>,
}

/// Why a piece was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It belongs elsewhere.
    #[error("{have} bytes are there; go on from there, not from {offset}")]
    Offset {
        /// What is there.
        have: u64,
        /// What the piece said.
        offset: u64,
    },
    /// Other bytes are there already.
    #[error("other bytes are there already; start another name")]
    Differs,
    /// The content is not what was announced.
    #[error("the content has the hash {found}; send it again from offset 0")]
    Hash {
        /// What it is.
        found: String,
    },
    /// Another content is complete under this name.
    #[error("the run has a complete artefact of this name already")]
    Exists,
    /// Too large.
    #[error("an artefact may have {max} bytes, those of a run {run_max}")]
    TooLarge {
        /// Of one.
        max: u64,
        /// Of all.
        run_max: u64,
    },
    /// Too many.
    #[error("a run may have {max} artefacts")]
    TooMany {
        /// How many.
        max: u64,
    },
    /// The run is not under this lease.
    #[error("the run {0} is not under this lease")]
    Fenced(RunId),
    /// The file could not be written.
    #[error("cannot write the artefact")]
    Io(#[source] io::Error),
    /// The disk is full, or the database did not do it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<io::Error> for PutError {
    fn from(error: io::Error) -> Self {
        if dir::is_no_space(&error) {
            return Self::Fault(Fault::NoSpace);
        }
        Self::Io(error)
    }
}

/// Why a piece cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// There is no such artefact.
    #[error("there is no artefact {0}")]
    Unknown(ArtefactId),
    /// The file could not be read.
    #[error("cannot read the artefact")]
    Io(#[from] io::Error),
    /// The database did not do it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The files of artefacts, to be shared.
#[derive(Clone, Debug)]
pub(crate) struct Artefacts {
    root: Arc<Path>,
    caps: Caps,
    stripes: Arc<[Mutex<()>; STRIPES]>,
}

impl Artefacts {
    /// Takes the directory, and removes what uploads of runs that are over
    /// have left. Blocks.
    pub(crate) fn start(
        root: &Path,
        caps: Caps,
        live: &[RunId],
    ) -> io::Result<Self> {
        dir::ensure_durable_dir(root)?;
        let parts = root.join("parts");
        dir::ensure_durable_dir(&parts)?;
        for entry in fs::read_dir(&parts)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_live = name
                .to_str()
                .and_then(|name| name.parse::<RunId>().ok())
                .is_some_and(|run| live.contains(&run));
            if !is_live {
                dir::remove_dir(&entry.path())?;
            }
        }
        let stripes = Arc::new(std::array::from_fn(|_| Mutex::new(())));
        Ok(Self { root: root.into(), caps, stripes })
    }

    fn parts(&self, run: RunId) -> PathBuf {
        self.root.join("parts").join(run.to_string())
    }

    fn part(&self, piece: &Piece) -> PathBuf {
        let name = hex(&Sha256::digest(piece.name.0.as_bytes()));
        self.parts(piece.run).join(name)
    }

    fn file(&self, job: JobId, id: ArtefactId) -> PathBuf {
        job_dir(&self.root, job).join(id.to_string())
    }

    /// Pieces of one run are taken one after another.
    fn stripe(&self, run: RunId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        run.hash(&mut hasher);
        let at = hasher.finish() as usize % STRIPES;
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what was not completed of a run. Blocks.
    pub(crate) fn drop_parts(&self, run: RunId) -> io::Result<()> {
        let _alone = self.stripe(run);
        dir::remove_dir(&self.parts(run))
    }

    /// Removes all artefacts of a job. Blocks.
    pub(crate) fn remove(&self, job: JobId) -> io::Result<()> {
        dir::remove_dir(&job_dir(&self.root, job))
    }

    /// Adds a piece to its temporary file; says how long that is then.
    fn add(&self, piece: &Piece, used: Used) -> Result<u64, PutError> {
        let end = piece.offset.saturating_add(piece.bytes.len() as u64);
        let Caps { bytes: max, run_bytes: run_max, count } = self.caps;
        if end > max || used.bytes.saturating_add(end) > run_max {
            return Err(PutError::TooLarge { max, run_max });
        }
        dir::ensure_durable_dir(&self.parts(piece.run))?;
        let path = self.part(piece);
        let is_new = !path.exists();
        let others = fs::read_dir(self.parts(piece.run))?.count() as u64;
        if is_new && used.count + others >= count {
            return Err(PutError::TooMany { max: count });
        }
        if is_new && piece.offset != 0 {
            return Err(PutError::Offset { have: 0, offset: piece.offset });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let have = file.metadata()?.len();
        if piece.offset == have {
            if let Err(error) = file.write_all_at(&piece.bytes, have) {
                file.set_len(have)?;
                return Err(error.into());
            }
            return Ok(end);
        }
        if end > have {
            let offset = piece.offset;
            return Err(PutError::Offset { have, offset });
        }
        // The answer to this piece was lost, so it comes again.
        let mut kept = vec![0; piece.bytes.len()];
        file.read_exact_at(&mut kept, piece.offset)?;
        if kept == piece.bytes { Ok(have) } else { Err(PutError::Differs) }
    }

    /// Makes the temporary file the artefact; gives its size and hash.
    fn complete(&self, piece: &Piece) -> Result<(u64, String), PutError> {
        let path = self.part(piece);
        let (bytes, found) = hash(&path)?;
        let is_wrong = |want: &String| !want.eq_ignore_ascii_case(&found);
        if piece.sha256.as_ref().is_some_and(is_wrong) {
            fs::remove_file(&path)?;
            return Err(PutError::Hash { found });
        }
        File::open(&path)?.sync_all()?;
        let to = self.file(piece.job, piece.id);
        let job = job_dir(&self.root, piece.job);
        if let Some(shard) = job.parent() {
            dir::ensure_durable_dir(shard)?;
        }
        dir::ensure_durable_dir(&job)?;
        fs::rename(&path, &to)?;
        dir::sync_parent(&to)?;
        Ok((bytes, found))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 128 * 1024];
    let mut bytes = 0;
    loop {
        let size = file.read(&mut piece)?;
        if size == 0 {
            return Ok((bytes, hex(&hasher.finalize())));
        }
        hasher.update(&piece[..size]);
        bytes += size as u64;
    }
}

/// What a run has left behind so far.
#[derive(Clone, Copy)]
struct Used {
    bytes: u64,
    count: u64,
}

enum Look {
    Going(Used),
    Complete { bytes: u64, sha256: String },
}

impl Db {
    /// Takes a piece; says how long the artefact is then.
    pub(crate) async fn put_piece(
        &self,
        files: &Artefacts,
        piece: Piece,
    ) -> Result<u64, PutError> {
        let (run, name) = (piece.run, piece.name.0.clone());
        let look = self.read(move |sql| look(sql, run, &name)).await?;
        let used = match look {
            Look::Going(used) => used,
            Look::Complete { bytes, sha256 } => {
                let end = piece.offset + piece.bytes.len() as u64;
                let is_same =
                    piece.sha256.as_ref().is_none_or(|s| *s == sha256);
                if is_same && end <= bytes {
                    return Ok(bytes);
                }
                return Err(PutError::Exists);
            }
        };
        let worker = files.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _alone = worker.stripe(piece.run);
            let length = worker.add(&piece, used)?;
            if !piece.is_last {
                return Ok((piece, length, None));
            }
            let whole = worker.complete(&piece)?;
            Ok::<_, PutError>((piece, length, Some(whole)))
        });
        let done = done.await.unwrap_or(Err(PutError::Fault(Fault::Closed)));
        let (piece, length, whole) = done?;
        let Some((bytes, sha256)) = whole else {
            return Ok(length);
        };
        let path = files.file(piece.job, piece.id);
        let kept =
            self.write(move |tx| insert(tx, &piece, bytes, &sha256)).await;
        if kept.is_err() {
            // Without its row the file would only go with its job.
            let removed =
                tokio::task::spawn_blocking(move || fs::remove_file(path));
            let _ = removed.await;
        }
        kept.map(|()| bytes)
    }

    /// The artefacts of a job.
    pub(crate) async fn artefacts(
        &self,
        job: JobId,
    ) -> Result<Vec<ArtefactView>, Fault> {
        self.read(move |sql| {
            let text = "SELECT artefacts.id, artefacts.run, name, bytes, sha256
                FROM artefacts JOIN jobs ON jobs.seq = artefacts.job
                WHERE jobs.id = ?1 ORDER BY artefacts.id";
            let mut query = sql.prepare_cached(text)?;
            let mut rows = query.query([&job.as_bytes()[..]])?;
            let mut views = Vec::new();
            while let Some(row) = rows.next()? {
                views.push(ArtefactView {
                    id: ArtefactId::of(&row.get::<_, Vec<u8>>(0)?)?,
                    run_id: RunId::of(&row.get::<_, Vec<u8>>(1)?)?,
                    name: row.get(2)?,
                    bytes: uint(row.get(3)?),
                    sha256: row.get(4)?,
                });
            }
            Ok(views)
        })
        .await
    }

    /// A piece of an artefact, and whether it reaches the end.
    pub(crate) async fn get_piece(
        &self,
        files: &Artefacts,
        id: ArtefactId,
        offset: u64,
        length: usize,
    ) -> Result<(Vec<u8>, bool), GetError> {
        let files = files.clone();
        self.read(move |sql| {
            let text = "SELECT jobs.id, bytes FROM artefacts
                JOIN jobs ON jobs.seq = artefacts.job
                WHERE artefacts.id = ?1";
            let found: Option<(Vec<u8>, i64)> = sql
                .prepare_cached(text)
                .and_then(|mut query| {
                    query
                        .query_row([&id.as_bytes()[..]], |row| {
                            Ok((row.get(0)?, row.get(1)?))
                        })
                        .optional()
                })
                .map_err(Fault::from)?;
            let (job, bytes) = found.ok_or(GetError::Unknown(id))?;
            let bytes = uint(bytes);
            let left = bytes.saturating_sub(offset);
            let size = usize::try_from(left).map_or(length, |l| l.min(length));
            let mut piece = vec![0; size];
            let file = File::open(files.file(JobId::of(&job)?, id))?;
            file.read_exact_at(&mut piece, offset.min(bytes))?;
            let is_last = offset.saturating_add(size as u64) >= bytes;
            Ok((piece, is_last))
        })
        .await
    }
}

fn look(
    sql: &rusqlite::Connection,
    run: RunId,
    name: &str,
) -> Result<Look, Fault> {
    let blob = &run.as_bytes()[..];
    let text =
        "SELECT bytes, sha256 FROM artefacts WHERE run = ?1 AND name = ?2";
    let done: Option<(i64, String)> = sql
        .prepare_cached(text)?
        .query_row(params![blob, name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((bytes, sha256)) = done {
        return Ok(Look::Complete { bytes: uint(bytes), sha256 });
    }
    let text = "SELECT coalesce(sum(bytes), 0), count(*) FROM artefacts
        WHERE run = ?1";
    let (bytes, count): (i64, i64) = sql
        .prepare_cached(text)?
        .query_row([blob], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Look::Going(Used { bytes: uint(bytes), count: uint(count) }))
}

fn insert(
    tx: &mut Tx<'_>,
    piece: &Piece,
    bytes: u64,
    sha256: &str,
) -> Result<(), PutError> {
    let insert = || -> Result<usize, Fault> {
        let text = "INSERT INTO artefacts
            SELECT ?1, seq, ?2, ?3, ?4, ?5 FROM jobs
            WHERE run = ?2 AND lease = ?6 AND id = ?7";
        Ok(tx.sql.prepare_cached(text)?.execute(params![
            &piece.id.as_bytes()[..],
            &piece.run.as_bytes()[..],
            piece.name.0,
            int(bytes),
            sha256,
            int(piece.lease.0),
            &piece.job.as_bytes()[..],
        ])?)
    };
    match insert()? {
        0 => Err(PutError::Fenced(piece.run)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\\..\\b",
            "a\nb",
            "a\0b",
            "a\u{202e}b",
            "a\u{1b}[2J",
        ] {
            assert_eq!(bad.parse::<ArtefactName>(), Err(BadName), "{bad:?}");
        }
        assert!("x".repeat(256).parse::<ArtefactName>().is_err());
        for good in ["a", "-rf", "a/b.txt", ".ssh/x", "é", "CON"] {
            assert!(good.parse::<ArtefactName>().is_ok(), "{good}");
        }
    }
}
