//! Finds the status record in a job's stderr and takes it out.
//!
//! The record is `0x1e`, `ntrace-status `, the run's nonce, a blank, one
//! JSON object, a newline. Everything else passes byte for byte. Pure: it
//! must not know where the bytes come from.
//! Invariants: only bytes that may still be the record are held back; any
//! cutting of the stream into chunks gives the same result; a record with
//! another nonce is the job's own text.

use bytes::Bytes;
use memchr::memchr;

/// Longest JSON of a record. A process list is the longest there is; what is
/// longer cannot be ours and passes as text.
const MAX_RECORD: usize = 4 << 20;

/// A secret that marks the status record of one command.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// A fresh one.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::new_v4().as_simple().to_string())
    }

    /// 32 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Nonce {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonce(***)")
    }
}

/// A filter over one stderr.
#[derive(Debug)]
pub struct Filter {
    prefix: Vec<u8>,
    state: State,
    record: Option<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// This many bytes of the prefix have been seen and are held back.
    Prefix(usize),
    /// The prefix is complete; the JSON so far.
    Json(Vec<u8>),
    /// The record was found: all that follows is text.
    Found,
}

impl Filter {
    /// A filter for the record with this nonce.
    #[must_use]
    pub fn new(nonce: &Nonce) -> Self {
        let prefix = format!("\u{1e}ntrace-status {} ", nonce.as_str());
        Self {
            prefix: prefix.into_bytes(),
            state: State::Prefix(0),
            record: None,
        }
    }

    /// Takes a chunk; text that is certainly not the record goes to `out`.
    pub fn push(&mut self, mut chunk: Bytes, out: &mut Vec<Bytes>) {
        while !chunk.is_empty() {
            match &mut self.state {
                State::Found => {
                    out.push(chunk);
                    return;
                }
                State::Prefix(0) => {
                    let Some(at) = memchr(0x1e, &chunk) else {
                        out.push(chunk);
                        return;
                    };
                    if at > 0 {
                        out.push(chunk.split_to(at));
                    }
                    let _ = chunk.split_to(1);
                    self.state = State::Prefix(1);
                }
                State::Prefix(seen) => {
                    let seen = *seen;
                    chunk = self.go_on(seen, chunk, out);
                }
                State::Json(json) => match memchr(b'\n', &chunk) {
                    Some(at) if json.len() + at <= MAX_RECORD => {
                        json.extend_from_slice(&chunk.split_to(at));
                        let _ = chunk.split_to(1);
                        self.record = Some(std::mem::take(json));
                        self.state = State::Found;
                    }
                    None if json.len() + chunk.len() <= MAX_RECORD => {
                        json.extend_from_slice(&chunk);
                        return;
                    }
                    Some(_) | None => self.release(out),
                },
            }
        }
    }

    /// Compares on behind `seen` bytes of the prefix. The prefix holds its
    /// first byte only once, so after a mismatch nothing held can begin it.
    fn go_on(
        &mut self,
        seen: usize,
        mut chunk: Bytes,
        out: &mut Vec<Bytes>,
    ) -> Bytes {
        let want = &self.prefix[seen..];
        let same =
            want.iter().zip(chunk.iter()).take_while(|(a, b)| a == b).count();
        if same == want.len() {
            let _ = chunk.split_to(same);
            self.state = State::Json(Vec::new());
        } else if same == chunk.len() {
            self.state = State::Prefix(seen + same);
            chunk.clear();
        } else {
            let held = &self.prefix[..seen];
            out.push(Bytes::copy_from_slice(held));
            self.state = State::Prefix(0);
            if same > 0 {
                out.push(chunk.split_to(same));
            }
        }
        chunk
    }

    /// Gives up on what was held: it is text after all.
    fn release(&mut self, out: &mut Vec<Bytes>) {
        let mut held = Vec::new();
        match &mut self.state {
            State::Found => return,
            State::Prefix(0) => return,
            State::Prefix(seen) => held.extend(&self.prefix[..*seen]),
            State::Json(json) => {
                held.extend(&self.prefix);
                held.append(json);
            }
        }
        self.state = State::Prefix(0);
        out.push(held.into());
    }

