//! A zone on disk: its files, and whether it is alive.
//!
//! `manifest.json` is what was asked for; `state.json` is what a rollback
//! changes (generation, layers, snapshots, metadata), replaced whole in one
//! rename, so that a crash leaves the old state or the new one; `autoboot` is
//! a word; `run.json` exists while the zone is up, and is believed only after
//! a look at the processes that it names.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cgroup::Group;
use crate::clock::Deadline;
use crate::durable::{self, Keep};
use crate::names::{SnapshotName, ZoneId};
use crate::place::Place;

/// Longest wait for another command that works on the same zone.
const LOCK_WAIT: Duration = Duration::from_secs(300);

/// Longest wait for a keeper that is booting or cleaning up.
const KEEPER_WAIT: Duration = Duration::from_secs(15);

/// An operation on a zone's files that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZoneError {
    /// There is no such zone.
    #[error("VM {0} not found")]
    Gone(ZoneId),
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has no sense in it.
    #[error("cannot make sense of {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another command holds the zone.
    #[error("zone {0} was locked by another command for too long")]
    Locked(ZoneId),
}

/// Which of a zone's locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// Changes of the files: snapshots, update.
    Config,
    /// Halting, rolling back, booting.
    Power,
}

/// A lock that ends with this value, or with the process.
#[derive(Debug)]
pub(crate) struct ZoneLock {
    _file: File,
}

/// What a rollback brings back, beside the files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// Set by the operator, and from inside by mdata-put.
    #[serde(default)]
    pub customer_metadata: Map<String, Value>,
    /// Set by the operator only.
    #[serde(default)]
    pub internal_metadata: Map<String, Value>,
    /// Free marks.
    #[serde(default)]
    pub tags: Map<String, Value>,
    /// Static routes.
    #[serde(default)]
    pub routes: Map<String, Value>,
}

/// One snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Order among those made in the same moment.
    pub serial: u64,
    /// Bytes of its newest layer.
    pub bytes: u64,
    /// Its layers, lowest first.
    pub layers: Vec<String>,
    /// The metadata at that time.
    pub metadata: Metadata,
}

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Which `gen-N` is the writable one.
    pub generation: u64,
    /// Count of snapshots ever made; names layers.
    pub serial: u64,
    /// Layers below the generation, lowest first, without the image.
    pub layers: Vec<String>,
    /// Newest last.
    pub snapshots: Vec<Snapshot>,
    /// The live metadata.
    pub metadata: Metadata,
    /// The generation whose writable layer becomes the topmost layer; a
    /// promise until the rename is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// Why the zone is `failed`, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Disk {
    /// The state of a zone that was just created.
    pub(crate) fn new(metadata: Metadata) -> Disk {
        Disk {
            generation: 1,
            serial: 0,
            layers: Vec::new(),
            snapshots: Vec::new(),
            metadata,
            pending: None,
            failed: None,
        }
    }

    /// A snapshot by name.
    pub(crate) fn snapshot(&self, name: &SnapshotName) -> Option<&Snapshot> {
        self.snapshots.iter().find(|one| one.name == *name)
    }

    /// The state after a rollback: layers and metadata as they were, a new
    /// generation, and no newer snapshot.
    pub(crate) fn rolled_back(&self, name: &SnapshotName) -> Option<Disk> {
        let at = self.snapshots.iter().position(|one| one.name == *name)?;
        let target = &self.snapshots[at];
        Some(Disk {
            generation: self.generation + 1,
            serial: self.serial,
            layers: target.layers.clone(),
            snapshots: self.snapshots[..=at].to_vec(),
            metadata: target.metadata.clone(),
            pending: None,
            failed: self.failed.clone(),
        })
    }

    /// Each layer that something still needs.
    pub(crate) fn needed(&self) -> Vec<&str> {
        let of_snapshots = self.snapshots.iter().flat_map(|one| &one.layers);
        let mut all: Vec<&str> = self
            .layers
            .iter()
            .chain(of_snapshots)
            .map(String::as_str)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A process, named so that a reused pid is not taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its pid on the host.
    pub pid: i32,
    /// Its start, in clock ticks since the machine booted.
    pub started: u64,
}

