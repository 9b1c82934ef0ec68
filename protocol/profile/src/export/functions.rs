//! The functions of a profile, as viewers count them.
//!
//! Frames of one function that differ in line or tier are one row in a
//! viewer, so that its time is not spread over several.

use std::collections::HashMap;

use ntrace_protocol::text;

use crate::frame::{FrameId, FrameKind};
use crate::profile::Profile;

/// What a viewer shows of a function. Every text is harmless on one line.
pub(super) struct Function {
    pub(super) name: String,
    /// The source file, or empty.
    pub(super) file: String,
    /// Where it begins, or 0. Of native code only the line that ran is
    /// known, which is none of the function's.
    pub(super) line: u32,
    pub(super) is_script: bool,
}

/// All functions, and which of them each frame is of.
pub(super) struct Functions {
    pub(super) rows: Vec<Function>,
    of: Vec<u32>,
}

impl Functions {
    pub(super) fn new(profile: &Profile) -> Self {
        let mut known = HashMap::new();
        let mut rows = Vec::new();
        let of = profile
            .frame_ids()
            .map(|id| {
                let view = profile.view(id);
                let is_script = is_script(view.kind);
                let key = (view.name, view.file, is_script);
                *known.entry(key).or_insert_with(|| {
                    rows.push(Function {
                        name: text::escape(view.name),
                        file: text::escape(view.file),
                        line: if is_script { view.line } else { 0 },
                        is_script,
                    });
                    rows.len() as u32 - 1
                })
            })
            .collect();
        Self { rows, of }
    }

    /// The row of a frame's function.
    pub(super) fn row(&self, frame: FrameId) -> usize {
        self.of[frame.0 as usize] as usize
    }
}

impl Function {
    /// The name without the file, for viewers that show the file beside it.
    pub(super) fn bare_name(&self) -> &str {
        self.name
            .strip_suffix(&self.file)
            .and_then(|rest| rest.strip_suffix(' '))
            .filter(|rest| !rest.is_empty() && !self.file.is_empty())
            .unwrap_or(&self.name)
    }
}

fn is_script(kind: FrameKind) -> bool {
    matches!(kind, FrameKind::Jit | FrameKind::Interpreted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, Symbol};

    #[test]
    fn lines_and_tiers_of_a_function_are_one_row() {
        let mut profile = Profile::new(Header::default());
        let js = |kind| Symbol::new("f a.js", kind).at("a.js", 3);
        let native = |line| Symbol::new("g", FrameKind::Native).at("g.c", line);
        let frames = [
            profile.frame(&js(FrameKind::Jit)),
            profile.frame(&js(FrameKind::Interpreted)),
            profile.frame(&native(7)),
            profile.frame(&native(8)),
        ];
        let functions = Functions::new(&profile);
        assert_eq!(frames.map(|frame| functions.row(frame)), [0, 0, 1, 1]);
        let [f, g] = &functions.rows[..] else { panic!("two functions") };
        assert_eq!((f.bare_name(), f.line, g.line), ("f", 3, 0));
        assert_eq!((f.name.as_str(), g.bare_name()), ("f a.js", "g"));
    }
}
