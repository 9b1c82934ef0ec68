//! The profile: stacks of frames, and how often each was seen.
//!
//! Every stack begins with its process. Equal stacks are one sample.
//! Invariant: every id in a profile was handed out by that profile; a
//! foreign one is a broken invariant of the caller and panics.

use std::borrow::Cow;

use ntrace_protocol::text;

use crate::frame::{Frame, FrameId, FrameKind, FrameView, Function, Symbol};
use crate::header::Header;
use crate::stacks::{StackId, Stacks};
use crate::strings::{StringId, Strings};
use crate::table::Index;

/// Frames of one profile. Past this, new ones are named `[too many names]`.
const MAX_FRAMES: usize = 2_000_000;

/// What was measured on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Value {
    /// How often the stack was seen.
    pub samples: u64,
    /// The CPU time that this stands for, in nanoseconds.
    pub cpu_ns: u64,
}

impl Value {
    /// Adds another value; a sum past the end stays there.
    pub fn add(&mut self, other: Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
    }
}

/// A stack with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The stack.
    pub stack: StackId,
    /// What was measured on it.
    pub value: Value,
}

/// A profile.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// How it was taken, and of what.
    pub header: Header,
    strings: Strings,
    functions: Vec<Function>,
    function_index: Index,
    frames: Vec<Frame>,
    frame_index: Index,
    stacks: Stacks,
    samples: Vec<Sample>,
    sample_index: Index,
}

impl Profile {
    /// An empty profile.
    pub fn new(header: Header) -> Self {
        Self { header, ..Self::default() }
    }

    /// The frame of a process, which is the root of its stacks.
    pub fn process(&mut self, name: &str) -> FrameId {
        let name = if name.is_empty() { "[unknown]" } else { name };
        self.frame(&Symbol::new(name, FrameKind::Process))
    }

    /// The frame for a symbol; equal symbols are one frame. What is written
    /// anywhere comes from here: characters that hide, turn or command are
    /// kept as escapes.
    pub fn frame(&mut self, symbol: &Symbol<'_>) -> FrameId {
        let cleaned = clean(&symbol.name);
        let name = match cleaned.as_ref() {
            "" => "[unknown]",
            name => name,
        };
        let full = self.frames.len() >= MAX_FRAMES;
        let name = if full { crate::strings::OVERFLOW } else { name };
        let name = self.strings.intern(name);
        let (raw, file, module, line) = if full {
            (StringId(0), StringId(0), StringId(0), 0)
        } else {
            let raw = self.strings.intern(&clean(&symbol.system_name));
            let file = self.strings.intern(&clean(&symbol.file));
            let module = self.strings.intern(&clean(&symbol.module));
            (raw, file, module, symbol.line)
        };
        // One spelling for "the raw name is the same".
        let system_name = if raw == name { StringId(0) } else { raw };
        let function = self.function(Function { name, system_name, file });
        self.frame_row(Frame { function, module, line, kind: symbol.kind })
    }

    fn function(&mut self, function: Function) -> u32 {
        let words = |f: &Function| [f.name.0, f.system_name.0, f.file.0];
        let hash = self.function_index.hash_words(&words(&function));
        let rows = &self.functions;
        let found = self
            .function_index
            .find(hash, |row| rows[row as usize] == function);
        if let Some(row) = found {
            return row;
        }
        let row = self.functions.len() as u32;
        self.functions.push(function);
        let rows = &self.functions;
        self.function_index.insert(hash, row, |index, row| {
            index.hash_words(&words(&rows[row as usize]))
        });
        row
    }

    fn frame_row(&mut self, frame: Frame) -> FrameId {
        let words = |f: &Frame| [f.function, f.module.0, f.line, f.kind as u32];
        let hash = self.frame_index.hash_words(&words(&frame));
        let rows = &self.frames;
        let found =
            self.frame_index.find(hash, |row| rows[row as usize] == frame);
        if let Some(row) = found {
            return FrameId(row);
        }
        let row = self.frames.len() as u32;
        self.frames.push(frame);
        let rows = &self.frames;
        self.frame_index.insert(hash, row, |index, row| {
            index.hash_words(&words(&rows[row as usize]))
        });
        FrameId(row)
    }

    /// Adds what was measured on a stack: the process, then its frames from
    /// the outermost to the innermost.
    ///
    /// A profile that is full keeps the part of the stack that it knows,
    /// and counts that in `header.cut`.
    pub fn add(&mut self, process: FrameId, frames: &[FrameId], value: Value) {
        let all = std::iter::once(process).chain(frames.iter().copied());
        let (stack, is_cut) = self.stacks.push_all(all);
        if is_cut {
            self.header.cut = self.header.cut.saturating_add(1);
        }
        self.add_to(stack, value);
    }

