//! Booting a zone: prepares its directories and starts its keeper.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::checkpoint::{self, Checkpoint};
use crate::clock::Deadline;
use crate::faults::{Fault, Faults};
use crate::init::Plan;
use crate::keeper::{self, Order};
use crate::mdata;
use crate::mounts::{Bind, Layout};
use crate::native;
use crate::place::Place;
use crate::skeleton;
use crate::spec::{Spec, Upper};
use crate::sys::{self, Forked};
use crate::trash;
use crate::zone::{Disk, Zone, ZoneError, machine_boot};

/// Longest wait for a keeper to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// A boot that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The zone's files.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// A directory could not be prepared.
    #[error("cannot prepare {}: {source}", path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image is missing.
    #[error("image {0} is not installed")]
    NoImage(String),
    /// The zone could not be put together.
    #[error("{0}")]
    Refused(String),
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> BootError {
    let path = path.to_owned();
    move |source| BootError::Prepare { path, source }
}

/// Boots a zone that is down. The caller holds its power lock.
pub(crate) fn boot(zone: &Zone) -> Result<(), BootError> {
    let mut faults = Faults::of(zone);
    if faults.take(Fault::BootFail) {
        return Err(BootError::Refused("boot was made to fail".to_owned()));
    }
    if let Some(hang) = faults.take_seconds("boot", "hang") {
        std::thread::sleep(hang);
    }
    let slow = faults.take_seconds("boot", "slow").unwrap_or_default();
    let mut disk = zone.disk()?;
    crate::snapshot::settle(zone, &disk)
        .map_err(|error| BootError::Refused(error.to_string()))?;
    forget_after_crash(zone, &mut disk)?;
    let manifest = zone.manifest()?;
    let spec = Spec::of(&manifest, &disk.metadata.internal_metadata);
    let layout = layout(zone, &disk, &spec)?;
    let plan = Plan {
        layout,
        hostname: spec.hostname.clone(),
        network: spec.network,
        pid_max: None,
    };
    let generation = disk.generation;
    start(Order { zone: zone.clone(), spec, plan, generation, slow })
}

/// A writable layer that was mounted when the machine died was not synced
/// and cannot be trusted: it is dropped, as a rollback would.
fn forget_after_crash(zone: &Zone, disk: &mut Disk) -> Result<(), ZoneError> {
    let Some(run) = zone.recorded_run() else { return Ok(()) };
    if run.machine != machine_boot() && run.generation == disk.generation {
        disk.generation += 1;
        zone.save_disk(disk)?;
    }
    Ok(())
}

fn layout(zone: &Zone, disk: &Disk, spec: &Spec) -> Result<Layout, BootError> {
    let place = &zone.place;
    let base = checkpoint::base_of(place, spec);
    if !base.is_dir() {
        return Err(BootError::NoImage(spec.base.clone()));
    }
    let mut binds = Vec::new();
    if spec.host_image {
        binds.extend(skeleton::host_dirs(&base).into_iter().map(|dir| Bind {
            source: dir.source,
            target: dir.target,
            read_only: true,
        }));
    }
    let native = native::ensure(place).map_err(prepare(&place.native()))?;
    binds.push(Bind {
        source: native,
        target: PathBuf::from("native"),
        read_only: true,
    });
    let control =
        mdata::agent::control_dir(zone).map_err(prepare(&zone.dir()))?;
    binds.push(Bind {
        source: control,
        target: PathBuf::from(mdata::CONTROL),
        read_only: true,
    });
    binds.extend(spec.filesystems.iter().map(|lofs| Bind {
        source: lofs.source.clone(),
        target:
            lofs.target.strip_prefix("/").unwrap_or(&lofs.target).to_owned(),
        read_only: lofs.read_only,
    }));
    let mut lowers: Vec<PathBuf> =
        disk.layers.iter().map(|id| place.layers().join(id)).collect();
    lowers.reverse();
    let checkpoints = disk
        .snapshots
        .iter()
        .filter(|one| checkpoint::has_place(&one.name))
        .map(|one| Checkpoint::of(place, &base, one))
        .collect();
    lowers.push(base);
    let generation = zone.generation(disk.generation);
    make_generation(place, &generation, spec.upper)?;
    let upper_tmpfs = (spec.upper == Upper::Tmpfs)
        .then(|| spec.quota.unwrap_or(spec.limits.memory));
    Ok(Layout {
        lowers,
        generation,
        upper_tmpfs,
        binds,
        checkpoints,
        tmpfs: spec.tmpfs,
        owner: place.owner,
    })
}

