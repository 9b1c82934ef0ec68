//! Snapshots of a zone's files, and going back to one.
//!
//! The writable layer of a stopped zone becomes a layer by a rename; that of
//! a running one is copied. What a snapshot is made of is said by
//! `state.json` alone: it is written first, and a rename that a crash cut
//! off is made up for from it (`settle`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::clock;
use crate::copy;
use crate::names::SnapshotName;
use crate::spec::{Spec, Upper};
use crate::trash;
use crate::watch;
use crate::zone::{Disk, Snapshot, Zone, ZoneError};

/// A snapshot that could not be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The zone's files.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// Layers could not be moved.
    #[error("cannot keep {}: {source}", path.display())]
    Layer {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in memory cannot be kept.
    #[error("the writable layer is in memory; stop the zone first")]
    InMemory,
}

fn layer(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Layer { path, source }
}

/// Makes a snapshot. The caller holds both locks and knows that the name is
/// free.
pub(crate) fn create(
    zone: &Zone,
    name: &SnapshotName,
) -> Result<(), SnapshotError> {
    let mut disk = zone.disk()?;
    settle(zone, &disk)?;
    disk.serial += 1;
    let id = format!("{}.{}", zone.id, disk.serial);
    let mut layers = disk.layers.clone();
    let running = zone.run().is_some();
    let up = zone.generation(disk.generation).join("up");
    let manifest = zone.manifest()?;
    let spec = Spec::of(&manifest, &disk.metadata.internal_metadata);
    let mut bytes = 0;
    match spec.upper {
        Upper::Tmpfs if running => return Err(SnapshotError::InMemory),
        Upper::Tmpfs => {}
        Upper::Disk if running => {
            bytes = size(&up);
            copy_layer(zone, &up, &id)?;
            layers.push(id);
        }
        Upper::Disk if up.is_dir() => {
            bytes = size(&up);
            // A volatile overlay never synced what was written through it.
            if let Ok(dir) = fs::File::open(&up) {
                rustix::fs::syncfs(dir)
                    .map_err(|error| layer(&up)(error.into()))?;
            }
            layers.push(id.clone());
            disk.pending = Some(disk.generation);
            disk.generation += 1;
            disk.layers.clone_from(&layers);
        }
        Upper::Disk => {}
    }
    disk.snapshots.push(Snapshot {
        name: name.clone(),
        created_ms: clock::now_ms(),
        serial: disk.serial,
        bytes,
        layers,
        metadata: disk.metadata.clone(),
    });
    zone.save_disk(&disk)?;
    settle(zone, &disk)?;
    Ok(())
}

fn size(up: &Path) -> u64 {
    fs::File::open(up).map_or(0, |dir| watch::size_of_tree(&dir.into()))
}

fn copy_layer(zone: &Zone, up: &Path, id: &str) -> Result<(), SnapshotError> {
    let layers = zone.place.layers();
    let draft = layers.join(format!("{id}.draft"));
    let done = layers.join(id);
    copy::tree(up, &draft).map_err(layer(&draft))?;
    let dir = fs::File::open(&draft).map_err(layer(&draft))?;
    rustix::fs::syncfs(dir).map_err(|error| layer(&draft)(error.into()))?;
    fs::rename(&draft, &done).map_err(layer(&done))
}

/// Makes up for a rename that `state.json` promises and a crash prevented.
pub(crate) fn settle(zone: &Zone, disk: &Disk) -> Result<(), SnapshotError> {
    let (Some(from), Some(id)) = (disk.pending, disk.layers.last()) else {
        return Ok(());
    };
    let done = zone.place.layers().join(id);
    let up = zone.generation(from).join("up");
    if done.is_dir() || !up.is_dir() {
        return Ok(());
    }
    fs::rename(&up, &done).map_err(layer(&done))?;
    trash::discard(&zone.place, &zone.generation(from))
        .map_err(layer(&zone.generation(from)))
}

/// Goes back to a snapshot. The zone is down and the caller holds its locks.
pub(crate) fn rollback(
    zone: &Zone,
    name: &SnapshotName,
) -> Result<(), SnapshotError> {
    let disk = zone.disk()?;
    settle(zone, &disk)?;
    let back = disk
        .rolled_back(name)
        .ok_or_else(|| ZoneError::Gone(zone.id.clone()))?;
    let needed = back.needed();
    let dropped: Vec<&str> =
        disk.needed().into_iter().filter(|id| !needed.contains(id)).collect();
    // Where no layer goes, the old state is as good after a crash: its
    // generation was in use and is dropped then.
    if dropped.is_empty() && disk.snapshots.len() == back.snapshots.len() {
        zone.save_disk_lazily(&back)?;
    } else {
        zone.save_disk(&back)?;
    }
    let old = zone.generation(disk.generation);
    trash::discard(&zone.place, &old).map_err(layer(&old))?;
    for id in dropped {
        let path = zone.place.layers().join(id);
        trash::discard(&zone.place, &path).map_err(layer(&path))?;
    }
    Ok(())
}

/// Forgets a snapshot. The caller holds the locks.
pub(crate) fn delete(
    zone: &Zone,
    name: &SnapshotName,
) -> Result<(), SnapshotError> {
    let mut disk = zone.disk()?;
    settle(zone, &disk)?;
    let before: Vec<String> =
        disk.needed().into_iter().map(str::to_owned).collect();
    disk.snapshots.retain(|one| one.name != *name);
    zone.save_disk(&disk)?;
    let after = disk.needed();
    for id in before.iter().filter(|id| !after.contains(&id.as_str())) {
        let path = zone.place.layers().join(id);
        trash::discard(&zone.place, &path).map_err(layer(&path))?;
    }
    Ok(())
}
