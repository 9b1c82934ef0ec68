//! Files that the runner itself makes of a run, until they are sent.
//!
//! Bounded: what does not fit is not kept, and that is said. They are sent
//! when the command is over, so that no upload stands between a command and
//! its clocks.

use std::sync::{Mutex, MutexGuard};

use super::chain;
use crate::uplink::RunOut;

/// Bytes of one run at most.
const MOST: usize = 192 << 20;

/// Files on their way.
#[derive(Debug, Default)]
pub(super) struct Keepsakes {
    files: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Keepsakes {
    fn files(&self) -> MutexGuard<'_, Vec<(String, Vec<u8>)>> {
        self.files.lock().expect("no holder of this lock panics")
    }

    /// Keeps a file; false if there is no room for it.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) -> bool {
        let mut files = self.files();
        let used: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let fits = used + bytes.len() <= MOST;
        if fits {
            files.push((name.to_owned(), bytes));
        }
        fits
    }

    /// Whether a file of that name is kept.
    #[cfg(test)]
    pub(super) fn has(&self, name: &str) -> bool {
        self.files().iter().any(|(kept, _)| kept == name)
    }

    /// Sends all of them; answers which were not taken, and why.
    pub(super) async fn send(&self, out: &RunOut) -> Vec<(String, String)> {
        let files = std::mem::take(&mut *self.files());
        let mut missing = Vec::new();
        for (name, bytes) in files {
            if let Err(error) = out.artefact(&name, &bytes[..]).await {
                missing.push((name, chain(&error)));
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let keepsakes = Keepsakes::default();
        assert!(keepsakes.put("a", vec![0; MOST]));
        assert!(!keepsakes.put("b", vec![0]));
        assert!(keepsakes.put("c", Vec::new()));
    }
}
