//! `zone-job run`: runs the job's program and says how it ended.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use serde::Deserialize;
use serde_json::{Value, json};

use super::tracer::Tracer;
use super::{Nonce, close_stdin, failed};
use crate::identity::Account;
use crate::signals;
use crate::sys::{self, Ended, Forked};

/// Where programs are looked for if the request gives no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub nonce: Nonce,
    user: String,
    cwd: String,
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    env_clear: bool,
    nofile: Option<u64>,
    pids: Option<u64>,
    /// Whether the job may leave core images.
    #[serde(default)]
    core: bool,
}

/// Everything that exec needs, made before the fork.
struct Ready {
    account: Account,
    cwd: CString,
    paths: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a zero byte in the request".to_owned())
}

fn prepare(header: &Header) -> Result<Ready, String> {
    let account = Account::of_zone(&header.user)
        .ok_or_else(|| format!("no user {:?} in this zone", header.user))?;
    let program = header.argv.first().ok_or("nothing to run")?;
    let mut env = BTreeMap::new();
    if !header.env_clear {
        for (name, value) in [
            ("HOME", account.home.as_str()),
            ("USER", account.name.as_str()),
            ("LOGNAME", account.name.as_str()),
            ("SHELL", account.shell.as_str()),
            ("PATH", DEFAULT_PATH),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    env.extend(header.env.clone());
    if env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return Err("a name in env is empty or has a = in it".to_owned());
    }
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let paths = if program.contains('/') {
        vec![program.clone()]
    } else {
        let dirs = path.split(':').map(|dir| match dir {
            "" => ".",
            dir => dir,
        });
        dirs.map(|dir| format!("{dir}/{program}")).collect()
    };
    let strings = |list: Vec<String>| {
        list.into_iter().map(c_string).collect::<Result<Vec<_>, _>>()
    };
    Ok(Ready {
        account,
        cwd: c_string(header.cwd.as_str())?,
        paths: strings(paths)?,
        argv: strings(header.argv.clone())?,
        env: strings(env.iter().map(|(k, v)| format!("{k}={v}")).collect())?,
    })
}

/// Runs the program; gives the status.
pub(super) fn run(header: &Header) -> Value {
    let ready = match prepare(header) {
        Ok(ready) => ready,
        Err(why) => return json!({ "error": why, "code": 127 }),
    };
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let Ok((trouble, trouble_end)) = pipe else {
        return failed("cannot make a pipe");
    };
    close_stdin();
    let tracer = Tracer::waiting();
    let pid = match sys::fork() {
        Ok(Forked::Child) => {
            let (step, error) = launch(header, &ready, &trouble_end, tracer);
            let code = error.raw_os_error().unwrap_or(libc::EIO);
            let text = format!("{code} {step}");
            let _ = rustix::io::write(&trouble_end, text.as_bytes());
            sys::exit_now(127)
        }
        Ok(Forked::Parent(pid)) => pid,
        Err(error) => return failed(format!("cannot fork: {error}")),
    };
    drop((trouble_end, tracer));
    // Ends at once when exec closes the other side.
    let text = super::read_all(trouble);
    let ended = match sys::wait_child(pid, true) {
        Ok(Some(ended)) => ended,
        Ok(None) => return failed("the program is lost"),
        Err(error) => return failed(format!("cannot wait: {error}")),
    };
    if text.is_empty() {
        return status(&ended);
    }
    refusal(&String::from_utf8_lossy(&text))
}

fn status(ended: &Ended) -> Value {
    let usage = json!({
        "cpu_ms": ended.cpu_ms,
        "user_ms": ended.user_ms,
        "max_rss": ended.max_rss,
    });
    match (ended.code(), ended.signal()) {
        (None, Some(signal)) => json!({
            "signal": signals::name(signal),
            "core": ended.core(),
            "usage": usage,
        }),
        (code, _) => json!({ "code": code, "usage": usage }),
    }
}

fn refusal(text: &str) -> Value {
    let (code, step) = text.split_once(' ').unwrap_or(("5", "run it"));
    let errno = code.parse().unwrap_or(libc::EIO);
    let why = rustix::io::Errno::from_raw_os_error(errno);
    let code = if errno == libc::ENOENT { 127 } else { 126 };
    let why = io::Error::from(why).to_string();
    // Without the number: people read this.
    let why = why.split(" (os error").next().unwrap_or_default();
    json!({ "error": format!("cannot {step}: {why}"), "code": code })
}

/// The child: becomes the job and runs the program. Returns only on trouble.
fn launch(
    header: &Header,
    ready: &Ready,
    trouble: &OwnedFd,
    tracer: Option<Tracer>,
) -> (String, io::Error) {
    let set_up = || -> Result<(), (&str, io::Error)> {
        let _ = rustix::process::setsid();
        let mut keep = vec![trouble.as_raw_fd()];
        keep.extend(tracer.as_ref().map(AsRawFd::as_raw_fd));
        sys::close_all_but(&keep);
        if let Some(tracer) = tracer {
            tracer.serve();
        }
        give_output(&ready.account);
        sys::umask(0o022);
        let core =
            if header.core { sys::hard_limit(libc::RLIMIT_CORE) } else { 0 };
        let limit = |resource: u32, value: u64| {
            let value = value.min(sys::hard_limit(resource));
            sys::set_limit(resource, value).map_err(|e| ("set a limit", e))
        };
        limit(libc::RLIMIT_CORE, core)?;
        if let Some(count) = header.nofile {
            limit(libc::RLIMIT_NOFILE, count)?;
        }
        sys::reset_signals();
        // What follows is counted as the job's, if its system calls are
        // counted: as little as can be.
        ready.account.assume().map_err(|e| ("become the user", e))?;
        sys::set_dumpable(false);
        if let Some(count) = header.pids {
            limit(libc::RLIMIT_NPROC, count)?;
        }
        sys::forbid_new_rights().map_err(|e| ("give up rights", e))?;
        Ok(())
    };
    if let Err((step, error)) = set_up() {
        return (step.to_owned(), error);
    }
    if let Err(error) = rustix::process::chdir(ready.cwd.as_c_str()) {
        return (format!("enter {}", header.cwd), error.into());
    }
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for path in &ready.paths {
        let error = sys::exec(path, &ready.argv, &ready.env);
        let skip =
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
        if !skip {
            last = error;
        }
        if !skip && last.raw_os_error() != Some(libc::EACCES) {
            break;
        }
    }
    (format!("run {}", header.argv[0]), last)
}

/// Lets the job own its output pipes, so that it may reopen `/dev/stdout`.
fn give_output(account: &Account) {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    for fd in [stdout.as_fd(), stderr.as_fd()] {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(account.uid),
            rustix::fs::Gid::from_raw(account.gid),
        );
        // In a zone of one id they are its already.
        let _ = rustix::fs::fchown(fd, Some(uid), Some(gid));
    }
}
