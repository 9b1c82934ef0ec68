//! Upkeep of one mirror: few packs and few refs, however many fetches.
//!
//! Each fetch leaves a pack and a ref, and git slows down with both. Must
//! hold the mirror's lock. Removes no object: a commit whose ref was dropped
//! is only asked for again.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::git::{Git, GitError};
use crate::mirror::Mirror;

/// More packs than this are put together.
const PACKS: usize = 40;
/// More commits than this are not remembered; the latest fetched stay.
const PINS: usize = 2000;
/// Others who want to fetch wait for so long at most.
const TIME: Duration = Duration::from_secs(60);

/// Why a mirror could not be kept up. It works all the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpkeepError {
    #[error("cannot look through the mirror")]
    Disk(#[from] io::Error),
    #[error("cannot put its packs together")]
    Git(#[from] GitError),
}

/// Whether there is anything to do.
pub(crate) fn is_due(mirror: &Mirror) -> io::Result<bool> {
    Ok(packs(mirror)? > PACKS || pins(mirror)?.len() > PINS)
}

/// Does it.
pub(crate) async fn keep_up(
    git: &Git,
    mirror: &Mirror,
) -> Result<(), UpkeepError> {
    let mut pins = pins(mirror)?;
    pins.sort_unstable();
    let over = pins.len().saturating_sub(PINS);
    for (_, path) in &pins[..over] {
        fs::remove_file(path)?;
    }
    if packs(mirror)? > PACKS {
        // Puts small packs together and leaves large ones alone.
        let args = ["repack", "--geometric=2", "-d", "-q", "-n", "--threads=1"];
        let deadline = Instant::now() + TIME;
        git.run(&mirror.path, &args, 1 << 16, deadline).await?;
    }
    Ok(())
}

fn packs(mirror: &Mirror) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(mirror.path.join("objects/pack"))? {
        let name = entry?.file_name();
        count += usize::from(name.to_string_lossy().ends_with(".pack"));
    }
    Ok(count)
}

fn pins(mirror: &Mirror) -> io::Result<Vec<(SystemTime, std::path::PathBuf)>> {
    fs::read_dir(mirror.path.join("refs/ntrace"))?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.modified()?, entry.path()))
        })
        .collect()
}
