//! The Firefox profiler's processed form.
//!
//! Each process is a thread of the profile. Its samples stand one after the
//! other, as far apart as their CPU time: a profile that is summed up has
//! no other time. What was seen many times is written many times, so that
//! the viewer's axis and what is marked on it are true; of a large profile
//! each row stands for several samples.

use std::collections::HashMap;

use ntrace_protocol::text;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::functions::{Function, Functions};
use super::order;
use crate::frame::{FrameId, FrameKind};
use crate::profile::{Profile, Sample, Value};
use crate::stacks::StackId;

/// The version that is written. The viewer upgrades older ones.
const VERSION: u32 = 47;
/// The version of the recording program's form that goes with it.
const RAW_VERSION: u32 = 27;
/// Rows of samples, beside one for each stack.
const MAX_ROWS: u64 = 100_000;
/// The kinds as the viewer's categories: name and colour.
const CATEGORIES: [(&str, &str); FrameKind::ALL.len()] = [
    ("Process", "grey"),
    ("Native", "orange"),
    ("JIT", "green"),
    ("Interpreted", "blue"),
    ("Kernel", "purple"),
    ("Inlined", "yellow"),
    ("Unknown", "grey"),
];

/// The profile as JSON for <https://profiler.firefox.com>.
pub fn firefox(profile: &Profile, title: &str) -> String {
    let functions = Functions::new(profile);
    let most = profile.total().samples.div_ceil(MAX_ROWS).max(1);
    let mut threads: Vec<Thread> = Vec::new();
    let mut by_process = HashMap::new();
    for sample in order::by_stack(profile) {
        let Some(process) = profile.process_of(sample.stack) else {
            continue;
        };
        let next = threads.len();
        let at = *by_process.entry(process).or_insert(next);
        if at == next {
            let name = text::escape(profile.view(process).name);
            threads.push(Thread { name, ..Thread::default() });
        }
        threads[at].add(profile, &functions, &sample, most);
    }
    let threads: Vec<Json> =
        (1..).zip(threads).map(|(n, thread)| thread.finish(n)).collect();
    let header = &profile.header;
    let categories: Vec<Json> = CATEGORIES
        .iter()
        .map(|(name, color)| {
            json!({"name": name, "color": color, "subcategories": ["Other"]})
        })
        .collect();
    let file = json!({
        "meta": {
            "version": RAW_VERSION,
            "preprocessedProfileVersion": VERSION,
            "interval": if header.hz > 0 {
                1000.0 / f64::from(header.hz)
            } else {
                1.0
            },
            "startTime": header.start_ns as f64 / 1e6,
            "processType": 0,
            "product": text::escape(title),
            "stackwalk": 1,
            "debug": false,
            "categories": categories,
            "markerSchema": [],
            "symbolicated": true,
            "importedFrom": "ntrace",
            "sampleUnits": {
                "time": "ms",
                "eventDelay": "ms",
                "threadCPUDelta": "µs",
            },
        },
        "libs": [],
        "threads": threads,
    });
    file.to_string()
}

/// A table of functions.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FuncTable {
    name: Vec<usize>,
    #[serde(rename = "isJS")]
    is_js: Vec<bool>,
    #[serde(rename = "relevantForJS")]
    relevant_for_js: Vec<bool>,
    resource: Vec<i32>,
    file_name: Vec<Option<usize>>,
    line_number: Vec<Option<u32>>,
    column_number: Vec<Option<u32>>,
    length: usize,
}

/// A thread of the viewer that is being filled.
#[derive(Default)]
struct Thread {
    name: String,
    strings: Vec<String>,
    string_ids: HashMap<String, usize>,
    func_ids: HashMap<usize, usize>,
    func_table: FuncTable,
    frames: HashMap<FrameId, usize>,
    /// By frame.
    func: Vec<usize>,
    line: Vec<Option<u32>>,
    category: Vec<usize>,
    stacks: HashMap<StackId, usize>,
    stack_frame: Vec<usize>,
    stack_prefix: Vec<Option<usize>>,
    sample_stack: Vec<Option<usize>>,
    time: Vec<f64>,
    weight: Vec<u64>,
    cpu_us: Vec<f64>,
    clock_ms: f64,
}

impl Thread {
    /// Adds a sample, in rows of at most so many samples.
    fn add(
        &mut self,
        profile: &Profile,
        functions: &Functions,
        sample: &Sample,
        most: u64,
    ) {
        let Some(stack) = self.stack(profile, functions, sample.stack) else {
            return;
        };
        let Value { samples: all, cpu_ns } = sample.value;
        if self.time.is_empty() {
            // Without a row before it the first one would have no CPU time.
            self.row(None, 0, 0.0);
        }
        let mut left = all;
        loop {
            let weight = left.min(most);
            let part = if all == 0 { 1.0 } else { weight as f64 / all as f64 };
            let cpu_ms = cpu_ns as f64 / 1e6 * part;
            // The viewer takes a row for what was before its time. Where no
            // time is known, a sample is a millisecond.
            self.clock_ms += if cpu_ns > 0 { cpu_ms } else { weight as f64 };
            self.row(Some(stack), weight, cpu_ms * 1e3);
            left -= weight;
            if left == 0 {
                break;
            }
        }
    }

