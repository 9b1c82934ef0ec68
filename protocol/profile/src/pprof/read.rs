//! Reading pprof, of ours and of others, without believing it anything.
//!
//! The file is unpacked twice: once for the tables, once for the samples,
//! which may stand before them. Each field has a bound, and so has the
//! whole; every number that points somewhere is looked up.

use std::collections::HashMap;
use std::io;

use prost::Message;

use super::fields::{Field, Fields};
use super::message::{Function, Label, Location, Mapping, ValueType, tag};
use super::sample::Sample;
use super::{COMMENT, Comment};
use crate::frame::{FrameId, FrameKind, Symbol};
use crate::header::Header;
use crate::names;
use crate::profile::{Profile, Value};

/// Functions, locations, strings.
const MAX_ROWS: usize = 2_000_000;
/// Bytes of all strings.
const MAX_TEXT: usize = 128 << 20;
/// Functions that were inlined into one place.
const MAX_LINES: usize = 1000;
/// Frames of one stack.
const MAX_STACK: usize = 1 << 20;
/// Frames of all stacks together.
const MAX_FRAMES: usize = 500_000_000;
const MAX_MAPPINGS: usize = 100_000;
const MAX_TYPES: usize = 64;
const MAX_COMMENTS: usize = 64;

/// Why a file is no profile that we read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The gzip'd stream is damaged or ends early.
    #[error("cannot unpack the profile")]
    Unpack(#[source] io::Error),
    /// It is larger than we read.
    #[error("the profile has more than {most} bytes of {what}")]
    TooBig {
        /// Of what there is too much.
        what: &'static str,
        /// How much would be read.
        most: u64,
    },
    /// There are more rows than we read.
    #[error("the profile has more than {most} {what}")]
    TooMany {
        /// Of what there is too much.
        what: &'static str,
        /// How many would be read.
        most: usize,
    },
    /// It is no protobuf, or not pprof's.
    #[error("the profile is damaged: {0}")]
    Damaged(&'static str),
    /// A message in it is no protobuf.
    #[error("the profile is damaged: a bad message")]
    Message(#[from] prost::DecodeError),
    /// Something in it points nowhere.
    #[error("the profile is damaged: there is no {what} {number}")]
    Missing {
        /// What was pointed at.
        what: &'static str,
        /// Its number.
        number: i128,
    },
}

/// Reads a profile in pprof's format, gzip'd or plain.
pub fn read(bytes: &[u8]) -> Result<Profile, ReadError> {
    let mut tables = Tables::default();
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        tables.take(field)?;
    }
    let mut reader = tables.reader()?;
    let mut fields = Fields::new(bytes);
    let mut sample = Sample::default();
    while let Some(field) = fields.next()? {
        if let Field::Bytes(tag::SAMPLE, bytes) = field {
            sample.read(bytes)?;
            reader.sample(&sample)?;
        }
    }
    Ok(reader.profile)
}

/// Everything but the samples.
#[derive(Default)]
struct Tables {
    types: Vec<ValueType>,
    strings: Vec<String>,
    text: usize,
    functions: HashMap<u64, Function>,
    mappings: Vec<Mapping>,
    locations: Vec<Location>,
    lines: usize,
    comments: Vec<i64>,
    header: Header,
    period: u64,
}

impl Tables {
    fn take(&mut self, field: Field<'_>) -> Result<(), ReadError> {
        match field {
            Field::Bytes(tag::SAMPLE_TYPE, bytes) => {
                room(self.types.len(), MAX_TYPES, "kinds of value")?;
                self.types.push(ValueType::decode(bytes)?);
            }
            Field::Bytes(tag::STRING, bytes) => self.string(bytes)?,
            Field::Bytes(tag::FUNCTION, bytes) => {
                room(self.functions.len(), MAX_ROWS, "functions")?;
                let row = Function::decode(bytes)?;
                self.functions.insert(row.id, row);
            }
            Field::Bytes(tag::MAPPING, bytes) => {
                room(self.mappings.len(), MAX_MAPPINGS, "mappings")?;
                self.mappings.push(Mapping::decode(bytes)?);
            }
            Field::Bytes(tag::LOCATION, bytes) => {
                room(self.locations.len(), MAX_ROWS, "locations")?;
                let row = Location::decode(bytes)?;
                room(row.line.len(), MAX_LINES, "lines of one location")?;
                self.lines += row.line.len();
                room(self.lines, MAX_ROWS, "lines")?;
                self.locations.push(row);
            }
            // Other writers pack the comments' numbers.
            Field::Bytes(tag::COMMENT, bytes) => {
                let packed = Packed::decode(&*packed(bytes))?;
                for id in packed.number {
                    room(self.comments.len(), MAX_COMMENTS, "comments")?;
                    self.comments.push(id);
                }
            }
            Field::Number(tag::COMMENT, id) => {
                room(self.comments.len(), MAX_COMMENTS, "comments")?;
                self.comments.push(id.cast_signed());
            }
            Field::Number(tag::TIME_NANOS, ns) => self.header.start_ns = ns,
            Field::Number(tag::DURATION_NANOS, ns) => {
                self.header.duration_ns = ns;
            }
            Field::Number(tag::PERIOD, period) => self.period = period,
            Field::Number(..) | Field::Bytes(..) => {}
        }
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        room(self.strings.len(), MAX_ROWS, "strings")?;
        self.text += bytes.len();
        if self.text > MAX_TEXT {
            let (what, most) = ("strings", MAX_TEXT as u64);
            return Err(ReadError::TooBig { what, most });
        }
        self.strings.push(String::from_utf8_lossy(bytes).into_owned());
        Ok(())
    }

    fn text(&self, id: i64) -> Result<&str, ReadError> {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.strings.get(id))
            .map(String::as_str)
            .ok_or(ReadError::Missing { what: "string", number: id.into() })
    }

    /// Our comment, if the profile is one of ours.
    fn comment(&self) -> Result<Option<Comment>, ReadError> {
        for id in &self.comments {
            if let Some(json) = self.text(*id)?.strip_prefix(COMMENT) {
                return serde_json::from_str(json)
                    .map(Some)
                    .map_err(|_| ReadError::Damaged("our comment in it"));
            }
        }
        Ok(None)
    }

    fn reader(mut self) -> Result<Reader, ReadError> {
        let comment = self.comment()?;
        let kinds = comment.as_ref().map(|c| c.kinds.clone());
        let header = match comment {
            Some(comment) => comment.header.bounded(),
            None => Header {
                hz: 1_000_000_000_u64
                    .checked_div(self.period)
                    .and_then(|hz| u32::try_from(hz).ok())
                    .unwrap_or(0),
                ..std::mem::take(&mut self.header)
            },
        };
        let mut profile = Profile::new(header);
        let mapping_rows: HashMap<u64, usize> =
            (0..).zip(&self.mappings).map(|(n, row)| (row.id, n)).collect();
        let mut frames = Vec::new();
        let mut locations = Locations::new(&self.locations);
        for row in &self.locations {
            let mapping = mapping_rows.get(&row.mapping).copied();
            let start = frames.len();
            self.frames(row, mapping, kinds.as_deref(), |symbol| {
                frames.push(profile.frame(&symbol));
            })?;
            let range = (start as u32, frames.len() as u32);
            locations.insert(row.id, range);
        }
        let values = self.values()?;
        let program = match self.mappings.first() {
            Some(first) if kinds.is_none() => {
                let path = self.text(first.filename)?;
                path.rsplit('/').next().unwrap_or(path).to_owned()
            }
            _ => String::new(),
        };
        Ok(Reader {
            tables: self,
            profile,
            frames,
            locations,
            stack: Vec::new(),
            values,
            seen: 0,
            program,
        })
    }

    /// The frames of a location, outermost first.
    fn frames(
        &self,
        row: &Location,
        mapping: Option<usize>,
        kinds: Option<&[FrameKind]>,
        mut each: impl FnMut(Symbol<'_>),
    ) -> Result<(), ReadError> {
        let module = match mapping {
            Some(n) => self.text(self.mappings[n].filename)?,
            None => "",
        };
        if row.line.is_empty() {
            let name = format!("0x{:x}", row.address);
            let symbol = Symbol::new(name, FrameKind::Unknown);
            each(symbol.in_module(module));
        }
        // The last line is the function that the others were inlined into.
        for (n, line) in row.line.iter().rev().enumerate() {
            let number = i128::from(line.function);
            let function = self.functions.get(&line.function);
            let function = function
                .ok_or(ReadError::Missing { what: "function", number })?;
            let name = self.text(function.name)?;
            let system_name = self.text(function.system_name)?;
            let mut symbol = match kinds {
                Some(kinds) => Symbol {
                    system_name: system_name.into(),
                    kind: mapping
                        .and_then(|n| kinds.get(n).copied())
                        .unwrap_or_default(),
                    ..Symbol::new(name, FrameKind::Unknown)
                },
                None => names::foreign(name, module),
            };
            if n > 0 && symbol.kind == FrameKind::Native {
                symbol.kind = FrameKind::Inlined;
            }
            symbol.file = self.text(function.filename)?.into();
            symbol.line = u32::try_from(line.line).unwrap_or(0);
            symbol.module = module.into();
            each(symbol);
        }
        Ok(())
    }

    /// Which of a sample's values we take.
    fn values(&self) -> Result<Values, ReadError> {
        let mut values = Values { count: None, time: None, period: 1 };
        for (n, row) in self.types.iter().enumerate() {
            let scale = match self.text(row.unit)? {
                "nanoseconds" => 1,
                "microseconds" => 1_000,
                "milliseconds" => 1_000_000,
                "seconds" => 1_000_000_000,
                "count" => {
                    values.count = values.count.or(Some(n));
                    continue;
                }
                _ => continue,
            };
            values.time = values.time.or(Some((n, scale)));
        }
        values.period = self.period.max(1);
        if values.count.is_none() && values.time.is_none() {
            return Err(ReadError::Damaged(
                "it counts neither samples nor time",
            ));
        }
        Ok(values)
    }
}

/// Which of a sample's values we take.
struct Values {
    count: Option<usize>,
    /// Position, and nanoseconds of its unit.
    time: Option<(usize, u64)>,
    period: u64,
}

impl Values {
    fn of(&self, row: &[i64]) -> Result<Value, ReadError> {
        let get = |n: usize| {
            let number = row.get(n).copied();
            let number = number.ok_or(ReadError::Damaged(
                "a sample with fewer values than it has kinds of value",
            ))?;
            u64::try_from(number)
                .map_err(|_| ReadError::Damaged("a negative value"))
        };
        let cpu_ns = match self.time {
            Some((n, scale)) => get(n)?.saturating_mul(scale),
            None => 0,
        };
        let samples = match self.count {
            Some(n) => get(n)?,
            None => cpu_ns / self.period,
        };
        Ok(Value { samples, cpu_ns })
    }
}

/// The frames of each location, by its number: from where to where.
///
/// Most writers number them from 1 without gaps.
enum Locations {
    Dense(Vec<(u32, u32)>),
    Sparse(HashMap<u64, (u32, u32)>),
}

impl Locations {
    /// What no location has.
    const NONE: (u32, u32) = (u32::MAX, 0);

    fn new(rows: &[Location]) -> Self {
        let last = rows.iter().map(|row| row.id).max().unwrap_or(0);
        match usize::try_from(last) {
            Ok(last) if last <= 2 * rows.len() => {
                Self::Dense(vec![Self::NONE; last + 1])
            }
            _ => Self::Sparse(HashMap::with_capacity(rows.len())),
        }
    }

    fn insert(&mut self, id: u64, range: (u32, u32)) {
        match self {
            Self::Dense(all) => all[id as usize] = range,
            Self::Sparse(all) => {
                all.insert(id, range);
            }
        }
    }

    fn get(&self, id: u64) -> Option<(u32, u32)> {
        match self {
            Self::Dense(all) => usize::try_from(id)
                .ok()
                .and_then(|id| all.get(id).copied())
                .filter(|range| *range != Self::NONE),
            Self::Sparse(all) => all.get(&id).copied(),
        }
    }
}

/// Takes the samples, when all else is known.
struct Reader {
    tables: Tables,
    profile: Profile,
    frames: Vec<FrameId>,
    locations: Locations,
    /// The frames of one stack; used again for the next.
    stack: Vec<FrameId>,
    values: Values,
    /// Frames so far.
    seen: usize,
    /// The process of samples that do not name one.
    program: String,
}

impl Reader {
    fn sample(&mut self, row: &Sample) -> Result<(), ReadError> {
        let value = self.values.of(&row.value)?;
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        for id in row.location.iter().rev() {
            let (what, number) = ("location", i128::from(*id));
            room(stack.len(), MAX_STACK, "frames in one stack")?;
            let (start, end) = self
                .locations
                .get(*id)
                .ok_or(ReadError::Missing { what, number })?;
            match end - start {
                1 => stack.push(self.frames[start as usize]),
                _ => stack.extend_from_slice(
                    &self.frames[start as usize..end as usize],
                ),
            }
        }
        self.seen += stack.len();
        room(self.seen, MAX_FRAMES, "frames in all stacks")?;
        let first = stack.first().copied();
        let process = first.filter(|frame| {
            self.profile.view(*frame).kind == FrameKind::Process
        });
        match process {
            Some(process) => self.profile.add(process, &stack[1..], value),
            None => {
                let name = self.process_name(&row.label)?.to_owned();
                let process = self.profile.process(&name);
                self.profile.add(process, &stack, value);
            }
        }
        self.stack = stack;
        Ok(())
    }

    fn process_name(&self, labels: &[Label]) -> Result<&str, ReadError> {
        for label in labels {
            let key = self.tables.text(label.key)?;
            if matches!(key, "comm" | "process" | "execname") {
                return self.tables.text(label.text);
            }
        }
        Ok(&self.program)
    }
}

/// Numbers without names.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Packed {
    #[prost(int64, repeated, tag = "1")]
    number: Vec<i64>,
}

/// Packed numbers as a message of their own.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes.len() + 8);
    prost::encoding::bytes::encode(1, &bytes.to_vec(), &mut message);
    message
}

fn room(have: usize, most: usize, what: &'static str) -> Result<(), ReadError> {
    if have >= most {
        return Err(ReadError::TooMany { what, most });
    }
    Ok(())
}
