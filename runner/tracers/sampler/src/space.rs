//! The code that one process can run: which file is where, and how a stack
//! is unwound with it.

use std::collections::BTreeMap;

use framehop::{
    CacheNative, FrameAddress, MayAllocateDuringUnwind, Module, Unwinder as _,
    UnwinderNative,
};
use std::sync::Arc;

use crate::arch::{self, Registers};
use crate::objects::{ObjectId, Objects};
use crate::perf::record::Mapped;

/// Regions that one process may have; a job that maps more gets no names
/// for the rest.
const REGIONS_MAX: usize = 20_000;

/// Frames of one stack that are kept, from the innermost on.
const FRAMES_MAX: usize = 512;

/// How unwinding steps are remembered; one for all processes.
pub(crate) type Cache = CacheNative<MayAllocateDuringUnwind>;

type Unwinder = UnwinderNative<Arc<[u8]>, MayAllocateDuringUnwind>;

/// A range of addresses with code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    end: u64,
    offset: u64,
    object: Option<ObjectId>,
}

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file, and the address that the file states.
    Stated(ObjectId, u64),
    /// A file that could not be read.
    Opaque(ObjectId),
    /// Memory that is no file's: made by the process, or not known.
    Made,
}

/// The addresses of one process.
#[derive(Clone, Default)]
pub(crate) struct Space {
    regions: BTreeMap<u64, Region>,
    /// Made when the first stack is unwound: most processes end before.
    unwinder: Option<Unwinder>,
}

/// A stack in addresses, innermost first, each inside its instruction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Unwound {
    /// The addresses.
    pub addresses: Vec<u64>,
    /// Whether the outermost function was not reached.
    pub cut: bool,
}

impl Space {
    /// Takes a new mapping in.
    pub(crate) fn map(
        &mut self,
        mapped: &Mapped,
        object: Option<ObjectId>,
        objects: &mut Objects,
    ) {
        let start = mapped.start;
        let end = start.saturating_add(mapped.length);
        self.clear(start, end);
        if self.regions.len() >= REGIONS_MAX {
            return;
        }
        let region = Region { end, offset: mapped.offset, object };
        self.regions.insert(start, region);
        if let Some(mut unwinder) = self.unwinder.take() {
            add(&mut unwinder, start, region, objects);
            self.unwinder = Some(unwinder);
        }
    }

    /// Forgets what lay in a range.
    fn clear(&mut self, start: u64, end: u64) {
        let mut hit: Vec<u64> =
            self.regions.range(start..end).map(|(start, _)| *start).collect();
        let before = self.regions.range(..start).next_back();
        hit.extend(before.filter(|(_, r)| r.end > start).map(|(s, _)| *s));
        for at in hit {
            let Some(old) = self.regions.remove(&at) else { continue };
            if let Some(unwinder) = &mut self.unwinder {
                unwinder.remove_module(at);
            }
            // What sticks out stays, without its part of the unwinder: code
            // that is torn apart is rare, and frame pointers still work.
            if at < start {
                self.regions.insert(at, Region { end: start, ..old });
            }
            if old.end > end {
                let offset = old.offset.wrapping_add(end.wrapping_sub(at));
                self.regions.insert(end, Region { offset, ..old });
            }
        }
    }

    /// What an address belongs to.
    pub(crate) fn place(&self, address: u64, objects: &Objects) -> Place {
        let found = self.regions.range(..=address).next_back();
        let Some((start, region)) = found.filter(|(_, r)| address < r.end)
        else {
            return Place::Made;
        };
        let Some(object) = region.object else { return Place::Made };
        let offset = region.offset.wrapping_add(address - start);
        match objects.stated(object, offset) {
            Some(stated) => Place::Stated(object, stated),
            None => Place::Opaque(object),
        }
    }

