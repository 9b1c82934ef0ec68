//! Reading a zone's processes from this machine's `/proc`.
//!
//! The zone is known by its first process: what shares that one's pid
//! namespace is the zone's. Everything read is of a job's making: names are
//! escaped and cut, counts are bounded, what is gone meanwhile is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ntrace_protocol::text::escape;
use ntrace_sampler::CARRIERS;

use super::{Evidence, Process, Thread, busy, files, open};

/// How much is read at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Processes.
    pub processes: usize,
    /// Threads of each.
    pub threads: usize,
    /// Open files of each.
    pub files: usize,
    /// When to stop.
    pub deadline: Instant,
}

impl Bounds {
    /// What a person can read, until then.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self { processes: 1000, threads: 64, files: 128, deadline }
    }
}

/// The longest text that is taken of anything.
const LONGEST: usize = 1024;
/// The longest file of `/proc` that is read.
const FILE: usize = 64 << 10;
/// Words of a command line.
const WORDS: usize = 64;
/// Remarks on what is not shown.
const NOTES: usize = 20;

/// The processes of the zone whose first process has the number `init` here.
/// It takes a quarter of a second at least: so long it is seen who uses the
/// processor.
///
/// # Errors
/// `/proc` cannot be read, or the zone is gone.
pub fn of_zone(init: u32, bounds: Bounds) -> io::Result<Evidence> {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let mut evidence = Evidence::default();
    // Numbers here and in the zone.
    let mut numbers = BTreeMap::new();
    let mut found = Vec::new();
    let members = members(init)?;
    for pid in &members {
        if found.len() == bounds.processes || Instant::now() > bounds.deadline {
            evidence.unseen = members.len() - found.len();
            break;
        }
        let notes = &mut evidence.notes;
        if let Some((process, parent)) = process(*pid, bounds, ticks, notes) {
            numbers.insert(*pid, process.pid);
            found.push((process, parent));
        }
    }
    evidence.processes = found
        .into_iter()
        .map(|(mut process, parent)| {
            process.ppid = numbers.get(&parent).copied();
            process
        })
        .filter(|process| !is_remains(process))
        .collect();
    evidence.processes.sort_by_key(|process| process.pid);
    files::lead(&mut evidence.processes, &of(init));
    busy::watch(&mut evidence.processes, bounds.deadline);
    if evidence.notes.len() > NOTES {
        let more = evidence.notes.len() - NOTES;
        evidence.notes.truncate(NOTES);
        evidence.notes.push(format!("and {more} more such notes"));
    }
    Ok(evidence)
}

/// Whether it is what remains of whoever entered the zone from outside: dead,
/// or so far gone that it runs no program any more.
fn is_remains(process: &Process) -> bool {
    let is_dead = process.state == Some('Z') && process.ppid.is_none();
    let name = process.comm.as_str();
    is_dead || (process.argv.is_empty() && CARRIERS.contains(&name))
}

fn of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// The numbers here of the processes of the zone, but for its own helpers.
fn members(init: u32) -> io::Result<Vec<u32>> {
    let space = fs::read_link(of(init).join("ns/pid"))?;
    // The zone's own helpers are its first process once more.
    let helper = program(&of(init));
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let path = of(pid);
        if fs::read_link(path.join("ns/pid")).ok().as_ref() != Some(&space) {
            continue;
        }
        let is_helper = helper.is_some() && program(&path) == helper;
        if !is_helper && !is_native(&path) {
            members.push(pid);
        }
    }
    Ok(members)
}

/// Whether it runs one of the zone's own programs. The job cannot write
/// where they are.
fn is_native(path: &Path) -> bool {
    fs::read_link(path.join("exe")).is_ok_and(|exe| exe.starts_with("/native/"))
}

