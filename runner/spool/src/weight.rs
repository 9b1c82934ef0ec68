//! How long a report will be as JSON, without writing it.

use ntrace_protocol::report::{Data, Report};

/// What a report takes besides its data: the names, three UUIDs or numbers,
/// a time.
const FRAME: usize = 288;

/// An upper bound of the report's length on the wire, in bytes.
pub fn weight(report: &Report) -> usize {
    FRAME
        + match &report.data {
            Data::Text(text) => text.bytes().map(escaped).sum(),
            Data::Bytes(bytes) => bytes.len().div_ceil(3) * 4 + 16,
            // It is written the way it was read.
            Data::Object(map) => {
                serde_json::to_vec(map).map_or(0, |text| text.len())
            }
        }
}

fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use ntrace_protocol::{JobId, Lease, RunId, Stream, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn report(bytes: &[u8]) -> Report {
        Report {
            job: JobId::from_bytes([0xff; 16]),
            run_id: RunId::from_bytes([0xff; 16]),
            lease: Lease(u64::MAX),
            stream: Stream::Control,
            seq: u64::MAX,
            when: Timestamp(u64::MAX),
            data: Data::from_output(bytes),
        }
    }

    proptest! {
        #[test]
        fn the_weight_is_never_less_than_the_length(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            text in "[\\x00-\\x7f\u{20ac}]{0,300}",
        ) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let report = report(bytes);
                let length = serde_json::to_vec(&report).unwrap().len();
                prop_assert!(weight(&report) >= length);
                prop_assert!(weight(&report) <= length + FRAME);
            }
        }
    }
}
