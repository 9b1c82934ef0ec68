//! The keeper: the host-side parent of a zone, one process per boot.
//!
//! It holds the lifeline of process 1, so its death is the zone's death; the
//! zone's death ends it, after it has cleaned up. If it was given a lifeline
//! itself (`NTRACE_LIFELINE`), the end of that halts the zone. It watches
//! what no cgroup can hold. It must not depend on the command that started
//! it, nor touch the manifest or the state: it owns `run.json` and
//! `usage.json` and the cgroups, nothing else.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags};

use crate::cgroup::{Cgroups, Part};
use crate::clock;
use crate::init::{self, Plan, order, report};
use crate::mdata::agent::Door;
use crate::place::Owner;
use crate::spec::{Network, Spec, Upper};
use crate::sys::{self, Forked};
use crate::usage::Usage;
use crate::watch::{Verdict, Watch};
use crate::zone::{Means, Process, Run, Zone, machine_boot};

/// Longest that process 1 may take to put the zone together.
const BUILD_WAIT: Duration = Duration::from_secs(10);

/// How long processes are given to end by themselves at a soft stop.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// A change of the writable layer's size that is noted at once.
const NOTABLE: u64 = 1 << 20;

/// Below this kernel the greatest pid is one value for the whole machine.
const PID_MAX_SINCE: (u32, u32) = (6, 14);

/// Pids that the kernel never gives again once the numbers went around.
const RESERVED_PIDS: u64 = 300;

/// What the keeper is started with.
#[derive(Debug)]
pub(crate) struct Order {
    /// The zone.
    pub zone: Zone,
    /// What it is to be.
    pub spec: Spec,
    /// The file tree and the rest for process 1.
    pub plan: Plan,
    /// Which generation that mounts.
    pub generation: u64,
    /// Delay before zlogin is let in (a fault for tests).
    pub slow: Duration,
}

/// Runs the keeper: answers once on `answer`, then holds the zone.
pub(crate) fn run(
    order: Order,
    answer: OwnedFd,
    lifeline: Option<OwnedFd>,
) -> ! {
    detach(&order.zone, &answer, lifeline.as_ref());
    match Keeper::boot(order) {
        Ok(mut keeper) => {
            // A command that was killed meanwhile did not boot this zone.
            if rustix::io::write(&answer, b"ready").is_ok() {
                drop(answer);
                keeper.hold(lifeline.as_ref());
            } else {
                keeper.end();
            }
            keeper.clean();
        }
        Err(why) => {
            let _ = rustix::io::write(&answer, format!("E{why}").as_bytes());
        }
    }
    sys::exit_now(0)
}

/// Cuts every tie to the command that started us.
fn detach(zone: &Zone, answer: &OwnedFd, lifeline: Option<&OwnedFd>) {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    sys::scrub_arguments(&format!("zone-keeper {}", zone.id));
    let mut keep = vec![answer.as_raw_fd()];
    keep.extend(lifeline.map(AsRawFd::as_raw_fd));
    sys::close_all_but(&keep);
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        for fd in 0..3 {
            let _ = sys::dup_onto(null.as_fd(), fd);
        }
    }
    let log = zone.dir().join("keeper.log");
    let log = File::options().create(true).append(true).open(log);
    if let Ok(log) = log {
        let _ = sys::dup_onto(log.as_fd(), 2);
    }
}

struct Keeper {
    zone: Zone,
    run: Run,
    cgroups: Cgroups,
    init: OwnedFd,
    lifeline: OwnedFd,
    watch: Watch,
    /// Which version of the manifest the watch follows.
    followed: Option<Stamp>,
    usage: Usage,
    /// Who answers the zone about its metadata.
    door: Option<Door>,
    _alive: File,
}

/// One version of a file that is only ever replaced as a whole.
type Stamp = (u64, i64, i64);

fn stamp_of(zone: &Zone) -> Option<Stamp> {
    let found = std::fs::metadata(zone.dir().join("manifest.json")).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec()))
}

