//! A hash index over rows that are kept elsewhere.
//!
//! It holds row numbers only (4 bytes a slot), so that a table of ten
//! million rows is not stored twice. Hashes are seeded per table: whoever
//! writes the names and stacks of a profile cannot aim at one slot.

use std::hash::{BuildHasher, RandomState};

const EMPTY: u32 = u32::MAX;

/// Row numbers by hash; the rows and their equality are the caller's.
///
/// Invariant: the rows that are in follow one another without a gap.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    slots: Vec<u32>,
    rows: usize,
    /// The row that came first.
    first: u32,
    seed: u64,
}

impl Default for Index {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(0_u64);
        Self { slots: Vec::new(), rows: 0, first: 0, seed }
    }
}

impl Index {
    /// Hash of a pair of numbers.
    pub(crate) fn hash_pair(&self, a: u32, b: u32) -> u64 {
        self.mix(u64::from(a) << 32 | u64::from(b))
    }

    /// Hash of a few numbers.
    pub(crate) fn hash_words(&self, words: &[u32]) -> u64 {
        words.iter().fold(self.seed, |h, word| self.mix(h ^ u64::from(*word)))
    }

    /// Hash of bytes.
    pub(crate) fn hash_bytes(&self, bytes: &[u8]) -> u64 {
        let mut hash = self.seed ^ bytes.len() as u64;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = self.mix(hash ^ u64::from_le_bytes(word));
        }
        hash
    }

    /// The finaliser of murmur3, twice keyed with the seed.
    fn mix(&self, word: u64) -> u64 {
        let mut h = word ^ self.seed;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33) ^ self.seed.rotate_left(32))
            .wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }

    /// The row with this hash for which `same` holds.
    pub(crate) fn find(
        &self,
        hash: u64,
        same: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            if same(self.slots[at]) {
                return Some(self.slots[at]);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Adds the next row, which `find` would not find. `hash_of` gives the
    /// hash of any row that is already in, for when the index grows.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        row: u32,
        hash_of: impl Fn(&Self, u32) -> u64,
    ) {
        if self.rows == 0 {
            self.first = row;
        }
        // Full to three quarters at most, so that a probe ends soon.
        if (self.rows + 1) * 4 > self.slots.len() * 3 {
            let size = (self.slots.len() * 2).max(16);
            // The rows are known without the old slots: they go first.
            self.slots = Vec::new();
            self.slots = vec![EMPTY; size];
            for row in self.first..row {
                self.place(hash_of(self, row), row);
            }
        }
        self.place(hash, row);
        self.rows += 1;
    }

    fn place(&mut self, hash: u64, row: u32) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = row;
    }
}
