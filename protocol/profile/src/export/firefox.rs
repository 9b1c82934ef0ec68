//! The Firefox profiler's processed form.
//!
//! Each process is a thread of the profile. Its samples stand one after the
//! other, as far apart as their CPU time: a profile that is summed up has
//! no other time.

use std::collections::HashMap;

use ntrace_protocol::text;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::frame::{FrameId, FrameKind};
use crate::profile::{Profile, Sample};
use crate::stacks::StackId;

/// The version that is written. The viewer upgrades older ones.
const VERSION: u32 = 47;
/// The version of the recording program's form that goes with it.
const RAW_VERSION: u32 = 27;
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
    let mut threads: Vec<Thread> = Vec::new();
    let mut by_process = HashMap::new();
    for sample in profile.samples() {
        let Some(process) = profile.process_of(sample.stack) else {
            continue;
        };
        let next = threads.len();
        let at = *by_process.entry(process).or_insert(next);
        if at == next {
            let name = text::escape(profile.view(process).name);
            threads.push(Thread { name, ..Thread::default() });
        }
        threads[at].add(profile, sample);
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
            "interval": 1000.0 / f64::from(header.hz.max(1)),
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
struct Functions {
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
    frames: HashMap<FrameId, usize>,
    functions: Functions,
    category: Vec<usize>,
    stacks: HashMap<StackId, usize>,
    stack_frame: Vec<usize>,
    stack_prefix: Vec<Option<usize>>,
    sample_stack: Vec<usize>,
    time: Vec<f64>,
    weight: Vec<u64>,
    cpu_us: Vec<f64>,
    clock_ms: f64,
}

impl Thread {
    fn add(&mut self, profile: &Profile, sample: &Sample) {
        // From the innermost out to the first stack that is known, then
        // back in.
        let mut missing = Vec::new();
        let mut at = sample.stack;
        while at != StackId(0) && !self.stacks.contains_key(&at) {
            missing.push(at);
            at = profile.parent(at);
        }
        let mut prefix = self.stacks.get(&at).copied();
        while let Some(stack) = missing.pop() {
            let frame = self.frame(profile, profile.frame_of(stack));
            let row = self.stack_frame.len();
            self.stack_frame.push(frame);
            self.stack_prefix.push(prefix);
            self.stacks.insert(stack, row);
            prefix = Some(row);
        }
        let Some(stack) = prefix else { return };
        self.sample_stack.push(stack);
        self.time.push(self.clock_ms);
        self.weight.push(sample.value.samples);
        let cpu_ms = sample.value.cpu_ns as f64 / 1e6;
        self.cpu_us.push(cpu_ms * 1e3);
        self.clock_ms += cpu_ms;
    }

    fn frame(&mut self, profile: &Profile, id: FrameId) -> usize {
        if let Some(row) = self.frames.get(&id) {
            return *row;
        }
        let view = profile.view(id);
        let row = self.category.len();
        let name = self.string(text::escape(view.name));
        let file = text::escape(view.file);
        let file = (!file.is_empty()).then(|| self.string(file));
        let js = matches!(view.kind, FrameKind::Jit | FrameKind::Interpreted);
        let functions = &mut self.functions;
        functions.name.push(name);
        functions.is_js.push(js);
        functions.relevant_for_js.push(false);
        functions.resource.push(-1);
        functions.file_name.push(file);
        functions.line_number.push((view.line > 0).then_some(view.line));
        functions.column_number.push(None);
        functions.length += 1;
        self.category.push(view.kind as usize);
        self.frames.insert(id, row);
        row
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
            "pid": number.to_string(),
            "tid": number,
            "isMainThread": true,
            "stringArray": self.strings,
            "funcTable": self.functions,
            "frameTable": {
                "address": vec![-1; frames],
                "inlineDepth": vec![0; frames],
                "category": self.category,
                "subcategory": vec![0; frames],
                "func": (0..frames).collect::<Vec<_>>(),
                "nativeSymbol": none,
                "innerWindowID": none,
                "implementation": none,
                "line": self.functions.line_number,
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
