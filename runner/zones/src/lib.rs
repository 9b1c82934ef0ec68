//! The driver of a global zone: vmadm and zlogin, over ssh or as local processes.
//!
//! From the outside in: a [`Carrier`] brings commands to the global zone;
//! [`Vmadm`] asks and changes VMs; a [`Driver`] hands out one [`Worker`] per
//! VM, whose methods are the stages of a reset; the last of them gives an
//! [`Inside`], through which jobs are run. What a job is, and what to do
//! about a failed stage, is not known here.

mod carrier;
mod class;
mod command;
mod doing;
mod door;
mod flow;
mod gate;
mod inside;
mod marker;
mod name;
mod probe;
mod quote;
mod session;
mod spec;
mod vm;
mod vmadm;
mod worker;

pub use carrier::{
    BadAddress, Carrier, ConnectError, Handle, Local, Process, Programs,
    Reader, Ssh, SshAddress, SshOptions, Trouble, Writer,
};
pub use class::{Class, Remedy, classify};
pub use command::{Command, Exit, Program};
pub use door::{Captured, CommandError, Failure, Output, run as run_command};
pub use gate::{gate_calls, zlogin_scripts};
pub use inside::{
    Collect, Collected, Collecting, Inside, InsideError, Kind, ProcessInfo,
    Signal,
};
pub use marker::{Filter, Nonce};
pub use name::{BadName, SnapshotName, UserName, WorkerUuid};
pub use probe::{ProbeError, TryError};
pub use session::{Ended, Ending, Lost, Outcome, Run, Usage};
pub use spec::{BadSpec, Directory, JobSpec};
pub use vm::{
    Boot, Extension, Means, Snapshot, TracePlaces, Vm, VmState, VmUsage,
};
pub use vmadm::{VmLimits, Vmadm, VmadmError};
pub use worker::{Driver, RolledBack, StageError, Worker};