    /// Adds samples, whose CPU time follows from the header's rate.
    pub fn add_samples(
        &mut self,
        process: FrameId,
        frames: &[FrameId],
        samples: u64,
    ) {
        let cpu_ns = self.header.nanoseconds(samples);
        self.add(process, frames, Value { samples, cpu_ns });
    }

    fn add_to(&mut self, stack: StackId, value: Value) {
        let hash = self.sample_index.hash_pair(stack.0, 0);
        let rows = &self.samples;
        let found = self
            .sample_index
            .find(hash, |row| rows[row as usize].stack == stack);
        if let Some(row) = found {
            self.samples[row as usize].value.add(value);
            return;
        }
        let row = self.samples.len() as u32;
        self.samples.push(Sample { stack, value });
        let rows = &self.samples;
        self.sample_index.insert(hash, row, |index, row| {
            index.hash_pair(rows[row as usize].stack.0, 0)
        });
    }

    /// The samples, one for each distinct stack, in order of first sight.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of all samples.
    pub fn total(&self) -> Value {
        let mut total = Value::default();
        for sample in &self.samples {
            total.add(sample.value);
        }
        total
    }

    /// True when nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Nodes of the tree of stacks, which take most of a profile's memory:
    /// about 16 bytes each.
    pub fn nodes(&self) -> usize {
        self.stacks.len()
    }

    /// Every frame, in order of first sight.
    pub fn frame_ids(&self) -> impl Iterator<Item = FrameId> + use<> {
        (0..self.frames.len() as u32).map(FrameId)
    }

    /// The process of a stack; `None` for the empty stack.
    pub fn process_of(&self, stack: StackId) -> Option<FrameId> {
        self.leaf_first(stack).last()
    }

    /// A frame, to look at.
    pub fn view(&self, id: FrameId) -> FrameView<'_> {
        let frame = self.frames[id.0 as usize];
        let function = self.functions[frame.function as usize];
        let name = self.strings.get(function.name);
        let system_name = match self.strings.get(function.system_name) {
            "" => name,
            raw => raw,
        };
        FrameView {
            name,
            system_name,
            module: self.strings.get(frame.module),
            file: self.strings.get(function.file),
            line: frame.line,
            kind: frame.kind,
        }
    }

    /// The frames of a stack from the process to the innermost.
    pub fn stack(&self, stack: StackId) -> Vec<FrameId> {
        let mut frames: Vec<_> = self.stacks.leaf_first(stack).collect();
        frames.reverse();
        frames
    }

    /// The frames of a stack from the innermost to the process.
    pub fn leaf_first(
        &self,
        stack: StackId,
    ) -> impl Iterator<Item = FrameId> + '_ {
        self.stacks.leaf_first(stack)
    }

    /// The share of frames, each as often as it was seen, that have a name;
    /// processes do not count. `None` when there is no frame.
    pub fn named_share(&self) -> Option<f64> {
        let seen = self.totals(|value| value.samples);
        let (mut all, mut unknown) = (0.0, 0.0);
        for (row, seen) in seen.iter().enumerate().skip(1) {
            let frame = self.frame_of(StackId(row as u32));
            match self.frames[frame.0 as usize].kind {
                FrameKind::Process => continue,
                FrameKind::Unknown => unknown += *seen as f64,
                _ => {}
            }
            all += *seen as f64;
        }
        (all > 0.0).then(|| 1.0 - unknown / all)
    }

    /// The weight of each node of the tree of stacks with all below it; the
    /// first is the sum of all.
    pub(crate) fn totals(&self, weight: impl Fn(Value) -> u64) -> Vec<u64> {
        let mut totals = vec![0_u64; self.stacks.len()];
        for sample in &self.samples {
            totals[sample.stack.0 as usize] = weight(sample.value);
        }
        // Children have larger numbers than their parents.
        for row in (1..totals.len()).rev() {
            let parent = self.stacks.parent(StackId(row as u32)).0 as usize;
            totals[parent] = totals[parent].saturating_add(totals[row]);
        }
        totals
    }

    pub(crate) fn parent(&self, stack: StackId) -> StackId {
        self.stacks.parent(stack)
    }

    /// How many stacks there are, the empty one included.
    pub(crate) fn stack_count(&self) -> u32 {
        self.stacks.len() as u32
    }

    pub(crate) fn frame_of(&self, stack: StackId) -> FrameId {
        self.stacks.frame(stack)
    }

    /// Adds everything that another profile saw. The header stays, but for
    /// the counts, which are summed, and the warnings, which are joined.
    pub fn merge(&mut self, other: &Self) {
        let frames: Vec<FrameId> = other
            .frame_ids()
            .map(|id| self.frame(&other.view(id).symbol()))
            .collect();
        let mut nodes = vec![Stacks::EMPTY; other.stacks.len()];
        for row in 1..other.stacks.len() {
            let stack = StackId(row as u32);
            let ours = frames[other.stacks.frame(stack).0 as usize];
            let parent = nodes[other.stacks.parent(stack).0 as usize];
            nodes[row] = self.stacks.push(parent, ours).unwrap_or(parent);
        }
        for sample in &other.samples {
            self.add_to(nodes[sample.stack.0 as usize], sample.value);
        }
        let (to, from) = (&mut self.header, &other.header);
        to.lost = to.lost.saturating_add(from.lost);
        to.throttled = to.throttled.saturating_add(from.throttled);
        to.cut = to.cut.saturating_add(from.cut);
        to.duration_ns = to.duration_ns.saturating_add(from.duration_ns);
        for sentence in &from.warnings {
            self.header.warn(sentence.clone());
        }
    }
}