impl Keeper {
    fn boot(mut order: Order) -> Result<Keeper, String> {
        let alive = hold_alive(&order.zone)?;
        let (cgroups, mut means) =
            Cgroups::create(&order.zone.id, &order.spec.limits);
        let mut notes = Vec::new();
        stand_in(&mut order, &mut means, &mut notes);
        let door = Door::open(&order.zone);
        if let Err(error) = &door {
            notes.push(format!("the zone has no metadata inside: {error}"));
        }
        let booted = build(&order, &cgroups, &means, notes);
        let (run, init, lifeline) = match booted {
            Ok(booted) => booted,
            Err(why) => {
                cgroups.kill();
                cgroups.remove();
                return Err(why);
            }
        };
        let usage = Usage::new(&run.boot_id);
        let recorded = order
            .zone
            .save_note("usage.json", &usage)
            .and_then(|()| order.zone.save_run(&run));
        let watch = Watch::new(&order.zone, &order.spec, &run);
        // None: the first look compares with the manifest as it is now, in
        // case it was changed while the zone booted.
        let followed = None;
        let keeper = Keeper {
            zone: order.zone,
            run,
            cgroups,
            init,
            lifeline,
            watch,
            followed,
            usage,
            door: door.ok(),
            _alive: alive,
        };
        if let Err(error) = recorded {
            keeper.end();
            keeper.clean();
            return Err(error.to_string());
        }
        Ok(keeper)
    }

    /// Holds the zone until it ended.
    fn hold(&mut self, outer: Option<&OwnedFd>) {
        let wanted = [libc::SIGTERM, libc::SIGINT];
        let signals = sys::signal_fd(&wanted).ok();
        let mut drain: Option<Instant> = None;
        loop {
            let wait = self.watch.next_look();
            let left = drain
                .map(|until| until.saturating_duration_since(Instant::now()));
            let back = self.door.as_ref().and_then(Door::next_look);
            let wait = [wait, left, back].into_iter().flatten().min();
            let door = self.door.as_ref().and_then(Door::listener);
            let fds = [Some(&self.init), outer, signals.as_ref(), door];
            let ready = wait_any(fds, wait);
            if ready[0] {
                return;
            }
            let over = left.is_some_and(|left| left.is_zero());
            if ready[1] && ended(outer) || over {
                self.end();
                return;
            }
            if ready[2] && drain.is_none() {
                drain = Some(Instant::now() + DRAIN_WAIT);
                let _ = rustix::io::write(&self.lifeline, &[order::DRAIN]);
                if let Some(signals) = &signals {
                    let mut note = [0_u8; 128];
                    let _ = rustix::io::read(signals, &mut note);
                }
            }
            if let Some(door) = &mut self.door {
                door.reap();
                if ready[3] {
                    door.accept(&self.zone, &self.run);
                }
            }
            self.look();
        }
    }

    /// Limits that were changed meanwhile hold from now on.
    fn follow(&mut self) {
        let found = stamp_of(&self.zone);
        if found == self.followed {
            return;
        }
        let (Ok(manifest), Ok(disk)) = (self.zone.manifest(), self.zone.disk())
        else {
            // It is being deleted; we end with it.
            return;
        };
        self.followed = found;
        let spec = Spec::of(&manifest, &disk.metadata.internal_metadata);
        self.watch.renew(Watch::new(&self.zone, &spec, &self.run));
    }

    /// Looks after the limits that only we hold.
    fn look(&mut self) {
        self.follow();
        let verdict = self.watch.look();
        let noted = self.usage.disk_bytes.unwrap_or(0);
        self.usage.disk_bytes = self.watch.disk_bytes();
        self.usage.watched_rss = self.watch.peak_rss();
        match verdict {
            Verdict::Fine => {
                let now = self.usage.disk_bytes.unwrap_or(0);
                if now.abs_diff(noted) > NOTABLE {
                    let _ = self.zone.save_note("usage.json", &self.usage);
                }
                return;
            }
            Verdict::Disk => self.usage.disk_killed = true,
            Verdict::Memory => self.usage.memory_killed = true,
        }
        let _ = rustix::io::write(&self.lifeline, &[order::KILL]);
        let _ = self.zone.save_note("usage.json", &self.usage);
    }

    /// Kills the zone and waits until nothing of it lives.
    fn end(&self) {
        let _ = rustix::process::pidfd_send_signal(
            &self.init,
            rustix::process::Signal::KILL,
        );
        let pause = Some(Duration::from_secs(1));
        while !wait_any([Some(&self.init)], pause)[0] {
            // A process that entered the zone and whose host-side parent
            // does not reap it holds process 1 back.
            crate::halt::free_unreaped(&self.run.init, &self.zone.id);
        }
    }

