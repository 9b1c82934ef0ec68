//! Writing pprof.

use std::collections::HashMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use prost::encoding;

use super::message::{
    Function, Label, Line, Location, Mapping, Sample, ValueType, tag,
};
use super::{COMMENT, Comment};
use crate::frame::{FrameId, FrameKind};
use crate::profile::Profile;

/// The profile as gzip'd pprof. The same profile gives the same bytes.
pub fn write(profile: &Profile) -> Vec<u8> {
    let mut out = Out {
        gzip: GzEncoder::new(Vec::new(), Compression::default()),
        buffer: Vec::new(),
        strings: vec![String::new()],
        ids: HashMap::from([(String::new(), 0)]),
    };
    out.types(profile);
    let kinds = out.frames(profile);
    out.samples(profile);
    out.comment(profile, kinds);
    out.strings();
    out.gzip.finish().expect("a vector takes every byte")
}

struct Out {
    gzip: GzEncoder<Vec<u8>>,
    buffer: Vec<u8>,
    strings: Vec<String>,
    ids: HashMap<String, i64>,
}

impl Out {
    fn flush(&mut self) {
        self.gzip.write_all(&self.buffer).expect("a vector takes every byte");
        self.buffer.clear();
    }

    fn message(&mut self, tag: u32, message: &impl Message) {
        encoding::message::encode(tag, message, &mut self.buffer);
        self.flush();
    }

    fn number(&mut self, tag: u32, number: i64) {
        encoding::int64::encode(tag, &number, &mut self.buffer);
        self.flush();
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.ids.insert(text.to_owned(), id);
        id
    }

    fn types(&mut self, profile: &Profile) {
        let kind = self.string("samples");
        let unit = self.string("count");
        self.message(tag::SAMPLE_TYPE, &ValueType { kind, unit });
        let kind = self.string("cpu");
        let unit = self.string("nanoseconds");
        self.message(tag::SAMPLE_TYPE, &ValueType { kind, unit });
        self.message(tag::PERIOD_TYPE, &ValueType { kind, unit });
        let header = &profile.header;
        if header.hz > 0 {
            self.number(tag::PERIOD, 1_000_000_000 / i64::from(header.hz));
        }
        let ns = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        self.number(tag::TIME_NANOS, ns(header.start_ns));
        self.number(tag::DURATION_NANOS, ns(header.duration_ns));
    }

    /// Writes functions, mappings and locations; gives the kinds of the
    /// mappings. A location has its frame's number and one.
    fn frames(&mut self, profile: &Profile) -> Vec<FrameKind> {
        let mut functions = HashMap::new();
        let mut mappings = HashMap::new();
        let mut kinds = Vec::new();
        for id in profile.frame_ids() {
            let view = profile.view(id);
            let name = self.string(view.name);
            let system_name = self.string(view.system_name);
            let filename = self.string(view.file);
            let next = functions.len() as u64 + 1;
            let key = (name, system_name, filename);
            let function = *functions.entry(key).or_insert(next);
            if function == next {
                let id = function;
                let row = Function { id, name, system_name, filename };
                self.message(tag::FUNCTION, &row);
            }
            let module = self.string(view.module);
            let next = kinds.len() as u64 + 1;
            let mapping = *mappings.entry((module, view.kind)).or_insert(next);
            if mapping == next {
                kinds.push(view.kind);
                self.message(tag::MAPPING, &mapping_row(mapping, module));
            }
            let line = vec![Line { function, line: i64::from(view.line) }];
            let id = location(id);
            let row = Location { id, mapping, address: 0, line };
            self.message(tag::LOCATION, &row);
        }
        kinds
    }

    fn samples(&mut self, profile: &Profile) {
        let key = self.string("comm");
        let mut row = Sample::default();
        for sample in profile.samples() {
            let frames = profile.leaf_first(sample.stack);
            row.location.clear();
            row.location.extend(frames.map(location));
            row.value.clear();
            let value = sample.value;
            row.value.extend(
                [value.samples, value.cpu_ns]
                    .map(|number| i64::try_from(number).unwrap_or(i64::MAX)),
            );
            row.label.clear();
            if let Some(process) = profile.process_of(sample.stack) {
                let text = self.string(profile.view(process).name);
                row.label.push(Label { key, text });
            }
            encoding::message::encode(tag::SAMPLE, &row, &mut self.buffer);
            if self.buffer.len() > 64 << 10 {
                self.flush();
            }
        }
        self.flush();
    }

    fn comment(&mut self, profile: &Profile, kinds: Vec<FrameKind>) {
        let header = profile.header.clone();
        let comment = serde_json::to_string(&Comment { header, kinds })
            .expect("a header is strings and numbers");
        let id = self.string(&format!("{COMMENT}{comment}"));
        self.number(tag::COMMENT, id);
    }

    fn strings(&mut self) {
        for text in std::mem::take(&mut self.strings) {
            // The empty one has to be there as well.
            encoding::string::encode(tag::STRING, &text, &mut self.buffer);
            self.flush();
        }
    }
}

fn location(frame: FrameId) -> u64 {
    u64::from(frame.0) + 1
}

fn mapping_row(id: u64, filename: i64) -> Mapping {
    // Everything is resolved: nobody need look for the binaries.
    Mapping {
        id,
        filename,
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
    }
}
