//! What `ntrace_cpu.d` prints: stacks, leaf first, each followed by the
//! name of its process and a count.
//!
//! ```text
//! ntrace ready
//!
//!
//!               libc.so.1`memcpy+0x1a
//!               node`_start+0x6c
//! node
//! 12
//! ```
//!
//! A kernel's stack may stand before a `-`. The same stack comes again with
//! each flush; the counts add up. What comes before the first empty line is
//! no record.

use std::borrow::Cow;

use super::left_out;
use crate::frame::{FrameId, FrameKind, Symbol};
use crate::header::Header;
use crate::names;
use crate::profile::Profile;

/// Reads what the dtrace script printed. `checkout` is the directory of the
/// job's tree in its zone, or empty. A record at the end that is not
/// complete, to its last newline, is left out, and a warning says so.
pub fn dtrace(bytes: &[u8], header: Header, checkout: &str) -> Profile {
    let mut reader = Reader {
        profile: Profile::new(header),
        checkout,
        state: State::Before,
        kernel: Vec::new(),
        frames: Vec::new(),
        broken: 0,
    };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // A line without its end may be half a number.
        let Some(line) = line.strip_suffix(b"\n") else {
            let blank = line.iter().all(u8::is_ascii_whitespace);
            if !blank && matches!(reader.state, State::Between) {
                reader.state = State::Frames;
            }
            break;
        };
        reader.line(&String::from_utf8_lossy(line));
    }
    let cut = matches!(reader.state, State::Frames | State::Named(_));
    let mut profile = reader.profile;
    left_out(&mut profile.header, reader.broken, cut);
    profile
}

/// Where in the output the reader is.
enum State {
    /// Before the first empty line.
    Before,
    /// After a record.
    Between,
    /// In a stack.
    Frames,
    /// After the name of the process.
    Named(String),
}

struct Reader<'a> {
    profile: Profile,
    checkout: &'a str,
    state: State,
    /// Leaf first.
    kernel: Vec<FrameId>,
    frames: Vec<FrameId>,
    broken: u64,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) {
        let text = line.trim();
        let indented = line.starts_with([' ', '\t']);
        match std::mem::replace(&mut self.state, State::Between) {
            State::Before if text.is_empty() => {}
            State::Before => self.state = State::Before,
            State::Named(process) => match text.parse() {
                Ok(count) if !indented => self.record(&process, count),
                _ => self.refuse(text, indented),
            },
            State::Between if text.is_empty() => {}
            State::Frames if text.is_empty() => self.state = State::Frames,
            State::Between | State::Frames if indented => self.frame(text),
            State::Between | State::Frames if text == "-" => {
                self.kernel.append(&mut self.frames);
                self.state = State::Frames;
            }
            // A process without a stack has only its name.
            State::Between | State::Frames => {
                self.state = State::Named(text.to_owned());
            }
        }
    }

    /// A name without a count: the record is broken; this line may begin
    /// the next.
    fn refuse(&mut self, text: &str, indented: bool) {
        self.broken += 1;
        self.kernel.clear();
        self.frames.clear();
        if indented && !text.is_empty() {
            self.frame(text);
        }
    }

    fn frame(&mut self, text: &str) {
        let symbol = symbol(text, self.checkout);
        let frame = self.profile.frame(&symbol);
        self.frames.push(frame);
        self.state = State::Frames;
    }

    fn record(&mut self, process: &str, count: u64) {
        let process = self.profile.process(process);
        // Outermost first: the user's stack, then the kernel's.
        let kernel = std::mem::take(&mut self.kernel);
        let mut stack = std::mem::take(&mut self.frames);
        stack.reverse();
        for frame in kernel.into_iter().rev() {
            let view = self.profile.view(frame);
            let symbol = Symbol { kind: FrameKind::Kernel, ..view.symbol() };
            let symbol = symbol.into_owned();
            stack.push(self.profile.frame(&symbol));
        }
        self.profile.add_samples(process, &stack, count);
    }
}

/// A line of a stack.
fn symbol<'a>(text: &'a str, checkout: &str) -> Symbol<'a> {
    if let Some((module, symbol)) = text.split_once('`') {
        let raw = without_offset(symbol);
        return match names::is_unnamed(raw) {
            true => Symbol::new(format!("[{module}]"), FrameKind::Unknown)
                .in_module(module),
            false => native(raw, module),
        };
    }
    if names::is_unnamed(without_offset(text)) {
        return Symbol::new(text, FrameKind::Unknown);
    }
    helped(text, checkout)
}

fn native<'a>(raw: &'a str, module: &'a str) -> Symbol<'a> {
    match names::demangled(raw) {
        Cow::Borrowed(name) => names::native(name, module),
        Cow::Owned(name) => {
            let symbol = names::native(&name, module).into_owned();
            Symbol { system_name: raw.into(), ..symbol }
        }
    }
}

