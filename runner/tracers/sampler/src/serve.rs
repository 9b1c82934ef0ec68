//! The sampler's process: serves one parent, then ends.
//!
//! It reads hostile files, so it is a process of its own: if one of them
//! kills it, a trace is lost and nothing else. It ends with its parent: the
//! end of standard input is its end.

mod armed;

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::blocked;
use crate::clock;
use crate::listen::Listener;
use crate::names::{Budget, Names};
use crate::perf::{Warmth, open};
use crate::recorder::Recorder;
use crate::sys;
use crate::target::How;
use crate::trace;
use crate::wire::{Answer, Ask, LINE_MAX};
use armed::Armed;

/// How often the rings are emptied.
const ROUND: Duration = Duration::from_millis(100);

/// Memory of this process at most, without files that it maps: what a
/// hostile file can make it take. Bytes.
const MEMORY_MAX: u64 = 1 << 30;

/// The cgroup that was made for this trace; gone with this value, unless
/// something still lives in it: then it goes with the zone.
struct OwnGroup(PathBuf);

impl Drop for OwnGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A sampler that samples.
struct Service {
    how: How,
    recorder: Recorder,
    listener: Option<Listener>,
    names: Names,
    /// When it began: since 1970, and on the clock of the records.
    started_ns: u64,
    begun: u64,
    warnings: Vec<String>,
    _group: Option<OwnGroup>,
    _warmth: Option<Warmth>,
}

/// Serves the parent on standard input and output; gives the exit status.
pub(crate) fn main() -> u8 {
    sys::raise_descriptors();
    sys::forbid_new_rights();
    sys::limit_memory(MEMORY_MAX);
    let mut lines = Lines::new();
    let first = match lines.next_blocking() {
        Some(Ok(ask)) => ask,
        Some(Err(why)) => return fail(&why),
        None => return 0,
    };
    match first {
        Ask::Arm(order) => match Armed::new(&order) {
            Ok(armed) => armed.serve(&mut lines),
            Err(why) => fail(&why),
        },
        Ask::Stacks(order, pids, ms) => {
            match blocked::stacks(&order, &pids, Duration::from_millis(ms)) {
                Ok(found) => {
                    u8::from(say(&Answer::Stacks(found), &[]).is_err())
                }
                Err(why) => fail(&why),
            }
        }
        _ => fail("nothing was started"),
    }
}

fn say(answer: &Answer, bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.write_all(bytes)?;
    out.flush()
}