    /// The stream ended: what was held is text; gives the JSON of the record
    /// if there was one.
    pub fn finish(mut self, out: &mut Vec<Bytes>) -> Option<Vec<u8>> {
        self.release(out);
        self.record
    }

    /// Whether the record has been seen.
    #[must_use]
    pub fn found(&self) -> bool {
        self.record.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "00112233445566778899aabbccddeeff";

    fn run(chunks: &[&[u8]]) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut filter = Filter::new(&Nonce(NONCE.to_owned()));
        let mut out = Vec::new();
        for chunk in chunks {
            filter.push(Bytes::copy_from_slice(chunk), &mut out);
        }
        let record = filter.finish(&mut out);
        (out.concat(), record)
    }

    fn record(nonce: &str, json: &str) -> Vec<u8> {
        format!("\u{1e}ntrace-status {nonce} {json}\n").into_bytes()
    }

    #[test]
    fn the_record_is_taken_out_and_nothing_else() {
        let mut text = b"before\x1e".to_vec();
        text.extend(record(NONCE, "{\"code\":3}"));
        text.extend(b"after\x1entrace");
        let (out, json) = run(&[&text]);
        assert_eq!(out, b"before\x1eafter\x1entrace");
        assert_eq!(json.unwrap(), b"{\"code\":3}");
    }

    #[test]
    fn a_lookalike_with_another_nonce_passes() {
        let other = record("ffeeddccbbaa99887766554433221100", "{\"code\":0}");
        let (out, json) = run(&[&other]);
        assert_eq!((out, json), (other, None));
    }

    #[test]
    fn a_record_cut_short_is_text() {
        let mut cut = record(NONCE, "{\"code\":0}");
        cut.pop();
        let (out, json) = run(&[&cut]);
        assert_eq!((out, json), (cut, None));
    }

    #[test]
    fn an_endless_record_does_not_grow_memory_and_is_text() {
        let mut filter = Filter::new(&Nonce(NONCE.to_owned()));
        let mut out = Vec::new();
        let mut start = record(NONCE, "");
        start.pop();
        let mut sent = start.len();
        filter.push(start.into(), &mut out);
        let chunk = Bytes::from(vec![b'x'; 1 << 16]);
        for _ in 0..=MAX_RECORD >> 16 {
            filter.push(chunk.clone(), &mut out);
            sent += chunk.len();
        }
        assert!(filter.finish(&mut out).is_none());
        assert_eq!(out.iter().map(Bytes::len).sum::<usize>(), sent);
    }

    #[test]
    fn nothing_but_a_possible_prefix_is_held_back() {
        let mut filter = Filter::new(&Nonce(NONCE.to_owned()));
        let mut out = Vec::new();
        filter.push(Bytes::from_static(b"prompt> \x1en"), &mut out);
        assert_eq!(out.concat(), b"prompt> ");
        filter.push(Bytes::from_static(b"o"), &mut out);
        assert_eq!(out.concat(), b"prompt> \x1eno");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(
            before in proptest::collection::vec(
                prop_oneof![
                    Just(b"\x1e".to_vec()),
                    Just(b"\x1entrace-status ".to_vec()),
                    Just(format!("\u{1e}ntrace-status {}", &NONCE[..31])
                        .into_bytes()),
                    Just(b"\n".to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..20),
                ],
                0..6,
            ),
            after in proptest::collection::vec(any::<u8>(), 0..40),
            with in any::<bool>(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let mut plain = before.concat();
            let mut whole = plain.clone();
            let json = "{\"code\":7}";
            if with {
                whole.extend(record(NONCE, json));
            }
            whole.extend(&after);
            plain.extend(&after);

            let mut at: Vec<usize> =
                cuts.iter().map(|c| c.index(whole.len() + 1)).collect();
            at.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for to in at {
                chunks.push(&whole[from..to]);
                from = to;
            }
            chunks.push(&whole[from..]);
            let (out, found) = run(&chunks);
            // The job cannot know the nonce, so `plain` has no record.
            prop_assert_eq!(out, plain);
            prop_assert_eq!(found.is_some(), with);
            if with {
                prop_assert_eq!(found.unwrap(), json.as_bytes());
            }
        }
    }
}
