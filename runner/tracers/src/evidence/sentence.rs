//! One sentence that names the place where a job hangs.
//!
//! Pure. The process that matters is seldom the first: a shell waits for
//! make, make for node. It is the one that others wait for; and in it the
//! thread that holds the rest up.

use super::{Evidence, Process, Thread};

/// Frames of a sentence at most; the middle is left out.
const FRAMES: usize = 6;

/// The longest name of a frame in it.
const NAME: usize = 80;

/// Frames in which every program begins, and that say nothing.
const BEGINNINGS: [&str; 8] = [
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
];

/// What in a stack says that it waits for a lock.
const LOCKS: [&str; 6] =
    ["mutex_lock", "lll_lock", "rwlock", "sem_wait", "pthread_cond", "Mutex"];

/// What in a stack says that it only waits for other threads.
const JOINS: [&str; 3] = ["pthread_join", "pthread_clockjoin", "Thread::join"];

impl Evidence {
    /// The sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(process) = focus(&self.processes) else {
            return "no process of the job was left".to_owned();
        };
        let others = self.processes.len().saturating_sub(1);
        let place = place(process);
        match others {
            0 => place,
            1 => format!("{place} (1 more process)"),
            n => format!("{place} ({n} more processes)"),
        }
    }
}

fn place(process: &Process) -> String {
    let who = format!("pid {} ({})", process.pid, process.comm);
    let Some(thread) = thread(process) else {
        return format!("{who} {}", doing(process.state, &process.wchan));
    };
    let wchan = thread.wchan.as_ref().or(process.wchan.as_ref()).cloned();
    let state = thread.state.or(process.state);
    let who = match thread.tid == process.pid {
        true => who,
        false => format!("{who}, thread {},", thread.tid),
    };
    let doing = doing(state, &wchan);
    match (path(&thread.frames), &process.refused) {
        (Some(path), _) => format!("{who} {doing}: {path}"),
        (None, Some(why)) => format!("{who} {doing}; no stack: {why}"),
        (None, None) => format!("{who} {doing}"),
    }
}

fn doing(state: Option<char>, wchan: &Option<String>) -> String {
    match (state, wchan) {
        (Some('R'), _) => "runs".to_owned(),
        (Some('T' | 't'), _) => "is stopped".to_owned(),
        (Some('Z'), _) => "has ended and nobody asked how".to_owned(),
        (_, Some(wchan)) => format!("waits in {wchan}"),
        (Some('D'), None) => "waits for the kernel".to_owned(),
        (_, None) => "waits".to_owned(),
    }
}

/// The process that the others wait for: one that runs before one that
/// waits, one without children before their parents, and of equals the
/// youngest.
fn focus(processes: &[Process]) -> Option<&Process> {
    let is_parent = |process: &Process| {
        processes.iter().any(|other| other.ppid == Some(process.pid))
    };
    processes.iter().max_by_key(|process| {
        let activity = match process.state {
            Some('Z') | Some('X') => 0,
            Some('R') => 3,
            Some('D') => 2,
            _ => 1,
        };
        let is_alive = activity > 0;
        (is_alive, !is_parent(process), activity, process.pid)
    })
}

/// The thread that holds the process up.
fn thread(process: &Process) -> Option<&Thread> {
    let has = |thread: &Thread, marks: &[&str]| {
        thread
            .frames
            .iter()
            .any(|frame| marks.iter().any(|mark| frame.contains(mark)))
    };
    process.threads.iter().max_by_key(|thread| {
        let weight = match thread.state {
            Some('R') => 4,
            _ if has(thread, &LOCKS) && !has(thread, &JOINS) => 3,
            _ if has(thread, &JOINS) => 0,
            _ => 1,
        };
        let is_first = thread.tid == process.pid;
        (weight, is_first, std::cmp::Reverse(thread.tid))
    })
}

