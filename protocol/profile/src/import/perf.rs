//! The text of `perf script`, with call chains.
//!
//! ```text
//! node 12/13 45.678901:   10309278 cpu-clock:u:
//!             7f33aab3 burn+0x12 (/tmp/job)
//!             7f33aa00 main+0x8 (/tmp/job)
//! ```
//!
//! One record is one sample, whatever period is printed.

use std::borrow::Cow;

use super::left_out;
use crate::frame::{FrameId, FrameKind, Symbol};
use crate::header::Header;
use crate::names;
use crate::profile::{Profile, Value};

/// Reads the text of `perf script`. `checkout` is the directory of the
/// job's tree, or empty. With a rate in the header the CPU time follows
/// from it; without one, from the periods that are printed.
pub fn perf_script(bytes: &[u8], header: Header, checkout: &str) -> Profile {
    let mut profile = Profile::new(header);
    let mut open: Option<Open> = None;
    let mut broken = 0;
    let mut ended = true;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        ended = line.ends_with(b"\n");
        let line = String::from_utf8_lossy(line);
        let text = line.trim();
        if text.is_empty() {
            if let Some(record) = open.take() {
                record.close(&mut profile);
            }
            continue;
        }
        if line.starts_with([' ', '\t'])
            && let Some(record) = &mut open
            && let Some(symbol) = frame(text, checkout)
        {
            record.frames.push(profile.frame(&symbol));
            continue;
        }
        if let Some(record) = open.take() {
            record.close(&mut profile);
        }
        match Open::parse(text) {
            Some(record) => open = Some(record),
            None if text.starts_with('#') => {}
            None => broken += 1,
        }
    }
    let cut = open.is_some() && !ended;
    if let Some(record) = open.filter(|_| !cut) {
        record.close(&mut profile);
    }
    left_out(&mut profile.header, broken, cut);
    profile
}

/// A record whose frames are being read.
struct Open {
    process: String,
    /// Nanoseconds, for a clock.
    period: u64,
    /// Leaf first.
    frames: Vec<FrameId>,
}