/// Makes the writable layer's directories. Where they are from an earlier
/// boot, the work directory is made anew: the kernel refuses a volatile one
/// that was used.
fn make_generation(
    place: &Place,
    dir: &Path,
    upper: Upper,
) -> Result<(), BootError> {
    let make = |path: &Path, mode: u32| {
        match fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(false)
            }
            other => other.map(|()| true),
        }
        .map_err(prepare(path))
    };
    make(dir, 0o700)?;
    if upper == Upper::Tmpfs {
        return Ok(());
    }
    let (up, work) = (dir.join("up"), dir.join("work"));
    if make(&up, 0o755)? && place.owner.is_root() {
        let (uid, gid) = place.owner.host_ids(0, 0);
        lchown(&up, Some(uid), Some(gid)).map_err(prepare(&up))?;
    }
    if !make(&work, 0o700)? {
        trash::discard(place, &work).map_err(prepare(&work))?;
        make(&work, 0o700)?;
    }
    Ok(())
}

/// Makes the layer of files that belong to this zone alone.
pub(crate) fn write_names(zone: &Zone, spec: &Spec) -> Result<(), BootError> {
    if spec.upper == Upper::Tmpfs {
        return Ok(());
    }
    let owner = zone.place.owner;
    let generation = zone.generation(1);
    make_generation(&zone.place, &generation, spec.upper)?;
    let etc = generation.join("up/etc");
    let hostname = &spec.hostname;
    let hosts = format!(
        "127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost\n"
    );
    fs::DirBuilder::new().mode(0o755).create(&etc).map_err(prepare(&etc))?;
    let files = [("hostname", format!("{hostname}\n")), ("hosts", hosts)];
    let mut made = vec![etc.clone()];
    for (name, content) in files {
        let path = etc.join(name);
        fs::write(&path, content).map_err(prepare(&path))?;
        made.push(path);
    }
    for path in made.iter().filter(|_| owner.is_root()) {
        let (uid, gid) = owner.host_ids(0, 0);
        lchown(path, Some(uid), Some(gid)).map_err(prepare(path))?;
    }
    Ok(())
}

/// The lifeline that our caller wants the zone to hang on, if any.
fn outer_lifeline() -> Option<OwnedFd> {
    let number = std::env::var("NTRACE_LIFELINE").ok()?.parse().ok()?;
    sys::inherited(number).ok()
}

fn start(order: Order) -> Result<(), BootError> {
    let failed = |what: &str, error: io::Error| {
        BootError::Refused(format!("cannot {what}: {error}"))
    };
    let (answer, answer_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failed("make a pipe", error.into()))?;
    let lifeline = outer_lifeline();
    match sys::fork().map_err(|error| failed("fork", error))? {
        Forked::Child => {
            drop(answer);
            match sys::fork() {
                Ok(Forked::Child) => keeper::run(order, answer_end, lifeline),
                _ => sys::exit_now(0),
            }
        }
        Forked::Parent(pid) => {
            drop(answer_end);
            let _ = sys::wait_child(pid, true);
            await_answer(&answer)
        }
    }
}

fn await_answer(answer: &OwnedFd) -> Result<(), BootError> {
    let deadline = Deadline::after(ANSWER_WAIT);
    let mut text = Vec::new();
    loop {
        let Some(left) = deadline.left() else {
            return Err(BootError::Refused("the keeper is silent".into()));
        };
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(answer, PollFlags::IN)];
        if !matches!(rustix::event::poll(&mut fds, Some(&left)), Ok(1..)) {
            continue;
        }
        let mut piece = [0_u8; 1024];
        match rustix::io::read(answer, &mut piece) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(_) => {}
        }
        if text == b"ready" {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&text);
    Err(BootError::Refused(match text.strip_prefix('E') {
        Some(why) => why.to_owned(),
        None => "the keeper died".to_owned(),
    }))
}
