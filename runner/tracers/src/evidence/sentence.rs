//! One sentence that names the place where a job hangs.
//!
//! Pure. The process that matters is seldom the first: a shell waits for
//! make, make for node. It is the one that others wait for; and in it the
//! thread that holds the rest up.

use std::collections::HashSet;

use super::path::path;
use super::report::line;
use super::{Evidence, OpenFile, Process, Thread, words};

/// What in a stack says that it waits for a lock that another holds. Waiting
/// for a condition or a semaphore is not of these: idle workers do that.
const LOCKS: [&str; 5] =
    ["mutex_lock", "lll_lock", "rwlock", "Mutex", "ObjectMonitor::enter"];

/// Programs whose functions say nothing of the script that they run; a number
/// may follow.
const INTERPRETERS: [&str; 8] =
    ["python", "perl", "ruby", "php", "sh", "bash", "dash", "java"];

/// The longest command of a sentence.
const COMMAND: usize = 100;

/// What in a stack says that it only waits for other threads.
const JOINS: [&str; 3] = ["pthread_join", "pthread_clockjoin", "Thread::join"];

impl Evidence {
    /// The sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(process) = focus(&self.processes) else {
            return "no process of the job was left".to_owned();
        };
        let others = self.processes.len() + self.unseen - 1;
        let place = place(process);
        match others {
            0 => place,
            1 => format!("{place} (1 more process)"),
            n => format!("{place} ({n} more processes)"),
        }
    }

    /// The processes in the order in which they matter, the first one first.
    #[must_use]
    pub fn by_interest(&self) -> Vec<u64> {
        let known = All::of(&self.processes);
        let of = |p: &Process| known.interest(p);
        let mut all: Vec<_> = self.processes.iter().map(of).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().map(|(_, _, pid)| pid).collect()
    }
}

fn place(process: &Process) -> String {
    let who = format!("pid {} ({})", process.pid, process.comm);
    let Some(thread) = thread(process) else {
        let alone = Thread {
            state: process.state,
            wchan: process.wchan.clone(),
            ..Thread::default()
        };
        return format!("{who} {}", doing(process, &alone));
    };
    let who = match thread.tid == process.pid {
        true => who,
        false => format!("{who}, thread {},", thread.tid),
    };
    let doing = doing(process, thread);
    let path = path(&thread.frames);
    let command = command(process, path.is_some());
    match (path, &process.refused) {
        (Some(path), _) => format!("{who} {doing}: {path}{command}"),
        (None, Some(why)) => {
            format!("{who} {doing}{command}; no stack: {why}")
        }
        (None, None) => format!("{who} {doing}{command}"),
    }
}

/// The command of a process, where its name and its functions do not say
/// what it runs.
fn command(process: &Process, has_names: bool) -> String {
    let is_interpreter = INTERPRETERS.iter().any(|name| {
        let rest = process.comm.strip_prefix(name);
        rest.is_some_and(|rest| !rest.contains(char::is_alphabetic))
    });
    if process.argv.len() < 2 || has_names && !is_interpreter {
        return String::new();
    }
    let line = line(&process.argv);
    let mark = if line.chars().count() > COMMAND { "…" } else { "" };
    let line: String = line.chars().take(COMMAND).collect();
    format!("; its command: {line}{mark}")
}

/// What a thread does, and for what it waits.
pub(super) fn doing(process: &Process, thread: &Thread) -> String {
    let file = thread.file.and_then(|number| {
        process.files.iter().find(|file| file.number == number)
    });
    let file = file.map(|file| format!("file {}: {file}", file.number));
    let wchan = thread.wchan.as_deref();
    let words = wchan.and_then(words::of_place).map(str::to_owned);
    let what = match (thread.state, wchan) {
        _ if is_busy(thread) => return "runs".to_owned(),
        (Some('T' | 't'), _) => return "is stopped".to_owned(),
        (Some('Z'), _) => return "has ended and nobody asked how".to_owned(),
        (Some('R'), _) => return "is awake".to_owned(),
        (_, Some(wchan)) => format!("waits in {wchan}"),
        (Some('D'), None) => "waits for the kernel".to_owned(),
        (_, None) => "waits".to_owned(),
    };
    let more: Vec<String> = words.into_iter().chain(file).collect();
    match more.is_empty() {
        true => what,
        false => format!("{what} ({})", more.join("; ")),
    }
}