impl Process {
    /// Names a living process.
    pub(crate) fn of(pid: i32) -> Option<Process> {
        let started = started(pid)?;
        Some(Process { pid, started })
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Start time of a process that is not a zombie.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    // Field 22 of proc(5); the state was field 3.
    fields.nth(18)?.parse().ok()
}

/// How each limit is enforced in a boot; the words of `vmadm get`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Means {
    /// `cgroup`, `watched` or `none`.
    pub memory: String,
    /// `cgroup` or `none`.
    pub cpu: String,
    /// `cgroup`, `pid_max`, `rlimit` or `none`.
    pub pids: String,
    /// `watched`, `tmpfs` or `none`.
    pub disk: String,
}

/// `run.json`: the present boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Random, new at each boot of the zone.
    pub boot_id: String,
    /// The boot of the machine in which it happened.
    pub machine: String,
    /// Counts up with each boot.
    pub zoneid: u64,
    /// Which generation is mounted.
    pub generation: u64,
    /// When, milliseconds since 1970.
    pub booted_ms: u64,
    /// Until then zlogin is refused (a fault for tests).
    pub ready_ms: u64,
    /// The host-side parent.
    pub keeper: Process,
    /// The zone's process 1.
    pub init: Process,
    /// `range` or `single`.
    pub userns: String,
    /// How the writable layer is mounted.
    pub overlay: String,
    /// `host` or `none`.
    pub network: String,
    /// How limits are enforced.
    pub limits: Means,
    /// Sentences on each weaker means.
    pub notes: Vec<String>,
    /// The zone's cgroups.
    pub cgroups: Vec<Group>,
}

/// The id of this boot of the machine.
pub(crate) fn machine_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

impl Run {
    /// Whether process 1 of that boot still lives.
    pub(crate) fn alive(&self) -> bool {
        self.machine == machine_boot() && self.init.alive()
    }
}

/// A zone that exists.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    /// Where all is.
    pub place: Place,
    /// Which one.
    pub id: ZoneId,
}

impl Zone {
    /// Finds a zone.
    pub(crate) fn find(place: &Place, id: &ZoneId) -> Result<Zone, ZoneError> {
        let zone = Zone { place: place.clone(), id: id.clone() };
        if zone.dir().join("manifest.json").exists() {
            return Ok(zone);
        }
        Err(ZoneError::Gone(id.clone()))
    }

    /// All zones, by id.
    pub(crate) fn all(place: &Place) -> Result<Vec<Zone>, ZoneError> {
        let path = place.zones();
        let failed = |source| ZoneError::File {
            doing: "list",
            path: path.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| ZoneId::parse(name).ok());
            let zone = id.and_then(|id| Zone::find(place, &id).ok());
            found.extend(zone);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The zone's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.place.zone(&self.id)
    }

    /// Where a tracer listens that wants the job's first process to open
    /// its events.
    pub(crate) fn tracer_socket(&self) -> PathBuf {
        self.dir().join("tracer")
    }

    /// The directory of a generation.
    pub(crate) fn generation(&self, number: u64) -> PathBuf {
        self.dir().join(format!("gen-{number}"))
    }

    /// Takes one of the zone's locks, waiting for others.
    pub(crate) fn lock(&self, kind: LockKind) -> Result<ZoneLock, ZoneError> {
        let file = self.open_lock(kind)?;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let pause = Duration::from_millis(3);
        let got = Deadline::after(LOCK_WAIT)
            .wait_until(pause, || rustix::fs::flock(&file, exclusive).is_ok());
        if !got {
            return Err(ZoneError::Locked(self.id.clone()));
        }
        // Deleted while we waited: the lock is on a file in the trash.
        Zone::find(&self.place, &self.id)?;
        if kind == LockKind::Power {
            self.await_keeper();
        }
        Ok(ZoneLock { _file: file })
    }

    /// Takes one of the zone's locks if nobody has it.
    pub(crate) fn try_lock(
        &self,
        kind: LockKind,
    ) -> Result<Option<ZoneLock>, ZoneError> {
        let file = self.open_lock(kind)?;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let got = rustix::fs::flock(&file, exclusive).is_ok();
        Ok(got.then_some(ZoneLock { _file: file }))
    }

