//! Bytes to lines and back, with one limit on the length of a line.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use tokio_util::codec::{Decoder, Encoder};

use crate::MAX_LINE;
use crate::error::{Code, WireError};
use crate::message::{self, BadLine, Message};

/// What one line turned out to be.
#[derive(Debug, PartialEq)]
pub enum Decoded {
    /// A good line.
    Message(Message),
    /// A line to be answered with an error; reading goes on.
    Bad(BadLine),
    /// Not this protocol, or no end of the line in sight: answer with the
    /// error, then close.
    Fatal(WireError),
}

/// Splits on byte 10, drops one trailing CR, passes over lines of white
/// space, and parses each line as a whole, so that no character is cut by a
/// packet's end.
///
/// No byte is scanned twice, and no line grows past the limit.
#[derive(Debug)]
pub struct LineCodec {
    max_line: usize,
    scanned: usize,
    is_first: bool,
    is_over: bool,
}

impl Default for LineCodec {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

impl LineCodec {
    /// A codec whose lines, without their end, have at most `max_line` bytes.
    pub fn new(max_line: usize) -> Self {
        Self { max_line, scanned: 0, is_first: true, is_over: false }
    }

    fn refuse(&mut self, input: &mut BytesMut, message: String) -> Decoded {
        self.is_over = true;
        input.clear();
        Decoded::Fatal(WireError::new(Code::Eproto, message))
    }

    fn too_long(&mut self, input: &mut BytesMut) -> Decoded {
        let max = self.max_line;
        self.refuse(input, format!("the line is longer than {max} bytes"))
    }

    /// One whole line; `None` if there is nothing in it.
    fn line(&mut self, line: &[u8], rest: &mut BytesMut) -> Option<Decoded> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        if line.len() > self.max_line {
            return Some(self.too_long(rest));
        }
        let is_first = std::mem::replace(&mut self.is_first, false);
        if is_first && is_foreign(line) {
            return Some(self.refuse(
                rest,
                "this is not HTTP, TLS or SSH: it takes one JSON message a \
                 line; try [\"help\",[],1]"
                    .to_owned(),
            ));
        }
        Some(match message::parse(line) {
            Ok(message) => Decoded::Message(message),
            Err(bad) => Decoded::Bad(bad),
        })
    }
}

/// Whether the first line of a connection is of another protocol. A browser
/// can be made to send HTTP to a port of its own machine, with lines of our
/// protocol in the body; so such a connection must end, not go on.
fn is_foreign(line: &[u8]) -> bool {
    let is_http = memchr::memmem::find(line, b" HTTP/").is_some()
        && line.first().is_some_and(u8::is_ascii_uppercase);
    is_http
        || line.starts_with(&[0x16, 0x03])
        || line.starts_with(b"SSH-")
        || line.starts_with(b"PRI * ")
}

impl Decoder for LineCodec {
    type Item = Decoded;
    type Error = std::io::Error;

    fn decode(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Option<Decoded>, std::io::Error> {
        if self.is_over {
            input.clear();
            return Ok(None);
        }
        while let Some(at) = memchr(b'\n', &input[self.scanned..]) {
            let line = input.split_to(self.scanned + at);
            input.advance(1);
            self.scanned = 0;
            if let Some(decoded) = self.line(&line, input) {
                return Ok(Some(decoded));
            }
        }
        self.scanned = input.len();
        // A CR before the end does not count, so one byte more may be there.
        if input.len() > self.max_line + 1 {
            return Ok(Some(self.too_long(input)));
        }
        Ok(None)
    }

    /// A last line without its end is run as well: `printf` forgets it.
    fn decode_eof(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Option<Decoded>, std::io::Error> {
        if let Some(decoded) = self.decode(input)? {
            return Ok(Some(decoded));
        }
        if input.is_empty() {
            return Ok(None);
        }
        let line = input.split();
        self.scanned = 0;
        Ok(self.line(&line, input))
    }
}

/// Lines are written by [`message::write_request`] and
/// [`message::write_answer`]; the codec only passes them on.
impl Encoder<Bytes> for LineCodec {
    type Error = std::io::Error;

    fn encode(
        &mut self,
        line: Bytes,
        output: &mut BytesMut,
    ) -> Result<(), std::io::Error> {
        output.extend_from_slice(&line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes the input in pieces of the given size.
    fn decode(input: &[u8], piece: usize, max: usize) -> Vec<Decoded> {
        let mut codec = LineCodec::new(max);
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for chunk in input.chunks(piece.max(1)) {
            buffer.extend_from_slice(chunk);
            while let Some(item) = codec.decode(&mut buffer).unwrap() {
                out.push(item);
            }
        }
        while let Some(item) = codec.decode_eof(&mut buffer).unwrap() {
            out.push(item);
        }
        out
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_blank_ones_are_passed_over() {
        let input = b"\n \t\r\n[\"ping\",[],1]\r\n\n[\"ping\",[],2]";
        assert_eq!(decode(input, 100, 100).len(), 2);
        assert_eq!(decode(input, 1, 100).len(), 2);
    }

    #[test]
    fn after_a_bad_line_the_next_good_one_is_read() {
        let items = decode(b"nonsense\n[\"ping\",[],2]\n", 5, 100);
        assert!(matches!(items[0], Decoded::Bad(_)));
        assert!(matches!(items[1], Decoded::Message(_)));
    }

    #[test]
    fn a_line_over_the_limit_ends_the_reading() {
        let mut input = vec![b'a'; 50];
        assert!(matches!(decode(&input, 7, 50)[..], [Decoded::Bad(_)]));
        input.push(b'a');
        input.extend_from_slice(b"\n[\"ping\",[],2]\n");
        for piece in [1, 7, 1000] {
            assert!(matches!(
                decode(&input, piece, 50)[..],
                [Decoded::Fatal(_)]
            ));
        }
        let endless = vec![b'a'; 10_000];
        assert!(matches!(decode(&endless, 64, 50)[..], [Decoded::Fatal(_)]));
    }

    #[test]
    fn other_protocols_end_the_reading() {
        for foreign in [
            &b"GET / HTTP/1.1\r\n\r\n[\"push\",[],1]\n"[..],
            b"POST / HTTP/1.1\nx\n",
            b"\x16\x03\x01\x02\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            assert!(matches!(
                decode(foreign, 100, 100)[..],
                [Decoded::Fatal(_)]
            ));
        }
    }

    proptest! {
        #[test]
        fn packets_do_not_matter(
            lines in proptest::collection::vec("\\PC{0,20}", 0..6),
            piece in 1_usize..40,
        ) {
            let mut input = Vec::new();
            for line in &lines {
                let text = serde_json::to_string(line).unwrap();
                input.extend(format!("[\"ping\",[{text}],1]\n").bytes());
            }
            let whole = decode(&input, input.len(), 1000);
            prop_assert_eq!(whole.len(), lines.len());
            prop_assert_eq!(decode(&input, piece, 1000), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(input: Vec<u8>, piece in 1_usize..9) {
            decode(&input, piece, 40);
        }
    }
}
