//! A worker in our hands: the stages of its reset, one lock per VM.
//!
//! vmadm's own locks do not cover a rollback, so whoever acts on a VM holds
//! a [`Worker`], and there is one at a time per VM: taken before the first
//! stage and kept until the job's end. Each stage looks, acts, looks again
//! and may be repeated. Which stage comes when, and how often, is the
//! agent's to decide; must not know jobs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::carrier::Carrier;
use crate::class::{Class, Remedy};
use crate::inside::Inside;
use crate::name::{SnapshotName, WorkerUuid};
use crate::probe::{self, ProbeError};
use crate::vm::{Boot, Snapshot, Vm, VmState};
use crate::vmadm::{VmLimits, Vmadm, VmadmError};

/// Pauses between two looks at a VM that is on its way.
const LOOK: Pauses =
    Pauses { first: Duration::from_millis(5), most: Duration::from_secs(1) };

/// Growing pauses of a poll.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

impl Pauses {
    /// Waits the pause, but not past the deadline; gives the next pause, or
    /// None when the deadline has passed.
    pub(crate) async fn wait(
        self,
        pause: Duration,
        deadline: Instant,
    ) -> Option<Duration> {
        if Instant::now() + pause >= deadline {
            sleep_until(deadline).await;
            return None;
        }
        sleep(pause).await;
        Some((pause * 2).min(self.most))
    }
}

/// All workers of one global zone: makes sure that each is in one pair of
/// hands.
#[derive(Debug, Clone)]
pub struct Driver {
    vmadm: Vmadm,
    locks: Arc<Mutex<HashMap<WorkerUuid, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Driver {
    /// A driver over this carrier. Two drivers of one global zone know
    /// nothing of each other: have one.
    #[must_use]
    pub fn new(carrier: Arc<Carrier>) -> Self {
        Self { vmadm: Vmadm::new(carrier), locks: Arc::default() }
    }

    /// vmadm, for questions that need no lock.
    #[must_use]
    pub fn vmadm(&self) -> &Vmadm {
        &self.vmadm
    }

    /// Takes a worker in hand, waiting for whoever has it. None: still in
    /// other hands at the deadline.
    pub async fn take(
        &self,
        uuid: WorkerUuid,
        deadline: Instant,
    ) -> Option<Worker> {
        let lock = {
            let mut locks = self
                .locks
                .lock()
                .expect("nobody panics while holding the table of locks");
            // Those that nobody holds or waits for need no entry.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(uuid).or_default())
        };
        let guard = timeout_at(deadline, lock.lock_owned()).await.ok()?;
        Some(Worker { uuid, vmadm: self.vmadm.told_apart(), _guard: guard })
    }
}

/// Why a stage of a reset failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// vmadm failed, and the VM does not show the change.
    #[error("cannot {stage} worker {worker}")]
    Vmadm {
        /// What was tried.
        stage: &'static str,
        /// On which VM.
        worker: WorkerUuid,
        /// Why it failed.
        source: VmadmError,
    },
    /// The snapshot is not there.
    #[error(
        "worker {worker} has no snapshot {snapshot}; make it with vmadm create-snapshot {worker} {snapshot}"
    )]
    NoSnapshot {
        /// Which VM.
        worker: WorkerUuid,
        /// The snapshot that was asked for.
        snapshot: SnapshotName,
    },
    /// A kind of state out of which the driver cannot help a VM.
    #[error("worker {worker} is {state}, which only an operator can mend")]
    Broken {
        /// Which VM.
        worker: WorkerUuid,
        /// Its state.
        state: VmState,
    },
    /// vmadm reported a rollback that the VM does not show.
    #[error("vmadm reported a rollback of worker {worker}, but {found}")]
    NotRolledBack {
        /// Which VM.
        worker: WorkerUuid,
        /// What it shows.
        found: String,
    },
    /// The VM did not come up in time.
    #[error("worker {worker} did not boot in time: it is {state}")]
    NotBooted {
        /// Which VM.
        worker: WorkerUuid,
        /// Its state at the deadline.
        state: VmState,
    },
    /// Someone rebooted, halted or rolled the VM back.
    #[error("someone else acted on worker {worker}: {found}")]
    Touched {
        /// Which VM.
        worker: WorkerUuid,
        /// What gives it away.
        found: String,
    },
}

