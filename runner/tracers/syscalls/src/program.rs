//! The two programs that count, and the slots in which they count.
//!
//! One runs when a call begins and counts it; one when it ends and counts it
//! as failed. Both look first whether the process is one of the group, so
//! that all other processes pay as little as possible. Pure.
//!
//! A slot is two numbers: calls, and those of them that failed.

use crate::arch::{Arch, Narrow};
use crate::asm::{Asm, Helper, If, Label, R0, R1, R2, R3, R6, R7, R8, R10};

/// Calls of one table that have a slot of their own; the kernel's tables end
/// well below it.
pub(crate) const CALLS: u32 = 512;
/// The slot of the first call.
pub(crate) const WIDE: u32 = 0;
/// The slot of the first 32-bit call.
pub(crate) const NARROW: u32 = CALLS;
/// Calls whose number is out of range.
pub(crate) const WIDE_ODD: u32 = 2 * CALLS;
/// 32-bit calls whose number is out of range.
pub(crate) const NARROW_ODD: u32 = WIDE_ODD + 1;
/// Calls of the x32 kind, of which kernels know hardly anything any more.
pub(crate) const X32: u32 = WIDE_ODD + 2;
/// All slots.
pub(crate) const SLOTS: u32 = WIDE_ODD + 3;
/// Numbers in a slot.
pub(crate) const FIELDS: u32 = 2;

// The kernel takes no longer value for each processor (PCPU_MIN_UNIT_SIZE).
const _: () = assert!(SLOTS * FIELDS * 8 <= 32 << 10);

/// Calls that failed have answers from -1 down to here. Those below it never
/// reach the program: the kernel makes the call again.
const LAST_ERROR: i32 = -511;

/// What the programs are to know.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The kind of machine.
    pub arch: Arch,
    /// Where it says that a call is one of 32 bits.
    pub narrow: Narrow,
    /// The map in which the group is, at 0.
    pub groups: i32,
    /// The map of the slots, all of them in the value at 0.
    pub counts: i32,
    /// Whose calls do not count.
    pub not_of: Vec<u32>,
}

/// Where in a slot a program counts.
#[derive(Clone, Copy, Debug)]
enum Field {
    Calls = 0,
    Errors = 8,
}

/// Counts a call that begins. It is given the registers, and the number.
pub(crate) fn enter(parts: &Parts) -> Vec<u64> {
    let mut a = Asm::default();
    let (out, count) = (a.label(), a.label());
    let (narrow, large) = (a.label(), a.label());
    a.copy(R6, R1);
    only_of_the_group(&mut a, parts, out);
    tell_narrow(&mut a, parts.narrow);
    a.load(R8, R6, 8);
    a.jump_if(R7, If::NotEqual, 0, narrow);
    a.jump_if(R8, If::Above, CALLS as i32 - 1, large);
    a.jump(count);

    a.bind(narrow);
    let odd = a.label();
    a.jump_if(R8, If::Above, CALLS as i32 - 1, odd);
    a.add(R8, NARROW as i32);
    a.jump(count);
    a.bind(odd);
    a.set(R8, NARROW_ODD as i32);
    a.jump(count);

    a.bind(large);
    let odd = a.label();
    if let Some(bit) = parts.arch.x32_bit() {
        let x32 = a.label();
        a.jump_if(R8, If::Less, 0, odd);
        a.jump_if(R8, If::AnyBit, bit, x32);
        a.jump(odd);
        a.bind(x32);
        a.set(R8, X32 as i32);
        a.jump(count);
    }
    a.bind(odd);
    a.set(R8, WIDE_ODD as i32);

    a.bind(count);
    count_in(&mut a, parts, Field::Calls, out);
    end(&mut a, out);
    a.finish()
}

