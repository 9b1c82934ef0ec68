//! What a job wrote, made harmless for a terminal: a streaming filter.
//!
//! Text, newlines, tabs and plain SGR (colours, bold and the like, but not
//! the one that hides text) pass. Every other control, bad UTF-8, and marks
//! that change the direction of text are shown escaped. A sequence may be cut
//! anywhere between two records; what is held back for that is bounded.
//! Pure: bytes in, bytes out. One filter a stream.

use ntrace_protocol::text::{escape, is_unsafe};

/// The longest SGR sequence that is passed, in bytes. What is longer is
/// nothing that a program writes for colours.
const MAX_SGR: usize = 64;

/// What becomes of the job's colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// They pass.
    Keep,
    /// They are left out: the user wants none.
    Drop,
}

/// The filter of one stream.
#[derive(Clone, Debug)]
pub struct Filter {
    colours: Colours,
    /// The begun sequence or character at the end of what came; at most
    /// [`MAX_SGR`] bytes.
    held: Vec<u8>,
    is_coloured: bool,
    at_line_start: bool,
}

/// What stands at the beginning of the bytes.
enum Head {
    /// So many bytes of SGR; true: it switches all attributes off.
    Sgr(usize, bool),
    /// It may become SGR.
    Unfinished,
    /// Something else.
    Other,
}

impl Filter {
    /// A filter at the beginning of a stream.
    pub fn new(colours: Colours) -> Self {
        Self {
            colours,
            held: Vec::new(),
            is_coloured: false,
            at_line_start: true,
        }
    }

    /// Whether the last thing that was written ended a line.
    pub fn at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// Filters the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let used = self.run(&input, false, out);
        input.drain(..used);
        debug_assert!(input.len() < MAX_SGR, "more is never held back");
        self.held = input;
    }

    /// The stream is over, or something else is to be written: what was held
    /// back is shown, and colours are switched off.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let input = std::mem::take(&mut self.held);
        self.run(&input, true, out);
        self.pause(out);
    }

    /// Switches colours off, so that what others write has none of them.
    pub fn pause(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_coloured) {
            out.extend_from_slice(b"\x1b[0m");
        }
    }

    /// Filters as much as can be decided, and says how much that was.
    fn run(&mut self, input: &[u8], is_last: bool, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            match rest[0] {
                0x1b => match head(rest) {
                    Head::Sgr(length, resets) => {
                        if self.colours == Colours::Keep {
                            out.extend_from_slice(&rest[..length]);
                            self.is_coloured = !resets;
                        }
                        at += length;
                    }
                    Head::Unfinished if !is_last => return at,
                    Head::Unfinished | Head::Other => {
                        self.show(out, "\\x1b");
                        at += 1;
                    }
                },
                b'\r' => match rest.get(1) {
                    None if !is_last => return at,
                    // The line end of some programs; harmless.
                    Some(b'\n') => at += 1,
                    _ => {
                        self.show(out, "\\r");
                        at += 1;
                    }
                },
                _ => {
                    let end = rest
                        .iter()
                        .position(|b| matches!(b, 0x1b | b'\r'))
                        .unwrap_or(rest.len());
                    let is_cut = end == rest.len() && !is_last;
                    let used = self.text(&rest[..end], is_cut, out);
                    at += used;
                    if used < end {
                        return at;
                    }
                }
            }
        }
        at
    }

    /// Writes text; a character that is cut at the end is left if more may
    /// come. Says how much was used.
    fn text(&mut self, bytes: &[u8], is_cut: bool, out: &mut Vec<u8>) -> usize {
        let mut used = 0;
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                self.character(c, out);
            }
            used += chunk.valid().len();
            let bad = chunk.invalid();
            let at_end = used + bad.len() == bytes.len();
            if is_cut && at_end && is_begun(bad) {
                return used;
            }
            for byte in bad {
                self.show(out, &format!("\\x{byte:02x}"));
            }
            used += bad.len();
        }
        used
    }

    fn character(&mut self, c: char, out: &mut Vec<u8>) {
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        if c == '\n' || c == '\t' || !is_unsafe(c) {
            out.extend_from_slice(text.as_bytes());
            self.at_line_start = c == '\n';
        } else {
            self.show(out, &escape(text));
        }
    }

    fn show(&mut self, out: &mut Vec<u8>, escaped: &str) {
        out.extend_from_slice(escaped.as_bytes());
        self.at_line_start = false;
    }
}

/// Whether bad UTF-8 at the end of the input may be the beginning of a good
/// character.
fn is_begun(bad: &[u8]) -> bool {
    std::str::from_utf8(bad)
        .is_err_and(|error| !bad.is_empty() && error.error_len().is_none())
}

/// Looks at what begins with an escape.
fn head(bytes: &[u8]) -> Head {
    match bytes.get(1) {
        None => return Head::Unfinished,
        Some(b'[') => {}
        Some(_) => return Head::Other,
    }
    for (at, byte) in bytes.iter().enumerate().take(MAX_SGR).skip(2) {
        match byte {
            b'0'..=b'9' | b';' | b':' => {}
            b'm' if is_plain(&bytes[2..at]) => {
                let resets = matches!(&bytes[2..at], b"" | b"0" | b"00");
                return Head::Sgr(at + 1, resets);
            }
            _ => return Head::Other,
        }
    }
    if bytes.len() < MAX_SGR { Head::Unfinished } else { Head::Other }
}

