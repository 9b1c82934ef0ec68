//! Which threads use the processor, or would if they got it: the kernel's
//! counts are read twice, a moment apart.
//!
//! A thread that happens to be awake when it is looked at is told from one
//! that spins. On a busy machine one that spins may get little: so the time
//! that it stood ready counts as well.

use std::time::{Duration, Instant};

use super::{Process, Thread};

/// The moment between the two looks.
const MOMENT: Duration = Duration::from_millis(250);

/// The first of two looks at a thread.
struct First {
    at: Instant,
    /// How long it ran or stood ready.
    wanted: Duration,
}

/// Says of each thread which share of a processor it wanted. Ends by the
/// deadline; who was not looked at twice by then says nothing.
pub(super) fn watch(processes: &mut [Process], deadline: Instant) {
    let mut firsts = Vec::new();
    for (at, process) in processes.iter().enumerate() {
        for (nth, thread) in process.threads.iter().enumerate() {
            if let Some(wanted) = wanted(process, thread) {
                let first = First { at: Instant::now(), wanted };
                firsts.push((at, nth, first));
            }
        }
    }
    let Some((_, _, last)) = firsts.last() else { return };
    let again = last.at + MOMENT;
    if again >= deadline {
        return;
    }
    std::thread::sleep(again.saturating_duration_since(Instant::now()));
    for (at, nth, first) in firsts {
        if Instant::now() >= deadline {
            return;
        }
        let process = &processes[at];
        let thread = &process.threads[nth];
        let Some(now) = wanted(process, thread) else { continue };
        let wanted = now.saturating_sub(first.wanted);
        let share = wanted.as_secs_f64() / first.at.elapsed().as_secs_f64();
        processes[at].threads[nth].busy = Some(share.min(1.0));
    }
}

fn wanted(process: &Process, thread: &Thread) -> Option<Duration> {
    let path = format!("/proc/{}/task/{}/schedstat", process.host, thread.host);
    parse(&std::fs::read_to_string(path).ok()?)
}

/// Nanoseconds on a processor, nanoseconds in its queue, turns.
fn parse(text: &str) -> Option<Duration> {
    let mut fields = text.split_whitespace();
    let ran: u64 = fields.next()?.parse().ok()?;
    let queued: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_nanos(ran.saturating_add(queued)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_processor_and_in_its_queue_count() {
        assert_eq!(parse("5 7 3\n"), Some(Duration::from_nanos(12)));
        assert_eq!(parse("5"), None);
        assert_eq!(parse(""), None);
    }
}
