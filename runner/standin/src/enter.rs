//! Entering a running zone: a new process inside whose parent is ours.
//!
//! The process that enters is not visible to others of its kind in the zone
//! before it runs the wanted program, and it carries neither the caller's
//! environment nor its descriptors in.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};

use crate::cgroup::{Cgroups, Part};
use crate::identity::Account;
use crate::sys::{self, Forked};
use crate::zone::Run;

/// What root's programs find in PATH.
const ROOT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/native";

/// What everybody else's find.
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The user's shell with `-c`.
    Shell(String),
    /// A program by its path, without a shell between.
    Direct(Vec<String>),
    /// The user's shell, as at a login.
    Login,
}

impl Command {
    /// As `su -c` would take the words after the zone's name. A line that
    /// no shell would change is run without one.
    pub(crate) fn of(words: &[String]) -> Command {
        let line = match words {
            [] => return Command::Login,
            [one] => one.clone(),
            many => {
                let quote = |word: &String| {
                    if word.contains([' ', '\t']) {
                        format!("'{word}'")
                    } else {
                        word.clone()
                    }
                };
                many.iter().map(quote).collect::<Vec<_>>().join(" ")
            }
        };
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric() || b"/_.-: ".contains(&byte)
        };
        if line.starts_with('/') && line.bytes().all(plain) {
            let words = line.split(' ').filter(|word| !word.is_empty());
            return Command::Direct(words.map(str::to_owned).collect());
        }
        Command::Shell(line)
    }
}

/// How a program is to be run inside.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// The zone's present boot.
    pub run: &'a Run,
    /// As whom.
    pub user: &'a str,
    /// What.
    pub command: Command,
    /// Its standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Greatest number of processes, where nothing better holds them.
    pub processes: Option<u64>,
    /// A tracer that waits for the program.
    pub tracer: Option<OwnedFd>,
}

/// Under which number a program finds its tracer.
const TRACER_FD: i32 = 3;

/// Tells zone-job the number of the descriptor that leads to its tracer.
pub(crate) const TRACER: &str = "NTRACE_TRACER";

