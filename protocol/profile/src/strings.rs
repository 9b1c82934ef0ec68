//! Interned strings: each text is kept once, in one buffer.
//!
//! Invariants: string 0 is the empty one, string 1 the name that stands for
//! all that no longer fitted. The buffer never passes `MAX_BYTES`.

use crate::table::Index;

/// All text of one profile. Past this, names become [`OVERFLOW`].
const MAX_BYTES: usize = 64 << 20;
/// One text. Demangled C++ may be longer; its beginning tells enough.
const MAX_TEXT: usize = 2048;
/// What stands for a name that no longer fitted.
pub(crate) const OVERFLOW: &str = "[too many names]";

/// A text of one [`Strings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct StringId(pub(crate) u32);

/// The strings of one profile.
#[derive(Debug, Clone)]
pub(crate) struct Strings {
    text: String,
    ends: Vec<u32>,
    index: Index,
}

impl Default for Strings {
    fn default() -> Self {
        let mut strings = Self {
            text: String::new(),
            ends: Vec::new(),
            index: Index::default(),
        };
        strings.intern("");
        strings.intern(OVERFLOW);
        strings
    }
}

impl Strings {
    /// The id of a text; a very long one is cut.
    pub(crate) fn intern(&mut self, text: &str) -> StringId {
        let text = cut(text);
        let hash = self.index.hash_bytes(text.as_bytes());
        let found = self.index.find(hash, |row| self.row(row) == text);
        if let Some(row) = found {
            return StringId(row);
        }
        if self.text.len() + text.len() > MAX_BYTES {
            return StringId(1);
        }
        let row = self.ends.len() as u32;
        self.text.push_str(text);
        self.ends.push(self.text.len() as u32);
        let (whole, ends) = (&self.text, &self.ends);
        self.index.insert(hash, row, |index, row| {
            index.hash_bytes(slice(whole, ends, row).as_bytes())
        });
        StringId(row)
    }

    pub(crate) fn get(&self, id: StringId) -> &str {
        self.row(id.0)
    }

    fn row(&self, row: u32) -> &str {
        slice(&self.text, &self.ends, row)
    }
}

fn slice<'a>(text: &'a str, ends: &[u32], row: u32) -> &'a str {
    let row = row as usize;
    let start = if row == 0 { 0 } else { ends[row - 1] as usize };
    &text[start..ends[row] as usize]
}

/// The text, cut at a character's border to at most `MAX_TEXT` bytes.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_id() {
        let mut strings = Strings::default();
        let ids: Vec<_> =
            (0..1000).map(|n| strings.intern(&format!("f{n}"))).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(strings.intern(&format!("f{n}")), *id);
            assert_eq!(strings.get(*id), format!("f{n}"));
        }
        assert_eq!(strings.intern("").0, 0);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut strings = Strings::default();
        let id = strings.intern(&"ä".repeat(5000));
        assert_eq!(strings.get(id).len(), MAX_TEXT);
    }
}
