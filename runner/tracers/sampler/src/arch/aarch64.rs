//! Registers of aarch64. Compiled for that processor only; not yet tried on
//! one.

use framehop::aarch64::UnwindRegsAarch64;

/// Bits of `sample_regs_user`: x29, lr, sp and pc of `asm/perf_regs.h`.
pub(crate) const REGISTERS: u64 = 1 << 29 | 1 << 30 | 1 << 31 | 1 << 32;

/// The machine number of this processor's programs in ELF.
pub(crate) const ELF_MACHINE: u16 = 183;

/// What unwinding starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The instruction.
    pub ip: u64,
    /// The stack.
    pub sp: u64,
    fp: u64,
    lr: u64,
}

impl Registers {
    /// From the words of a sample, in the order of the bits.
    pub(crate) fn from_perf(values: &[u64]) -> Option<Registers> {
        let [fp, lr, sp, ip] = *values else { return None };
        Some(Registers { ip, sp, fp, lr })
    }

    /// From `NT_PRSTATUS` of a stopped thread: `user_pt_regs`.
    pub(crate) fn from_status(words: &[u64]) -> Option<Registers> {
        let at = |index: usize| words.get(index).copied();
        Some(Registers { fp: at(29)?, lr: at(30)?, sp: at(31)?, ip: at(32)? })
    }

    /// For the unwinder.
    pub(crate) fn unwinding(&self) -> UnwindRegsAarch64 {
        UnwindRegsAarch64::new(self.lr, self.sp, self.fp)
    }
}

/// Goes from a trampoline of Python to its caller; gives the address there.
///
/// The trampoline keeps a frame as the processor's convention has it.
pub(crate) fn leave_trampoline(
    registers: &mut UnwindRegsAarch64,
    read: &mut impl FnMut(u64) -> Result<u64, ()>,
) -> Option<u64> {
    let frame = registers.fp();
    let caller = read(frame.checked_add(8)?).ok()?;
    registers.set_fp(read(frame).ok()?);
    registers.set_sp(frame.checked_add(16)?);
    registers.set_lr(caller);
    Some(registers.lr_mask().strip_ptr_auth(caller))
}
