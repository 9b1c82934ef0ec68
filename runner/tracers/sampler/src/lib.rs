//! The built-in CPU sampler of Linux zones: says where a job spends its
//! processor time, with nothing installed.
//!
//! It works from outside the zone, in a process of its own, by perf events
//! of the processor's clock: on the zone's cgroup where that is permitted,
//! else inherited from the job's first process to its children. Stacks are
//! unwound by the unwind tables of the programs, files are opened when they
//! are mapped and named at the end, code of runtimes is named from the maps
//! that they write.
//!
//! Must not know jobs, runs or dispatchers; of a zone it knows process 1 and
//! the two places that `vmadm get` names. What a zone's files say is never
//! believed further than it can be checked.

mod arch;
mod blocked;
mod client;
mod clock;
mod elf;
mod jit;
mod listen;
mod maps;
mod names;
mod objects;
mod perf;
mod process;
mod recorder;
mod serve;
mod space;
mod stacks;
mod sys;
mod target;
mod trace;
mod wire;
mod words;
mod zone;

use std::path::Path;
use std::process::ExitCode;

pub use self::client::{
    Armed, Running, SamplerError, Trace, arm, stacks_of, start,
};
pub use self::process::CARRIERS;
pub use self::target::{
    DEFAULT_HZ, DEFAULT_STACK_BYTES, How, Program, Target, TargetError,
};
pub use self::wire::{
    FinishOptions, ProcessStacks, Summary, ThreadStack, Window,
};
pub use self::zone::{NoRoot, ZoneFiles};

/// Runs the sampler if this process was started under its name (the last
/// component of argument 0); to be called before anything else in `main`,
/// while there is one thread.
#[must_use]
pub fn multicall() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let name = Path::new(&name).file_name()?.to_str()?.to_owned();
    (name == client::NAME).then(run)
}

/// Runs the sampler on standard input and output.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::from(serve::main())
}