    fn open_lock(&self, kind: LockKind) -> Result<File, ZoneError> {
        let path = self.dir().join(match kind {
            LockKind::Config => "lock",
            LockKind::Power => "power",
        });
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => ZoneError::Gone(self.id.clone()),
                _ => ZoneError::File { doing: "lock", path, source },
            })
    }

    /// Waits while a keeper is between two states: one whose command was
    /// killed is still booting, or one whose zone died is still cleaning up.
    fn await_keeper(&self) {
        let Ok(file) = File::open(self.dir().join("alive")) else { return };
        let shared = FlockOperation::NonBlockingLockShared;
        let pause = Duration::from_millis(2);
        // Past the deadline the next step fails and says why.
        Deadline::after(KEEPER_WAIT).wait_until(pause, || {
            self.run().is_some() || rustix::fs::flock(&file, shared).is_ok()
        });
    }

    fn load<T: for<'a> Deserialize<'a>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ZoneError> {
        let path = self.dir().join(name);
        let content = match durable::read(&path) {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(None),
            Err(source) => {
                return Err(ZoneError::File { doing: "read", path, source });
            }
        };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|source| ZoneError::Content { path, source })
    }

    fn save(
        &self,
        name: &str,
        value: &impl Serialize,
        keep: Keep,
    ) -> Result<(), ZoneError> {
        let path = self.dir().join(name);
        let mut text = serde_json::to_vec_pretty(value).map_err(|source| {
            ZoneError::Content { path: path.clone(), source }
        })?;
        text.push(b'\n');
        durable::replace(&self.dir(), name, &text, keep)
            .map_err(|source| ZoneError::File { doing: "write", path, source })
    }

    /// What was asked for.
    pub(crate) fn manifest(&self) -> Result<Map<String, Value>, ZoneError> {
        self.load("manifest.json")?
            .ok_or_else(|| ZoneError::Gone(self.id.clone()))
    }

    /// Changes what is asked for.
    pub(crate) fn save_manifest(
        &self,
        manifest: &Map<String, Value>,
    ) -> Result<(), ZoneError> {
        self.save("manifest.json", manifest, Keep::Machine)
    }

    /// What a rollback changes.
    pub(crate) fn disk(&self) -> Result<Disk, ZoneError> {
        self.load("state.json")?.ok_or_else(|| ZoneError::Gone(self.id.clone()))
    }

    /// Changes it, in one step.
    pub(crate) fn save_disk(&self, disk: &Disk) -> Result<(), ZoneError> {
        self.save("state.json", disk, Keep::Machine)
    }

    /// Changes it so that a crash of the machine leaves the old state or the
    /// new one; the caller keeps all that the old one names.
    pub(crate) fn save_disk_lazily(
        &self,
        disk: &Disk,
    ) -> Result<(), ZoneError> {
        self.save("state.json", disk, Keep::Either)
    }

    /// The present boot as recorded, dead or alive.
    pub(crate) fn recorded_run(&self) -> Option<Run> {
        self.load("run.json").ok().flatten()
    }

    /// The present boot, if the zone is up.
    pub(crate) fn run(&self) -> Option<Run> {
        self.recorded_run().filter(Run::alive)
    }

    /// Records a boot.
    pub(crate) fn save_run(&self, run: &Run) -> Result<(), ZoneError> {
        self.save("run.json", run, Keep::Process)
    }

    /// Whether it is to be up.
    pub(crate) fn autoboot(&self) -> bool {
        let word = std::fs::read(self.dir().join("autoboot"));
        word.is_ok_and(|word| word.starts_with(b"true"))
    }

    /// Says whether it is to be up.
    pub(crate) fn set_autoboot(&self, yes: bool) -> Result<(), ZoneError> {
        let word: &[u8] = if yes { b"true\n" } else { b"false\n" };
        let path = self.dir().join("autoboot");
        if std::fs::read(&path).is_ok_and(|old| old == word) {
            return Ok(());
        }
        durable::replace(&self.dir(), "autoboot", word, Keep::Process)
            .map_err(|source| ZoneError::File { doing: "write", path, source })
    }

    /// Reads one of the small JSON files beside the others.
    pub(crate) fn note<T: for<'a> Deserialize<'a>>(
        &self,
        name: &str,
    ) -> Option<T> {
        self.load(name).ok().flatten()
    }

    /// Writes one of the small JSON files beside the others.
    pub(crate) fn save_note(
        &self,
        name: &str,
        value: &impl Serialize,
    ) -> Result<(), ZoneError> {
        self.save(name, value, Keep::Process)
    }
}
