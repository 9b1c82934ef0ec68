//! The kernel's small machine code (BPF), assembled: as much of it as our
//! programs need. Pure. Jumps go to labels, forward only, so a program ends.

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    offset: i16,
    imm: i32,
}

/// A register. Calls keep the callee-saved ones, from [`R6`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(u8);

/// What a call answers.
pub(crate) const R0: Reg = Reg(0);
/// Argument 1, and at the beginning what the program is about.
pub(crate) const R1: Reg = Reg(1);
/// Argument 2.
pub(crate) const R2: Reg = Reg(2);
/// Argument 3.
pub(crate) const R3: Reg = Reg(3);
/// Kept over calls.
pub(crate) const R6: Reg = Reg(6);
/// Kept over calls.
pub(crate) const R7: Reg = Reg(7);
/// Kept over calls.
pub(crate) const R8: Reg = Reg(8);
/// The end of the program's stack, which grows down.
pub(crate) const R10: Reg = Reg(10);

/// What a program may call, by the kernel's numbers (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Helper {
    MapLookupElem = 1,
    GetCurrentUidGid = 15,
    GetCurrentTask = 35,
    CurrentTaskUnderCgroup = 37,
    ProbeReadKernel = 113,
}

/// A condition of a jump: of a register and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum If {
    Equal = 0x15,
    NotEqual = 0x55,
    /// Without sign.
    Above = 0x25,
    /// Any of the bits.
    AnyBit = 0x45,
    /// With sign.
    Greater = 0x65,
    /// With sign.
    Less = 0xc5,
    /// Of the lower 32 bits.
    EqualNarrow = 0x16,
}

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Code that is being written.
#[derive(Debug, Default)]
pub(crate) struct Asm {
    code: Vec<Insn>,
    /// Where the labels are.
    places: Vec<Option<usize>>,
    /// Jumps, and where they go.
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    fn put(&mut self, code: u8, dst: Reg, src: Reg, offset: i16, imm: i32) {
        let (dst, src) = (dst.0, src.0);
        self.code.push(Insn { code, dst, src, offset, imm });
    }

    /// A label that has no place yet.
    pub(crate) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Gives a label its place: here.
    pub(crate) fn bind(&mut self, label: Label) {
        self.places[label.0] = Some(self.code.len());
    }

    /// `to = from`
    pub(crate) fn copy(&mut self, to: Reg, from: Reg) {
        self.put(0xbf, to, from, 0, 0);
    }

    /// `to = number`
    pub(crate) fn set(&mut self, to: Reg, number: i32) {
        self.put(0xb7, to, R0, 0, number);
    }

    /// `to += number`
    pub(crate) fn add(&mut self, to: Reg, number: i32) {
        self.put(0x07, to, R0, 0, number);
    }

    /// `to += from`
    pub(crate) fn add_reg(&mut self, to: Reg, from: Reg) {
        self.put(0x0f, to, from, 0, 0);
    }

    /// `to &= mask`
    pub(crate) fn mask(&mut self, to: Reg, mask: i32) {
        self.put(0x57, to, R0, 0, mask);
    }

    /// `to <<= bits`
    pub(crate) fn shift_left(&mut self, to: Reg, bits: i32) {
        self.put(0x67, to, R0, 0, bits);
    }

    /// `to = *(u64 *)(at + offset)`
    pub(crate) fn load(&mut self, to: Reg, at: Reg, offset: i16) {
        self.put(0x79, to, at, offset, 0);
    }

    /// `to = *(u32 *)(at + offset)`
    pub(crate) fn load_narrow(&mut self, to: Reg, at: Reg, offset: i16) {
        self.put(0x61, to, at, offset, 0);
    }

    /// `*(u64 *)(at + offset) = from`
    pub(crate) fn store(&mut self, at: Reg, offset: i16, from: Reg) {
        self.put(0x7b, at, from, offset, 0);
    }

    /// `*(u32 *)(at + offset) = number`
    pub(crate) fn store_narrow(&mut self, at: Reg, offset: i16, number: i32) {
        self.put(0x62, at, R0, offset, number);
    }

    /// `to = map`, which takes the room of two instructions.
    pub(crate) fn map(&mut self, to: Reg, descriptor: i32) {
        /// The number is a descriptor of a map.
        const MAP: Reg = Reg(1);
        self.put(0x18, to, MAP, 0, descriptor);
        self.put(0, R0, R0, 0, 0);
    }

    /// `R0 = helper(R1, R2, ...)`
    pub(crate) fn call(&mut self, helper: Helper) {
        self.put(0x85, R0, R0, 0, helper as i32);
    }

    /// Jumps if a register and a number are so.
    pub(crate) fn jump_if(&mut self, reg: Reg, is: If, number: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(is as u8, reg, R0, 0, number);
    }

    /// Jumps.
    pub(crate) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(0x05, R0, R0, 0, 0);
    }

    /// Ends the program; the answer is in [`R0`].
    pub(crate) fn exit(&mut self) {
        self.put(0x95, R0, R0, 0, 0);
    }

    /// The program, as the kernel takes it.
    pub(crate) fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let place = self.places[label.0];
            let place = place.expect("each label that is used has a place");
            // Counted from the instruction after the jump.
            let distance = place.checked_sub(at + 1);
            let distance = distance.expect("all jumps go forward");
            let distance = i16::try_from(distance);
            self.code[at].offset = distance.expect("a program is short");
        }
        self.code.into_iter().map(Insn::word).collect()
    }
}

impl Insn {
    /// As eight bytes, of a machine with the low byte first.
    fn word(self) -> u64 {
        let regs = self.dst | (self.src << 4);
        let offset = self.offset as u16;
        let imm = self.imm as u32;
        u64::from(self.code)
            | u64::from(regs) << 8
            | u64::from(offset) << 16
            | u64::from(imm) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(asm: Asm) -> Vec<[u8; 8]> {
        asm.finish().into_iter().map(u64::to_le_bytes).collect()
    }

    #[test]
    fn instructions_have_the_kernels_encoding() {
        let mut a = Asm::default();
        a.copy(R6, R1);
        a.load(R8, R6, 8);
        a.store_narrow(R10, -4, 7);
        a.map(R1, 258);
        a.call(Helper::ProbeReadKernel);
        a.exit();
        assert_eq!(
            bytes(a),
            [
                [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
                [0x79, 0x68, 8, 0, 0, 0, 0, 0],
                [0x62, 0x0a, 0xfc, 0xff, 7, 0, 0, 0],
                [0x18, 0x11, 0, 0, 2, 1, 0, 0],
                [0, 0, 0, 0, 0, 0, 0, 0],
                [0x85, 0, 0, 0, 113, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn jumps_lead_to_their_labels() {
        let mut a = Asm::default();
        let (near, far) = (a.label(), a.label());
        a.jump_if(R7, If::Less, -2, far);
        a.jump(near);
        a.bind(near);
        a.set(R0, 1);
        a.bind(far);
        a.exit();
        assert_eq!(
            bytes(a)[..2],
            [
                [0xc5, 0x07, 2, 0, 0xfe, 0xff, 0xff, 0xff],
                [0x05, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    #[should_panic(expected = "forward")]
    fn no_jump_goes_back() {
        let mut a = Asm::default();
        let back = a.label();
        a.bind(back);
        a.jump(back);
        a.finish();
    }
}
