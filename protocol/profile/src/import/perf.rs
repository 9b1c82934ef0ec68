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
use std::collections::HashMap;

use super::left_out;
use crate::frame::{FrameId, FrameKind, Symbol};
use crate::header::Header;
use crate::names;
use crate::profile::{Profile, Value};

/// Bytes of one line that are looked at; what is longer is no line of perf.
const LINE_MAX: usize = 64 << 10;

/// Processes whose names are remembered.
const PROCESSES_MAX: usize = 1 << 16;

/// Reads the text of `perf script`. `checkout` is the directory of the
/// job's tree, or empty. With a rate in the header the CPU time follows
/// from it; without one, from the periods that are printed.
pub fn perf_script(bytes: &[u8], header: Header, checkout: &str) -> Profile {
    let mut script = PerfScript::new(header, checkout);
    script.feed(bytes);
    script.finish()
}

/// The same, piece by piece: what is long need not be in memory.
#[derive(Debug)]
pub struct PerfScript {
    profile: Profile,
    checkout: String,
    strangers: Vec<String>,
    /// What each process is called: as its first thread is.
    processes: HashMap<u32, String>,
    open: Option<Open>,
    broken: u64,
    /// The begin of a line whose end is still to come.
    rest: Vec<u8>,
}

impl PerfScript {
    /// Nothing was read yet; see [`perf_script`].
    pub fn new(header: Header, checkout: &str) -> Self {
        Self {
            profile: Profile::new(header),
            checkout: checkout.to_owned(),
            strangers: Vec::new(),
            processes: HashMap::new(),
            open: None,
            broken: 0,
            rest: Vec::new(),
        }
    }

    /// Leaves processes of these names out.
    #[must_use]
    pub fn without(mut self, names: &[&str]) -> Self {
        self.strangers = names.iter().map(|name| (*name).into()).collect();
        self
    }

    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.rest.is_empty() && piece.ends_with(b"\n") {
                self.line(piece);
                continue;
            }
            let room = LINE_MAX.saturating_sub(self.rest.len());
            self.rest.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                self.line(&line);
            }
        }
    }

    /// All was read. What ends within a record is without that record.
    pub fn finish(mut self) -> Profile {
        let mut cut = !self.rest.is_empty();
        if cut {
            // The last line may be a whole one that lacks its end.
            let line = std::mem::take(&mut self.rest);
            self.line(&line);
            cut = self.open.is_some();
        }
        if !cut {
            self.close();
        }
        left_out(&mut self.profile.header, self.broken, cut);
        self.profile
    }

    fn line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let text = line.trim();
        if text.is_empty() {
            return self.close();
        }
        if line.starts_with([' ', '\t'])
            && let Some(record) = &mut self.open
            && let Some(symbol) = frame(text, &self.checkout)
        {
            record.frames.push(self.profile.frame(&symbol));
            return;
        }
        self.close();
        match Line::parse(text) {
            Some(Line::Sample(record)) => self.open = Some(record),
            Some(Line::Lost(count)) => {
                let lost = &mut self.profile.header.lost;
                *lost = lost.saturating_add(count);
            }
            Some(Line::Other) => {}
            None if text.starts_with('#') => {}
            None => self.broken += 1,
        }
    }

    fn close(&mut self) {
        let Some(mut record) = self.open.take() else { return };
        let name = self.name_of(&record);
        if self.strangers.contains(&name) {
            return;
        }
        record.frames.reverse();
        let profile = &mut self.profile;
        let process = profile.process(&name);
        let cpu_ns = match profile.header.hz {
            0 => record.period,
            _ => profile.header.nanoseconds(1),
        };
        let value = Value { samples: 1, cpu_ns };
        profile.add(process, &record.frames, value);
    }

    /// The name of a record's process; perf prints the thread's.
    fn name_of(&mut self, record: &Open) -> String {
        let Some((pid, tid)) = record.ids else { return record.comm.clone() };
        if pid == tid {
            if self.processes.len() >= PROCESSES_MAX {
                self.processes.clear();
            }
            self.processes.insert(pid, record.comm.clone());
        }
        self.processes.get(&pid).unwrap_or(&record.comm).clone()
    }
}

/// The first line of a record.
enum Line {
    Sample(Open),
    /// So many records were lost.
    Lost(u64),
    /// A record of something else.
    Other,
}

/// A record whose frames are being read.
#[derive(Debug)]
struct Open {
    /// The thread's name.
    comm: String,
    /// Process and thread, where both are printed.
    ids: Option<(u32, u32)>,
    /// Nanoseconds, for a clock.
    period: u64,
    /// Leaf first.
    frames: Vec<FrameId>,
}

impl Line {
    /// A name, which may hold spaces, then `PID` or `PID/TID`, perhaps
    /// `[CPU]`, a time, a period, the event.
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
            let event = after.next().unwrap_or("");
            if event.starts_with("PERF_RECORD_") {
                return Some(Self::of_record(event, after.nth(1)));
            }
            let clock = event.starts_with("cpu-clock")
                || event.starts_with("task-clock");
            let period = period.filter(|_| clock);
            let period = period.and_then(|word| word.parse().ok());
            return Some(Self::Sample(Open {
                comm: text[..start].trim().to_owned(),
                ids: ids(word),
                period: period.unwrap_or(0),
                frames: Vec::new(),
            }));
        }
        None
    }

    /// `PERF_RECORD_LOST lost 12`.
    fn of_record(event: &str, count: Option<&str>) -> Self {
        let count = count.and_then(|count| count.parse().ok());
        match (event, count) {
            ("PERF_RECORD_LOST", Some(count)) => Self::Lost(count),
            _ => Self::Other,
        }
    }
}

fn ids(word: &str) -> Option<(u32, u32)> {
    let (pid, tid) = word.split_once('/')?;
    Some((pid.parse().ok()?, tid.parse().ok()?))
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
    let is_map = module.starts_with("perf-") && module.ends_with(".map");
    if names::is_unnamed(symbol) && (is_map || file.starts_with("//anon")) {
        // The file's name has a process's number: no two runs have it.
        return Some(Symbol::new("[unnamed code]", FrameKind::Unknown));
    }
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
    if is_map {
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
    fn threads_bear_the_name_of_their_process() {
        let text = "\
node 7/9 1.0: cpu-clock: \n\t1 a (/x)\n
node 7/7 1.1: cpu-clock: \n\t1 a (/x)\n
V8 Worker 7/8 1.2: cpu-clock: \n\t1 a (/x)\n
lone 8/9 1.2: cpu-clock: \n\t1 a (/x)\n
";
        assert_eq!(fold(text, 1).0, "lone;a 1\nnode;a 3\n");
        let header = Header { hz: 1, ..Header::default() };
        let mut script = PerfScript::new(header, "").without(&["node"]);
        // Pieces may end anywhere.
        for piece in text.as_bytes().chunks(3) {
            script.feed(piece);
        }
        assert_eq!(folded::write(&script.finish()), "lone;a 1\n");
    }

    #[test]
    fn lost_records_are_counted_and_others_passed_over() {
        let text = "\
split 5/5 23.7: PERF_RECORD_LOST lost 433
split 5/5 23.8: PERF_RECORD_LOST_SAMPLES lost 4
split 5/5 23.9: cpu-clock: \n\t1 [unknown] (/tmp/perf-5.map)\n
split 5/5 23.9: PERF_RECORD_LOST lost 7
";
        let (folded, profile) = fold(text, 1);
        assert_eq!(folded, "split;[unnamed code] 1\n");
        assert_eq!(profile.header.lost, 440);
        assert!(profile.header.warnings.is_empty());
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