/// Whether the parameters of SGR only colour: 8 would hide what is written.
fn is_plain(parameters: &[u8]) -> bool {
    let mut numbers = parameters
        .split(|b| *b == b';')
        .map(|word| std::str::from_utf8(word).unwrap_or("?"));
    while let Some(word) = numbers.next() {
        match word.trim_start_matches('0') {
            "8" => return false,
            // A colour: what follows is its kind and its parts.
            "38" | "48" | "58" => {
                let parts = match numbers.next() {
                    Some("5") => 1,
                    Some("2") => 3,
                    _ => return false,
                };
                for _ in 0..parts {
                    numbers.next();
                }
            }
            // Sub-parameters: colours and kinds of underline.
            word if word.contains(':') => {
                let kind = word.split(':').next().unwrap_or_default();
                if !matches!(kind, "4" | "38" | "48" | "58") {
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(input: &[u8], colours: Colours) -> String {
        let mut filter = Filter::new(colours);
        let mut out = Vec::new();
        filter.push(input, &mut out);
        filter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// Filters whole, cut in two at each place, and byte by byte: always the
    /// same.
    fn check(input: &[u8], expected: &str) {
        assert_eq!(whole(input, Colours::Keep), expected, "{input:?}");
        for cut in 0..=input.len() {
            let mut filter = Filter::new(Colours::Keep);
            let mut out = Vec::new();
            filter.push(&input[..cut], &mut out);
            filter.push(&input[cut..], &mut out);
            filter.finish(&mut out);
            assert_eq!(out, expected.as_bytes(), "{input:?} cut at {cut}");
        }
        let mut filter = Filter::new(Colours::Keep);
        let mut out = Vec::new();
        for byte in input {
            filter.push(&[*byte], &mut out);
        }
        filter.finish(&mut out);
        assert_eq!(out, expected.as_bytes(), "{input:?} byte by byte");
    }

    #[test]
    fn text_newlines_tabs_and_colours_pass() {
        for text in [
            "plain\n\ttext é 漢 🎉\n",
            "\x1b[31mred\x1b[0m",
            "\x1b[1;38;5;208mx\x1b[m",
            "\x1b[38;2;8;8;8mx\x1b[0m",
            "\x1b[48:2::1:2:3mx\x1b[0m",
            "\x1b[4:3mx\x1b[00m",
        ] {
            check(text.as_bytes(), text);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_shown_escaped() {
        for (hostile, shown) in [
            (&b"\x1b]0;title\x07"[..], "\\x1b]0;title\\x07"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"\x1b]8;;http://evil\x07", "\\x1b]8;;http://evil\\x07"),
            (b"\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
            (b"\x1bPq..\x1b\\", "\\x1bPq..\\x1b\\"),
            (b"\x1b[6n", "\\x1b[6n"),
            (b"\x9b2J", "\\x9b2J"),
            ("\u{9b}2J".as_bytes(), "\\x9b2J"),
            (b"safe\rfake", "safe\\rfake"),
            (b"ab\x08\x08cd", "ab\\x08\\x08cd"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            (b"\x1b[8mhidden", "\\x1b[8mhidden"),
            (b"\x1b[1;08mhidden", "\\x1b[1;08mhidden"),
            (b"\x1b[8:0mhidden", "\\x1b[8:0mhidden"),
            (b"\x1b[38;8mhidden", "\\x1b[38;8mhidden"),
            (b"\x1b[>4;1m", "\\x1b[>4;1m"),
            (b"\x1b[1\x1b[2J", "\\x1b[1\\x1b[2J"),
            (b"\x1bc\x7f\0", "\\x1bc\\x7f\\x00"),
            (b"\x1b", "\\x1b"),
            (b"\x1b[3", "\\x1b[3"),
            (b"end\r", "end\\r"),
        ] {
            check(hostile, shown);
        }
    }

    #[test]
    fn every_c1_byte_is_shown_escaped() {
        for byte in 0x80..=0x9f_u8 {
            check(&[b'a', byte, b'b'], &format!("a\\x{byte:02x}b"));
        }
    }

    #[test]
    fn a_windows_line_end_is_a_line_end() {
        check(b"a\r\nb\r\r\n", "a\nb\\r\n");
    }

    #[test]
    fn bad_utf8_is_shown_byte_by_byte() {
        check(b"a\xc3(b\xff\xe6\xbc", "a\\xc3(b\\xff\\xe6\\xbc");
        check(b"\xf0\x9f\x8e\x1b[0m", "\\xf0\\x9f\\x8e\x1b[0m");
    }

    #[test]
    fn an_endless_sequence_is_not_held_back() {
        let mut filter = Filter::new(Colours::Keep);
        let mut out = Vec::new();
        filter.push(b"\x1b[", &mut out);
        for _ in 0..10_000 {
            filter.push(b"1;", &mut out);
            assert!(filter.held.len() < MAX_SGR);
        }
        assert!(out.starts_with(b"\\x1b[1;1;"));
        assert!(!out.contains(&0x1b));
    }

    #[test]
    fn colours_end_with_the_stream_and_can_be_left_out() {
        check(b"\x1b[31mred", "\x1b[31mred\x1b[0m");
        assert_eq!(whole(b"\x1b[31mred\x1b[0m\n", Colours::Drop), "red\n");
        assert_eq!(whole(b"\x1b[2Jx", Colours::Drop), "\\x1b[2Jx");
    }

    #[test]
    fn nothing_but_sgr_survives_whatever_is_thrown_at_it() {
        // All pairs of bytes around an escape, and all single bytes.
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let out = whole(&[0x1b, a, b, b'x'], Colours::Keep);
                let bare = out.replace("\x1b[0m", "").replace("\x1b[m", "");
                let bad = bare
                    .chars()
                    .find(|c| is_unsafe(*c) && !matches!(c, '\n' | '\t'));
                assert_eq!(bad, None, "{a} {b} {out:?}");
            }
        }
    }
}
