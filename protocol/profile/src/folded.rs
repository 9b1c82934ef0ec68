//! Folded text: one stack a line, root first, `;` between, then the count.
//!
//! The kind of a frame stands behind its name as other tools write it:
//! `_[k]` kernel, `_[j]` jit, `_[i]` inlined, `_[0]` interpreted. Only the
//! last word of a line is a number, so a name may end in one.

use std::fmt::Write as _;

use ntrace_protocol::text;

use crate::frame::{FrameKind, Symbol};
use crate::header::Header;
use crate::names;
use crate::profile::Profile;

const MARKS: [(FrameKind, &str); 4] = [
    (FrameKind::Kernel, "_[k]"),
    (FrameKind::Jit, "_[j]"),
    (FrameKind::Inlined, "_[i]"),
    (FrameKind::Interpreted, "_[0]"),
];

/// Why a text is no folded text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: expected frames, a space and a count; it is {text}")]
pub struct ReadError {
    /// Which line, from 1.
    pub line: usize,
    /// The line in quotes, cut.
    pub text: String,
}

/// The profile as folded text, sorted.
pub fn write(profile: &Profile) -> String {
    let names: Vec<String> =
        profile.frame_ids().map(|id| name_of(profile, id)).collect();
    let mut lines: Vec<String> = profile
        .samples()
        .iter()
        .filter(|sample| sample.value.samples > 0)
        .map(|sample| {
            let frames = profile.stack(sample.stack);
            let words: Vec<&str> =
                frames.iter().map(|id| names[id.0 as usize].as_str()).collect();
            format!("{} {}\n", words.join(";"), sample.value.samples)
        })
        .collect();
    lines.sort_unstable();
    lines.concat()
}

/// A frame's name with its mark, harmless on one line.
fn name_of(profile: &Profile, id: crate::FrameId) -> String {
    let view = profile.view(id);
    let mut name = text::escape(view.name).replace(';', ":");
    let mark = MARKS.iter().find(|(kind, _)| *kind == view.kind);
    if let Some((_, mark)) = mark {
        let _ = name.write_str(mark);
    }
    name
}

/// Reads folded text. The first frame of a line is its process.
pub fn read(bytes: &[u8], header: Header) -> Result<Profile, ReadError> {
    let mut profile = Profile::new(header);
    for (n, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() {
            continue;
        }
        let bad = || ReadError { line: n + 1, text: text::quote(line) };
        let (stack, count) = line.rsplit_once(' ').ok_or_else(bad)?;
        let count: u64 = count.parse().map_err(|_| bad())?;
        let mut words = stack.split(';');
        let process = profile.process(words.next().unwrap_or_default());
        let frames: Vec<_> =
            words.map(|word| profile.frame(&symbol(word))).collect();
        profile.add_samples(process, &frames, count);
    }
    Ok(profile)
}

fn symbol(word: &str) -> Symbol<'_> {
    for (kind, mark) in MARKS {
        if let Some(name) = word.strip_suffix(mark)
            && !name.is_empty()
        {
            return Symbol::new(name, kind);
        }
    }
    let unnamed = names::is_unnamed(word);
    let kind = if unnamed { FrameKind::Unknown } else { FrameKind::Native };
    Symbol::new(word, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_ends_in_a_number_survives() {
        let text = "sh;main;step 12 5\nsh;main;tick_[k] 2\n";
        let profile = read(text.as_bytes(), Header::default()).unwrap();
        assert_eq!(profile.total().samples, 7);
        assert_eq!(write(&profile), text);
        let stack = profile.stack(profile.samples()[0].stack);
        assert_eq!(profile.view(stack[2]).name, "step 12");
        let stack = profile.stack(profile.samples()[1].stack);
        assert_eq!(profile.view(stack[2]).kind, FrameKind::Kernel);
    }

    #[test]
    fn a_line_without_a_count_is_named() {
        let bad = read(b"a;b 1\n\na;b\n", Header::default()).unwrap_err();
        assert_eq!(bad.line, 3);
        let bad = read(b"a;b -1\n", Header::default()).unwrap_err();
        assert_eq!(bad.text, "\"a;b -1\"");
    }
}
