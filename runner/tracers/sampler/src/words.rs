//! Names, each kept once, with a bound on all of them together.

use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of all names together.
const BYTES_MAX: usize = 64 << 20;

/// A name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Word(u32);

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Words {
    all: Vec<Rc<str>>,
    known: HashMap<Rc<str>, Word>,
    bytes: usize,
}

impl Words {
    /// Keeps a name; none if there is no more room.
    pub(crate) fn put(&mut self, text: &str) -> Option<Word> {
        if let Some(word) = self.known.get(text) {
            return Some(*word);
        }
        // What the tables take for each name beside its bytes, roughly.
        let weight = text.len() + 64;
        if self.bytes + weight > BYTES_MAX {
            return None;
        }
        self.bytes += weight;
        let word = Word(self.all.len() as u32);
        let text: Rc<str> = text.into();
        self.all.push(text.clone());
        self.known.insert(text, word);
        Some(word)
    }

    /// The text of a name.
    pub(crate) fn get(&self, word: Word) -> &str {
        &self.all[word.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_all_are_bounded() {
        let mut words = Words::default();
        let one = words.put("one");
        assert_eq!(words.put("one"), one);
        assert_ne!(words.put("two"), one);
        assert_eq!(one.map(|word| words.get(word)), Some("one"));
        let long = "x".repeat(BYTES_MAX);
        assert_eq!(words.put(&long), None);
    }
}