/// Which file it runs.
fn program(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path.join("exe")).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// One process, and the number of its parent here.
fn process(
    host: u32,
    bounds: Bounds,
    ticks: u64,
    notes: &mut Vec<String>,
) -> Option<(Process, u32)> {
    let path = &of(host);
    let status = text(&path.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    let pid: u64 = field("NSpid:")?.split_whitespace().last()?.parse().ok()?;
    let parent = field("PPid:")?.parse().ok()?;
    let stat = text(&path.join("stat"))?;
    let rss = field("VmRSS:")
        .and_then(|rss| rss.split(' ').next()?.parse::<u64>().ok())
        .map(|kib| kib * 1024);
    let threads = threads(path, bounds);
    let all: Option<usize> = field("Threads:").and_then(|n| n.parse().ok());
    let all = all.unwrap_or(0);
    if threads.len() < all && threads.len() == bounds.threads {
        let count = threads.len();
        notes.push(format!("of pid {pid} {count} of {all} threads are shown"));
    }
    let files = open::files(path, bounds);
    if files.len() == bounds.files {
        let count = files.len();
        notes.push(format!("of pid {pid} only {count} open files are shown"));
    }
    let process = Process {
        pid,
        host,
        ppid: None,
        comm: field("Name:").map(clean).unwrap_or_default(),
        argv: command_line(path),
        state: field("State:").and_then(|state| state.chars().next()),
        wchan: wchan(path),
        rss,
        cpu: cpu(&stat).map(|spent| spent as f64 / ticks as f64),
        threads,
        files,
        refused: None,
    };
    Some((process, parent))
}

/// User and system time in ticks: the 14th and 15th field, counted from
/// behind the name, which may hold anything.
fn cpu(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn threads(path: &Path, bounds: Bounds) -> Vec<Thread> {
    let Ok(tasks) = fs::read_dir(path.join("task")) else { return Vec::new() };
    let mut threads: Vec<Thread> = tasks
        .flatten()
        .take(bounds.threads)
        .take_while(|_| Instant::now() < bounds.deadline)
        .filter_map(|task| thread(&task.path()))
        .collect();
    threads.sort_by_key(|thread| thread.tid);
    threads
}

fn thread(path: &Path) -> Option<Thread> {
    let status = text(&path.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    let host = path.file_name().and_then(|name| name.to_str()?.parse().ok());
    Some(Thread {
        host: host.unwrap_or(0),
        tid: field("NSpid:")?.split_whitespace().last()?.parse().ok()?,
        comm: field("Name:").map(clean).unwrap_or_default(),
        state: field("State:").and_then(|state| state.chars().next()),
        wchan: wchan(path),
        file: text(&path.join("syscall"))
            .and_then(|call| open::waits_on(&call)),
        busy: None,
        frames: Vec::new(),
    })
}

/// Where it waits; the kernel says `0` for nowhere, or to those it does not
/// tell.
fn wchan(path: &Path) -> Option<String> {
    let name = text(&path.join("wchan"))?;
    (!matches!(name.as_str(), "" | "0")).then(|| clean(name))
}

fn command_line(path: &Path) -> Vec<String> {
    let Some(line) = text(&path.join("cmdline")) else { return Vec::new() };
    let line = line.strip_suffix('\0').unwrap_or(&line);
    if line.is_empty() {
        return Vec::new();
    }
    let count = line.split('\0').count();
    let words = line.split('\0').take(WORDS);
    let mut words: Vec<_> = words.map(|word| clean(word.to_owned())).collect();
    if count > WORDS {
        words.push(format!("…({} more words)", count - WORDS));
    }
    words
}

pub(super) fn clean(text: String) -> String {
    let mut chars = text.chars();
    let cut: String = chars.by_ref().take(LONGEST).collect();
    let mark = if chars.next().is_some() { "…" } else { "" };
    escape(&cut) + mark
}

pub(super) fn text(path: &Path) -> Option<String> {
    some_text(path, FILE)
}

/// So many bytes of a file, as text.
pub(super) fn some_text(path: &Path, most: usize) -> Option<String> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(most as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    fn bounds() -> Bounds {
        Bounds::until(Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn remains_of_who_entered_from_outside_are_no_processes_of_the_job() {
        let of = |comm: &str, words: &[&str], state, ppid| Process {
            comm: comm.to_owned(),
            argv: words.iter().map(|&word| word.to_owned()).collect(),
            state: Some(state),
            ppid,
            ..Process::default()
        };
        assert!(is_remains(&of("zone-job", &[], 'R', Some(1))));
        assert!(is_remains(&of("sh", &[], 'Z', None)));
        assert!(!is_remains(&of("sh", &[], 'Z', Some(7))));
        assert!(!is_remains(&of("zone-job", &["./zone-job"], 'R', Some(7))));
    }

    #[test]
    fn the_own_process_is_found_with_threads_and_files() {
        let path = std::env::temp_dir().join("ntrace-evidence-\u{1b}[1m");
        let _file = fs::File::create(&path).unwrap();
        let pid = std::process::id();
        let mut notes = Vec::new();
        let (process, parent) =
            process(pid, bounds(), 100, &mut notes).expect("we are there");
        fs::remove_file(&path).unwrap();
        assert_eq!(process.pid, u64::from(pid));
        assert!(parent > 0);
        assert!(!process.argv.is_empty());
        assert!(process.threads.iter().any(|t| t.tid == u64::from(pid)));
        let names: Vec<_> = process.files.iter().map(|f| &f.name).collect();
        assert!(
            names.iter().any(|name| name.contains("ntrace-evidence-")),
            "{names:?}"
        );
        assert!(!names.iter().any(|name| name.contains('\u{1b}')));
    }

    #[test]
    fn counts_are_bounded_and_that_is_said() {
        let bounds = Bounds { processes: 1, threads: 1, files: 1, ..bounds() };
        let mut sleepers: Vec<_> = (0..2)
            .map(|_| Command::new("sleep").arg("600").spawn().unwrap())
            .collect();
        let evidence = of_zone(std::process::id(), bounds);
        for sleeper in &mut sleepers {
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
        }
        let evidence = evidence.unwrap();
        assert_eq!(evidence.processes.len(), 1);
        assert!(evidence.processes[0].threads.len() <= 1);
        assert!(evidence.processes[0].files.len() <= 1);
        assert!(evidence.unseen >= 1);
        let tree = evidence.tree();
        assert!(tree.contains("\nnote: only 1 of "), "{tree}");
    }

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 0 0 20 0";
        assert_eq!(cpu(stat), Some(110));
        assert_eq!(cpu("7 (a"), None);
    }

    #[test]
    fn a_pipeline_says_who_waits_for_whom() {
        let script = "sleep 611 | cat";
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", script]).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let found = loop {
            let evidence = of_zone(std::process::id(), bounds()).unwrap();
            let cat = evidence.processes.iter().find(|process| {
                let thread = process.threads.first();
                process.comm == "cat"
                    && process.ppid == Some(u64::from(shell.id()))
                    && thread.is_some_and(|t| t.file == Some(0))
            });
            if cat.is_some() || Instant::now() > until {
                break cat.cloned();
            }
        };
        // The one that writes ends with the shell's group, or by itself.
        for process in of_zone(std::process::id(), bounds()).unwrap().processes
        {
            if process.argv == ["sleep", "611"] {
                let pid = i32::try_from(process.host).unwrap();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let kill = rustix::process::Signal::KILL;
                rustix::process::kill_process(pid, kill).unwrap();
            }
        }
        shell.wait().unwrap();
        let cat = found.expect("cat waits for its standard input");
        let input = cat.files.iter().find(|file| file.number == 0).unwrap();
        let lead = input.leads_to.as_ref().unwrap();
        assert!(lead.text.starts_with("written by pid "), "{lead:?}");
        assert!(lead.text.contains("(sleep)"), "{lead:?}");
    }
}