/// A text without characters that a terminal or a reader is misled by.
fn clean(text: &str) -> Cow<'_, str> {
    match text.chars().any(text::is_unsafe) {
        true => text::escape(text).into(),
        false => text.into(),
    }
}

impl FrameView<'_> {
    /// The same as a symbol, to put it into another profile.
    pub fn symbol(&self) -> Symbol<'_> {
        Symbol {
            name: self.name.into(),
            system_name: self.system_name.into(),
            module: self.module.into(),
            file: self.file.into(),
            line: self.line,
            kind: self.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { hz: 100, ..Header::default() }
    }

    #[test]
    fn equal_stacks_are_one_sample() {
        let mut profile = Profile::new(header());
        let node = profile.process("node");
        let main = profile.frame(&Symbol::new("main", FrameKind::Native));
        let work = profile.frame(&Symbol::new("work", FrameKind::Native));
        profile.add_samples(node, &[main, work], 2);
        profile.add_samples(node, &[main], 1);
        profile.add_samples(node, &[main, work], 3);
        assert_eq!(profile.samples().len(), 2);
        let total = profile.total();
        assert_eq!(total, Value { samples: 6, cpu_ns: 60_000_000 });
        let first = profile.samples()[0];
        assert_eq!(first.value.samples, 5);
        assert_eq!(profile.stack(first.stack), [node, main, work]);
    }

    #[test]
    fn the_named_share_counts_frames_as_often_as_they_were_seen() {
        let mut profile = Profile::new(header());
        let p = profile.process("x");
        let main = profile.frame(&Symbol::new("main", FrameKind::Native));
        let lost = profile.frame(&Symbol::new("0x1", FrameKind::Unknown));
        assert_eq!(profile.named_share(), None);
        profile.add_samples(p, &[main], 2);
        profile.add_samples(p, &[main, lost], 1);
        assert_eq!(profile.named_share(), Some(0.75));
    }

    #[test]
    fn a_full_profile_keeps_the_known_part_and_counts() {
        let mut profile = Profile::new(header());
        profile.stacks.limit(3);
        let p = profile.process("x");
        let frames: Vec<_> = (0..9)
            .map(|n| {
                let name = format!("f{n}");
                profile.frame(&Symbol::new(name, FrameKind::Native))
            })
            .collect();
        profile.add_samples(p, &frames, 1);
        profile.add_samples(p, &frames[..1], 1);
        assert_eq!(profile.header.cut, 1);
        assert_eq!(profile.total().samples, 2);
        assert_eq!(profile.samples().len(), 1);
    }

    #[test]
    fn a_merge_sums_what_two_profiles_saw() {
        let mut a = Profile::new(header());
        let p = a.process("x");
        let f = a.frame(&Symbol::new("f", FrameKind::Jit).at("f.js", 3));
        a.add_samples(p, &[f], 1);
        let mut b = Profile::new(header());
        let g = b.frame(&Symbol::new("g", FrameKind::Jit));
        let f = b.frame(&Symbol::new("f", FrameKind::Jit).at("f.js", 3));
        let p = b.process("x");
        b.add_samples(p, &[f], 1);
        b.add_samples(p, &[f, g], 1);
        b.header.lost = 4;
        a.merge(&b);
        assert_eq!((a.samples().len(), a.total().samples), (2, 3));
        assert_eq!(a.header.lost, 4);
        let view = a.view(a.stack(a.samples()[0].stack)[1]);
        assert_eq!((view.name, view.file, view.line), ("f", "f.js", 3));
    }

    #[test]
    fn a_stack_of_ten_thousand_frames_is_nothing_special() {
        let mut profile = Profile::new(header());
        let p = profile.process("deep");
        let f = profile.frame(&Symbol::new("f", FrameKind::Native));
        profile.add_samples(p, &vec![f; 10_000], 1);
        assert_eq!(profile.stack(profile.samples()[0].stack).len(), 10_001);
        assert_eq!(profile.named_share(), Some(1.0));
    }
}