fn fail(why: &str) -> u8 {
    // A parent that does not listen any more is not told.
    let _ = say(&Answer::Failed(why.to_owned()), &[]);
    1
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        // Some errors repeat their cause.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

impl Service {
    fn run(mut self, lines: &mut Lines) -> u8 {
        loop {
            let (asked, called) = self.wait(lines);
            if called {
                self.attend();
            }
            self.recorder.round(false);
            if !asked {
                continue;
            }
            match lines.next_ready() {
                Next::Nothing => {}
                Next::End => return 0,
                Next::Ask(Err(why)) => return fail(&why),
                Next::Ask(Ok(Ask::Window)) => {
                    let window = trace::window(&self.recorder, &mut self.names);
                    if say(&Answer::Window(window), &[]).is_err() {
                        return 1;
                    }
                }
                Next::Ask(Ok(Ask::Finish(options, ms))) => {
                    let time = Duration::from_millis(ms);
                    self.names.set_budget(Budget::of(time));
                    return self.finish(&options);
                }
                Next::Ask(Ok(Ask::Arm(_) | Ask::Go | Ask::Stacks(..))) => {
                    return fail("it was started already");
                }
            }
        }
    }

    fn finish(mut self, options: &crate::FinishOptions) -> u8 {
        self.recorder.stop();
        let counted = self.recorder.counted();
        self.recorder.round(true);
        drop(self.listener.take());
        let begun = trace::Begun {
            how: self.how,
            counted,
            started_ns: self.started_ns,
            duration_ns: clock::now().saturating_sub(self.begun),
            warnings: std::mem::take(&mut self.warnings),
        };
        let (bytes, summary) =
            trace::finish(&self.recorder, &mut self.names, begun, options);
        let answer = Answer::Trace(bytes.len() as u64, Box::new(summary));
        u8::from(say(&answer, &bytes).is_err())
    }

    /// A job's first process is there: it opens the events.
    fn attend(&mut self) {
        let Some(listener) = &self.listener else { return };
        let settings = *self.recorder.settings();
        let opened = match listener.accept() {
            Ok(Some(socket)) => open::by_process(&settings, &socket),
            Ok(None) => return,
            Err(error) => {
                self.warnings.push(format!("cannot take a call: {error}"));
                return;
            }
        };
        match opened {
            Ok(events) => self.recorder.listen_to(events),
            Err(error) => self.warnings.push(chain(&error)),
        }
    }

    /// Waits for a round's end, a request, a caller, or much to take; says
    /// whether there is a request and whether there is a caller.
    fn wait(&mut self, lines: &Lines) -> (bool, bool) {
        if lines.has_line() {
            return (true, false);
        }
        let stdin = io::stdin();
        let mut polls = vec![PollFd::new(&stdin, PollFlags::IN)];
        let listener = self.listener.as_ref().map(Listener::socket);
        if let Some(listener) = listener {
            polls.push(PollFd::new(listener, PollFlags::IN));
        }
        let before = polls.len();
        let descriptors = self.recorder.descriptors();
        polls.extend(
            descriptors
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        let round =
            Timespec { tv_sec: 0, tv_nsec: i64::from(ROUND.subsec_nanos()) };
        // Interrupted or not: a round is due.
        let _ = rustix::event::poll(&mut polls, Some(&round));
        let is_over = |poll: &PollFd<'_>| {
            poll.revents().intersects(PollFlags::HUP | PollFlags::ERR)
        };
        let over: Vec<bool> = polls[before..].iter().map(is_over).collect();
        let asked = !polls[0].revents().is_empty();
        let called = before > 1 && !polls[1].revents().is_empty();
        drop((polls, descriptors));
        self.recorder.drop_ended(&over);
        (asked, called)
    }
}

/// The next line of standard input.
enum Next {
    Nothing,
    Ask(Result<Ask, String>),
    End,
}

/// Requests, read without waiting for more than is there.
struct Lines {
    input: OwnedFd,
    held: Vec<u8>,
}

impl Lines {
    fn new() -> Lines {
        let input = io::stdin().as_fd().try_clone_to_owned();
        Lines {
            input: input.expect("standard input is open: we were spawned"),
            held: Vec::new(),
        }
    }

    fn has_line(&self) -> bool {
        self.held.contains(&b'\n')
    }

    fn next_blocking(&mut self) -> Option<Result<Ask, String>> {
        loop {
            match self.next_ready() {
                Next::Nothing => {}
                Next::Ask(ask) => return Some(ask),
                Next::End => return None,
            }
        }
    }

    /// Reads once, unless a line is there already.
    fn next_ready(&mut self) -> Next {
        if !self.has_line() {
            let mut piece = [0_u8; 4096];
            match rustix::io::read(&self.input, &mut piece) {
                Ok(0) => return Next::End,
                Ok(count) => self.held.extend_from_slice(&piece[..count]),
                Err(rustix::io::Errno::INTR) => return Next::Nothing,
                Err(_) => return Next::End,
            }
        }
        let Some(end) = self.held.iter().position(|byte| *byte == b'\n') else {
            if self.held.len() as u64 > LINE_MAX {
                return Next::Ask(Err("a request is too long".to_owned()));
            }
            return Next::Nothing;
        };
        let rest = self.held.split_off(end + 1);
        let line = std::mem::replace(&mut self.held, rest);
        Next::Ask(
            serde_json::from_slice(&line)
                .map_err(|error| format!("a request makes no sense: {error}")),
        )
    }
}
