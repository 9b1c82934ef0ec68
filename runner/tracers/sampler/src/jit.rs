//! Names of code that a runtime made itself, from the `perf-PID.map` that it
//! writes while it runs.
//!
//! The file is read as it grows, before the samples of the same span are
//! named: an address that is used a second time then bears the name that it
//! had at the time. A file is the job's: sizes and counts are bounded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::words::{Word, Words};

/// Bytes of one map that are read in one go.
const GULP: usize = 1 << 20;

/// Longest line; the rest of a longer one is not looked at.
const LINE_MAX: usize = 4096;

/// Pieces of code that one process may have at a time.
const PIECES_MAX: usize = 400_000;

/// What Python writes before the name of a function, of which it makes no
/// code, but a trampoline to its interpreter.
const TRAMPOLINE: &str = "py::";

/// One piece of code.
#[derive(Debug, Clone, Copy)]
struct Piece {
    end: u64,
    name: Word,
    is_trampoline: bool,
}

/// Code that was made, by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    pieces: Rc<BTreeMap<u64, Piece>>,
}

impl Made {
    fn piece(&self, address: u64) -> Option<Piece> {
        let (_, piece) = self.pieces.range(..=address).next_back()?;
        (address < piece.end).then_some(*piece)
    }

    /// The name of the code at an address.
    pub(crate) fn name(&self, address: u64) -> Option<Word> {
        self.piece(address).map(|piece| piece.name)
    }

    /// Whether the code there only calls an interpreter, and keeps no frame
    /// of its own.
    pub(crate) fn is_trampoline(&self, address: u64) -> bool {
        self.piece(address).is_some_and(|piece| piece.is_trampoline)
    }

    /// Whether nothing was named.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Puts all that is known in another one on top.
    pub(crate) fn overlay(&mut self, newer: &Made) {
        if self.is_empty() {
            *self = newer.clone();
            return;
        }
        for (start, piece) in newer.pieces.iter() {
            self.put(*start, *piece);
        }
    }

    fn put(&mut self, start: u64, piece: Piece) {
        let end = piece.end;
        let pieces = Rc::make_mut(&mut self.pieces);
        // A new piece takes the place of all that it touches.
        let before = pieces.range(..start).next_back();
        let before = before.filter(|(_, old)| old.end > start);
        let before = before.map(|(start, _)| *start);
        let inside: Vec<u64> =
            pieces.range(start..end).map(|(start, _)| *start).collect();
        for at in before.into_iter().chain(inside) {
            pieces.remove(&at);
        }
        if pieces.len() < PIECES_MAX && end > start {
            pieces.insert(start, piece);
        }
    }
}

/// A map that is being written.
#[derive(Debug)]
pub(crate) struct GrowingMap {
    file: File,
    offset: u64,
    /// The begin of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl GrowingMap {
    /// From its first line on.
    pub(crate) fn new(file: File) -> GrowingMap {
        GrowingMap { file, offset: 0, rest: Vec::new() }
    }

    /// Takes in what was written since the last look.
    pub(crate) fn look(
        &mut self,
        made: &mut Made,
        words: &mut Words,
    ) -> io::Result<()> {
        if self.file.metadata()?.len() < self.offset {
            // Begun anew, by another program with that pid.
            self.offset = 0;
            self.rest.clear();
        }
        let mut gulp = vec![0; GULP];
        // What is more than this is read at the next look.
        for _ in 0..16 {
            let count = self.file.read_at(&mut gulp, self.offset)?;
            if count == 0 {
                break;
            }
            self.offset += count as u64;
            self.feed(&gulp[..count], made, words);
        }
        Ok(())
    }

    fn feed(&mut self, bytes: &[u8], made: &mut Made, words: &mut Words) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_MAX.saturating_sub(self.rest.len());
            self.rest.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.rest);
                if let Some((start, length, name)) = parse(&line)
                    && let Some(end) = start.checked_add(length)
                {
                    let is_trampoline = name.starts_with(TRAMPOLINE);
                    if let Some(name) = words.put(&name) {
                        made.put(start, Piece { end, name, is_trampoline });
                    }
                }
            }
        }
    }
}

/// Reads `START SIZE NAME`, both numbers in hexadecimal digits.
fn parse(line: &[u8]) -> Option<(u64, u64, String)> {
    let text = String::from_utf8_lossy(line);
    let mut parts = text.trim_end_matches(['\n', '\r']).splitn(3, ' ');
    let mut number = || {
        let text = parts.next()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let (start, length) = (number()?, number()?);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let plain = name.chars().map(|c| if c.is_control() { '?' } else { c });
    Some((start, length, plain.collect()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_map_is_read_as_it_grows_and_newer_code_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perf-1.map");
        let mut out = File::create(&path).unwrap();
        let mut map = GrowingMap::new(File::open(&path).unwrap());
        let (mut made, mut words) = (Made::default(), Words::default());
        let name = |made: &Made, words: &Words, at: u64| {
            made.name(at).map(|word| words.get(word).to_owned())
        };
        out.write_all(b"1000 100 JS:*old x.js:1:2\n1100 80 other\n11").unwrap();
        map.look(&mut made, &mut words).unwrap();
        let old = Some("JS:*old x.js:1:2".to_owned());
        assert_eq!(name(&made, &words, 0x10ff), old);
        assert_eq!(name(&made, &words, 0x1180), None);
        out.write_all(b"80 10 late\n1080 20 new\nno sense\n").unwrap();
        map.look(&mut made, &mut words).unwrap();
        assert_eq!(name(&made, &words, 0x1180), Some("late".to_owned()));
        assert_eq!(name(&made, &words, 0x1080), Some("new".to_owned()));
        // The piece that was partly overwritten is gone as a whole.
        assert_eq!(name(&made, &words, 0x1000), None);
    }

    #[test]
    fn a_map_that_begins_anew_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perf-1.map");
        std::fs::write(&path, "1000 100 a_long_name_of_the_first\n").unwrap();
        let mut map = GrowingMap::new(File::open(&path).unwrap());
        let (mut made, mut words) = (Made::default(), Words::default());
        map.look(&mut made, &mut words).unwrap();
        std::fs::write(&path, "1000 10 second\n").unwrap();
        map.look(&mut made, &mut words).unwrap();
        let found = made.name(0x1001).map(|word| words.get(word).to_owned());
        assert_eq!(found, Some("second".to_owned()));
    }

    #[test]
    fn lines_without_sense_are_none() {
        for line in ["", "x", "1 2", "1 2 ", "g 1 name", "1 -1 name"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        let found = parse(b"0x10 20 a\x1b[31m b\n");
        assert_eq!(found, Some((16, 32, "a?[31m b".to_owned())));
    }
}
