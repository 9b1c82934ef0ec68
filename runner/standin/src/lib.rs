//! `vmadm`, `zlogin` and `imgadm` for Linux: zones from namespaces,
//! overlayfs and cgroups, behind the command lines of SmartOS.
//!
//! A zone is a process 1 in namespaces of its own over a file tree whose
//! writable layer can be dropped. There is no daemon: each command works on
//! plain files under the state root, and each running zone has one keeper,
//! which ends with it. See `docs/zones.md`.
//!
//! Must not know jobs, runs or dispatchers: it is a stand-in for an
//! operating system. The programs have one thread each, since they fork
//! without exec; nothing here may start another.

mod boot;
mod cgroup;
mod check;
mod checkpoint;
mod clock;
mod condition;
mod copy;
mod durable;
mod enter;
mod faults;
mod halt;
mod identity;
mod imgadm;
mod init;
mod job;
mod keeper;
mod mdata;
mod mounts;
mod names;
mod native;
mod place;
mod pump;
mod signals;
mod skeleton;
mod snapshot;
mod spec;
mod sys;
mod trash;
mod usage;
mod vmadm;
mod watch;
mod zlogin;
mod zone;

use std::process::ExitCode;

pub use self::spec::HOST_IMAGE;

/// Runs one of the programs if this process was started under its name
/// (the last component of argument 0); to be called before anything else in
/// `main`, while there is one thread.
#[must_use]
pub fn multicall() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let name = std::path::Path::new(&name).file_name()?.to_str()?.to_owned();
    dispatch(&name)
}

/// Runs the program of that name, but a helper for zones if the process was
/// started under the name of one.
#[must_use]
pub fn run_as(name: &str) -> ExitCode {
    multicall().or_else(|| dispatch(name)).unwrap_or(ExitCode::from(2))
}

fn dispatch(name: &str) -> Option<ExitCode> {
    let args: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    call(name, &args).map(ExitCode::from)
}

/// Runs one of the programs in this process, which must have one thread;
/// gives its exit status. None: there is no program of that name.
#[must_use]
pub fn call(name: &str, args: &[String]) -> Option<u8> {
    Some(match name {
        "vmadm" | "imgadm" => {
            // What zones are made of is not for the caller's umask to hide.
            sys::umask(0o022);
            if name == "vmadm" { vmadm::main(args) } else { imgadm::main(args) }
        }
        "zone-check" => check::main(),
        "zone-job" => job::main(args),
        "zlogin" => zlogin::main(args),
        other => mdata::client::main(mdata::client::Verb::of(other)?, args),
    })
}
