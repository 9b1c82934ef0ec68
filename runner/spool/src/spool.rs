//! All spools of a runner: one directory with one bound.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ntrace_protocol::RunId;

use crate::SpoolError;
use crate::meta::RunMeta;
use crate::run::{GONE, RunSpool};

/// The bounds of a spool.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment that is this long is followed by a new one.
    pub segment_bytes: u64,
    /// While more than this is on disk, writers are to wait.
    pub bound: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, bound: 4 << 30 }
    }
}

/// All spools of a runner; cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: Arc<Path>,
    options: Options,
    used: Arc<AtomicU64>,
}

/// A run of a former life.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// Its spool.
    pub run: RunSpool,
    /// Whether its end was written; if not, it is to be given one.
    pub ended: bool,
    /// Whether a torn or damaged tail was cut off.
    pub cut: bool,
}

/// A spool that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The spool.
    pub spool: Spool,
    /// The runs of a former life.
    pub leftovers: Vec<Leftover>,
    /// What is in the directory and cannot be read; it is left alone.
    pub strange: Vec<PathBuf>,
}

impl Spool {
    /// Opens a directory, and takes up what a former life left in it. Only
    /// one process may do so at a time.
    ///
    /// # Errors
    /// The disk refused.
    pub fn open(dir: &Path, options: Options) -> Result<Opened, SpoolError> {
        fs::create_dir_all(dir).map_err(SpoolError::io("create", dir))?;
        let used = Arc::new(AtomicU64::new(0));
        let spool = Self { dir: dir.into(), options, used };
        let mut opened = Opened { spool, leftovers: vec![], strange: vec![] };
        let list = || SpoolError::io("list", dir);
        for entry in fs::read_dir(dir).map_err(list())? {
            opened.take_up(entry.map_err(list())?.path())?;
        }
        // Oldest first: the identities sort by time.
        opened.leftovers.sort_by_key(|left| left.run.meta().run_id);
        Ok(opened)
    }

    /// Begins a run's spool. What is written here is synced.
    ///
    /// # Errors
    /// The run has a spool already, or the disk refused.
    pub fn begin(&self, meta: RunMeta) -> Result<RunSpool, SpoolError> {
        let segment_bytes = self.options.segment_bytes;
        RunSpool::create(&self.dir, meta, segment_bytes, &self.used)
    }

    /// Bytes on disk, over all runs.
    pub fn unacked_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more output may be appended; if not, wait until something was
    /// acknowledged. Events and ends are always let in.
    pub fn has_room(&self) -> bool {
        self.unacked_bytes() < self.options.bound
    }
}

impl Opened {
    fn take_up(&mut self, path: PathBuf) -> Result<(), SpoolError> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        if name.starts_with(GONE) {
            return fs::remove_dir_all(&path)
                .map_err(SpoolError::io("remove", &path));
        }
        let Ok(run_id) = name.parse::<RunId>() else {
            self.strange.push(path);
            return Ok(());
        };
        let meta = RunMeta::read(&path).filter(|m| m.run_id == run_id);
        let Some(meta) = meta else {
            // Before the first file is complete nothing was run; anything
            // more is not ours to judge.
            if !has_segments(&path) {
                return fs::remove_dir_all(&path)
                    .map_err(SpoolError::io("remove", &path));
            }
            self.strange.push(path);
            return Ok(());
        };
        let spool = &self.spool;
        let bytes = spool.options.segment_bytes;
        let (run, cut) = RunSpool::recover(path, meta, bytes, &spool.used)?;
        let ended = run.is_ended();
        self.leftovers.push(Leftover { run, ended, cut });
        Ok(())
    }
}

fn has_segments(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|e| {
            e.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "seg"))
        })
    })
}
