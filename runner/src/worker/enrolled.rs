//! The workers that were enrolled, on disk.
//!
//! One small JSON file, replaced as a whole, synced before an answer.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ntrace_protocol::{Label, WorkerUuid};
use serde::{Deserialize, Serialize};

use crate::job::Baseline;

/// The file's name in the runner's data directory.
const NAME: &str = "workers.json";

/// One enrolled worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Enrolled {
    /// The VM.
    pub(super) uuid: WorkerUuid,
    /// The snapshot to which it is rolled back.
    pub(super) snapshot: String,
    /// Words that the operator attached.
    #[serde(default)]
    pub(super) labels: Vec<Label>,
    /// The VM's own limits, before any job changed them.
    #[serde(default)]
    pub(super) baseline: Option<Baseline>,
}

/// Who is enrolled in a data directory, and the snapshot of each.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn enrolled(
    data: &Path,
) -> Result<Vec<(WorkerUuid, String)>, EnrolledError> {
    let all = EnrolledFile::new(data).load()?;
    Ok(all.into_iter().map(|one| (one.uuid, one.snapshot)).collect())
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EnrolledError {
    /// The system failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what we wrote.
    #[error("{path} is damaged; mend it or move it away and enroll again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The file.
#[derive(Debug)]
pub(super) struct EnrolledFile {
    path: PathBuf,
}

impl EnrolledFile {
    /// The file of a data directory.
    pub(super) fn new(data: &Path) -> Self {
        Self { path: data.join(NAME) }
    }

    fn failed(
        &self,
        what: &'static str,
    ) -> impl FnOnce(io::Error) -> EnrolledError {
        let path = self.path.clone();
        move |source| EnrolledError::Io { what, path, source }
    }

    /// What was enrolled; nothing if there is no file yet.
    pub(super) fn load(&self) -> Result<Vec<Enrolled>, EnrolledError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(self.failed("read")(error)),
        };
        serde_json::from_slice(&text).map_err(|source| EnrolledError::Damaged {
            path: self.path.clone(),
            source,
        })
    }

    /// Replaces what was enrolled; on disk when it returns.
    pub(super) fn save(
        &self,
        workers: &[Enrolled],
    ) -> Result<(), EnrolledError> {
        let text = serde_json::to_vec_pretty(workers)
            .expect("plain names and numbers are JSON");
        let next = self.path.with_extension("json.new");
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&next, &self.path)?;
            let parent = self.path.parent().unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()
        };
        write().map_err(self.failed("write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = EnrolledFile::new(dir.path());
        assert_eq!(file.load().unwrap(), []);
        let worker = Enrolled {
            uuid: "c0ffee00-1111-4222-8333-444455556666".parse().unwrap(),
            snapshot: "clean".to_owned(),
            labels: vec!["fast".parse().unwrap()],
            baseline: Some(Baseline::default()),
        };
        file.save(std::slice::from_ref(&worker)).unwrap();
        assert_eq!(file.load().unwrap(), [worker]);
        fs::write(dir.path().join(NAME), "{").unwrap();
        assert!(matches!(file.load(), Err(EnrolledError::Damaged { .. })));
    }
}
