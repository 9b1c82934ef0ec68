//! All workers of this runner.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::worker::{WorkerState, WorkerView};
use ntrace_protocol::{Code, Label, WireError, WorkerUuid};
use ntrace_zones::{Class, Driver, SnapshotName, Vm, VmState, VmadmError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::enrolled::{Enrolled, EnrolledError, EnrolledFile};
use super::task::{Life, Order, Shown, Task, now};
use crate::job::{Baseline, Context, chain};
use crate::uplink::Uplink;
use crate::workers::Workers;

/// Orders that wait for a worker; more are answered with `EAGAIN`.
const ORDERS: usize = 16;

/// How long a look at a VM may take when it is enrolled.
const LOOK: Duration = Duration::from_secs(60);

/// Brands of VM that can be rolled back and entered.
const BRANDS: [&str; 4] = ["joyent", "joyent-minimal", "lx", "builder"];

/// What the roster starts with.
pub struct RosterConfig {
    /// The runner's data directory.
    pub data: PathBuf,
    /// Workers named at the start, besides those on disk.
    pub workers: Vec<WorkerUuid>,
    /// The snapshot, where none is named.
    pub snapshot: String,
    /// A worker that waited longer is made clean again.
    pub reset_after: Duration,
}

/// Why the roster could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the workers")]
pub struct RosterError(#[from] EnrolledError);

/// All workers; cheap to clone.
#[derive(Clone)]
pub struct Roster {
    inner: Arc<Inner>,
}

struct Inner {
    config: RosterConfig,
    driver: Driver,
    context: Arc<Context>,
    uplink: Mutex<Option<Uplink>>,
    file: EnrolledFile,
    workers: Mutex<BTreeMap<WorkerUuid, Handle>>,
    changes: watch::Sender<u64>,
    drain: CancellationToken,
    stop: CancellationToken,
}

struct Handle {
    enrolled: Enrolled,
    view: WorkerView,
    /// It was told to go; it may not have heard of it yet.
    is_expelled: bool,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// How a worker's task reaches the roster.
struct Window {
    uuid: WorkerUuid,
    roster: Weak<Inner>,
}

impl Shown for Window {
    fn show(&mut self, view: WorkerView) {
        let Some(roster) = self.roster.upgrade() else { return };
        if let Some(handle) = roster.workers().get_mut(&self.uuid) {
            let leaving = view.leaving || handle.is_expelled;
            handle.view = WorkerView { leaving, ..view };
        }
        roster.changes.send_modify(|n| *n += 1);
    }

    fn found(&mut self, baseline: Baseline) {
        let Some(roster) = self.roster.upgrade() else { return };
        if let Some(handle) = roster.workers().get_mut(&self.uuid) {
            handle.enrolled.baseline = Some(baseline);
        }
        if let Err(e) = roster.save() {
            error!(error = chain(&e), "enrolled workers are not saved");
        }
    }
}

impl Roster {
    /// A roster whose workers do not live yet; see [`Roster::start`].
    pub fn new(config: RosterConfig, driver: Driver, context: Context) -> Self {
        let file = EnrolledFile::new(&config.data);
        Self {
            inner: Arc::new(Inner {
                config,
                driver,
                context: Arc::new(context),
                uplink: Mutex::new(None),
                file,
                workers: Mutex::default(),
                changes: watch::Sender::new(0),
                drain: CancellationToken::new(),
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Begins the life of all workers that were enrolled before.
    ///
    /// # Errors
    /// The file that keeps them cannot be read.
    pub fn start(&self, uplink: Uplink) -> Result<(), RosterError> {
        let inner = &self.inner;
        *inner.uplink.lock().expect("no holder panics") = Some(uplink);
        let mut known = inner.file.load()?;
        for uuid in &inner.config.workers {
            if !known.iter().any(|worker| worker.uuid == *uuid) {
                known.push(Enrolled {
                    uuid: *uuid,
                    snapshot: inner.config.snapshot.clone(),
                    labels: Vec::new(),
                    baseline: None,
                });
            }
        }
        for worker in known {
            info!(worker = %worker.uuid, "worker enrolled");
            inner.begin(&mut inner.workers(), worker);
        }
        inner.save()?;
        Ok(())
    }

    /// Ends all workers: those without a job at once, the others with it.
    /// Resolves when all have ended; what a caller does not wait for ends
    /// with the process.
    pub async fn shut_down(&self) {
        self.inner.drain.cancel();
        self.inner.stop.cancel();
        let tasks: Vec<_> = {
            let mut workers = self.inner.workers();
            std::mem::take(&mut *workers)
                .into_values()
                .map(|handle| handle.task)
                .collect()
        };
        futures::future::join_all(tasks).await;
    }
}

impl Inner {
    fn workers(&self) -> MutexGuard<'_, BTreeMap<WorkerUuid, Handle>> {
        self.workers.lock().expect("no holder of this lock panics")
    }

    fn save(&self) -> Result<(), EnrolledError> {
        // Under the lock, so that an older list never replaces a newer one.
        let workers = self.workers();
        let enrolled: Vec<_> = workers
            .values()
            .filter(|handle| !handle.view.leaving)
            .map(|handle| handle.enrolled.clone())
            .collect();
        self.file.save(&enrolled)
    }

    /// Begins the life of a worker that is not among these yet.
    fn begin(
        self: &Arc<Self>,
        workers: &mut BTreeMap<WorkerUuid, Handle>,
        enrolled: Enrolled,
    ) {
        let uuid = enrolled.uuid;
        let uplink = self.uplink.lock().expect("no holder panics").clone();
        let Some(uplink) = uplink else { return };
        let (sender, orders) = mpsc::channel(ORDERS);
        let window = Window { uuid, roster: Arc::downgrade(self) };
        let task = Task {
            enrolled: enrolled.clone(),
            driver: self.driver.clone(),
            uplink,
            context: self.context.clone(),
            reset_after: self.config.reset_after,
            orders,
            drain: self.drain.clone(),
            stop: self.stop.clone(),
            shown: Box::new(window),
        };
        let roster = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            Life::new(task).run().await;
            if let Some(roster) = roster.upgrade() {
                roster.workers().remove(&uuid);
                roster.changes.send_modify(|n| *n += 1);
            }
        });
        let view = WorkerView {
            uuid,
            runner: None,
            state: WorkerState::Dirty,
            reason: None,
            since: now(),
            job: None,
            run_id: None,
            snapshot: enrolled.snapshot.clone(),
            labels: enrolled.labels.clone(),
            resets: Default::default(),
            leaving: false,
            place: None,
        };
        let is_expelled = false;
        let handle =
            Handle { enrolled, view, is_expelled, orders: sender, task };
        workers.insert(uuid, handle);
    }

    /// Looks at a VM that is to become a worker.
    async fn inspect(
        &self,
        uuid: WorkerUuid,
        snapshot: &str,
    ) -> Result<Vm, WireError> {
        let snapshot: SnapshotName =
            snapshot.parse().map_err(|e: ntrace_zones::BadName| {
                WireError::invalid("snapshot", e.to_string())
            })?;
        let deadline = Instant::now() + LOOK;
        let vm = self.driver.vmadm().get(uuid, deadline).await;
        let vm = vm.map_err(|error| no_vm(uuid, &error))?;
        check_kind(uuid, &vm)?;
        if vm.newer_than(snapshot.as_str()).is_none() {
            return Err(WireError::new(
                Code::Enoent,
                format!(
                    "VM {uuid} has no snapshot {snapshot}; make it with \
                     `vmadm create-snapshot {uuid} {snapshot}`"
                ),
            )
            .on("snapshot"));
        }
        Ok(vm)
    }

    async fn enroll(
        self: Arc<Self>,
        uuid: WorkerUuid,
        snapshot: Option<String>,
        labels: Vec<Label>,
    ) -> Result<WorkerView, WireError> {
        let snapshot = snapshot.unwrap_or_else(|| self.config.snapshot.clone());
        let vm = self.inspect(uuid, &snapshot).await?;
        let enrolled = Enrolled {
            uuid,
            snapshot,
            labels,
            baseline: Some(Baseline::of(&vm)),
        };
        {
            // Under one lock, so that who enrolls at the same time finds it.
            let mut workers = self.workers();
            match workers.get_mut(&uuid) {
                Some(handle) if handle.view.leaving => {
                    return Err(WireError::new(
                        Code::Ebusy,
                        format!("worker {uuid} is leaving; try again later"),
                    ));
                }
                Some(handle) => handle.renew(enrolled)?,
                None => self.begin(&mut workers, enrolled),
            }
        }
        self.save().map_err(not_saved)?;
        self.view(uuid)
    }

    fn view(&self, uuid: WorkerUuid) -> Result<WorkerView, WireError> {
        let workers = self.workers();
        let handle = workers.get(&uuid).ok_or_else(|| unknown(uuid))?;
        Ok(handle.view.clone())
    }

    fn order(
        &self,
        uuid: WorkerUuid,
        order: Order,
    ) -> Result<WorkerView, WireError> {
        let mut workers = self.workers();
        let handle = workers.get_mut(&uuid).ok_or_else(|| unknown(uuid))?;
        let is_expel = matches!(order, Order::Expel);
        handle.tell(order)?;
        handle.is_expelled |= is_expel;
        handle.view.leaving |= is_expel;
        Ok(handle.view.clone())
    }
}

impl Handle {
    fn tell(&self, order: Order) -> Result<(), WireError> {
        self.orders.try_send(order).map_err(|_| {
            WireError::new(
                Code::Eagain,
                "the worker has many orders already; try again later",
            )
        })
    }

    /// Enrolled again: no error; what has changed is taken over.
    fn renew(&mut self, enrolled: Enrolled) -> Result<(), WireError> {
        let baseline = self.enrolled.baseline.or(enrolled.baseline);
        let enrolled = Enrolled { baseline, ..enrolled };
        if enrolled == self.enrolled {
            return Ok(());
        }
        self.tell(Order::Renew(enrolled.clone()))?;
        self.view.snapshot = enrolled.snapshot.clone();
        self.view.labels = enrolled.labels.clone();
        self.enrolled = enrolled;
        Ok(())
    }
}

fn unknown(uuid: WorkerUuid) -> WireError {
    WireError::new(
        Code::Enoent,
        format!("there is no worker {uuid}; `workers` lists them"),
    )
    .on("uuid")
}

fn not_saved(error: EnrolledError) -> WireError {
    WireError::new(Code::Einternal, chain(&error))
}

fn no_vm(uuid: WorkerUuid, error: &VmadmError) -> WireError {
    if error.class() == Some(Class::VmGone) {
        return WireError::new(
            Code::Enoent,
            format!("there is no VM {uuid} here; `vmadm list` shows them"),
        )
        .on("uuid");
    }
    let code = match error.class() {
        Some(Class::NotListed) => Code::Enoent,
        _ => Code::Eagain,
    };
    WireError::new(code, format!("cannot look at VM {uuid}: {}", chain(error)))
        .on("uuid")
}

fn check_kind(uuid: WorkerUuid, vm: &Vm) -> Result<(), WireError> {
    let brand = vm.brand.as_deref().unwrap_or("joyent");
    if !BRANDS.contains(&brand) {
        let brand = ntrace_protocol::text::quote(brand);
        return Err(WireError::invalid(
            "uuid",
            format!(
                "VM {uuid} is of brand {brand}; a worker must be a zone of \
                 brand {}",
                BRANDS.join(", ")
            ),
        ));
    }
    match vm.state {
        VmState::Failed | VmState::Provisioning | VmState::Incomplete => {
            Err(WireError::new(
                Code::Ebusy,
                format!(
                    "VM {uuid} is {}; a worker must be running or stopped",
                    vm.state
                ),
            )
            .on("uuid"))
        }
        _ => Ok(()),
    }
}

impl Workers for Roster {
    fn enroll(
        &self,
        uuid: WorkerUuid,
        snapshot: Option<String>,
        labels: Vec<Label>,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>> {
        self.inner.clone().enroll(uuid, snapshot, labels).boxed()
    }

    fn expel(
        &self,
        uuid: WorkerUuid,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>> {
        async move {
            let view = self.inner.order(uuid, Order::Expel)?;
            self.inner.save().map_err(not_saved)?;
            Ok(view)
        }
        .boxed()
    }

    fn clean(
        &self,
        uuid: WorkerUuid,
    ) -> BoxFuture<'_, Result<WorkerView, WireError>> {
        async move { self.inner.order(uuid, Order::Clean) }.boxed()
    }

    fn views(&self) -> Vec<WorkerView> {
        let workers = self.inner.workers();
        workers.values().map(|handle| handle.view.clone()).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        async move {
            self.inner.drain.cancel();
            let mut changes = self.changes();
            while self.views().iter().any(|w| w.state == WorkerState::Running) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}
