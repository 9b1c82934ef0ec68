//! What a dtrace has printed so far: bounded, whatever it prints.
//!
//! Pure but for the times that it is told.

use std::collections::VecDeque;
use std::time::Duration;

use ntrace_protocol::text::escape;
use tokio::time::Instant;

/// What the script prints once its probes are on.
const READY: &[u8] = b"ntrace ready\n";

/// Where that line must be.
const HEAD: usize = 16 << 10;

/// Text of one trace at most. Stacks repeat in each second's print, so this
/// is a long job; what comes later is counted as cut.
const MOST: usize = 96 << 20;

/// What is kept of the last seconds, besides.
const LAST: Duration = Duration::from_secs(10);
const LAST_MOST: usize = 1 << 20;

/// What is kept of its complaints.
const COMPLAINTS: usize = 16 << 10;
/// What of them is shown.
const SHOWN: usize = 300;

#[derive(Debug, Default)]
pub(super) struct Heard {
    text: Vec<u8>,
    cut: u64,
    is_ready: bool,
    last: VecDeque<(Instant, Vec<u8>)>,
    last_length: usize,
    complaints: Vec<u8>,
}

impl Heard {
    /// Something on its stdout.
    pub(super) fn out(&mut self, bytes: &[u8], now: Instant) {
        let room = MOST.saturating_sub(self.text.len()).min(bytes.len());
        self.text.extend_from_slice(&bytes[..room]);
        self.cut += (bytes.len() - room) as u64;
        if !self.is_ready {
            let head = &self.text[..self.text.len().min(HEAD)];
            self.is_ready = head.windows(READY.len()).any(|text| text == READY);
        }
        self.last.push_back((now, bytes.to_vec()));
        self.last_length += bytes.len();
        while let Some((when, old)) = self.last.front() {
            let is_old = now.duration_since(*when) > LAST;
            if !is_old && self.last_length <= LAST_MOST {
                break;
            }
            self.last_length -= old.len();
            self.last.pop_front();
        }
    }

    /// Something on its stderr.
    pub(super) fn err(&mut self, bytes: &[u8]) {
        let room = COMPLAINTS.saturating_sub(self.complaints.len());
        let room = room.min(bytes.len());
        self.complaints.extend_from_slice(&bytes[..room]);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether there is anything after the ready line.
    pub(super) fn has_stacks(&self) -> bool {
        let rest = self.text.strip_prefix(READY).unwrap_or(&self.text);
        rest.iter().any(|byte| !byte.is_ascii_whitespace())
    }

    /// Takes all of it.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }

    /// The last seconds: how many, and whole records of them.
    pub(super) fn last(&self) -> (u32, Vec<u8>) {
        let (Some((first, _)), Some((last, _))) =
            (self.last.front(), self.last.back())
        else {
            return (0, Vec::new());
        };
        // Each print is of the second before it.
        let seconds = last.duration_since(*first).as_secs() as u32 + 1;
        let text: Vec<u8> =
            self.last.iter().flat_map(|(_, text)| text.clone()).collect();
        // A record begins after an empty line; what is before is half a one.
        let at = text.windows(2).position(|pair| pair == b"\n\n");
        let text = at.map_or(Vec::new(), |at| text[at..].to_vec());
        (seconds, text)
    }

    /// How many samples it says it has lost.
    pub(super) fn drops(&self) -> u64 {
        let text = String::from_utf8_lossy(&self.complaints);
        text.lines().filter_map(drops_of).sum()
    }

    /// What is to be known of the trace.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let drops = self.drops();
        if drops > 0 {
            warnings.push(format!("dtrace dropped {drops} records"));
        }
        if self.cut > 0 {
            warnings.push(format!(
                "the trace was cut after {} MiB of stacks",
                MOST >> 20
            ));
        }
        warnings
    }

    /// Its words, with a lead-in; nothing if it had none.
    pub(super) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.complaints);
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() {
            return String::new();
        }
        let shown: String = words.join(" ").chars().take(SHOWN).collect();
        format!("; it said: {}", escape(&shown))
    }
}

/// `dtrace: 12 drops on CPU 0`, `dtrace: 3 aggregation drops on CPU 1`.
fn drops_of(line: &str) -> Option<u64> {
    let rest = line.trim().strip_prefix("dtrace: ")?;
    let (number, rest) = rest.split_once(' ')?;
    rest.split(' ')
        .any(|word| matches!(word, "drop" | "drops"))
        .then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_it_says_so_in_whatever_pieces() {
        let mut heard = Heard::default();
        let now = Instant::now();
        for byte in b"ntrace read" {
            heard.out(&[*byte], now);
        }
        assert!(!heard.is_ready());
        heard.out(b"y\n", now);
        assert!(heard.is_ready());
        assert!(!heard.has_stacks());
        heard.out(b"\n\n  a`b\nx\n 1\n", now);
        assert!(heard.has_stacks());
    }

    #[test]
    fn drops_of_each_kind_are_counted_and_nothing_else() {
        let mut heard = Heard::default();
        heard.err(
            b"dtrace: 12 drops on CPU 0\n\
              dtrace: 3 aggregation drops on CPU 1\n\
              dtrace: 1 dynamic variable drop\n\
              dtrace: script 'x.d' matched 4 probes\n\
              dtrace: many drops\ndtrace: 99999999999999999999 drops\n",
        );
        assert_eq!(heard.drops(), 16);
        assert_eq!(heard.warnings(), ["dtrace dropped 16 records"]);
        assert!(heard.said().starts_with("; it said: dtrace: 12 drops"));
    }

    #[test]
    fn the_last_seconds_are_kept_and_no_more() {
        let mut heard = Heard::default();
        let start = Instant::now();
        for second in 0..60 {
            let text = format!("\n\n  a`f{second}\nx\n1\n");
            heard.out(text.as_bytes(), start + Duration::from_secs(second));
        }
        let (seconds, text) = heard.last();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(seconds, 11);
        assert!(text.contains("f59") && text.contains("f49"), "{text}");
        assert!(!text.contains("f48"), "{text}");
        heard.out(&vec![b'x'; 2 * LAST_MOST], start);
        assert!(heard.last_length <= 2 * LAST_MOST);
    }
}
