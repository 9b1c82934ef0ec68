//! System calls by count, beside whatever tracer there is.
//!
//! The kernel is asked by blocking calls, each made on a thread that may
//! block. Must not know how it counts.

use std::path::PathBuf;

use ntrace_protocol::syscalls::{SyscallCount, SyscallCounts};
use ntrace_protocol::trace::Tracer as Kind;
use ntrace_syscalls::{Abi, Arch, Call, Counter, Counts, Target};
use ntrace_zones::Worker;
use tokio::time::{Instant, timeout_at};

use crate::choice::{Choice, Place};
use crate::dtrace::{Dtrace, DtraceCalls};
use crate::render;

/// Whether system calls can be counted, as far as is known before it was
/// tried: the reason why not. Pure.
#[must_use]
pub fn cannot_count(choice: Choice, place: Place) -> Option<&'static str> {
    match choice {
        Choice::Never => Some("this runner was started with --tracer none"),
        Choice::Only(kind) if !place.is_linux && kind != Kind::Dtrace => {
            Some("this runner was started with another --tracer than dtrace")
        }
        _ if !place.is_linux => None,
        _ if !place.is_here => Some(
            "the zone is on another machine; start a runner on that machine",
        ),
        _ => None,
    }
}

/// A zone whose system calls are being counted. Dropping it ends that.
pub struct Counting {
    by: By,
}

enum By {
    Kernel(InKernel),
    Dtrace(DtraceCalls),
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The counts.
    pub counts: SyscallCounts,
    /// What of them is missing, in words.
    pub missing: Option<String>,
}

/// A counter, until it is asked for what it counted.
struct InKernel(Option<Counter>);

impl Drop for InKernel {
    fn drop(&mut self) {
        // Its end takes the kernel a moment.
        if let Some(counter) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(counter));
        }
    }
}

impl Counting {
    /// Begins to count what runs in a zone of Linux: in its cgroup, but for
    /// what serves the zone as `init` does.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub async fn in_kernel(
        group: Option<PathBuf>,
        init: Option<i32>,
        deadline: Instant,
    ) -> Result<Self, String> {
        let Some(group) = group else {
            return Err("they are counted by cgroup, and the zone has none \
                        that is fit for it: start the runner as root"
                .to_owned());
        };
        let target = Target { group, init };
        let start = tokio::task::spawn_blocking(move || {
            Counter::start(&target).map_err(|error| render::chain(&error))
        });
        match timeout_at(deadline, start).await {
            Ok(Ok(counter)) => {
                Ok(Self { by: By::Kernel(InKernel(Some(counter?))) })
            }
            Ok(Err(_)) => Err("the counter broke off".to_owned()),
            // Whatever it gives later is dropped, which ends it.
            Err(_) => Err("the kernel took too long to begin".to_owned()),
        }
    }

    /// Begins to count what runs in a zone of SmartOS.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub async fn by_dtrace(
        dtrace: &Dtrace,
        worker: &Worker,
        deadline: Instant,
    ) -> Result<Self, String> {
        let calls = dtrace.count(worker, deadline).await;
        let calls = calls.map_err(|error| render::chain(&error))?;
        Ok(Self { by: By::Dtrace(calls) })
    }

    /// Ends it, and gives what was counted.
    ///
    /// # Errors
    /// Why it cannot be told, in words.
    pub async fn finish(self, deadline: Instant) -> Result<Counted, String> {
        let counted = match self.by {
            By::Kernel(counter) => counter.finish(deadline).await?,
            By::Dtrace(calls) => {
                let got = calls.finish(deadline).await;
                let (counts, missing) =
                    got.map_err(|error| render::chain(&error))?;
                Counted { counts, missing }
            }
        };
        if counted.counts.total == 0 {
            // No program runs without a call.
            let why = "none was seen of the command".to_owned();
            return Err(counted.missing.unwrap_or(why));
        }
        Ok(counted)
    }
}

impl InKernel {
    async fn finish(mut self, deadline: Instant) -> Result<Counted, String> {
        let gone = || "the counter broke off".to_owned();
        let counter = self.0.take().ok_or_else(gone)?;
        let finish = tokio::task::spawn_blocking(move || {
            counter.finish().map_err(|error| render::chain(&error))
        });
        match timeout_at(deadline, finish).await {
            Ok(Ok(counts)) => {
                Ok(Counted { counts: told(counts?), missing: None })
            }
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err("the kernel took too long to end".to_owned()),
        }
    }
}

fn told(counts: Counts) -> SyscallCounts {
    let (arch, missed) = (counts.arch, counts.missed);
    let total = counts.total();
    let calls: Vec<SyscallCount> =
        counts.calls.into_iter().map(|call| told_call(arch, call)).collect();
    SyscallCounts {
        arch: arch.as_str().to_owned(),
        total,
        errors: calls.iter().map(|call| call.errors).sum(),
        missed,
        calls,
    }
}

fn told_call(arch: Arch, call: Call) -> SyscallCount {
    SyscallCount {
        name: call.name,
        abi: match call.abi {
            Abi::Wide => None,
            Abi::Narrow => Some(arch.narrow_name().to_owned()),
            Abi::X32 => Some("x32".to_owned()),
        },
        number: call.number,
        count: call.count,
        errors: call.errors,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HERE: Place = Place {
        is_linux: true,
        is_here: true,
        perf: Err(crate::NoPerf::Missing),
    };

    #[test]
    fn who_cannot_count_says_why_before_it_is_tried() {
        assert_eq!(cannot_count(Choice::Auto, HERE), None);
        let away = Place { is_here: false, ..HERE };
        let smartos = Place { is_linux: false, ..away };
        assert_eq!(cannot_count(Choice::Auto, smartos), None);
        let dtrace = Choice::Only(Kind::Dtrace);
        assert_eq!(cannot_count(dtrace, smartos), None);
        for (choice, place, words) in [
            (Choice::Never, HERE, "--tracer none"),
            (Choice::Auto, away, "another machine"),
            (Choice::Only(Kind::Sample), smartos, "than dtrace"),
        ] {
            let why = cannot_count(choice, place).unwrap();
            assert!(why.contains(words), "{why}");
        }
    }

    #[tokio::test]
    async fn a_zone_without_a_group_is_refused_in_words() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let why = Counting::in_kernel(None, None, deadline).await;
        let why = why.err().unwrap();
        assert!(why.contains("as root"), "{why}");
    }

    #[test]
    fn calls_of_other_tables_are_told_by_their_names() {
        let call = |abi, number| Call {
            name: "x".to_owned(),
            abi,
            number,
            count: 2,
            errors: 1,
        };
        let calls = vec![
            call(Abi::Wide, Some(1)),
            call(Abi::Narrow, Some(1)),
            call(Abi::X32, None),
        ];
        let counts = told(Counts { arch: Arch::X86_64, calls, missed: 0 });
        let abis: Vec<_> =
            counts.calls.iter().map(|call| call.abi.as_deref()).collect();
        assert_eq!(abis, [None, Some("i386"), Some("x32")]);
        assert_eq!((counts.total, counts.errors), (6, 3));
    }
}