/// Starts a program in a zone; gives its pid, a child of this process.
pub(crate) fn enter(entry: Entry<'_>) -> io::Result<i32> {
    let pid = Pid::from_raw(entry.run.init.pid)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let init = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    if !entry.run.init.alive() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let (words, words_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let cgroups = Cgroups { groups: entry.run.cgroups.clone() };
    let (forked, born) = cgroups.fork(Part::Job, 0)?;
    let between = match forked {
        Forked::Child => {
            let enter = || cgroups.enter(Part::Job, born);
            let why = cross(&entry, enter, &init, &words_end);
            let code = why.raw_os_error().unwrap_or(libc::EIO);
            let _ = rustix::io::write(&words_end, &(-code).to_ne_bytes());
            sys::exit_now(1)
        }
        Forked::Parent(pid) => pid,
    };
    drop((entry, words_end));
    let mut word = [0_u8; 4];
    let count =
        rustix::io::retry_on_intr(|| rustix::io::read(&words, &mut word))?;
    let _ = sys::wait_child(between, true);
    match i32::from_ne_bytes(word) {
        _ if count != 4 => Err(io::Error::other("the way in broke off")),
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        pid => Ok(pid),
    }
}

/// The process between: goes into the zone and leaves a sibling there.
fn cross(
    entry: &Entry<'_>,
    enter: impl Fn() -> io::Result<()>,
    init: &OwnedFd,
    words: &OwnedFd,
) -> io::Error {
    let crossing = || -> io::Result<()> {
        enter()?;
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
        for (fd, number) in entry.stdio.iter().zip(0..) {
            sys::dup_onto(fd.as_fd(), number)?;
        }
        let mut keep = vec![init.as_raw_fd(), words.as_raw_fd()];
        keep.extend(entry.tracer.as_ref().map(AsRawFd::as_raw_fd));
        sys::close_all_but(&keep);
        let mut spaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWCGROUP;
        if entry.run.network != "host" {
            spaces |= libc::CLONE_NEWNET;
        }
        sys::setns(init.as_fd(), spaces)
    };
    let term = std::env::var("TERM").ok();
    sys::scrub_arguments("zlogin");
    if let Err(error) = crossing() {
        return error;
    }
    match sys::clone_process(libc::CLONE_PARENT) {
        Ok(Forked::Child) => inside(entry, term),
        Ok(Forked::Parent(pid)) => {
            let _ = rustix::io::write(words, &pid.to_ne_bytes());
            sys::exit_now(0)
        }
        Err(error) => error,
    }
}

/// The process inside: becomes the user and runs the program.
fn inside(entry: &Entry<'_>, term: Option<String>) -> ! {
    let fail = |what: &str, error: &io::Error, code: i32| -> ! {
        eprintln!("zlogin: cannot {what}: {error}");
        sys::exit_now(code)
    };
    let tracer = entry.tracer.as_ref().and_then(|tracer| {
        sys::dup_onto(tracer.as_fd(), TRACER_FD).ok()?;
        Some(TRACER_FD)
    });
    sys::close_all_but(tracer.as_slice());
    sys::set_dumpable(false);
    let _ = rustix::process::setsid();
    sys::reset_signals();
    sys::umask(0o022);
    let _ = sys::clear_groups();
    if let Err(error) = sys::set_ids(0, 0) {
        fail("become the zone's root", &error, 1);
    }
    if let Some(count) = entry.processes {
        let _ = sys::set_limit(libc::RLIMIT_NPROC, count);
    }
    let Some(account) = Account::of_zone(entry.user) else {
        eprintln!("zlogin: unknown user {:?}", entry.user);
        sys::exit_now(1)
    };
    if let Err(error) = account.assume() {
        fail("become the user", &error, 1);
    }
    let _ = rustix::process::chdir(account.home.as_str())
        .or_else(|_| rustix::process::chdir("/"));
    let (path, argv) = arguments(&entry.command, &account);
    let mut env = environment(&account, term);
    env.extend(tracer.map(|number| text(format!("{TRACER}={number}"))));
    let error = sys::exec(&path, &argv, &env);
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    fail(&format!("run {}", path.to_string_lossy()), &error, code)
}

fn text(text: impl Into<Vec<u8>>) -> CString {
    let bytes: Vec<u8> =
        text.into().into_iter().filter(|byte| *byte != 0).collect();
    CString::new(bytes).expect("all zero bytes were taken out")
}

fn arguments(command: &Command, account: &Account) -> (CString, Vec<CString>) {
    let shell = account.shell.as_str();
    let name = shell.rsplit('/').next().unwrap_or("sh");
    // `su user` from root's zlogin is a login shell for all but root.
    let name = if account.uid == 0 { name.into() } else { format!("-{name}") };
    match command {
        Command::Direct(words) if account.uid == 0 => {
            let argv: Vec<CString> =
                words.iter().map(|word| text(word.as_str())).collect();
            (text(words.first().map_or("", String::as_str)), argv)
        }
        Command::Direct(words) => {
            (text(shell), vec![text(name), text("-c"), text(words.join(" "))])
        }
        Command::Shell(line) => {
            (text(shell), vec![text(name), text("-c"), text(line.as_str())])
        }
        Command::Login => (text(shell), vec![text(name)]),
    }
}

fn environment(account: &Account, term: Option<String>) -> Vec<CString> {
    let path = if account.uid == 0 { ROOT_PATH } else { USER_PATH };
    let mut env = vec![
        text(format!("PATH={path}")),
        text(format!("HOME={}", account.home)),
        text(format!("LOGNAME={}", account.name)),
        text(format!("USER={}", account.name)),
        text(format!("SHELL={}", account.shell)),
        text(format!("MAIL=/var/mail/{}", account.name)),
    ];
    env.extend(term.map(|term| text(format!("TERM={term}"))));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Command {
        let words: Vec<String> =
            words.iter().map(|word| (*word).to_owned()).collect();
        Command::of(&words)
    }

    #[test]
    fn words_are_joined_as_zlogin_joins_them() {
        let shell = |line: &str| Command::Shell(line.to_owned());
        assert_eq!(of(&["exit 7"]), shell("exit 7"));
        assert_eq!(
            of(&["echo", "a b", "$HOME", "*"]),
            shell("echo 'a b' $HOME *")
        );
        assert_eq!(of(&["it's", "a\tb"]), shell("it's 'a\tb'"));
        assert_eq!(of(&[]), Command::Login);
    }

    #[test]
    fn a_line_that_no_shell_would_change_needs_none() {
        let direct = |words: &[&str]| {
            Command::Direct(words.iter().map(|w| (*w).to_owned()).collect())
        };
        assert_eq!(
            of(&["/native/zone-job", "run"]),
            direct(&["/native/zone-job", "run"])
        );
        assert!(matches!(of(&["/bin/echo", "$HOME"]), Command::Shell(_)));
        assert!(matches!(of(&["/a=b", "x"]), Command::Shell(_)));
        assert!(matches!(of(&["true"]), Command::Shell(_)));
    }
}
