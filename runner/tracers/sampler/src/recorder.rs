//! Takes records from the rings, puts them in order, and keeps what they
//! say.
//!
//! Must not know who asks, nor what is made of the stacks in the end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::clock;
use crate::perf::record::{Raw, Record, split};
use crate::perf::{Event, Settings};
use crate::process::{Frame, Processes, is_stranger};
use crate::stacks::{Node, Stacks};
use crate::zone::ZoneFiles;

/// A record may come this much later than one of another processor.
/// Nanoseconds.
const DISORDER: u64 = 5_000_000;

/// Span of the last window. Nanoseconds.
pub(crate) const WINDOW: u64 = 10_000_000_000;

/// Samples of the last window that are kept.
const RECENT_MAX: usize = 50_000;

/// Records that wait for earlier ones; more than all rings hold.
const PENDING_MAX: usize = 200_000;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Samples of the job.
    pub samples: u64,
    /// Samples of the programs that carry it.
    pub carriers: u64,
    /// Samples of processes that are not the zone's, left out.
    pub strangers: u64,
    /// Records that did not fit.
    pub lost: u64,
    /// Times that the kernel slowed sampling down.
    pub throttled: u64,
    /// Processes that began.
    pub processes: u64,
    /// Stacks that were longer than what was copied of them.
    pub cut: u64,
    /// Processor time of events that are closed, in nanoseconds.
    counted: u64,
}

/// Everything that is recorded of one zone.
pub(crate) struct Recorder {
    settings: Settings,
    files: ZoneFiles,
    events: Vec<Event>,
    pending: Vec<Raw>,
    recent: VecDeque<(u64, Node)>,
    /// The processes.
    pub processes: Processes,
    /// The stacks.
    pub stacks: Stacks<Frame>,
    /// The counts.
    pub tally: Tally,
}

impl Recorder {
    /// Records nothing yet.
    pub(crate) fn new(settings: Settings, files: ZoneFiles) -> Recorder {
        Recorder {
            settings,
            files,
            events: Vec::new(),
            pending: Vec::new(),
            recent: VecDeque::new(),
            processes: Processes::new(),
            stacks: Stacks::new(),
            tally: Tally::default(),
        }
    }

    /// What is sampled.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Records from these as well.
    pub(crate) fn listen_to(&mut self, events: Vec<Event>) {
        self.events.extend(events);
    }

    /// Switches on the events that do not begin by themselves.
    pub(crate) fn begin(&self) -> io::Result<()> {
        self.events.iter().try_for_each(Event::enable)
    }

    /// What becomes readable when there is much to take.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.events.iter().map(|event| event.fd().as_fd()).collect()
    }

    /// Stops sampling; what was written can still be taken.
    pub(crate) fn stop(&self) {
        for event in &self.events {
            event.disable();
        }
    }

    /// Processor time seen so far, in nanoseconds.
    pub(crate) fn counted(&self) -> u64 {
        let open: u64 = self.events.iter().map(Event::counted).sum();
        self.tally.counted + open
    }

    /// Lets go of the events whose processes have all ended, after their
    /// last records were taken. `over` has one flag for each descriptor.
    pub(crate) fn drop_ended(&mut self, over: &[bool]) {
        if !over.contains(&true) {
            return;
        }
        self.take();
        let mut flags = over.iter();
        let mut counted = 0;
        self.events.retain(|event| {
            let over = flags.next().copied().unwrap_or(false);
            if over {
                counted += event.counted();
            }
            !over
        });
        self.tally.counted += counted;
    }

    fn take(&mut self) {
        let mut bytes = Vec::new();
        for event in &mut self.events {
            bytes.clear();
            event.take(&mut bytes);
            self.pending.extend(split(&bytes));
        }
        if self.pending.len() > PENDING_MAX {
            let surplus = self.pending.len() - PENDING_MAX;
            self.pending.truncate(PENDING_MAX);
            self.tally.lost += surplus as u64;
        }
    }

    /// Takes what was written since the last round and keeps it; `last` if
    /// no more will come.
    pub(crate) fn round(&mut self, last: bool) {
        let until = match last {
            true => u64::MAX,
            false => clock::now().saturating_sub(DISORDER),
        };
        self.take();
        self.processes.begin_round();
        let mut records = std::mem::take(&mut self.pending);
        records.sort_by_key(|record| record.time);
        let ripe = records.partition_point(|record| record.time < until);
        self.pending = records.split_off(ripe);
        for raw in &records {
            self.keep(raw);
        }
        let edge = clock::now().saturating_sub(WINDOW);
        while self.recent.front().is_some_and(|(time, _)| *time < edge) {
            self.recent.pop_front();
        }
        if last {
            self.processes.settle_all(&self.files);
        }
    }

    fn keep(&mut self, raw: &Raw) {
        match raw.parse(self.settings.kernel) {
            Record::Lost(count) => self.tally.lost += count,
            Record::Throttled => self.tally.throttled += 1,
            // Pid 0: a process that is only just on its way into the zone.
            Record::Sample(sample) if is_stranger(sample.pid) => {
                self.tally.strangers += 1;
            }
            Record::Sample(sample) => {
                let frames = self.processes.frames(&sample, &self.files);
                let Some(frames) = frames else {
                    self.tally.carriers += 1;
                    return;
                };
                self.tally.samples += 1;
                self.tally.cut += u64::from(frames.contains(&Frame::Cut));
                if let Some(node) = self.stacks.add(frames) {
                    if self.recent.len() >= RECENT_MAX {
                        self.recent.pop_front();
                    }
                    self.recent.push_back((raw.time, node));
                }
            }
            Record::Forked { pid, .. } if is_stranger(pid) => {}
            Record::Mapped(mapped) if is_stranger(mapped.pid) => {}
            Record::Named { pid, .. } if is_stranger(pid) => {}
            record => {
                if let Record::Forked { pid, parent } = record {
                    self.tally.processes += u64::from(pid != parent);
                }
                self.processes.note(raw.time, &record, &self.files);
            }
        }
    }

    /// The stacks of the last seconds with their counts.
    pub(crate) fn recent(&self) -> Vec<(Node, u64)> {
        let mut nodes: Vec<Node> =
            self.recent.iter().map(|(_, node)| *node).collect();
        nodes.sort_unstable();
        let mut counted: Vec<(Node, u64)> = Vec::new();
        for node in nodes {
            match counted.last_mut() {
                Some((last, count)) if *last == node => *count += 1,
                _ => counted.push((node, 1)),
            }
        }
        counted
    }
}
