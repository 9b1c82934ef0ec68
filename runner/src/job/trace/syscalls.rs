//! The system calls of a run, where it asks for them: counted from just
//! before each repetition's command to just after it, kept as a file each,
//! and summed up for the record.

use std::time::Duration;

use ntrace_protocol::report::Event;
use ntrace_protocol::syscalls::{SyscallCounts, SyscallSummary};
use ntrace_protocol::trace::{TraceFile, TraceOptions};
use ntrace_tracers::{Choice, Counted, Counting, Dtrace, cannot_count};
use tokio::time::Instant;

use crate::job::keep::Keepsakes;
use crate::job::{Place, chain};
use crate::uplink::RunOut;

/// How long it may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is counted of a run.
pub(super) struct Syscalls {
    /// What counts where the kernel of this machine does not.
    dtrace: Option<Dtrace>,
    counting: Option<Counting>,
    sum: SyscallCounts,
    /// Repetitions that were counted.
    counted: u32,
    /// Why the first one that was not was not.
    why: Option<String>,
    /// It was tried and cannot be: it will do no better at the next one.
    is_hopeless: bool,
}

impl Syscalls {
    /// None if nobody asks for them.
    pub(super) fn plan(
        choice: Choice,
        dtrace: &Result<Dtrace, String>,
        options: &TraceOptions,
        place: ntrace_tracers::Place,
    ) -> Option<Self> {
        (options.syscalls == Some(true)).then_some(())?;
        let mut why = cannot_count(choice, place).map(str::to_owned);
        let dtrace = match (dtrace, place.is_linux) {
            (_, true) => None,
            (Ok(dtrace), false) => Some(dtrace.clone()),
            (Err(cannot), false) => {
                why.get_or_insert_with(|| cannot.clone());
                None
            }
        };
        Some(Self {
            dtrace,
            counting: None,
            sum: SyscallCounts::default(),
            counted: 0,
            is_hopeless: false,
            why,
        })
    }

    /// Begins to count a repetition.
    pub(super) async fn start(&mut self, place: &Place<'_>, out: &RunOut) {
        if self.is_hopeless {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let started = match self.why.clone() {
            Some(why) => Err(why),
            None => self.count(place, deadline).await,
        };
        match started {
            Ok(counting) => self.counting = Some(counting),
            Err(why) => {
                self.is_hopeless = true;
                let text = format!("system calls are not counted: {why}");
                self.refuse(why);
                out.event(Event::Note { text }).await;
            }
        }
    }

    async fn count(
        &self,
        place: &Place<'_>,
        deadline: Instant,
    ) -> Result<Counting, String> {
        let worker = place.worker;
        if let Some(dtrace) = &self.dtrace {
            return Counting::by_dtrace(dtrace, worker, deadline).await;
        }
        let vm = worker.object(deadline).await.map_err(|e| chain(&e))?;
        let group = vm["ntrace"]["trace"]["group"].as_str();
        let init = vm["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        Counting::in_kernel(group.map(Into::into), init, deadline).await
    }

    fn refuse(&mut self, why: String) {
        self.why.get_or_insert(why);
    }

    /// Ends it, and keeps what was counted.
    pub(super) async fn finish(&mut self, repetition: u32, keep: &Keepsakes) {
        let Some(counting) = self.counting.take() else { return };
        let deadline = Instant::now() + PATIENCE;
        match counting.finish(deadline).await {
            Ok(Counted { counts, missing }) => {
                if let Some(missing) = missing {
                    self.refuse(missing);
                }
                self.take(&counts, repetition, keep);
            }
            Err(why) => self.refuse(why),
        }
    }

    fn take(
        &mut self,
        counts: &SyscallCounts,
        repetition: u32,
        keep: &Keepsakes,
    ) {
        let text = serde_json::to_vec_pretty(counts);
        let text = text.expect("it is made of numbers and plain text");
        if !keep.put(&TraceFile::Syscalls.name(repetition), text) {
            let why = "the traces of this run take too much room";
            return self.refuse(why.to_owned());
        }
        self.sum.add(counts);
        self.counted += 1;
    }

    /// What the record says.
    pub(super) fn summary(&self) -> SyscallSummary {
        let why = self.why.clone();
        if self.counted == 0 {
            let why = why.unwrap_or_else(|| "nothing was run".to_owned());
            return SyscallSummary::refused(why);
        }
        SyscallSummary { why, ..SyscallSummary::of(&self.sum) }.bounded()
    }
}

#[cfg(test)]
mod tests {
    use ntrace_protocol::syscalls::SyscallCount;

    use super::*;

    const HERE: ntrace_tracers::Place = ntrace_tracers::Place {
        is_linux: true,
        is_here: true,
        perf: Err(ntrace_tracers::NoPerf::Missing),
    };

    /// Here, where it is asked for.
    fn asked(choice: Choice) -> Syscalls {
        let none = Err("no dtrace".to_owned());
        let options =
            TraceOptions { syscalls: Some(true), ..TraceOptions::default() };
        Syscalls::plan(choice, &none, &options, HERE).unwrap()
    }

    fn counts(count: u64) -> SyscallCounts {
        let call = SyscallCount {
            name: "read".to_owned(),
            count,
            ..SyscallCount::default()
        };
        SyscallCounts { total: count, calls: vec![call], ..Default::default() }
    }

    #[test]
    fn nothing_is_counted_unasked() {
        let options = TraceOptions::default();
        let none = Err("no dtrace".to_owned());
        let plan = Syscalls::plan(Choice::Auto, &none, &options, HERE);
        assert!(plan.is_none());
    }

    #[test]
    fn each_repetition_has_its_file_and_the_record_their_sum() {
        let keep = Keepsakes::default();
        let mut calls = asked(Choice::Auto);
        calls.take(&counts(3), 1, &keep);
        calls.take(&counts(4), 2, &keep);
        assert_eq!(calls.summary().sentence(), "7 system calls: read 7");
        assert!(keep.has("trace/syscalls.json"));
        assert!(keep.has("trace/2/syscalls.json"));
        // A repetition that could not be counted is told of.
        calls.refuse("the counter broke off".to_owned());
        let said = calls.summary().sentence();
        assert!(said.ends_with("not all: the counter broke off"), "{said}");
    }

    #[test]
    fn what_cannot_be_counted_says_why() {
        let summary = asked(Choice::Never).summary();
        assert_eq!(summary.total, None);
        assert!(summary.why.unwrap().contains("--tracer none"));
    }
}