    /// Unwinds a stack that was copied from the stack pointer on.
    /// `trampoline` says which addresses are in code that has no tables and
    /// keeps no frame pointer, but is known.
    pub(crate) fn unwind(
        &mut self,
        registers: &Registers,
        stack: &[u8],
        trampoline: impl Fn(u64) -> bool,
        cache: &mut Cache,
        objects: &mut Objects,
    ) -> Unwound {
        if self.unwinder.is_none() {
            let mut fresh = Unwinder::new();
            for (start, region) in &self.regions {
                add(&mut fresh, *start, *region, objects);
            }
            self.unwinder = Some(fresh);
        }
        let Some(unwinder) = &self.unwinder else {
            return Unwound::default();
        };
        let (bottom, ip) = (registers.sp, registers.ip);
        let mut outside = false;
        let mut read = |address: u64| {
            let at = address.checked_sub(bottom).ok_or(())?;
            let at = usize::try_from(at).map_err(|_| ())?;
            let word = stack.get(at..).and_then(|rest| rest.first_chunk());
            outside |= word.is_none();
            word.map(|word| u64::from_le_bytes(*word)).ok_or(())
        };
        let mut registers = registers.unwinding();
        let mut at = FrameAddress::from_instruction_pointer(ip);
        let mut unwound = Unwound::default();
        while unwound.addresses.len() < FRAMES_MAX {
            let address = at.address_for_lookup();
            unwound.addresses.push(address);
            let next = if at.is_return_address() && trampoline(address) {
                arch::leave_trampoline(&mut registers, &mut read)
            } else {
                // An error at the end of a whole stack is usual.
                unwinder
                    .unwind_frame(at, &mut registers, cache, &mut read)
                    .unwrap_or(None)
            };
            match next.and_then(FrameAddress::from_return_address) {
                Some(next) => at = next,
                None => {
                    unwound.cut = outside;
                    return unwound;
                }
            }
        }
        unwound.cut = true;
        unwound
    }
}

fn add(
    unwinder: &mut Unwinder,
    start: u64,
    region: Region,
    objects: &mut Objects,
) {
    let Some(object) = region.object else { return };
    let Some(stated) = objects.stated(object, region.offset) else { return };
    let name = objects.path(object).to_string_lossy().into_owned();
    let Some(tables) = objects.tables(object) else { return };
    let module = Module::new(
        name,
        start..region.end,
        start.wrapping_sub(stated),
        tables.sections(),
    );
    unwinder.add_module(module);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn mapped(start: u64, length: u64) -> Mapped {
        Mapped {
            pid: 1,
            start,
            length,
            offset: 0,
            inode: (0, 0, 0),
            path: PathBuf::from("//anon"),
        }
    }

    fn shape(space: &Space) -> Vec<(u64, u64, u64)> {
        let all = space.regions.iter();
        all.map(|(start, r)| (*start, r.end, r.offset)).collect()
    }

    #[test]
    fn a_mapping_replaces_what_it_covers() {
        let mut objects = Objects::new();
        let mut space = Space::default();
        space.map(&mapped(0x1000, 0x4000), None, &mut objects);
        space.map(&mapped(0x2000, 0x1000), None, &mut objects);
        assert_eq!(
            shape(&space),
            [
                (0x1000, 0x2000, 0),
                (0x2000, 0x3000, 0),
                (0x3000, 0x5000, 0x2000)
            ]
        );
        space.map(&mapped(0, 0x10000), None, &mut objects);
        assert_eq!(shape(&space), [(0, 0x10000, 0)]);
        space.map(&mapped(u64::MAX - 5, u64::MAX), None, &mut objects);
        assert_eq!(space.place(0x20000, &objects), Place::Made);
    }

    #[test]
    fn a_stack_of_noise_unwinds_to_something_short() {
        let mut objects = Objects::new();
        let mut space = Space::default();
        let stack: Vec<u8> = (0..8192_u32).map(|n| (n * 7) as u8).collect();
        let count = arch::REGISTERS.count_ones() as usize;
        let values = vec![0x7fff_0000_u64; count];
        let registers = Registers::from_perf(&values).unwrap();
        for trampolines in [false, true] {
            let found = space.unwind(
                &registers,
                &stack,
                |_| trampolines,
                &mut Cache::new(),
                &mut objects,
            );
            assert!(found.addresses.len() <= FRAMES_MAX);
            assert!(!found.addresses.is_empty());
        }
    }
}
