//! One record of a run's output, as bytes in the log file.
//!
//! ```text
//! length u32 | crc32 u32 | stream u8 | kind u8 | seq u64 | when u64 | data
//! ```
//!
//! All numbers are little endian. `length` counts what follows the checksum,
//! and the checksum covers the same. A record that is cut off or damaged is
//! recognised as such; what follows it is not looked at.

use ntrace_protocol::report::Data;
use ntrace_protocol::{Stream, Timestamp};

/// Bytes before the part that is checked.
pub(crate) const HEAD: usize = 8;
/// Bytes of the checked part before the data.
const FIXED: usize = 1 + 1 + 8 + 8;
/// The longest checked part: more than any line of the wire can carry.
pub(crate) const BODY_MAX: usize = 256 * 1024 * 1024;

/// A record as it was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The stream.
    pub stream: Stream,
    /// Its number in the run and stream, from 1.
    pub seq: u64,
    /// When the runner had it.
    pub when: Timestamp,
    /// What it is.
    pub data: Data,
}

/// What stands at a place in a file.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed<'a> {
    /// A record's checked part, and how many bytes the record takes.
    Whole { body: &'a [u8], size: usize },
    /// The record goes on behind the given bytes; it takes so many in all.
    Short { wanted: usize },
    /// This is no record.
    Bad,
}

fn stream_code(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
        Stream::Events => 3,
        Stream::Control => 4,
    }
}

fn stream_of(code: u8) -> Option<Stream> {
    Stream::ALL.into_iter().find(|stream| stream_code(*stream) == code)
}

/// Appends a record to a buffer.
pub(crate) fn write(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    out.push(stream_code(record.stream));
    let kind_at = out.len();
    out.push(0);
    out.extend_from_slice(&record.seq.to_le_bytes());
    out.extend_from_slice(&record.when.0.to_le_bytes());
    let kind = match &record.data {
        Data::Text(text) => {
            out.extend_from_slice(text.as_bytes());
            1
        }
        Data::Bytes(bytes) => {
            out.extend_from_slice(bytes);
            2
        }
        Data::Object(map) => {
            let json = serde_json::to_vec(map);
            out.extend(json.expect("a map of JSON values is JSON"));
            3
        }
    };
    out[kind_at] = kind;
    let body = start + HEAD;
    let length = u32::try_from(out.len() - body)
        .expect("a record is shorter than the longest line");
    let crc = crc32fast::hash(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// How many bytes the record takes whose head is given; none if it is no
/// head of a record.
pub(crate) fn size(head: &[u8; HEAD]) -> Option<usize> {
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let length = usize::try_from(length).ok()?;
    (FIXED..=BODY_MAX).contains(&length).then_some(HEAD + length)
}

/// Looks at what stands at the start of the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(head) = bytes.first_chunk::<HEAD>() else {
        return Parsed::Short { wanted: HEAD };
    };
    let Some(size) = size(head) else {
        return Parsed::Bad;
    };
    let Some(body) = bytes.get(HEAD..size) else {
        return Parsed::Short { wanted: size };
    };
    let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if crc32fast::hash(body) != crc {
        return Parsed::Bad;
    }
    Parsed::Whole { body, size }
}

/// The stream and number in a checked part.
pub(crate) fn peek(body: &[u8]) -> Option<(Stream, u64)> {
    let stream = stream_of(*body.first()?)?;
    let seq = body.get(2..10)?.try_into().ok()?;
    Some((stream, u64::from_le_bytes(seq)))
}

/// The record in a checked part.
pub(crate) fn decode(body: &[u8]) -> Option<Record> {
    let (stream, seq) = peek(body)?;
    let when = u64::from_le_bytes(body.get(10..18)?.try_into().ok()?);
    let data = body.get(FIXED..)?;
    let data = match body[1] {
        1 => Data::Text(String::from_utf8(data.to_vec()).ok()?),
        2 => Data::Bytes(data.to_vec()),
        3 => Data::Object(serde_json::from_slice(data).ok()?),
        _ => return None,
    };
    Some(Record { stream, seq, when: Timestamp(when), data })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(data: Data) -> Record {
        Record {
            stream: Stream::Stderr,
            seq: u64::MAX,
            when: Timestamp(5),
            data,
        }
    }

    #[test]
    fn each_kind_of_data_comes_back_as_it_was() {
        let object = serde_json::json!({"event": "x", "n": [1, null]});
        for data in [
            Data::Text(String::new()),
            Data::Text("a\0é\n".to_owned()),
            Data::Bytes((0..=255).collect()),
            Data::Object(object.as_object().unwrap().clone()),
        ] {
            let mut bytes = Vec::new();
            write(&record(data.clone()), &mut bytes);
            let Parsed::Whole { body, size } = parse(&bytes) else {
                panic!("{data:?}");
            };
            assert_eq!(size, bytes.len());
            assert_eq!(decode(body), Some(record(data)));
        }
    }

    proptest! {
        #[test]
        fn a_cut_or_damaged_record_is_never_taken_for_a_whole_one(
            text in ".{0,40}", cut in 0_usize..1000, flip in 0_usize..1000,
        ) {
            let mut bytes = Vec::new();
            write(&record(Data::Text(text)), &mut bytes);
            let cut = cut % bytes.len();
            let is_short = matches!(parse(&bytes[..cut]), Parsed::Short { .. });
            prop_assert!(is_short);
            let at = flip % bytes.len();
            bytes[at] ^= 0x10;
            let is_whole = matches!(parse(&bytes), Parsed::Whole { .. });
            prop_assert!(!is_whole);
        }

        #[test]
        fn whatever_bytes_are_looked_at_nothing_breaks(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Parsed::Whole { body, .. } = parse(&bytes) {
                let _ = decode(body);
            }
        }
    }
}