    /// Removes what the zone leaves outside of itself.
    fn clean(&self) {
        let _ = sys::wait_child(self.run.init.pid, true);
        let mut usage = self.usage.clone();
        usage.take(&self.cgroups.used());
        usage.finished = true;
        let _ = self.zone.save_note("usage.json", &usage);
        self.cgroups.kill();
        if !self.cgroups.remove() {
            eprintln!("{} some cgroups stayed", clock::iso(clock::now_ms()));
        }
        let run = self.zone.dir().join("run.json");
        let ours = self.zone.recorded_run();
        if ours.is_some_and(|run| run.boot_id == self.run.boot_id) {
            let _ = std::fs::remove_file(run);
        }
    }
}

/// Whoever holds this lock is the zone's keeper; there is at most one.
fn hold_alive(zone: &Zone) -> Result<File, String> {
    let path = zone.dir().join("alive");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| "another keeper holds the zone".to_owned())?;
    Ok(file)
}

/// Chooses what stands in for the cgroups that could not be had, and says so.
fn stand_in(order: &mut Order, means: &mut Means, notes: &mut Vec<String>) {
    let mut note = |text: String| notes.push(text);
    if means.memory == "none" {
        means.memory = "watched".to_owned();
        note(
            "memory is watched ten times a second, not limited by a cgroup: \
              a short peak passes unseen"
                .to_owned(),
        );
    }
    if means.cpu == "none" && order.spec.limits.cpu_cap.is_some() {
        note("cpu_cap is not enforced: no cpu cgroup is writable".to_owned());
    }
    if means.pids == "none" && kernel() >= PID_MAX_SINCE {
        let max = order.spec.limits.pids + RESERVED_PIDS;
        order.plan.pid_max = Some(max);
        means.pids = "pid_max".to_owned();
        note(format!(
            "the number of processes is limited by the greatest \
              pid of the zone ({max}), not by a cgroup"
        ));
    } else if means.pids == "none" {
        means.pids = "rlimit".to_owned();
        note(
            "the number of processes is limited by RLIMIT_NPROC, not by a \
              cgroup"
                .to_owned(),
        );
    }
    means.disk = match (order.spec.upper, order.spec.quota) {
        (Upper::Tmpfs, _) => "tmpfs",
        (Upper::Disk, Some(_)) => "watched",
        (Upper::Disk, None) => "none",
    }
    .to_owned();
    if means.disk == "watched" {
        note(
            "quota is watched, not enforced by the file system: a zone \
              that passes it is killed shortly after"
                .to_owned(),
        );
    }
    if !order.zone.place.owner.is_root() {
        note(
            "the zone has a single user id: its root and the job are told \
              apart by a nested user namespace only"
                .to_owned(),
        );
    }
}

fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    (next(), next())
}

fn pipe() -> Result<(OwnedFd, OwnedFd), String> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| format!("cannot make a pipe: {error}"))
}

/// Makes process 1 and waits until it is ready.
fn build(
    order: &Order,
    cgroups: &Cgroups,
    means: &Means,
    notes: Vec<String>,
) -> Result<(Run, OwnedFd, OwnedFd), String> {
    let owner = order.zone.place.owner;
    let (lifeline_end, lifeline) = pipe()?;
    let (words, words_end) = pipe()?;
    let mut flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    if order.plan.network == Network::Loopback {
        flags |= libc::CLONE_NEWNET;
    }
    if !owner.is_root() {
        flags |= libc::CLONE_NEWUSER;
    }
    let (forked, born) = match cgroups.fork(Part::Init, flags) {
        Ok(forked) => forked,
        Err(error) => return Err(format!("cannot make namespaces: {error}")),
    };
    let pid = match forked {
        Forked::Child => {
            drop(lifeline);
            sys::scrub_arguments("zone-init");
            if let Err(error) = cgroups.enter(Part::Init, born) {
                init::give_up(
                    &words_end,
                    &format!("cannot enter the cgroup: {error}"),
                );
            }
            init::run(&order.plan, lifeline_end, &words_end)
        }
        Forked::Parent(pid) => pid,
    };
    drop((lifeline_end, words_end));
    let built = Build { pid, owner, lifeline: &lifeline, words };
    if let Err(why) = built.attend() {
        let _ = sys::kill(pid, libc::SIGKILL);
        let _ = sys::wait_child(pid, true);
        return Err(why);
    }
    let gone = || "the zone ended at once".to_owned();
    let init = Process::of(pid).ok_or_else(gone)?;
    let fd = Pid::from_raw(pid)
        .and_then(|pid| {
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
        })
        .ok_or_else(gone)?;
    let own = std::process::id() as i32;
    let booted_ms = clock::now_ms();
    let run = Run {
        boot_id: uuid::Uuid::new_v4().to_string(),
        machine: machine_boot(),
        zoneid: pid as u64,
        generation: order.generation,
        booted_ms,
        ready_ms: booted_ms + order.slow.as_millis() as u64,
        keeper: Process::of(own).ok_or_else(gone)?,
        init,
        userns: owner.word().to_owned(),
        overlay: overlay_word(order),
        network: match order.plan.network {
            Network::Host => "host".to_owned(),
            Network::Loopback => "none".to_owned(),
        },
        limits: means.clone(),
        notes,
        cgroups: cgroups.groups.clone(),
    };
    Ok((run, fd, lifeline))
}