    fn row(&mut self, stack: Option<usize>, weight: u64, cpu_us: f64) {
        self.sample_stack.push(stack);
        self.time.push(self.clock_ms);
        self.weight.push(weight);
        self.cpu_us.push(cpu_us);
    }

    /// The row of a stack; none of the empty one.
    fn stack(
        &mut self,
        profile: &Profile,
        functions: &Functions,
        stack: StackId,
    ) -> Option<usize> {
        // From the innermost out to the first stack that is known, then
        // back in.
        let mut missing = Vec::new();
        let mut at = stack;
        while at != StackId(0) && !self.stacks.contains_key(&at) {
            missing.push(at);
            at = profile.parent(at);
        }
        let mut prefix = self.stacks.get(&at).copied();
        while let Some(stack) = missing.pop() {
            let frame = self.frame(profile, functions, profile.frame_of(stack));
            let row = self.stack_frame.len();
            self.stack_frame.push(frame);
            self.stack_prefix.push(prefix);
            self.stacks.insert(stack, row);
            prefix = Some(row);
        }
        prefix
    }

    fn frame(
        &mut self,
        profile: &Profile,
        functions: &Functions,
        id: FrameId,
    ) -> usize {
        if let Some(row) = self.frames.get(&id) {
            return *row;
        }
        let view = profile.view(id);
        let row = self.category.len();
        let function = functions.row(id);
        let func = match self.func_ids.get(&function) {
            Some(func) => *func,
            None => self.new_func(&functions.rows[function], function),
        };
        self.func.push(func);
        self.line.push((view.line > 0).then_some(view.line));
        self.category.push(view.kind as usize);
        self.frames.insert(id, row);
        row
    }

    fn new_func(&mut self, function: &Function, id: usize) -> usize {
        let name = self.string(function.bare_name().to_owned());
        let file = (!function.file.is_empty())
            .then(|| self.string(function.file.clone()));
        let table = &mut self.func_table;
        let func = table.length;
        table.name.push(name);
        table.is_js.push(function.is_script);
        table.relevant_for_js.push(false);
        table.resource.push(-1);
        table.file_name.push(file);
        table.line_number.push((function.line > 0).then_some(function.line));
        table.column_number.push(None);
        table.length += 1;
        self.func_ids.insert(id, func);
        func
    }

    fn string(&mut self, text: String) -> usize {
        let next = self.strings.len();
        let id = *self.string_ids.entry(text.clone()).or_insert(next);
        if id == next {
            self.strings.push(text);
        }
        id
    }

    fn finish(self, number: usize) -> Json {
        let frames = self.category.len();
        let none = vec![Json::Null; frames];
        let stacks = self.stack_frame.len();
        let category: Vec<usize> = self
            .stack_frame
            .iter()
            .map(|frame| self.category[*frame])
            .collect();
        json!({
            "name": self.name,
            "processName": self.name,
            "processType": "default",
            "processStartupTime": 0,
            "processShutdownTime": null,
            "registerTime": 0,
            "unregisterTime": null,
            "pausedRanges": [],
            // All processes of a name are one here, so it has no number.
            "pid": self.name,
            "tid": number,
            "isMainThread": true,
            "stringArray": self.strings,
            "funcTable": self.func_table,
            "frameTable": {
                "address": vec![-1; frames],
                "inlineDepth": vec![0; frames],
                "category": self.category,
                "subcategory": vec![0; frames],
                "func": self.func,
                "nativeSymbol": none,
                "innerWindowID": none,
                "implementation": none,
                "line": self.line,
                "column": none,
                "length": frames,
            },
            "stackTable": {
                "frame": self.stack_frame,
                "prefix": self.stack_prefix,
                "category": category,
                "subcategory": vec![0; stacks],
                "length": stacks,
            },
            "samples": {
                "stack": self.sample_stack,
                "time": self.time,
                "weight": self.weight,
                "weightType": "samples",
                "threadCPUDelta": self.cpu_us,
                "length": self.sample_stack.len(),
            },
            "markers": {
                "data": [], "name": [], "startTime": [], "endTime": [],
                "phase": [], "category": [], "length": 0,
            },
            "resourceTable": {
                "lib": [], "name": [], "host": [], "type": [], "length": 0,
            },
            "nativeSymbols": {
                "libIndex": [], "address": [], "name": [],
                "functionSize": [], "length": 0,
            },
        })
    }
}