/// A string of a helper, as node's: `byHash at /x/job.js position 12`.
fn helped<'a>(text: &'a str, checkout: &str) -> Symbol<'a> {
    let inner = text
        .strip_prefix("<< ")
        .and_then(|text| text.strip_suffix(" >>"))
        .unwrap_or(text);
    let raw = || Cow::Borrowed(text);
    if let Some((name, place)) = inner.rsplit_once(" at ") {
        for word in [" position ", " line "] {
            let Some((file, number)) = place.rsplit_once(word) else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else { continue };
            // A position is no line.
            let line = if word == " line " { number } else { 0 };
            let symbol = names::script(name, file, line, checkout);
            return Symbol { system_name: raw(), ..symbol };
        }
    }
    let symbol = Symbol::new(inner, FrameKind::Jit);
    Symbol { system_name: raw(), ..symbol }
}

fn without_offset(symbol: &str) -> &str {
    match symbol.rsplit_once("+0x") {
        Some((name, offset))
            if offset.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            name
        }
        _ => symbol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folded;

    fn fold(text: &str) -> (String, Vec<String>) {
        let header = Header { hz: 97, ..Header::default() };
        let profile = dtrace(text.as_bytes(), header, "/job");
        (folded::write(&profile), profile.header.warnings)
    }

    const TWO_FLUSHES: &str = "ntrace ready\n\n\
\n\
\x20             libc.so.1`memcpy+0x1a\n\
\x20             node`_ZN2v88internal4Heap8ScavengeEv+0x1f0\n\
\x20             << internal >>\n\
\x20             byHash at /job/src/job.js position 812\n\
\x20             (anon) as exports.run at /job/a b.js line 3\n\
\x20             node`main+0xbc\n\
node\n\
12\n\
\n\
\x20             0xfffffd7ffcb4a0c1\n\
\x20             a.out`0x8050a1b\n\
sh 5\n\
2\n\
\n\
\n\
\x20             libc.so.1`memcpy+0x2c\n\
\x20             node`_ZN2v88internal4Heap8ScavengeEv+0x4\n\
\x20             << internal >>\n\
\x20             byHash at /job/src/job.js position 812\n\
\x20             (anon) as exports.run at /job/a b.js line 3\n\
\x20             node`main+0xbc\n\
node\n\
30\n";

    #[test]
    fn flushes_add_up_and_names_are_read() {
        let (folded, warnings) = fold(TWO_FLUSHES);
        let expected = "node;main;(anon) as exports.run a b.js_[j];\
            byHash src/job.js_[j];internal_[j];v8::internal::Heap::Scavenge();\
            memcpy 42\nsh 5;[a.out];0xfffffd7ffcb4a0c1 2\n";
        assert_eq!(folded, expected);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_tail_cut_anywhere_loses_the_last_record_only_and_says_so() {
        let whole = fold(TWO_FLUSHES).0;
        let first = TWO_FLUSHES.find("\n12\n").unwrap() + 4;
        let second = TWO_FLUSHES.find("\n2\n").unwrap() + 3;
        for cut in 0..TWO_FLUSHES.len() {
            let (folded, warnings) = fold(&TWO_FLUSHES[..cut]);
            let samples: u64 = folded
                .lines()
                .map(|line| line.rsplit(' ').next().unwrap())
                .map(|count| count.parse::<u64>().unwrap())
                .sum();
            let (samples_before, start) = match cut {
                cut if cut < first => (0, "ntrace ready\n\n".len()),
                cut if cut < second => (12, first),
                _ => (14, second),
            };
            assert_eq!(samples, samples_before, "cut at {cut}");
            assert_ne!(folded, whole);
            let begun = TWO_FLUSHES.get(start..cut).unwrap_or("");
            let inside = !begun.trim().is_empty();
            assert_eq!(warnings.len(), usize::from(inside), "cut at {cut}");
        }
    }

    #[test]
    fn the_kernels_part_stands_on_the_users() {
        let (folded, _) = fold(
            "ntrace ready\n\n\n  unix`mutex_enter+0x10\n  genunix`read+0x1\n\
             -\n  libc.so.1`__read+0xa\n  cat`main+0x2\ncat\n3\n\
             \n  unix`idle+0x1\n-\nsched\n1\n",
        );
        assert_eq!(
            folded,
            "cat;main;__read;read_[k];mutex_enter_[k] 3\n\
             sched;idle_[k] 1\n"
        );
    }

    #[test]
    fn a_broken_record_does_not_take_the_next_with_it() {
        let (folded, warnings) = fold(
            "ntrace ready\n\n\n  a`f+0x1\nname\nno count\n\n  a`g+0x1\np\n4\n",
        );
        assert_eq!(folded, "p;g 4\n");
        assert_eq!(warnings, ["1 record could not be read"]);
    }
}