/// The stack, root first, without what every program begins with.
fn path(frames: &[String]) -> Option<String> {
    let base = |name: &str| {
        let name = name.split(['+', '@', '.']).next().unwrap_or(name);
        BEGINNINGS.iter().any(|beginning| {
            name == *beginning || name.starts_with("__libc_start_main")
        })
    };
    let mut named: Vec<&str> = frames
        .iter()
        .map(|frame| frame.trim())
        .skip_while(|frame| is_bare(frame))
        .collect();
    named.reverse();
    let first = named.iter().position(|name| !base(name) && !is_bare(name));
    named.drain(..first.unwrap_or(named.len()));
    if named.is_empty() {
        return None;
    }
    let short = |name: &&str| match name.chars().count() > NAME {
        true => name.chars().take(NAME).chain(['…']).collect(),
        false => (*name).to_owned(),
    };
    let mut parts: Vec<String> = named.iter().map(short).collect();
    if parts.len() > FRAMES {
        let cut = parts.len() - FRAMES;
        parts.splice(2..2 + cut, ["…".to_owned()]);
    }
    Some(parts.join(" > "))
}

/// A place that nobody could name: an address, or no more than a file.
fn is_bare(frame: &str) -> bool {
    frame.is_empty() || frame.starts_with("0x") || frame.starts_with('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(tid: u64, state: char, frames: &[&str]) -> Thread {
        Thread {
            tid,
            host: 0,
            comm: "a.out".to_owned(),
            state: Some(state),
            wchan: (state == 'S').then(|| "futex_wait".to_owned()),
            frames: frames.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    fn process(pid: u64, ppid: Option<u64>, threads: Vec<Thread>) -> Process {
        Process {
            pid,
            ppid,
            comm: "a.out".to_owned(),
            state: threads.first().and_then(|thread| thread.state),
            threads,
            ..Process::default()
        }
    }

    fn of(processes: Vec<Process>) -> String {
        Evidence { processes, notes: Vec::new() }.sentence()
    }

    const LOCK: [&str; 5] = [
        "__lll_lock_wait",
        "pthread_mutex_lock",
        "worker",
        "main",
        "__libc_start_call_main",
    ];

    #[test]
    fn a_deadlock_names_the_function_and_the_lock() {
        let one = process(7, None, vec![thread(7, 'S', &LOCK)]);
        assert_eq!(
            of(vec![one]),
            "pid 7 (a.out) waits in futex_wait: main > worker > \
             pthread_mutex_lock > __lll_lock_wait"
        );
    }

    #[test]
    fn a_thread_at_a_lock_goes_before_the_one_that_waits_for_it() {
        let join = ["__pthread_clockjoin_ex", "main", "_start"];
        let lock = ["pthread_mutex_lock", "worker", "start_thread", "clone3"];
        let threads = vec![
            thread(7, 'S', &join),
            thread(8, 'S', &lock),
            thread(9, 'S', &lock),
        ];
        assert_eq!(
            of(vec![process(7, None, threads)]),
            "pid 7 (a.out), thread 8, waits in futex_wait: worker > \
             pthread_mutex_lock"
        );
    }

    #[test]
    fn the_process_that_the_others_wait_for_is_named() {
        let wait = ["wait4", "main"];
        let tree = vec![
            process(2, None, vec![thread(2, 'S', &wait)]),
            process(3, Some(2), vec![thread(3, 'S', &wait)]),
            process(4, Some(3), vec![thread(4, 'R', &["spin", "main"])]),
            process(5, Some(3), vec![thread(5, 'S', &["nanosleep", "main"])]),
        ];
        assert_eq!(
            of(tree),
            "pid 4 (a.out) runs: main > spin (3 more processes)"
        );
    }

    #[test]
    fn a_stack_that_cannot_be_had_says_why() {
        let mut one = process(7, None, vec![thread(7, 'S', &[])]);
        one.refused = Some("ptrace is not permitted".to_owned());
        assert_eq!(
            of(vec![one]),
            "pid 7 (a.out) waits in futex_wait; no stack: ptrace is not \
             permitted"
        );
        assert_eq!(of(Vec::new()), "no process of the job was left");
    }

    #[test]
    fn a_deep_stack_keeps_its_ends() {
        let frames: Vec<String> =
            (0..500).map(|n| format!("f{n}")).chain(["main".into()]).collect();
        let path = path(&frames).unwrap();
        assert_eq!(path, "main > f499 > … > f3 > f2 > f1 > f0");
        let bare = ["0x1", "lock", "[libc.so.6]", "main", "[libc.so.6]"];
        let bare = bare.map(str::to_owned);
        assert_eq!(super::path(&bare).unwrap(), "main > [libc.so.6] > lock");
        assert_eq!(super::path(&["0x1".to_owned()]), None);
    }
}