impl Open {
    /// The first line of a record: a name, which may hold spaces, then
    /// `PID` or `PID/TID`, perhaps `[CPU]`, a time, a period, the event.
    fn parse(text: &str) -> Option<Self> {
        let mut at = 0;
        for word in text.split(' ') {
            let start = at;
            at += word.len() + 1;
            if start == 0 || !is_pid(word) {
                continue;
            }
            let rest = text.get(at..).unwrap_or("").trim_start();
            let mut after = rest.split_whitespace().peekable();
            after.next_if(|word| word.starts_with('['));
            if !after.peek().is_some_and(|word| word.ends_with(':')) {
                continue;
            }
            let time =
                |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
            after.next_if(time);
            let period = after
                .next_if(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
            let clock = after.next().is_some_and(|word| {
                word.starts_with("cpu-clock") || word.starts_with("task-clock")
            });
            let period = period.filter(|_| clock);
            let period = period.and_then(|word| word.parse().ok());
            return Some(Self {
                process: text[..start].trim().to_owned(),
                period: period.unwrap_or(0),
                frames: Vec::new(),
            });
        }
        None
    }

    fn close(mut self, profile: &mut Profile) {
        self.frames.reverse();
        let process = profile.process(&self.process);
        let cpu_ns = match profile.header.hz {
            0 => self.period,
            _ => profile.header.nanoseconds(1),
        };
        let value = Value { samples: 1, cpu_ns };
        profile.add(process, &self.frames, value);
    }
}

fn is_pid(word: &str) -> bool {
    let number = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match word.split_once('/') {
        Some((pid, tid)) => number(pid) && number(tid),
        None => number(word),
    }
}

/// A frame: address, symbol, `+0x` and an offset, the file in brackets.
fn frame<'a>(text: &'a str, checkout: &str) -> Option<Symbol<'a>> {
    let (address, rest) = text.split_once(' ')?;
    if !address.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    // The file is the last bracket; a deleted one ends in a bracket of its
    // own, and C++ names are full of them.
    let split =
        rest.rfind(" (/").max(rest.rfind(" ([")).or_else(|| rest.rfind(" ("));
    let (symbol, file) = match split {
        Some(at) => (&rest[..at], rest[at + 2..].trim_end_matches(')')),
        None => (rest, ""),
    };
    let symbol = match symbol.rsplit_once("+0x") {
        Some((name, _)) => name,
        None => symbol,
    };
    let file = file.strip_suffix(" (deleted").unwrap_or(file);
    let module = file.rsplit('/').next().unwrap_or(file);
    let own = ["[vdso]", "[vsyscall]", "[stack]", "[heap]", "[unknown]"];
    let kernel = file.ends_with(".ko")
        || file.contains(".ko.")
        || file.starts_with('[') && !own.contains(&file);
    if names::is_unnamed(symbol) {
        let module = module.trim_matches(['[', ']']);
        let name = match module {
            "" | "unknown" => "[unknown]".to_owned(),
            module => format!("[{module}]"),
        };
        return Some(Symbol::new(name, FrameKind::Unknown).in_module(module));
    }
    if kernel {
        let symbol = Symbol::new(symbol, FrameKind::Kernel);
        return Some(symbol.in_module(module));
    }
    if module == "inlined" {
        return Some(Symbol::new(symbol, FrameKind::Inlined));
    }
    if module.starts_with("perf-") && module.ends_with(".map") {
        return Some(names::perf_map(symbol, checkout));
    }
    Some(match names::demangled(symbol) {
        Cow::Borrowed(name) => names::native(name, module),
        Cow::Owned(name) => names::native(&name, "").into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folded;

    fn fold(text: &str, hz: u32) -> (String, Profile) {
        let header = Header { hz, ..Header::default() };
        let profile = perf_script(text.as_bytes(), header, "/job");
        (folded::write(&profile), profile)
    }

    const TEXT: &str = "\
# captured on: a day
node  12/13  45.678901:   10309278 cpu-clock:ppp: 
\tffffffff81000010 do_read+0x10 ([kernel.kallsyms])
\t    7f33aab3 memcpy@@GLIBC_2.14+0x12 (/usr/lib/libc.so.6)
\t    7f33aa01 JS:*byHash /job/src/a b.js:12:3+0x8 (/tmp/perf-12.map)
\t    55550000 foo(int (*)(char))+0x1 (/tmp/x (deleted))
\t    55550001 [unknown] (/usr/bin/node)

my job 7 [001] 45.7: cpu-clock: 
\t    7f33aab3 tick 12+0x1 (/job/my bin/x)

my job 7 [001] 45.8: cpu-clock: 
\t    7f33aab4 tick 12+0x2 (/job/my bin/x)
";

    #[test]
    fn records_are_samples_with_their_names() {
        let (folded, profile) = fold(TEXT, 100);
        assert_eq!(
            folded,
            "my job;tick 12 2\n\
             node;[node];foo(int (*)(char));byHash src/a b.js_[j];\
             memcpy@@GLIBC_2.14;do_read_[k] 1\n"
        );
        assert_eq!(profile.total().cpu_ns, 30_000_000);
        assert!(profile.header.warnings.is_empty());
        assert_eq!(fold(TEXT, 0).1.total().cpu_ns, 10_309_278);
    }

    #[test]
    fn a_cut_record_is_left_out() {
        let cut = TEXT.trim_end_matches(" (/job/my bin/x)\n");
        let (_, profile) = fold(cut, 100);
        assert_eq!(profile.total().samples, 2);
        assert_eq!(profile.header.warnings.len(), 1);
        let (_, profile) = fold("nonsense\nmore\n", 100);
        assert!(profile.is_empty());
        let said = &profile.header.warnings[0];
        assert_eq!(said, "2 records could not be read");
    }
}