impl StageError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Vmadm { source, .. } => source.remedy(),
            Self::NoSnapshot { .. } => Remedy::Permanent,
            Self::Broken { .. } => Remedy::Operator,
            Self::NotRolledBack { .. }
            | Self::NotBooted { .. }
            | Self::Touched { .. } => Remedy::Retry,
        }
    }
}

/// What a rollback did.
#[derive(Debug, Clone, PartialEq)]
pub struct RolledBack {
    /// The boot before it, if the VM was up.
    pub before: Option<Boot>,
    /// Snapshots that were newer than the one rolled back to, and are gone.
    pub lost: Vec<Snapshot>,
}

/// A worker in our hands. Dropping it lets others take it.
#[derive(Debug)]
pub struct Worker {
    uuid: WorkerUuid,
    vmadm: Vmadm,
    _guard: OwnedMutexGuard<()>,
}

impl Worker {
    /// Which VM it is.
    #[must_use]
    pub fn uuid(&self) -> WorkerUuid {
        self.uuid
    }

    /// What the stage that is under way waits for, in words: a command that
    /// has not ended, or the last of its tries. None between stages.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        self.vmadm.doing().words()
    }

    fn failed(
        &self,
        stage: &'static str,
    ) -> impl FnOnce(VmadmError) -> StageError + use<> {
        let worker = self.uuid;
        move |source| StageError::Vmadm { stage, worker, source }
    }

    /// The VM as it is now.
    ///
    /// # Errors
    /// When vmadm fails.
    pub async fn look(&self, deadline: Instant) -> Result<Vm, StageError> {
        self.vmadm
            .get(self.uuid, deadline)
            .await
            .map_err(self.failed("look at"))
    }

    /// The way to the VM's global zone.
    #[must_use]
    pub fn carrier(&self) -> &Arc<Carrier> {
        self.vmadm.carrier()
    }

    /// All that vmadm prints of the VM now, for whoever knows more of a
    /// stand-in than this driver.
    ///
    /// # Errors
    /// When vmadm fails.
    pub async fn object(
        &self,
        deadline: Instant,
    ) -> Result<serde_json::Value, StageError> {
        self.vmadm
            .object(self.uuid, deadline)
            .await
            .map_err(self.failed("look at"))
    }

    /// Changes limits of the VM.
    ///
    /// # Errors
    /// When vmadm fails or the VM does not show them.
    pub async fn limit(
        &self,
        limits: VmLimits,
        deadline: Instant,
    ) -> Result<Vm, StageError> {
        self.vmadm
            .update(self.uuid, limits, deadline)
            .await
            .map_err(self.failed("set limits of"))
    }

    /// Makes sure that the VM is down.
    ///
    /// # Errors
    /// When it is not down at the deadline, or cannot be halted.
    pub async fn halt(&self, deadline: Instant) -> Result<Vm, StageError> {
        let vm = self.look(deadline).await?;
        match vm.state {
            VmState::Stopped => Ok(vm),
            VmState::Failed
            | VmState::Provisioning
            | VmState::Configured
            | VmState::Incomplete => {
                Err(StageError::Broken { worker: self.uuid, state: vm.state })
            }
            _ => self
                .vmadm
                .stop_hard(self.uuid, deadline)
                .await
                .map_err(self.failed("halt")),
        }
    }

    /// Rolls the VM back to `snapshot`; vmadm boots it at the end. Done only
    /// if vmadm says so *and* the VM shows a new boot and no newer snapshot.
    ///
    /// # Errors
    /// When the snapshot is not there, vmadm fails, or the VM does not show
    /// the rollback at the deadline.
    pub async fn roll_back(
        &self,
        snapshot: &SnapshotName,
        deadline: Instant,
    ) -> Result<RolledBack, StageError> {
        let vm = self.look(deadline).await?;
        let Some(newer) = vm.newer_than(snapshot.as_str()) else {
            return Err(StageError::NoSnapshot {
                worker: self.uuid,
                snapshot: snapshot.clone(),
            });
        };
        let lost = newer.to_vec();
        if !lost.is_empty() {
            tracing::warn!(
                worker = %self.uuid,
                %snapshot,
                lost = lost.len(),
                "newer snapshots are destroyed by the rollback"
            );
        }
        let before = vm.boot();
        let generation = generation(&vm);
        self.vmadm
            .rollback(self.uuid, snapshot, deadline)
            .await
            .map_err(|error| self.rollback_failed(snapshot, error))?;
        self.see_rolled_back(snapshot, &before, generation, deadline).await?;
        Ok(RolledBack { before, lost })
    }

    fn rollback_failed(
        &self,
        snapshot: &SnapshotName,
        error: VmadmError,
    ) -> StageError {
        if error.class() == Some(Class::NotPrepared) {
            return StageError::NoSnapshot {
                worker: self.uuid,
                snapshot: snapshot.clone(),
            };
        }
        self.failed("roll back")(error)
    }

    /// The drop of newer snapshots shows a little after vmadm's end, so this
    /// looks until the deadline.
    async fn see_rolled_back(
        &self,
        snapshot: &SnapshotName,
        before: &Option<Boot>,
        generation: Option<u64>,
        deadline: Instant,
    ) -> Result<(), StageError> {
        let mut pause = LOOK.first;
        loop {
            let vm = self.look(deadline).await?;
            let Some(found) = still_old(&vm, snapshot, before, generation)
            else {
                return Ok(());
            };
            match LOOK.wait(pause, deadline).await {
                Some(next) => pause = next,
                None => {
                    return Err(StageError::NotRolledBack {
                        worker: self.uuid,
                        found,
                    });
                }
            }
        }
    }

    /// Makes sure that the VM runs, in another boot than `since`, and says
    /// in which. Starts it if it is down.
    ///
    /// # Errors
    /// When it does not run by the deadline or cannot be started.
    pub async fn ensure_booted(
        &self,
        since: Option<&Boot>,
        deadline: Instant,
    ) -> Result<Boot, StageError> {
        let mut pause = LOOK.first;
        loop {
            let mut vm = self.look(deadline).await?;
            if vm.state == VmState::Stopped {
                vm = self
                    .vmadm
                    .start(self.uuid, deadline)
                    .await
                    .map_err(self.failed("start"))?;
            }
            match vm.boot() {
                Some(boot) if Some(&boot) != since => return Ok(boot),
                _ => {}
            }
            if matches!(vm.state, VmState::Failed | VmState::Incomplete) {
                return Err(StageError::Broken {
                    worker: self.uuid,
                    state: vm.state,
                });
            }
            match LOOK.wait(pause, deadline).await {
                Some(next) => pause = next,
                None => {
                    return Err(StageError::NotBooted {
                        worker: self.uuid,
                        state: vm.state,
                    });
                }
            }
        }
    }

    /// Waits until commands run inside, and finds out how they are to be
    /// run there.
    ///
    /// # Errors
    /// When nothing runs inside by the deadline, or a service that jobs need
    /// has failed.
    pub async fn probe(&self, deadline: Instant) -> Result<Inside, ProbeError> {
        let doing = self.vmadm.doing();
        doing.forget();
        let carrier = self.vmadm.carrier();
        let inside = probe::probe(carrier, self.uuid, doing, deadline).await;
        doing.forget();
        inside
    }

    /// Makes sure that it is still the same boot: nobody has rebooted,
    /// halted or rolled the VM back since.
    ///
    /// # Errors
    /// When somebody has, or vmadm fails.
    pub async fn verify_untouched(
        &self,
        boot: &Boot,
        deadline: Instant,
    ) -> Result<Vm, StageError> {
        let vm = self.look(deadline).await?;
        let found = match vm.boot() {
            Some(now) if now == *boot => return Ok(vm),
            Some(now) => format!("it was booted at {now}, not at {boot}"),
            None => format!("it is {}", vm.state),
        };
        Err(StageError::Touched { worker: self.uuid, found })
    }
}

fn generation(vm: &Vm) -> Option<u64> {
    vm.ntrace.as_ref().and_then(|own| own.generation)
}

/// What of a VM does not fit a rollback that was just done; None when all
/// does.
fn still_old(
    vm: &Vm,
    snapshot: &SnapshotName,
    before: &Option<Boot>,
    old_generation: Option<u64>,
) -> Option<String> {
    match vm.newer_than(snapshot.as_str()) {
        None => return Some(format!("snapshot {snapshot} is gone")),
        Some([]) => {}
        Some(newer) => {
            return Some(format!("{} newer snapshots remain", newer.len()));
        }
    }
    // A VM that is not running has no boot to compare: `ensure_booted` goes
    // on from there.
    if before.is_some() && vm.boot() == *before {
        return Some("it is still the same boot".to_owned());
    }
    if old_generation.is_some() && generation(vm) == old_generation {
        return Some("it is still the same generation".to_owned());
    }
    None
}