/// Whether it uses the processor, and was not only awake when it was seen.
fn is_busy(thread: &Thread) -> bool {
    const BUSY: f64 = 0.5;
    thread.busy.map_or(thread.state == Some('R'), |busy| busy >= BUSY)
}

/// The process that the others wait for.
fn focus(processes: &[Process]) -> Option<&Process> {
    let all = All::of(processes);
    processes.iter().max_by_key(|process| all.interest(process))
}

/// What is to be known of all to judge of one.
struct All {
    /// Who has not ended.
    alive: HashSet<u64>,
    /// Who has a child that has not ended.
    parents: HashSet<u64>,
}

impl All {
    fn of(processes: &[Process]) -> Self {
        let is_alive = |p: &&Process| !matches!(p.state, Some('Z' | 'X'));
        let alive = || processes.iter().filter(is_alive);
        Self {
            alive: alive().map(|process| process.pid).collect(),
            parents: alive().filter_map(|process| process.ppid).collect(),
        }
    }

    /// How much a process matters; more is more. One that is busy goes before
    /// one that cannot be woken, that before one that waits for a lock, that
    /// before one that just waits, that before one that waits for another of
    /// them; of equals one without children, and the youngest.
    fn interest(&self, process: &Process) -> (u8, bool, u64) {
        let is_parent = self.parents.contains(&process.pid);
        let mut threads = process.threads.iter();
        let has_busy = match process.threads.is_empty() {
            true => process.state == Some('R'),
            false => threads.clone().any(is_busy),
        };
        let weight = match process.state {
            _ if !self.alive.contains(&process.pid) => 0,
            _ if has_busy => 5,
            Some('D') => 4,
            _ if threads.clone().any(is_locked) => 3,
            _ if is_parent || threads.any(|t| self.awaits(process, t)) => 1,
            _ => 2,
        };
        (weight, !is_parent, process.pid)
    }

    /// Whether it waits at a pipe for another of them.
    fn awaits(&self, process: &Process, thread: &Thread) -> bool {
        let of = |file: &&OpenFile| Some(file.number) == thread.file;
        let lead =
            process.files.iter().find(of).and_then(|f| f.leads_to.as_ref());
        lead.is_some_and(|l| l.pids.iter().any(|p| self.alive.contains(p)))
    }
}

fn has(thread: &Thread, marks: &[&str]) -> bool {
    let mut frames = thread.frames.iter();
    frames.any(|frame| marks.iter().any(|mark| frame.contains(mark)))
}

fn is_locked(thread: &Thread) -> bool {
    has(thread, &LOCKS) && !has(thread, &JOINS)
}

