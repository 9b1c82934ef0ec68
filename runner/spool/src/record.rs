//! The framing of one record in a segment.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload |
//! | 4 | CRC-32 of all that follows |
//! | 1 | stream |
//! | 1 | kind |
//! | 8 | number in the stream |
//! | 8 | when, milliseconds since 1970 |
//! | … | payload |
//!
//! Numbers are little-endian. A record is whole or it is not there: whatever
//! follows the first one that does not check is not read.

use ntrace_protocol::report::Stream;

/// The bytes before the payload.
pub(crate) const HEADER: usize = 26;

/// The longest payload; more is a sign of damage.
pub(crate) const MAX_PAYLOAD: usize = 512 * 1024;

/// What a record's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Output, as it was written.
    Output,
    /// An event or a verdict, as JSON.
    Object,
    /// The first record of a segment: the numbers that were given out before
    /// it, one for each stream.
    Base,
}

/// One record; the payload is borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) stream: Stream,
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) when: u64,
    pub(crate) payload: &'a [u8],
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A record, and how long it is with its header.
    Whole(Record<'a>, usize),
    /// More bytes are needed: so many from the start of the record.
    Short(usize),
    /// No record.
    Bad,
}

impl Record<'_> {
    /// Appends the record's bytes.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len())
            .expect("payloads are bounded far below 4 GiB");
        let start = to.len();
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&[0; 4]);
        to.push(number_of(self.stream));
        to.push(match self.kind {
            Kind::Output => 0,
            Kind::Object => 1,
            Kind::Base => 2,
        });
        to.extend_from_slice(&self.seq.to_le_bytes());
        to.extend_from_slice(&self.when.to_le_bytes());
        to.extend_from_slice(self.payload);
        let crc = crc32fast::hash(&to[start + 8..]);
        to[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads the record at the beginning of some bytes.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Parsed::Short(HEADER);
    };
    let length = u32_at(header, 0) as usize;
    if length > MAX_PAYLOAD {
        return Parsed::Bad;
    }
    let Some(payload) = rest.get(..length) else {
        return Parsed::Short(HEADER + length);
    };
    if crc32fast::hash(&bytes[8..HEADER + length]) != u32_at(header, 4) {
        return Parsed::Bad;
    }
    let kind = match header[9] {
        0 => Kind::Output,
        1 => Kind::Object,
        2 => Kind::Base,
        _ => return Parsed::Bad,
    };
    let Some(stream) = stream_of(header[8]) else { return Parsed::Bad };
    let record = Record {
        stream,
        kind,
        seq: u64_at(header, 10),
        when: u64_at(header, 18),
        payload,
    };
    Parsed::Whole(record, HEADER + length)
}

/// The place of a stream in tables and on disk.
pub(crate) fn number_of(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
        Stream::Events => 2,
        Stream::Control => 3,
    }
}

fn stream_of(number: u8) -> Option<Stream> {
    Stream::ALL.into_iter().find(|stream| number_of(*stream) == number)
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The highest number of each stream, by [`number_of`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seqs(pub(crate) [u64; 4]);

impl Seqs {
    pub(crate) fn get(&self, stream: Stream) -> u64 {
        self.0[usize::from(number_of(stream))]
    }

    pub(crate) fn get_mut(&mut self, stream: Stream) -> &mut u64 {
        &mut self.0[usize::from(number_of(stream))]
    }

    /// Whether each number is at least as high as the other's.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(have, want)| *have >= want)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut seqs = Self::default();
        if bytes.len() != 32 {
            return None;
        }
        for (n, word) in seqs.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *n = u64::from_le_bytes(word.try_into().ok()?);
        }
        Some(seqs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Record<'static>) {
        let record = Record {
            stream: Stream::Stderr,
            kind: Kind::Output,
            seq: 7,
            when: 1_700_000_000_123,
            payload: b"out\0put",
        };
        let mut bytes = vec![];
        record.write(&mut bytes);
        (bytes, record)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (mut bytes, record) = sample();
        let length = bytes.len();
        bytes.extend_from_slice(b"more");
        assert_eq!(parse(&bytes), Parsed::Whole(record, length));
    }

    #[test]
    fn a_torn_record_is_short_and_a_changed_one_is_bad() {
        let (bytes, _) = sample();
        for cut in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..cut]), Parsed::Short(_)));
        }
        for at in 4..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert_eq!(parse(&damaged), Parsed::Bad, "{at}");
        }
    }

    #[test]
    fn numbers_survive_the_way_to_disk() {
        let seqs = Seqs([1, u64::MAX, 0, 4]);
        assert_eq!(Seqs::from_bytes(&seqs.to_bytes()), Some(seqs));
        assert_eq!(Seqs::from_bytes(b"short"), None);
    }
}
