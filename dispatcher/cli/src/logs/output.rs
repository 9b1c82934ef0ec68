//! Where a job's records go: bytes to the stream that they came from, events
//! to stderr.
//!
//! Not on a terminal they are what the job wrote, byte for byte; on one they
//! go through the filter.

use ntrace_protocol::report::{Event, LogRecord};
use ntrace_protocol::{Data, Stream};
use serde_json::Value;

use crate::failure::Failure;
use crate::filter::{Colours, Filter};
use crate::screen::{Screen, Style, paint};
use crate::show;

/// How records are to be shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutputOptions {
    /// The streams that the user named; none for what suits the outputs.
    pub(crate) streams: Vec<Stream>,
    /// Whether lines begin with their time.
    pub(crate) timestamps: bool,
    /// Whether a terminal gets what the job wrote unchanged.
    pub(crate) raw: bool,
}

/// The output of one job.
pub(crate) struct Output {
    screen: Screen,
    options: OutputOptions,
    stdout: Lane,
    stderr: Lane,
    has_written: bool,
}

/// One stream on its way out.
struct Lane {
    /// On a terminal, unless the user wants it raw.
    filter: Option<Filter>,
    is_terminal: bool,
    /// Whether the next byte begins a line.
    at_line_start: bool,
}

impl Lane {
    fn new(is_terminal: bool, screen: &Screen, raw: bool) -> Self {
        let colours = match screen.colours {
            true => Colours::Keep,
            false => Colours::Drop,
        };
        let filter = (is_terminal && !raw).then(|| Filter::new(colours));
        Self { filter, is_terminal, at_line_start: true }
    }

    /// The bytes as they are to be written.
    fn dress(&mut self, bytes: &[u8], time: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        match time {
            None => self.pass(bytes, &mut out),
            Some(time) => {
                for line in bytes.split_inclusive(|b| *b == b'\n') {
                    if self.at_line_start {
                        out.extend_from_slice(time.as_bytes());
                        out.push(b' ');
                    }
                    self.pass(line, &mut out);
                }
            }
        }
        out
    }

    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.filter {
            Some(filter) => filter.push(bytes, out),
            None => out.extend_from_slice(bytes),
        }
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
    }

    /// What must be written before something else is shown on the terminal.
    fn pause(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(filter) = &mut self.filter {
            filter.pause(&mut out);
        }
        self.end_line(&mut out);
        out
    }

    /// The end of the stream. Raw colours are ended as well: the prompt that
    /// follows is not the job's.
    fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        match &mut self.filter {
            Some(filter) => filter.finish(&mut out),
            None if self.is_terminal => out.extend_from_slice(b"\x1b[0m"),
            None => {}
        }
        self.end_line(&mut out);
        out
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.is_terminal && !self.at_line_start {
            out.push(b'\n');
            self.at_line_start = true;
        }
    }
}

impl Output {
    pub(crate) fn new(screen: &Screen, options: OutputOptions) -> Self {
        let lane = |terminal| Lane::new(terminal, screen, options.raw);
        Self {
            stdout: lane(screen.out_terminal),
            stderr: lane(screen.err_terminal),
            screen: screen.clone(),
            options,
            has_written: false,
        }
    }

    /// The streams to ask for. Events are always read: one that says that
    /// output is missing is never hidden.
    pub(crate) fn wanted(&self) -> Option<Vec<Stream>> {
        let mut streams = self.options.streams.clone();
        if streams.is_empty() {
            return None;
        }
        if !self.screen.json && !streams.contains(&Stream::Events) {
            streams.push(Stream::Events);
        }
        Some(streams)
    }

    /// Whether anything was shown.
    pub(crate) fn has_written(&self) -> bool {
        self.has_written
    }

