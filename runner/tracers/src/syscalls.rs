//! System calls by count, beside whatever tracer there is.
//!
//! The kernel is asked by blocking calls, each made on a thread that may
//! block. Must not know how it counts.

use std::path::PathBuf;

use ntrace_protocol::syscalls::{SyscallCount, SyscallCounts};
use ntrace_syscalls::{Abi, Arch, Call, Counter, Counts, Target};
use tokio::time::{Instant, timeout_at};

use crate::choice::{Choice, Place};
use crate::render;

/// Whether system calls can be counted, as far as is known before it was
/// tried: the reason why not. Pure.
#[must_use]
pub fn cannot_count(choice: Choice, place: Place) -> Option<&'static str> {
    match choice {
        Choice::Never => Some("this runner was started with --tracer none"),
        _ if !place.is_linux => {
            Some("this runner counts them in zones of Linux only")
        }
        _ if !place.is_here => Some(
            "the zone is on another machine; start a runner on that machine",
        ),
        _ => None,
    }
}

/// A zone whose system calls are being counted. Dropping it ends that.
#[derive(Debug)]
pub struct Counting {
    counter: Option<Counter>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Its end takes the kernel a moment.
        if let Some(counter) = self.counter.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(counter));
        }
    }
}

impl Counting {
    /// Begins to count what runs in a zone: in its cgroup, but for what
    /// serves the zone as `init` does.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub async fn start(
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
            Ok(Ok(counter)) => Ok(Self { counter: Some(counter?) }),
            Ok(Err(_)) => Err("the counter broke off".to_owned()),
            // Whatever it gives later is dropped, which ends it.
            Err(_) => Err("the kernel took too long to begin".to_owned()),
        }
    }

    /// Ends it, and gives what was counted.
    ///
    /// # Errors
    /// Why it cannot be told, in words.
    pub async fn finish(
        mut self,
        deadline: Instant,
    ) -> Result<SyscallCounts, String> {
        let gone = || "the counter broke off".to_owned();
        let counter = self.counter.take().ok_or_else(gone)?;
        let finish = tokio::task::spawn_blocking(move || {
            counter.finish().map_err(|error| render::chain(&error))
        });
        let counts = match timeout_at(deadline, finish).await {
            Ok(Ok(counts)) => told(counts?),
            Ok(Err(_)) => return Err(gone()),
            Err(_) => return Err("the kernel took too long to end".to_owned()),
        };
        if counts.total == 0 {
            // No program runs without a call.
            return Err("none was seen: the command is not in the cgroup of \
                        its zone"
                .to_owned());
        }
        Ok(counts)
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
        for (choice, place, words) in [
            (Choice::Never, HERE, "--tracer none"),
            (Choice::Auto, away, "another machine"),
            (Choice::Auto, smartos, "Linux"),
        ] {
            let why = cannot_count(choice, place).unwrap();
            assert!(why.contains(words), "{why}");
        }
    }

    #[tokio::test]
    async fn a_zone_without_a_group_is_refused_in_words() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let why = Counting::start(None, None, deadline).await.unwrap_err();
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
