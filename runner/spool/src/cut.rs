//! Cutting output into reports, so that text stays text.
//!
//! A report whose bytes are valid UTF-8 travels as a readable string. A
//! character that was split between two reads, or by the size of a report,
//! would make both neighbours binary; so its first bytes wait for the rest.
//! What is not text is never held up by more than three bytes.

/// The most bytes of output in one report. As JSON that is at most six times
/// as much, which still fits a line.
pub(crate) const MAX_PIECE: usize = 48 * 1024;

/// The bytes that wait for the rest of their character.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    held: Vec<u8>,
}

impl Cutter {
    /// Hands out pieces of what is held back and what is new, in order.
    ///
    /// # Errors
    /// The first one of `put`; what it refused is lost to the caller.
    pub(crate) fn push<E>(
        &mut self,
        data: &[u8],
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let joined;
        let mut rest = data;
        if !self.held.is_empty() {
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(data);
            joined = all;
            rest = &joined;
        }
        while rest.len() > MAX_PIECE {
            let border = MAX_PIECE - unfinished(&rest[..MAX_PIECE]);
            let (piece, more) = rest.split_at(border);
            put(piece)?;
            rest = more;
        }
        let (piece, tail) = rest.split_at(rest.len() - unfinished(rest));
        if !piece.is_empty() {
            put(piece)?;
        }
        self.held = tail.to_vec();
        Ok(())
    }

    /// What is still held back, at the end of the stream.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end are the beginning of a character: 0 to 3.
fn unfinished(bytes: &[u8]) -> usize {
    (1..=3.min(bytes.len()))
        .find(|n| {
            let tail = &bytes[bytes.len() - n..];
            std::str::from_utf8(tail).is_err_and(|error| {
                error.valid_up_to() == 0 && error.error_len().is_none()
            })
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn pieces(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut out = vec![];
        let mut cutter = Cutter::default();
        for chunk in chunks {
            let Ok(()) = cutter.push(chunk, |piece| {
                out.push(piece.to_vec());
                Ok::<_, Infallible>(())
            });
        }
        let rest = cutter.finish();
        if !rest.is_empty() {
            out.push(rest);
        }
        out
    }

    fn chunked(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut out = vec![];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, more) = rest.split_at((*size).clamp(1, rest.len()));
            out.push(chunk.to_vec());
            rest = more;
        }
        out
    }

    fn check(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let chunks = chunked(bytes, sizes);
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let out = pieces(&chunks);
        assert_eq!(out.concat(), bytes);
        assert!(out.iter().all(|p| (1..=MAX_PIECE).contains(&p.len())));
        out
    }

    #[test]
    fn a_split_character_waits_for_its_rest() {
        assert_eq!(
            pieces(&[b"a\xe2", b"\x82", b"\xacb"]),
            [&b"a"[..], b"\xe2\x82\xacb"]
        );
    }

    #[test]
    fn what_cannot_become_a_character_is_not_held_back() {
        assert_eq!(pieces(&[b"\xff", b"\x80"]), [&b"\xff"[..], b"\x80"]);
        assert_eq!(pieces(&[b"\xed\xa0", b"x"]), [&b"\xed\xa0"[..], b"x"]);
    }

    #[test]
    fn an_unfinished_character_at_the_end_is_not_lost() {
        assert_eq!(pieces(&[b"\xf0\x9f\x98"]), [b"\xf0\x9f\x98"]);
    }

    #[test]
    fn a_gigantic_line_is_cut_at_characters() {
        let text = "\u{20ac}".repeat(MAX_PIECE);
        for piece in check(text.as_bytes(), &[65_536]) {
            assert!(std::str::from_utf8(&piece).is_ok());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_come_out_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            sizes in prop::collection::vec(1_usize..700, 1..5),
            long in any::<bool>(),
        ) {
            let bytes =
                if long { bytes.repeat(80) } else { bytes };
            check(&bytes, &sizes);
        }

        #[test]
        fn text_in_any_chunks_stays_text(
            text in "\\PC{0,400}",
            sizes in prop::collection::vec(1_usize..9, 1..5),
        ) {
            for piece in check(text.as_bytes(), &sizes) {
                prop_assert!(std::str::from_utf8(&piece).is_ok());
            }
        }
    }
}
