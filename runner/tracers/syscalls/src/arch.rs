//! What the two architectures differ in: names of calls, and where the
//! kernel keeps the number of a call and whether it is one of 32 bits.
//!
//! Names are those of the kernel's own tables, by the crate `syscalls`,
//! which makes them anew for each release of the kernel.

use crate::btf::Btf;

/// An architecture of which system calls are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86; its 32-bit calls are those of i386.
    X86_64,
    /// 64-bit ARM; its 32-bit calls are those of arm.
    Aarch64,
}

/// Where to look whether a call is one of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrow {
    /// In the task, so many bytes from its beginning, under this mask.
    InTask(i32, i32),
    /// In the registers, likewise.
    InRegisters(i32, i32),
}

/// The bit of `thread_info.status` that the kernel sets for the time of a
/// 32-bit call (arch/x86/include/asm/thread_info.h, `TS_COMPAT`). The code
/// segment would not do: a 64-bit program may make such a call too.
const TS_COMPAT: i32 = 0x0002;

/// The bit of `pstate` of a process in 32-bit mode
/// (arch/arm64/include/uapi/asm/ptrace.h, `PSR_MODE32_BIT`).
const PSR_MODE32: i32 = 0x0010;

impl Arch {
    /// The one of this machine, if it is known.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        if cfg!(target_endian = "big") {
            None
        } else if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// Its name, as `uname -m` prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The name of its 32-bit calls.
    #[must_use]
    pub fn narrow_name(self) -> &'static str {
        match self {
            Self::X86_64 => "i386",
            Self::Aarch64 => "arm",
        }
    }

    /// The name of a call.
    pub(crate) fn name(self, number: u32) -> Option<&'static str> {
        let id = number as usize;
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::new(id).map(|n| n.name()),
            Self::Aarch64 => {
                syscalls::aarch64::Sysno::new(id).map(|n| n.name())
            }
        }
    }

    /// The name of a 32-bit call.
    pub(crate) fn name_narrow(self, number: u32) -> Option<&'static str> {
        let id = number as usize;
        match self {
            Self::X86_64 => syscalls::x86::Sysno::new(id).map(|n| n.name()),
            Self::Aarch64 => syscalls::arm::Sysno::new(id).map(|n| n.name()),
        }
    }

    /// Where the number of a call is among the registers, of which the
    /// layout is the same in each kernel: `orig_ax`; `syscallno`.
    pub(crate) fn number_at(self) -> i32 {
        match self {
            Self::X86_64 => 15 * 8,
            Self::Aarch64 => 35 * 8,
        }
    }

    /// The bit in a number that marks calls of the third kind, x32.
    pub(crate) fn x32_bit(self) -> Option<i32> {
        match self {
            Self::X86_64 => Some(0x4000_0000),
            Self::Aarch64 => None,
        }
    }

    /// Whether one must know the running kernel's types to tell 32-bit calls.
    pub(crate) fn needs_types(self) -> bool {
        self == Self::X86_64
    }

    /// Where the kernel says that a call is one of 32 bits. `types` describe
    /// the running kernel.
    pub(crate) fn narrow(self, types: Option<&Btf<'_>>) -> Option<Narrow> {
        match self {
            // A task begins with its thread_info on this architecture.
            Self::X86_64 => {
                let bytes = types?.offset("thread_info", "status")?;
                Some(Narrow::InTask(i32::try_from(bytes).ok()?, TS_COMPAT))
            }
            // After 31 registers, the stack pointer and the program counter.
            Self::Aarch64 => Some(Narrow::InRegisters(33 * 8, PSR_MODE32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_their_own_table() {
        assert_eq!(Arch::X86_64.name(0), Some("read"));
        assert_eq!(Arch::X86_64.name(59), Some("execve"));
        assert_eq!(Arch::X86_64.name_narrow(20), Some("getpid"));
        assert_eq!(Arch::X86_64.name(20), Some("writev"));
        assert_eq!(Arch::Aarch64.name(63), Some("read"));
        assert_eq!(Arch::Aarch64.name(221), Some("execve"));
        assert_eq!(Arch::Aarch64.name_narrow(3), Some("read"));
        assert_eq!(Arch::X86_64.name(511), None);
    }

    /// The tables agree with the headers that this program was built with.
    #[test]
    fn the_table_of_this_machine_is_that_of_its_headers() {
        let Some(arch) = Arch::of_host() else { return };
        for (number, name) in [
            (libc::SYS_openat, "openat"),
            (libc::SYS_futex, "futex"),
            (libc::SYS_epoll_pwait, "epoll_pwait"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_io_uring_enter, "io_uring_enter"),
            (libc::SYS_statx, "statx"),
            (libc::SYS_landlock_create_ruleset, "landlock_create_ruleset"),
        ] {
            assert_eq!(arch.name(number as u32), Some(name));
        }
    }
}
