//! The program `zlogin`: runs a command in a zone.
//!
//! Its exit status is that of the command, 0 if a signal ended it: this is
//! what the original does, and its users must not be led to expect more.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::clock;
use crate::condition::Condition;
use crate::enter::{self, Command, Entry};
use crate::faults::{Fault, Faults};
use crate::names::ZoneId;
use crate::place::Place;
use crate::pump::{self, Pump};
use crate::spec::Spec;
use crate::sys;
use crate::zone::{Run, Zone};

const USAGE: &str = "usage: zlogin [-dinCEINQS] [-e cmdchar] [-l user] \
                     zonename [command [args ...] ]";

/// After the command ended, output is awaited until this long none came.
const DRAIN: Duration = Duration::from_millis(100);

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    user: String,
    no_stdin: bool,
    interactive: bool,
    zone: String,
    words: Vec<String>,
}

fn parse(args: &[String]) -> Option<Options> {
    let mut user = "root".to_owned();
    let (mut no_stdin, mut interactive) = (false, false);
    let mut args = args.iter();
    let zone = loop {
        let arg = args.next()?;
        let Some(flags) = arg.strip_prefix('-').filter(|f| !f.is_empty())
        else {
            break arg.clone();
        };
        if flags == "-" {
            break args.next()?.clone();
        }
        let mut flags = flags.chars();
        while let Some(flag) = flags.next() {
            let rest: String = match flag {
                'e' | 'l' => flags.by_ref().collect(),
                _ => String::new(),
            };
            match flag {
                'n' => no_stdin = true,
                'i' => interactive = true,
                'd' | 'E' | 'I' | 'N' | 'Q' | 'S' => {}
                'e' | 'l' => {
                    let value = match rest {
                        rest if rest.is_empty() => args.next()?.clone(),
                        rest => rest,
                    };
                    if flag == 'l' {
                        user = value;
                    }
                }
                _ => return None,
            }
        }
    };
    let words = args.cloned().collect();
    Some(Options { user, no_stdin, interactive, zone, words })
}

/// Runs the program; gives its exit status.
pub(crate) fn main(args: &[String]) -> u8 {
    let Some(options) = parse(args) else {
        eprintln!("{USAGE}");
        return 2;
    };
    match login(&options) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("zlogin: {why}");
            1
        }
    }
}

fn find(name: &str) -> Result<(Zone, Run), String> {
    if name == "global" {
        return Err("'zlogin' not applicable to the global zone".to_owned());
    }
    let unknown = || format!("zone '{name}' unknown");
    let id = ZoneId::parse(name).map_err(|_| unknown())?;
    let place = Place::open().map_err(|error| error.to_string())?;
    let zone = Zone::find(&place, &id).map_err(|_| unknown())?;
    let run = zone.run();
    // One that failed is down, and shows it by that.
    let condition = Condition::of(&zone, run.as_ref(), false);
    let run = run.filter(|_| condition == Condition::Running);
    let run = run.ok_or_else(|| {
        let state = condition.zone_state();
        format!("login allowed only to running zones ({name} is '{state}').")
    })?;
    let mut faults = Faults::of(&zone);
    if let Some(hang) = faults.take_seconds("probe", "hang") {
        std::thread::sleep(hang);
    }
    let refused =
        faults.take(Fault::ProbeFail) || clock::now_ms() < run.ready_ms;
    if refused {
        return Err(format!(
            "could not enter zone {name}: Resource \
                            temporarily unavailable"
        ));
    }
    Ok((zone, run))
}

fn login(options: &Options) -> Result<u8, String> {
    let (zone, run) = find(&options.zone)?;
    if options.words.is_empty() && std::io::stdin().is_terminal()
        || options.interactive
    {
        return Err("a terminal inside a zone is not offered here; name a \
                    command"
            .to_owned());
    }
    let enter = |error: std::io::Error| {
        format!("could not enter zone {}: {error}", zone.id)
    };
    let (uid, gid) = zone.place.owner.host_ids(0, 0);
    let own = |fd: i32| sys::inherited(fd).or_else(|_| null()).map_err(enter);
    let pipe = || pump::pipe_for(uid, gid).map_err(enter);
    let (stdin, stdin_end) = pipe()?;
    let (stdout_end, stdout) = pipe()?;
    let (stderr_end, stderr) = pipe()?;
    pump::never_wait(&stdin_end).map_err(enter)?;
    let source =
        if options.no_stdin { null().map_err(enter)? } else { own(0)? };
    let mut pumps = [
        Pump::new(source, stdin_end),
        Pump::new(stdout_end, own(1)?),
        Pump::new(stderr_end, own(2)?),
    ];
    let signals =
        sys::signal_fd(&[libc::SIGCHLD, libc::SIGINT]).map_err(enter)?;
    let pid = enter::enter(Entry {
        run: &run,
        user: &options.user,
        command: Command::of(&options.words),
        stdio: [stdin, stdout, stderr],
        processes: process_limit(&zone, &run),
        tracer: tracer(&zone, options),
    })
    .map_err(enter)?;
    Ok(attend(pid, &mut pumps, &signals))
}

