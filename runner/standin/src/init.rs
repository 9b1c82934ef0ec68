//! Process 1 of a zone: puts the zone together, then reaps and holds.
//!
//! It gives up every right on the host before it says that it is ready. It
//! lives as long as its keeper does: the end of the lifeline is its end, and
//! with process 1 the kernel ends everything in the zone. It never runs a
//! program itself; jobs enter from outside.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::mounts::{self, Layout};
use crate::spec::Network;
use crate::sys;

/// What the keeper may tell process 1, one byte each.
pub(crate) mod order {
    /// The cgroups are joined and the first maps are written: begin.
    pub(crate) const BEGIN: u8 = b'g';
    /// The maps of the late user namespace are written.
    pub(crate) const MAPPED: u8 = b'm';
    /// Kill all processes of the zone but process 1.
    pub(crate) const KILL: u8 = b'k';
    /// Ask all to end, and end when all did.
    pub(crate) const DRAIN: u8 = b't';
}

/// What process 1 tells the keeper: one byte, or `E` and a sentence.
pub(crate) mod report {
    /// The user namespace is there and wants maps.
    pub(crate) const MAP: u8 = b'U';
    /// Ready.
    pub(crate) const READY: u8 = b'R';
    /// Failed; the reason follows, then the end.
    pub(crate) const ERROR: u8 = b'E';
}

/// All that process 1 has to know.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The file tree.
    pub layout: Layout,
    /// Name of the machine.
    pub hostname: String,
    /// Which network.
    pub network: Network,
    /// Greatest pid of the namespace, where that stands in for a cgroup.
    pub pid_max: Option<u64>,
}

/// Runs process 1; never returns.
pub(crate) fn run(plan: &Plan, lifeline: OwnedFd, report: &OwnedFd) -> ! {
    sys::close_all_but(&[lifeline.as_raw_fd(), report.as_raw_fd()]);
    // The keeper's log is a file of the host's: nothing in the zone may reach
    // it by way of /proc/1/fd.
    let _ = sys::dup_onto(std::io::stdin().as_fd(), 2);
    if let Err(why) = build(plan, &lifeline, report) {
        give_up(report, &why);
    }
    let _ = rustix::io::write(report, &[report::READY]);
    sys::close_all_but(&[lifeline.as_raw_fd()]);
    hold(&lifeline)
}

/// Tells the keeper why there will be no zone, and ends.
pub(crate) fn give_up(report: &OwnedFd, why: &str) -> ! {
    let text = format!("{}{why}", char::from(report::ERROR));
    let _ = rustix::io::write(report, text.as_bytes());
    sys::exit_now(1)
}

fn wait_for(lifeline: &OwnedFd, wanted: u8) -> Result<(), String> {
    let mut byte = [0_u8; 1];
    loop {
        match rustix::io::read(lifeline, &mut byte) {
            Ok(1) if byte[0] == wanted => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            _ => return Err("the keeper went away".to_owned()),
        }
    }
}

fn build(
    plan: &Plan,
    lifeline: &OwnedFd,
    report: &OwnedFd,
) -> Result<(), String> {
    let owner = plan.layout.owner;
    let why = |step: &'static str| {
        move |error: std::io::Error| format!("cannot {step}: {error}")
    };
    wait_for(lifeline, order::BEGIN)?;
    if !owner.is_root() {
        sys::set_ids(0, 0).map_err(why("become the zone's root"))?;
    }
    sys::umask(0o022);
    // In its cgroups by now, so these become the roots that the zone sees.
    sys::unshare(libc::CLONE_NEWCGROUP)
        .map_err(why("make a cgroup namespace"))?;
    mounts::enter(&plan.layout).map_err(|error| error.to_string())?;
    rustix::system::sethostname(plan.hostname.as_bytes())
        .map_err(|error| why("set the host name")(error.into()))?;
    if plan.network == Network::Loopback {
        sys::loopback_up().map_err(why("switch loopback on"))?;
    }
    if let Some(pid_max) = plan.pid_max {
        // An older kernel has one value for all: then it is not ours to set,
        // and the write fails. The keeper asks whether it took.
        let file = "/proc/sys/kernel/pid_max";
        let _ = std::fs::write(file, pid_max.to_string());
    }
    if owner.is_root() {
        sys::unshare(libc::CLONE_NEWUSER)
            .map_err(why("make a user namespace"))?;
        rustix::io::write(report, &[report::MAP])
            .map_err(|error| why("ask for maps")(error.into()))?;
        wait_for(lifeline, order::MAPPED)?;
        sys::clear_groups().map_err(why("leave all groups"))?;
        sys::set_ids(0, 0).map_err(why("become the zone's root"))?;
    } else {
        mounts::close_settings().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Holds the zone until the lifeline ends.
fn hold(lifeline: &OwnedFd) -> ! {
    let Ok(children) = sys::signal_fd(&[libc::SIGCHLD]) else {
        sys::exit_now(1)
    };
    let mut draining = false;
    loop {
        while let Ok(Some(_)) = sys::wait_child(-1, false) {}
        if draining && sys::kill(-1, 0).is_err() {
            sys::exit_now(0);
        }
        let mut fds = [
            PollFd::new(lifeline, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        // Processes that entered from outside end without a word to us.
        let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let tick = draining.then_some(&tick);
        let _ = rustix::event::poll(&mut fds, tick);
        let (spoken, ended) =
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if ended {
            let mut note = [0_u8; 128];
            let _ = rustix::io::read(children.as_fd(), &mut note);
        }
        if !spoken {
            continue;
        }
        let mut byte = [0_u8; 1];
        match rustix::io::read(lifeline, &mut byte) {
            Ok(1) => match byte[0] {
                order::KILL => drop(sys::kill(-1, libc::SIGKILL)),
                order::DRAIN => {
                    draining = true;
                    let _ = sys::kill(-1, libc::SIGTERM);
                    let _ = sys::kill(-1, libc::SIGCONT);
                }
                _ => {}
            },
            Err(rustix::io::Errno::INTR) => {}
            _ => sys::exit_now(0),
        }
    }
}