/// Counts a call that failed. It is given the registers, and the answer.
pub(crate) fn exit(parts: &Parts) -> Vec<u64> {
    let mut a = Asm::default();
    let (out, count) = (a.label(), a.label());
    a.copy(R6, R1);
    a.load(R8, R6, 8);
    a.jump_if(R8, If::Greater, -1, out);
    a.jump_if(R8, If::Less, LAST_ERROR, out);
    only_of_the_group(&mut a, parts, out);
    tell_narrow(&mut a, parts.narrow);
    a.load(R3, R6, 0);
    read_narrow(&mut a, parts.arch.number_at());
    a.load_narrow(R8, R10, -8);
    // What has no slot of its own has no errors; nor has what is not a call
    // any more: the number is -1 when a signal's handler returned.
    a.jump_if(R8, If::Above, CALLS as i32 - 1, out);
    a.jump_if(R7, If::Equal, 0, count);
    a.add(R8, NARROW as i32);
    a.bind(count);
    count_in(&mut a, parts, Field::Errors, out);
    end(&mut a, out);
    a.finish()
}

fn only_of_the_group(a: &mut Asm, parts: &Parts, out: Label) {
    a.map(R1, parts.groups);
    a.set(R2, 0);
    a.call(Helper::CurrentTaskUnderCgroup);
    a.jump_if(R0, If::NotEqual, 1, out);
    if !parts.not_of.is_empty() {
        a.call(Helper::GetCurrentUidGid);
    }
    for uid in &parts.not_of {
        a.jump_if(R0, If::EqualNarrow, *uid as i32, out);
    }
}

/// R7 is not 0 if the call is one of 32 bits; R6 leads to the registers.
fn tell_narrow(a: &mut Asm, narrow: Narrow) {
    let (at, mask) = match narrow {
        Narrow::InTask(at, mask) => {
            a.call(Helper::GetCurrentTask);
            a.copy(R3, R0);
            (at, mask)
        }
        Narrow::InRegisters(at, mask) => {
            a.load(R3, R6, 0);
            (at, mask)
        }
    };
    read_narrow(a, at);
    a.load_narrow(R7, R10, -8);
    a.mask(R7, mask);
}

/// Reads 32 bits of the kernel's at R3 and an offset to the stack, at -8;
/// zeros if they cannot be read.
fn read_narrow(a: &mut Asm, offset: i32) {
    a.add(R3, offset);
    a.copy(R1, R10);
    a.add(R1, -8);
    a.set(R2, 4);
    a.call(Helper::ProbeReadKernel);
}

/// Adds 1 in the slot that R8 names. Nothing else runs on this processor
/// meanwhile that could count there, so it needs no lock.
fn count_in(a: &mut Asm, parts: &Parts, field: Field, out: Label) {
    /// The bytes of a slot, as a power of two.
    const SLOT_SHIFT: i32 = (FIELDS * 8).trailing_zeros() as i32;
    a.store_narrow(R10, -4, 0);
    a.map(R1, parts.counts);
    a.copy(R2, R10);
    a.add(R2, -4);
    a.call(Helper::MapLookupElem);
    a.jump_if(R0, If::Equal, 0, out);
    a.shift_left(R8, SLOT_SHIFT);
    a.add_reg(R0, R8);
    a.load(R1, R0, field as i16);
    a.add(R1, 1);
    a.store(R0, field as i16, R1);
}

fn end(a: &mut Asm, out: Label) {
    a.bind(out);
    a.set(R0, 0);
    a.exit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(arch: Arch, not_of: &[u32]) -> Parts {
        let narrow = match arch {
            Arch::X86_64 => Narrow::InTask(16, 2),
            Arch::Aarch64 => arch.narrow(None).unwrap(),
        };
        let not_of = not_of.to_vec();
        Parts { arch, narrow, groups: 7, counts: 8, not_of }
    }

    #[test]
    fn programs_are_small() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for not_of in [&[][..], &[100_000, 0]] {
                let parts = parts(arch, not_of);
                assert!(enter(&parts).len() < 60);
                assert!(exit(&parts).len() < 60);
            }
        }
    }

    /// The numbers of helpers that a program calls.
    fn calls(code: &[u64]) -> Vec<i32> {
        let calls = code.iter().filter(|word| *word & 0xff == 0x85);
        calls.map(|word| (word >> 32) as i32).collect()
    }

    #[test]
    fn the_group_is_asked_for_before_all_else() {
        let parts = parts(Arch::X86_64, &[100_000, 0]);
        assert_eq!(calls(&enter(&parts)), [37, 15, 35, 113, 1]);
        assert_eq!(calls(&exit(&parts)), [37, 15, 35, 113, 113, 1]);
    }
}