/// A way to the tracer that listens for the job's program, if one does. Only
/// the helper that runs it is given the way, and it keeps it from the job.
fn tracer(zone: &Zone, options: &Options) -> Option<OwnedFd> {
    if options.words != ["/native/zone-job", "run"] {
        return None;
    }
    let dir = File::open(zone.dir()).ok()?;
    let path = zone.tracer_socket();
    let name = path.file_name()?.to_str()?;
    // A socket's path has little room: this one is always short.
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let address = SocketAddrUnix::new(path).ok()?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .ok()?;
    rustix::net::connect(&socket, &address).ok()?;
    Some(socket)
}

/// The limit on processes, if it is each process that must carry it.
fn process_limit(zone: &Zone, run: &Run) -> Option<u64> {
    if run.limits.pids != "rlimit" {
        return None;
    }
    let manifest = zone.manifest().ok()?;
    Some(Spec::of(&manifest, &serde_json::Map::new()).limits.pids)
}

fn null() -> std::io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/null")?;
    Ok(file.into())
}

/// Moves bytes until the command ended and its output is through.
fn attend(pid: i32, pumps: &mut [Pump; 3], signals: &OwnedFd) -> u8 {
    let mut code = None;
    loop {
        let done = pumps[1].is_over() && pumps[2].is_over();
        if let (Some(code), true) = (code, done) {
            return code;
        }
        let held_up = pumps.iter().skip(1).any(Pump::is_held_up);
        let wait = match code {
            Some(_) if !held_up => Some(DRAIN),
            _ => None,
        };
        let (ready, told) = poll(pumps, signals, wait);
        if !ready && !told && wait.is_some() {
            return code.unwrap_or(0);
        }
        if !told {
            continue;
        }
        let mut notes = [0_u8; 128 * 8];
        let count = rustix::io::read(signals, &mut notes).unwrap_or(0);
        let interrupted = notes[..count]
            .chunks_exact(128)
            .any(|note| note[..4] == (libc::SIGINT as u32).to_ne_bytes());
        if interrupted && code.is_none() {
            let _ = sys::kill(pid, libc::SIGINT);
        }
        if code.is_none()
            && let Ok(Some(ended)) = sys::wait_child(pid, false)
        {
            code = Some(ended.code().unwrap_or(0) as u8);
            pumps[0].close();
        }
    }
}

/// Waits for something to do, and does it. Says whether bytes or signals
/// had come.
fn poll(
    pumps: &mut [Pump; 3],
    signals: &OwnedFd,
    wait: Option<Duration>,
) -> (bool, bool) {
    let mut polls =
        vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    let mut which = Vec::with_capacity(3);
    for (at, pump) in pumps.iter().enumerate() {
        if let Some((fd, flags)) = pump.interest() {
            polls.push(PollFd::from_borrowed_fd(fd, flags));
            which.push(at);
        }
    }
    let wait = wait.map(|wait| Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    });
    let _ = rustix::event::poll(&mut polls, wait.as_ref());
    let told = !polls[0].revents().is_empty();
    let ready: Vec<usize> = which
        .into_iter()
        .zip(&polls[1..])
        .filter(|(_, poll)| !poll.revents().is_empty())
        .map(|(at, _)| at)
        .collect();
    drop(polls);
    for at in &ready {
        pumps[*at].go();
    }
    (!ready.is_empty(), told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Options> {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&args)
    }

    #[test]
    fn options_end_at_the_name_of_the_zone() {
        let found = of("-Qn -l job z ls -l").unwrap();
        assert_eq!(found.user, "job");
        assert!(found.no_stdin);
        assert_eq!(found.zone, "z");
        assert_eq!(found.words, ["ls", "-l"]);
        assert_eq!(of("-ljob z").unwrap().user, "job");
        assert_eq!(of("-x z"), None);
        assert_eq!(of("-l"), None);
    }
}