    /// Shows a record.
    pub(crate) fn record(&mut self, record: &LogRecord) -> Result<(), Failure> {
        if self.screen.json {
            self.has_written = true;
            return self.screen.json(record);
        }
        match record.stream {
            Stream::Stdout | Stream::Stderr => self.bytes(record),
            Stream::Events => self.event(record),
            // The verdict is said once, at the end.
            Stream::Control => Ok(()),
        }
    }

    fn bytes(&mut self, record: &LogRecord) -> Result<(), Failure> {
        let time = self.options.timestamps.then(|| record.when.to_string());
        let bytes = record.data.as_bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.has_written, true) {
            self.screen.clear();
        }
        if record.stream == Stream::Stdout {
            let out = self.stdout.dress(bytes, time.as_deref());
            self.screen.out(&out)
        } else {
            let out = self.stderr.dress(bytes, time.as_deref());
            self.screen.err(&out)
        }
    }

    fn event(&mut self, record: &LogRecord) -> Result<(), Failure> {
        let Data::Object(map) = &record.data else { return Ok(()) };
        let value = Value::Object(map.clone());
        // What a newer runner says, and we do not know, is passed over.
        let Ok(event) = serde_json::from_value(value) else { return Ok(()) };
        if !self.shows(&event) {
            return Ok(());
        }
        let Some(mut text) = show::event(&event) else { return Ok(()) };
        if self.options.timestamps {
            text = format!("{} {text}", record.when);
        }
        self.pause()?;
        let style = match event {
            Event::Gap { .. } => Style::Bad,
            _ => Style::Dim,
        };
        let text = format!("# {text}");
        let colours = self.screen.err_colours();
        self.screen.say_line(&paint(colours, style, &text));
        Ok(())
    }

    fn shows(&self, event: &Event) -> bool {
        let named = &self.options.streams;
        if let Event::Gap { stream, .. } = event {
            return named.is_empty()
                || named.contains(stream)
                || named.contains(&Stream::Events);
        }
        match named.is_empty() {
            true => self.screen.err_terminal,
            false => named.contains(&Stream::Events),
        }
    }

    /// Makes room on the terminal for a line of ours.
    pub(crate) fn pause(&mut self) -> Result<(), Failure> {
        if self.screen.json {
            return Ok(());
        }
        let bytes = self.stdout.pause();
        self.write_rest(&bytes, true)?;
        let bytes = self.stderr.pause();
        self.write_rest(&bytes, false)
    }

    /// The streams are over.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        if self.screen.json {
            return Ok(());
        }
        let bytes = self.stdout.finish();
        self.write_rest(&bytes, true)?;
        let bytes = self.stderr.finish();
        self.write_rest(&bytes, false)
    }

    fn write_rest(&self, bytes: &[u8], to_out: bool) -> Result<(), Failure> {
        match (bytes.is_empty(), to_out) {
            (true, _) => Ok(()),
            (false, true) => self.screen.out(bytes),
            (false, false) => self.screen.err(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(is_terminal: bool) -> Lane {
        let filter = is_terminal.then(|| Filter::new(Colours::Keep));
        Lane { filter, is_terminal, at_line_start: true }
    }

    #[test]
    fn bytes_pass_a_pipe_unchanged() {
        let all: Vec<u8> = (0..=255).collect();
        let mut lane = lane(false);
        assert_eq!(lane.dress(&all, None), all);
        assert!(lane.pause().is_empty() && lane.finish().is_empty());
    }

    #[test]
    fn each_line_begins_with_its_time_once() {
        let mut lane = lane(false);
        let mut out = lane.dress(b"a\nb", Some("T1"));
        out.extend(lane.dress(b"c\n\n", Some("T2")));
        assert_eq!(out, b"T1 a\nT1 bc\nT2 \n");
    }

    #[test]
    fn a_line_of_ours_stands_alone_on_a_terminal() {
        let mut lane = lane(true);
        assert_eq!(lane.dress(b"\x1b[31mred", None), b"\x1b[31mred");
        assert_eq!(lane.pause(), b"\x1b[0m\n");
        assert!(lane.pause().is_empty());
    }
}