fn overlay_word(order: &Order) -> String {
    let mut word = "volatile".to_owned();
    if !order.zone.place.owner.is_root() {
        word.push_str(",userxattr");
    }
    if order.spec.upper == Upper::Tmpfs {
        word.push_str(",tmpfs");
    }
    word
}

/// The keeper's side of the assembly.
struct Build<'a> {
    pid: i32,
    owner: Owner,
    lifeline: &'a OwnedFd,
    words: OwnedFd,
}

impl Build<'_> {
    fn attend(&self) -> Result<(), String> {
        if !self.owner.is_root() {
            self.write_maps()?;
        }
        self.say(order::BEGIN)?;
        let until = Instant::now() + BUILD_WAIT;
        let mut text = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("putting the zone together took too long".into());
            }
            let ready = wait_any([Some(&self.words)], Some(left))[0];
            if !ready {
                continue;
            }
            let mut piece = [0_u8; 512];
            let count = match rustix::io::read(&self.words, &mut piece) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            if count == 0 && text.first() == Some(&report::ERROR) {
                return Err(String::from_utf8_lossy(&text[1..]).into_owned());
            }
            if count == 0 {
                return Err("process 1 of the zone died".to_owned());
            }
            for byte in &piece[..count] {
                match *byte {
                    _ if !text.is_empty() => text.push(*byte),
                    report::READY => return Ok(()),
                    report::MAP => {
                        self.write_maps()?;
                        self.say(order::MAPPED)?;
                    }
                    other => text.push(other),
                }
            }
        }
    }

    fn say(&self, byte: u8) -> Result<(), String> {
        rustix::io::write(self.lifeline, &[byte])
            .map(drop)
            .map_err(|error| format!("process 1 is gone: {error}"))
    }

    fn write_maps(&self) -> Result<(), String> {
        let (uids, gids) = self.owner.maps();
        let put = |file: &str, content: &str| {
            let path = format!("/proc/{}/{file}", self.pid);
            std::fs::write(Path::new(&path), content)
                .map_err(|error| format!("cannot write {file}: {error}"))
        };
        if !self.owner.is_root() {
            put("setgroups", "deny")?;
        }
        put("uid_map", &uids)?;
        put("gid_map", &gids)
    }
}

/// Whether a lifeline that woke us has come to its end.
fn ended(fd: Option<&OwnedFd>) -> bool {
    let Some(fd) = fd else { return false };
    let mut byte = [0_u8; 64];
    !matches!(
        rustix::io::read(fd, &mut byte),
        Ok(1..) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN)
    )
}

/// Waits for any of some descriptors; says which have something.
fn wait_any<const N: usize>(
    fds: [Option<&OwnedFd>; N],
    wait: Option<Duration>,
) -> [bool; N] {
    let mut slots = Vec::with_capacity(N);
    let mut polls = Vec::with_capacity(N);
    for (slot, fd) in fds.into_iter().enumerate() {
        if let Some(fd) = fd {
            let fd: BorrowedFd<'_> = fd.as_fd();
            polls.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            slots.push(slot);
        }
    }
    let wait = wait.map(|wait| Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    });
    let mut ready = [false; N];
    if rustix::event::poll(&mut polls, wait.as_ref()).is_ok() {
        for (slot, poll) in slots.into_iter().zip(&polls) {
            ready[slot] = !poll.revents().is_empty();
        }
    }
    ready
}
