//! Where things are shown: stdout for results, stderr for talk.
//!
//! Knows what is a terminal and whether colours are wanted. A reader that
//! went away shows as a failure of stdout; talk that cannot be shown is lost.

use std::io::{IsTerminal as _, Write as _};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ntrace_protocol::JobId;
use ntrace_protocol::text::escape;
use serde::Serialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::timeout;

use crate::failure::{Failure, Status};
use crate::table::Table;

/// How long the last words of an interrupted program may take; a stopped
/// terminal takes none.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The width of a terminal that does not say its own.
const WIDTH: usize = 80;

/// A style, as SGR parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Good,
    Bad,
    Busy,
    Dim,
    Bold,
}

impl Style {
    fn sgr(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Busy => "36",
            Self::Dim => "2",
            Self::Bold => "1",
        }
    }
}

/// Puts a style on text, if styles are wanted.
pub(crate) fn paint(wanted: bool, style: Style, text: &str) -> String {
    match wanted && !text.is_empty() {
        true => format!("\x1b[{}m{text}\x1b[0m", style.sgr()),
        false => text.to_owned(),
    }
}

/// Both outputs.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    /// Whether a program reads.
    pub(crate) json: bool,
    /// Whether stdout is a terminal.
    pub(crate) out_terminal: bool,
    /// Whether stderr is a terminal.
    pub(crate) err_terminal: bool,
    /// Whether the user wants colours at all.
    pub(crate) colours: bool,
    /// A line that will be rewritten stands on the terminal.
    has_progress: Arc<AtomicBool>,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let is_set =
            |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Self {
            json,
            out_terminal: std::io::stdout().is_terminal(),
            err_terminal: std::io::stderr().is_terminal(),
            colours: !is_set("NO_COLOR") && !is_dumb,
            has_progress: Arc::default(),
        }
    }

    /// Whether colours may stand on stdout.
    pub(crate) fn out_colours(&self) -> bool {
        self.out_terminal && self.colours && !self.json
    }

    /// Whether colours may stand on stderr.
    pub(crate) fn err_colours(&self) -> bool {
        self.err_terminal && self.colours && !self.json
    }

    /// Whether a rewritten line can be shown.
    pub(crate) fn can_rewrite(&self) -> bool {
        self.err_terminal && !self.json
    }

    /// Writes bytes to stdout, now.
    pub(crate) fn out(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(Failure::io("write to stdout"))
    }

    /// Writes bytes to stderr, now.
    pub(crate) fn err(&self, bytes: &[u8]) -> Result<(), Failure> {
        std::io::stderr()
            .lock()
            .write_all(bytes)
            .map_err(Failure::io("write to stderr"))
    }

    /// A result: one line on stdout.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.out(format!("{text}\n").as_bytes())
    }

    /// A result: a table. The words of one column have styles.
    pub(crate) fn table(
        &self,
        table: &Table,
        with_heading: bool,
        styled: usize,
        style: impl Fn(&str) -> Option<Style>,
    ) -> Result<(), Failure> {
        let colours = self.out_colours();
        let lines = table.painted(|column, cell| {
            let style = (column == styled).then(|| style(cell)).flatten();
            style.map_or_else(
                || cell.to_owned(),
                |style| paint(colours, style, cell),
            )
        });
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            match at {
                0 if !with_heading => continue,
                0 => text.push_str(&paint(colours, Style::Bold, line)),
                _ => text.push_str(line),
            }
            text.push('\n');
        }
        self.out(text.as_bytes())
    }

    /// A result for a program: one line of JSON on stdout.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(value)
            .map_err(|e| Failure::io("write JSON")(e.into()))?;
        text.push(b'\n');
        self.out(&text)
    }

    /// Talk: one line on stderr. Foreign text in it must be escaped already.
    pub(crate) fn say(&self, text: &str) {
        let line = match self.json {
            true => format!("{}\n", json!({"note": text})),
            false => format!("{}ntrace: {text}\n", self.wipe()),
        };
        // Nobody is left to hear that nobody hears.
        let _ = self.err(line.as_bytes());
    }

    /// Talk that is the end of a story: one line on stderr, as it is.
    pub(crate) fn say_line(&self, text: &str) {
        let _ = self.err(format!("{}{text}\n", self.wipe()).as_bytes());
    }

    /// Says what went wrong. A reader that went away is no news.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.status() == Status::OutputClosed {
            return;
        }
        let text = match self.json {
            true => failure.to_value().to_string(),
            false => failure.lines().join("\n"),
        };
        self.say_line(&text);
    }

    /// Shows a line that the next one replaces. Only for terminals.
    pub(crate) fn rewrite(&self, text: &str) {
        if !self.can_rewrite() {
            return;
        }
        self.has_progress.store(true, Ordering::Relaxed);
        let text = crate::table::cut(text, self.width().saturating_sub(1));
        let text = paint(self.err_colours(), Style::Dim, &text);
        let _ = self.err(format!("\r\x1b[K{text}").as_bytes());
    }

    /// Takes the rewritten line away.
    pub(crate) fn clear(&self) {
        let wipe = self.wipe();
        if !wipe.is_empty() {
            let _ = self.err(wipe.as_bytes());
        }
    }

    fn wipe(&self) -> &'static str {
        match self.has_progress.swap(false, Ordering::Relaxed) {
            true => "\r\x1b[K",
            false => "",
        }
    }

    fn width(&self) -> usize {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 1 => size.ws_col.into(),
            _ => WIDTH,
        }
    }

    /// From now on Ctrl-C leaves the job running and says how to stop it.
    pub(crate) fn leave_running_on_interrupt(&self, job: JobId) -> Interrupt {
        // Taken over now, not when the task first runs.
        let interrupts = signal(SignalKind::interrupt());
        let screen = self.clone();
        let task = tokio::spawn(async move {
            // Where it cannot be taken over, it ends the program plainly.
            let Ok(mut interrupts) = interrupts else { return };
            if interrupts.recv().await.is_none() {
                return;
            }
            // Another task may be stuck in a write, so this has an end.
            let words = spawn_blocking(move || screen.farewell(job));
            let _ = timeout(LAST_WORDS, words).await;
            process::exit(Status::Interrupted as i32);
        });
        Interrupt(task.abort_handle())
    }

    fn farewell(&self, job: JobId) {
        if self.err_terminal && !self.json {
            // The job's colours end, and the line with ^C in it.
            let _ = self.err(b"\x1b[0m\n");
        }
        self.say(&format!(
            "job {job} goes on; `ntrace stop {job}` stops it, `ntrace logs -f \
             {job}` follows it"
        ));
    }
}

/// While this lives, Ctrl-C leaves a job running.
pub(crate) struct Interrupt(AbortHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A chain of causes in one safe line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    escape(&text)
}
