//! Registers of aarch64. Compiled for that processor only; tried in an
//! emulator, which has no perf events, and not yet on a machine.

use framehop::aarch64::{PtrAuthMask, UnwindRegsAarch64};

/// The bits of an address that are an address: above them a return address
/// may bear the signature of who pushed it. Linux gives more to programs
/// that ask for it by name, and to no code.
const ADDRESS: u64 = (1 << 48) - 1;

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
        UnwindRegsAarch64::new_with_ptr_auth_mask(
            PtrAuthMask(ADDRESS),
            self.lr,
            self.sp,
            self.fp,
        )
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
    Some(registers.lr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trampoline_is_left_by_its_frame_and_signatures_are_dropped() {
        let values = [0x8000, 0x00aa_0000_0000_1234, 0x7ff0, 0x4000];
        let mut registers = Registers::from_perf(&values).unwrap().unwinding();
        assert_eq!(registers.lr(), 0x1234);
        let mut read = |at: u64| match at {
            0x8000 => Ok(0x9000),
            0x8008 => Ok(0x0055_0000_0000_5678),
            _ => Err(()),
        };
        let caller = leave_trampoline(&mut registers, &mut read);
        assert_eq!(caller, Some(0x5678));
        assert_eq!((registers.fp(), registers.sp()), (0x9000, 0x8010));
        assert_eq!(leave_trampoline(&mut registers, &mut read), None);
    }
}
