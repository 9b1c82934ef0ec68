//! The stacks of processes as they are now, waiting or not: each thread is
//! stopped for a moment, its registers and a piece of its stack are copied,
//! and it goes on.
//!
//! Runs in a process that does nothing else: whatever it cannot let go is
//! let go by its end. Bounded in time and in the number of threads.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::arch::Registers;
use crate::names::{Budget, Names};
use crate::process::{Frame, Processes};
use crate::sys;
use crate::target::Order;
use crate::wire::{ProcessStacks, ThreadStack};
use crate::zone::ZoneFiles;

/// Time for one thread to stop; one that waits for a disk does not.
const STOP_WAIT: Duration = Duration::from_millis(300);

/// Threads that are looked at, in all.
const THREADS_MAX: usize = 256;

/// Bytes of each stack.
const STACK_MAX: usize = 256 << 10;

/// One process of the zone.
struct Found {
    host: i32,
    zone: u32,
}

/// The stacks of the zone's processes of these pids, in that order, or of
/// all. After `within` no more is begun.
pub(crate) fn stacks(
    order: &Order,
    pids: &[u32],
    within: Duration,
) -> Result<Vec<ProcessStacks>, String> {
    let files = ZoneFiles::hold(order.init).map_err(|error| {
        let source = std::error::Error::source(&error);
        format!("{error}: {}", source.map_or(String::new(), |s| s.to_string()))
    })?;
    let until = Instant::now() + within;
    let mut found = members(order.init).map_err(|error| {
        format!("cannot list the zone's processes: {error}")
    })?;
    if pids.is_empty() {
        found.retain(|one| one.zone != 1);
    } else {
        let order: HashMap<u32, usize> =
            pids.iter().enumerate().map(|(at, pid)| (*pid, at)).collect();
        found.retain(|one| order.contains_key(&one.zone));
        found.sort_by_key(|one| order[&one.zone]);
    }
    let mut look = Look {
        processes: Processes::new(),
        names: Names::new(&order.checkout, Budget::of(within)),
        files,
        until,
        left: THREADS_MAX,
    };
    Ok(found.iter().map(|one| look.process(one)).collect())
}

/// The processes in the pid namespace of a zone's process 1.
fn members(init: i32) -> io::Result<Vec<Found>> {
    let space = fs::read_link(format!("/proc/{init}/ns/pid"))?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(host) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let same = fs::read_link(format!("/proc/{host}/ns/pid"))
            .is_ok_and(|link| link == space);
        if same && let Some(zone) = pid_in_zone(host) {
            found.push(Found { host, zone });
        }
    }
    found.sort_by_key(|one| one.zone);
    Ok(found)
}

fn pid_in_zone(host: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{host}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

struct Look {
    processes: Processes,
    names: Names,
    files: ZoneFiles,
    until: Instant,
    left: usize,
}

impl Look {
    fn process(&mut self, one: &Found) -> ProcessStacks {
        let text = |name: &str| about(&format!("/proc/{}/{name}", one.host));
        let mut stacks = ProcessStacks {
            pid: one.zone,
            host_pid: one.host,
            comm: text("comm").unwrap_or_default(),
            ..ProcessStacks::default()
        };
        let mut threads: Vec<i32> =
            fs::read_dir(format!("/proc/{}/task", one.host))
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect();
        threads.sort_unstable();
        for tid in threads {
            if self.left == 0 || Instant::now() >= self.until {
                stacks.refused = Some(format!(
                    "there was time for others only, or for {THREADS_MAX} \
                     threads"
                ));
                break;
            }
            self.left -= 1;
            stacks.threads.push(self.thread(one, tid));
        }
        stacks
    }

    fn thread(&mut self, one: &Found, tid: i32) -> ThreadStack {
        let at = format!("/proc/{}/task/{tid}", one.host);
        let state = about(&format!("{at}/stat")).and_then(|stat| {
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.chars().next().map(String::from)
        });
        let wchan = about(&format!("{at}/wchan"));
        let mut thread = ThreadStack {
            tid,
            comm: about(&format!("{at}/comm")).unwrap_or_default(),
            state: state.unwrap_or_default(),
            wchan: wchan.filter(|name| !name.is_empty() && name != "0"),
            ..ThreadStack::default()
        };
        match copy(one.host, tid, self.until) {
            Ok((registers, stack)) => {
                let frames = self.processes.now(
                    one.zone,
                    &registers,
                    &stack,
                    &self.files,
                );
                thread.frames = self.named(&frames);
            }
            Err(why) => thread.refused = Some(why),
        }
        thread
    }

    /// Innermost first, inlined functions included.
    fn named(&mut self, frames: &[Frame]) -> Vec<String> {
        let mut found = Vec::new();
        for frame in frames {
            let names = self.names.of(*frame, &self.processes);
            found.extend(names.iter().map(|named| named.name.to_string()));
        }
        found.reverse();
        found
    }
}

/// A small file of /proc, escaped.
fn about(path: &str) -> Option<String> {
    let text = fs::read(Path::new(path)).ok()?;
    let text = text.trim_ascii().escape_ascii().to_string();
    Some(text.chars().take(400).collect())
}

/// Stops a thread, copies registers and stack, lets it go on.
fn copy(
    pid: i32,
    tid: i32,
    until: Instant,
) -> Result<(Registers, Vec<u8>), String> {
    sys::seize(tid).map_err(|error| refusal(pid, &error))?;
    let until = until.min(Instant::now() + STOP_WAIT);
    loop {
        match sys::wait_child(tid, false) {
            Ok(Some(status)) if sys::is_stop(status) => break,
            Ok(Some(_)) => return Err("it ended meanwhile".to_owned()),
            Ok(None) if Instant::now() >= until => {
                // It stays seized; the end of this process lets it go.
                return Err(
                    "it does not stop: it is deep in the kernel".to_owned()
                );
            }
            Ok(None) => std::thread::sleep(Duration::from_micros(200)),
            Err(error) => return Err(format!("cannot wait for it: {error}")),
        }
    }
    let copied = look(pid, tid);
    sys::release(tid);
    copied.map_err(|error| format!("cannot read its stack: {error}"))
}

fn look(pid: i32, tid: i32) -> io::Result<(Registers, Vec<u8>)> {
    let words = sys::registers(tid)?;
    let registers = Registers::from_status(&words).ok_or_else(|| {
        io::Error::other("it is no 64-bit program of this processor")
    })?;
    let mut stack = vec![0; STACK_MAX];
    let count = sys::read_memory(pid, registers.sp, &mut stack)?;
    stack.truncate(count);
    Ok((registers, stack))
}

fn refusal(pid: i32, error: &io::Error) -> String {
    let traced = fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))
        .is_some_and(|tracer| tracer.trim() != "0");
    if traced {
        return "another program traces it already".to_owned();
    }
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let strict = yama.is_ok_and(|scope| scope.trim() == "3");
    if strict {
        return format!(
            "{error}: kernel.yama.ptrace_scope is 3, which forbids it to all"
        );
    }
    format!(
        "{error}: the kernel does not let this user look into it (it may \
         have made itself unreadable)"
    )
}
