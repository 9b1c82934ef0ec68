//! System calls of a Linux zone, by count: a small program in the kernel
//! that counts, and what it counted.
//!
//! The kernel runs it at the beginning of each system call of the machine
//! (and a second one at the end, for errors); it counts those of one cgroup,
//! by number, in memory of each processor. Nothing is stopped, copied or
//! written for a call, so a call costs about a quarter of a microsecond more. All that
//! it is goes when its descriptors do: with [`Counter`], or with the process
//! that holds it, however that ends.
//!
//! Must not know jobs, runs or the sampler; of a zone it knows a cgroup and
//! process 1. Invariant: a call is counted under its own name or under none:
//! calls of 32-bit programs have other numbers, and are told apart.

mod arch;
mod asm;
mod btf;
mod counter;
mod counts;
mod error;
mod program;
mod sys;
mod target;

pub use self::arch::Arch;
pub use self::counter::Counter;
pub use self::counts::{Abi, Call, Counts};
pub use self::error::CountError;
pub use self::target::Target;
