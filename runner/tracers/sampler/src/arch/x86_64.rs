//! Registers of x86_64.

use framehop::x86_64::UnwindRegsX86_64;

/// Bits of `sample_regs_user`: bp, sp and ip of `asm/perf_regs.h`.
pub(crate) const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;

/// The machine number of this processor's programs in ELF.
pub(crate) const ELF_MACHINE: u16 = 62;

/// What unwinding starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The instruction.
    pub ip: u64,
    /// The stack.
    pub sp: u64,
    bp: u64,
}

impl Registers {
    /// From the words of a sample, in the order of the bits.
    pub(crate) fn from_perf(values: &[u64]) -> Option<Registers> {
        let [bp, sp, ip] = *values else { return None };
        Some(Registers { ip, sp, bp })
    }

    /// From `NT_PRSTATUS` of a stopped thread: `user_regs_struct`.
    pub(crate) fn from_status(words: &[u64]) -> Option<Registers> {
        let at = |index: usize| words.get(index).copied();
        Some(Registers { bp: at(4)?, ip: at(16)?, sp: at(19)? })
    }

    /// For the unwinder.
    pub(crate) fn unwinding(&self) -> UnwindRegsX86_64 {
        UnwindRegsX86_64::new(self.ip, self.sp, self.bp)
    }
}

/// Goes from a trampoline of Python to its caller; gives the address there.
///
/// The trampoline's code is `sub $8, %rsp; call *%rcx; add $8, %rsp; ret`, in
/// later versions with a frame pointer in place of the eight bytes.
pub(crate) fn leave_trampoline(
    registers: &mut UnwindRegsX86_64,
    read: &mut impl FnMut(u64) -> Result<u64, ()>,
) -> Option<u64> {
    let sp = registers.sp();
    let caller = read(sp.checked_add(8)?).ok()?;
    if registers.bp() == sp {
        registers.set_bp(read(sp).ok()?);
    }
    registers.set_sp(sp.checked_add(16)?);
    registers.set_ip(caller);
    Some(caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(bp: u64) -> Option<(u64, u64, u64)> {
        let mut registers = UnwindRegsX86_64::new(0x4000, 0x8000, bp);
        let mut read = |at: u64| match at {
            0x8000 => Ok(0x9000),
            0x8008 => Ok(0x1234),
            _ => Err(()),
        };
        let caller = leave_trampoline(&mut registers, &mut read)?;
        assert_eq!(registers.ip(), caller);
        Some((caller, registers.sp(), registers.bp()))
    }

    #[test]
    fn a_trampoline_is_left_with_a_frame_pointer_or_without() {
        assert_eq!(leave(0x7777), Some((0x1234, 0x8010, 0x7777)));
        assert_eq!(leave(0x8000), Some((0x1234, 0x8010, 0x9000)));
        let mut off = UnwindRegsX86_64::new(0, u64::MAX - 3, 0);
        assert_eq!(leave_trampoline(&mut off, &mut |_| Err(())), None);
    }
}
