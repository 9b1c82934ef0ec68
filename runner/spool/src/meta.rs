//! Whose a spool directory is: written and synced before anything else.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use ntrace_protocol::runner::Held;
use ntrace_protocol::{JobId, Lease, RunId};
use serde::{Deserialize, Serialize};

use crate::SpoolError;

const NAME: &str = "meta.json";

/// The longest file that is taken for one.
const MAX_BYTES: u64 = 4096;

/// Whose a spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunMeta {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run_id: RunId,
    /// Its fencing number.
    pub lease: Lease,
}

impl RunMeta {
    /// The run as the dispatcher knows it.
    pub fn held(&self) -> Held {
        Held { run_id: self.run_id, lease: self.lease }
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), SpoolError> {
        let text = serde_json::to_vec(self)
            .expect("three identities can be written as JSON");
        let (new, path) = (dir.join("meta.new"), dir.join(NAME));
        let io = SpoolError::io("write", &path);
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(io)
    }

    /// What the directory says of itself; none where nothing (readable) is.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(NAME);
        if fs::metadata(&path).ok()?.len() > MAX_BYTES {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}
