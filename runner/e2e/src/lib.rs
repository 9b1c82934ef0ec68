//! The stage for end-to-end tests: real programs, real sockets, real zones.
//!
//! A [`Stage`] is a dispatcher, a runner and its workers, on free ports with
//! data of their own, so any number of them stand beside each other. What is
//! tested is reached as users reach it: through the wire, `vmadm`, `/proc`.
//! It must not know how any of the programs work inside.
//! Invariant: when a stage is dropped, nothing of it is left, or the test
//! fails.

pub mod gate;
pub mod git;
pub mod leftovers;
pub mod line;
pub mod output;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod setup;
pub mod stage;
pub mod wait;
pub mod zones;

pub use gate::Gate;
pub use git::{Repo, Repos};
pub use line::Line;
pub use output::Output;
pub use process::Process;
pub use setup::{Setup, Who};
pub use stage::Stage;
pub use wait::{DEADLINE, eventually, until};

/// Whether the large counts are asked for, by `NTRACE_E2E_FULL=1`.
pub fn is_full() -> bool {
    std::env::var_os("NTRACE_E2E_FULL").is_some_and(|value| value == "1")
}

/// Whether stages are to reach their zones through a real sshd, by
/// `NTRACE_E2E_SSH=1`.
pub fn is_over_ssh() -> bool {
    std::env::var_os("NTRACE_E2E_SSH").is_some_and(|value| value == "1")
}

/// Says loudly that a test was not run, and why.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether the tests are run by root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