/// The thread that holds the process up.
fn thread(process: &Process) -> Option<&Thread> {
    process.threads.iter().max_by_key(|thread| {
        let weight = match thread.state {
            _ if is_busy(thread) => 5,
            Some('D') => 4,
            _ if is_locked(thread) => 3,
            _ if has(thread, &JOINS) => 0,
            _ => 1,
        };
        let is_first = thread.tid == process.pid;
        (weight, is_first, std::cmp::Reverse(thread.tid))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Lead;
    use super::*;

    fn thread(tid: u64, state: char, frames: &[&str]) -> Thread {
        Thread {
            tid,
            comm: "a.out".to_owned(),
            state: Some(state),
            wchan: (state == 'S').then(|| "futex_wait".to_owned()),
            frames: frames.iter().map(|f| (*f).to_owned()).collect(),
            ..Thread::default()
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
        Evidence { processes, ..Evidence::default() }.sentence()
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
            "pid 7 (a.out) waits in futex_wait (a lock or another thread): \
             main > worker > pthread_mutex_lock > __lll_lock_wait"
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
            "pid 7 (a.out), thread 8, waits in futex_wait (a lock or another \
             thread): worker > pthread_mutex_lock"
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
    fn who_waits_at_a_pipe_for_another_is_not_the_one() {
        let mut reads =
            process(9, None, vec![thread(9, 'S', &["read", "main"])]);
        reads.threads[0].file = Some(0);
        reads.threads[0].wchan = Some("anon_pipe_read".to_owned());
        let lead =
            Lead { text: "written by pid 4 (x)".to_owned(), pids: vec![4] };
        reads.files = vec![OpenFile {
            name: "pipe:[5]".to_owned(),
            leads_to: Some(lead),
            ..OpenFile::default()
        }];
        let writes = process(4, None, vec![thread(4, 'S', &["nap", "main"])]);
        let said = of(vec![writes, reads.clone()]);
        assert!(said.starts_with("pid 4 (a.out)"), "{said}");
        // Alone it is, and says for what it waits.
        assert_eq!(
            of(vec![reads]),
            "pid 9 (a.out) waits in anon_pipe_read (for data from a pipe; \
             file 0: pipe:[5], written by pid 4 (x)): main > read"
        );
    }

    #[test]
    fn who_is_awake_for_a_moment_goes_behind_one_that_is_stuck() {
        let mut threads = vec![
            thread(7, 'S', &["pthread_clockjoin", "main"]),
            thread(8, 'R', &["beat", "start_thread"]),
            thread(9, 'S', &["pthread_mutex_lock", "worker"]),
        ];
        threads[1].busy = Some(0.02);
        let said = of(vec![process(7, None, threads.clone())]);
        assert!(said.contains("thread 9, waits"), "{said}");
        threads[1].busy = Some(0.99);
        let said = of(vec![process(7, None, threads)]);
        assert!(said.contains("thread 8, runs: beat"), "{said}");
    }

    #[test]
    fn idle_workers_of_a_pool_are_not_the_place() {
        let idle = ["pthread_cond_wait", "uv_cond_wait", "worker"];
        let threads = vec![
            thread(7, 'S', &["epoll_wait", "uv_run", "main"]),
            thread(8, 'S', &idle),
        ];
        let said = of(vec![process(7, None, threads.clone())]);
        assert!(said.ends_with("main > uv_run > epoll_wait"), "{said}");
        // Nor does it matter more than the child that it waits for.
        let child = process(9, Some(7), vec![thread(9, 'S', &["nap"])]);
        let said = of(vec![process(7, None, threads), child]);
        assert!(said.starts_with("pid 9"), "{said}");
    }

    #[test]
    fn what_a_script_or_a_nameless_program_runs_is_told() {
        let argv = |words: &[&str]| words.iter().map(|w| (*w).into()).collect();
        let mut one = process(7, None, vec![thread(7, 'R', &[])]);
        one.argv = argv(&["sh", "-c", "while :; do :; done"]);
        assert_eq!(
            of(vec![one.clone()]),
            "pid 7 (a.out) runs; its command: sh -c 'while :; do :; done'"
        );
        one.threads = vec![thread(7, 'R', &["take_gil", "main"])];
        assert_eq!(
            of(vec![one.clone()]),
            "pid 7 (a.out) runs: main > take_gil"
        );
        one.comm = "python3.11".to_owned();
        one.argv = argv(&["python3", &"x".repeat(500)]);
        let said = of(vec![one.clone()]);
        assert!(said.contains("take_gil; its command: python3 xx"), "{said}");
        assert!(said.ends_with("x…") && said.len() < 200, "{said}");
        one.comm = "shfmt".to_owned();
        assert_eq!(of(vec![one]), "pid 7 (shfmt) runs: main > take_gil");
    }

    #[test]
    fn a_parent_of_none_but_the_dead_is_looked_at_itself() {
        let parent = process(7, None, vec![thread(7, 'S', &["nap", "main"])]);
        let child = process(9, Some(7), vec![thread(9, 'Z', &[])]);
        let processes = vec![parent, child];
        let evidence = Evidence { processes, ..Evidence::default() };
        assert!(evidence.sentence().starts_with("pid 7"));
        assert_eq!(evidence.by_interest(), [7, 9]);
    }

    #[test]
    fn a_stack_that_cannot_be_had_says_why() {
        let mut one = process(7, None, vec![thread(7, 'S', &[])]);
        one.refused = Some("ptrace is not permitted".to_owned());
        assert_eq!(
            of(vec![one]),
            "pid 7 (a.out) waits in futex_wait (a lock or another thread); \
             no stack: ptrace is not permitted"
        );
        assert_eq!(of(Vec::new()), "no process of the job was left");
    }
}
