//! What was counted, with names. Pure.

use crate::arch::Arch;
use crate::program::{FIELDS, NARROW, NARROW_ODD, SLOTS, WIDE, WIDE_ODD, X32};

/// Which table a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abi {
    /// The machine's own.
    Wide,
    /// That of 32-bit programs.
    Narrow,
    /// x32: 64-bit registers, 32-bit addresses.
    X32,
}

/// A system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// The table.
    pub abi: Abi,
    /// Its number; none for all those that have no slot of their own.
    pub number: Option<u32>,
    /// How often it began.
    pub count: u64,
    /// How often it ended with an error; 0 where there is no number.
    pub errors: u64,
}

/// System calls by count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The kind of machine.
    pub arch: Arch,
    /// Those that were made, the most frequent first.
    pub calls: Vec<Call>,
    /// How often the kernel could not run the programs, on the machine.
    pub missed: u64,
}

impl Counts {
    /// How many calls began.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.calls.iter().map(|call| call.count).sum()
    }

    /// Out of the slots of all processors, one after the other.
    pub(crate) fn of(arch: Arch, words: &[u64], missed: u64) -> Self {
        let size = (SLOTS * FIELDS) as usize;
        let sum = |slot: u32, field: u32| {
            let at = (slot * FIELDS + field) as usize;
            words.chunks_exact(size).map(|of_one| of_one[at]).sum::<u64>()
        };
        let mut calls: Vec<Call> = (0..SLOTS)
            .map(|slot| (slot, sum(slot, 0), sum(slot, 1)))
            .filter(|(_, count, errors)| *count > 0 || *errors > 0)
            .map(|(slot, count, errors)| {
                let (abi, number) = place(slot);
                let name = name(arch, abi, number);
                Call { name, abi, number, count, errors }
            })
            .collect();
        calls.sort_by(|a, b| {
            let key = |c: &Call| (std::cmp::Reverse(c.count), c.abi, c.number);
            key(a).cmp(&key(b))
        });
        Self { arch, calls, missed }
    }
}

fn place(slot: u32) -> (Abi, Option<u32>) {
    match slot {
        X32 => (Abi::X32, None),
        NARROW_ODD => (Abi::Narrow, None),
        WIDE_ODD => (Abi::Wide, None),
        slot if slot >= NARROW => (Abi::Narrow, Some(slot - NARROW)),
        slot => (Abi::Wide, Some(slot - WIDE)),
    }
}

fn name(arch: Arch, abi: Abi, number: Option<u32>) -> String {
    let known = number.and_then(|number| match abi {
        Abi::Wide => arch.name(number),
        Abi::Narrow => arch.name_narrow(number),
        Abi::X32 => None,
    });
    match (known, number) {
        (Some(name), _) => name.to_owned(),
        (None, Some(number)) => format!("syscall_{number}"),
        (None, None) if abi == Abi::X32 => "all of x32".to_owned(),
        (None, None) => "others".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(of_one: &[(u32, u64, u64)]) -> Vec<u64> {
        let mut words = vec![0; (SLOTS * FIELDS) as usize];
        for (slot, count, errors) in of_one {
            words[(slot * FIELDS) as usize] = *count;
            words[(slot * FIELDS + 1) as usize] = *errors;
        }
        words
    }

    #[test]
    fn processors_add_up_and_the_most_frequent_is_first() {
        let mut words = slots(&[(0, 3, 1), (1, 5, 0)]);
        words.extend(slots(&[(0, 4, 0)]));
        let counts = Counts::of(Arch::X86_64, &words, 0);
        let seen: Vec<_> = counts
            .calls
            .iter()
            .map(|call| (call.name.as_str(), call.count, call.errors))
            .collect();
        assert_eq!(seen, [("read", 7, 1), ("write", 5, 0)]);
        assert_eq!(counts.total(), 12);
    }

    #[test]
    fn a_number_of_another_table_never_has_this_tables_name() {
        let words = slots(&[
            (NARROW + 20, 9, 0),
            (X32, 8, 0),
            (WIDE_ODD, 7, 0),
            (NARROW_ODD, 6, 0),
            (511, 5, 0),
        ]);
        let counts = Counts::of(Arch::X86_64, &words, 0);
        let seen: Vec<_> = counts
            .calls
            .iter()
            .map(|call| (call.abi, call.number, call.name.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (Abi::Narrow, Some(20), "getpid"),
                (Abi::X32, None, "all of x32"),
                (Abi::Wide, None, "others"),
                (Abi::Narrow, None, "others"),
                (Abi::Wide, Some(511), "syscall_511"),
            ]
        );
    }
}
