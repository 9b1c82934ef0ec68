//! Evidence as text, for people.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};

use ntrace_protocol::text::escape;

use super::sentence::doing;
use super::{Evidence, OpenFile, Process};
use crate::Window;

/// Bytes of a report at most.
const MOST: usize = 2 << 20;

/// How deep a tree is indented at most.
const DEEPEST: usize = 40;

impl Evidence {
    /// The tree of processes, with state, place and command line.
    #[must_use]
    pub fn tree(&self) -> String {
        let mut text = format!(
            "{}\n{}\n   PID  S  BUSY     CPU s    RSS KiB  WAITS IN              \
             COMMAND\n",
            self.sentence(),
            self.remarks(),
        );
        for (depth, process) in self.in_order() {
            let cpu = process.cpu.map_or("-".into(), |c| format!("{c:.2}"));
            let rss =
                process.rss.map_or("-".into(), |b| format!("{}", b >> 10));
            let line = match process.argv.is_empty() {
                true => format!("[{}]", process.comm),
                false => line(&process.argv),
            };
            let busy = process.threads.iter().filter_map(|t| t.busy);
            let busy = busy.reduce(|sum, busy| sum + busy);
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "{:>6}  {}  {:>4}  {cpu:>8} {rss:>10}  {:<20}  {:indent$}{line}",
                process.pid,
                process.state.unwrap_or('?'),
                percent(busy),
                process.wchan.as_deref().unwrap_or("-"),
                "",
                indent = 2 * depth.min(DEEPEST),
            );
        }
        text.push_str(
            "\nS: R runs or is ready, S waits, D waits and cannot be woken, T \
             is stopped, Z has\nended. BUSY: how much of a processor its \
             threads wanted while it was looked at.\n",
        );
        cut(text)
    }

    /// The stacks of each thread and the open files of each process.
    #[must_use]
    pub fn stacks(&self) -> String {
        let mut text = format!("{}\n{}", self.sentence(), self.remarks());
        for process in &self.processes {
            let line = line(&process.argv);
            let _ = writeln!(
                text,
                "\npid {} ({}) {line}",
                process.pid, process.comm
            );
            if let Some(why) = &process.refused {
                let _ = writeln!(text, "  no stacks: {why}");
            }
            for thread in &process.threads {
                let _ = writeln!(
                    text,
                    "  thread {} ({}) {}",
                    thread.tid,
                    thread.comm,
                    doing(process, thread),
                );
                for same in thread.frames.chunk_by(|a, b| a == b) {
                    let times = match same.len() {
                        1 => String::new(),
                        n => format!("  ({n} frames)"),
                    };
                    let _ = writeln!(text, "      {}{times}", same[0]);
                }
            }
            for file in &process.files {
                let _ = writeln!(text, "  file {}: {file}", file.number);
            }
        }
        cut(text)
    }

    /// What is not shown, a line each.
    fn remarks(&self) -> String {
        let shown = self.processes.len();
        let unseen = (self.unseen > 0).then(|| {
            let all = shown + self.unseen;
            format!("only {shown} of {all} processes are shown")
        });
        let notes = unseen.iter().chain(&self.notes);
        notes.map(|note| format!("note: {note}\n")).collect()
    }

    /// The processes as a tree walked from its roots, without recursion.
    fn in_order(&self) -> Vec<(usize, &Process)> {
        let mut children: BTreeMap<Option<u64>, Vec<&Process>> =
            BTreeMap::new();
        let known: HashSet<u64> =
            self.processes.iter().map(|p| p.pid).collect();
        for process in &self.processes {
            let parent = process.ppid.filter(|ppid| known.contains(ppid));
            children.entry(parent).or_default().push(process);
        }
        let mut ahead: Vec<(usize, &Process)> = Vec::new();
        let mut push = |ahead: &mut Vec<_>, parent, depth| {
            let below = children.remove(&parent).unwrap_or_default();
            ahead.extend(below.into_iter().rev().map(|p| (depth, p)));
        };
        push(&mut ahead, None, 0);
        let mut order = Vec::new();
        while let Some((depth, process)) = ahead.pop() {
            order.push((depth, process));
            push(&mut ahead, Some(process.pid), depth + 1);
        }
        // Read one after the other, they may name each other as parents.
        order.extend(children.into_values().flatten().map(|p| (0, p)));
        order
    }
}

impl Window {
    /// Folded stacks, the heaviest first.
    #[must_use]
    pub fn text(&self) -> String {
        let mut folded: Vec<&(String, u64)> = self.folded.iter().collect();
        folded.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let lines =
            folded.iter().map(|(stack, n)| format!("{} {n}\n", escape(stack)));
        cut(lines.collect())
    }
}

impl fmt::Display for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.leads_to {
            Some(lead) => write!(f, ", {}", lead.text),
            None => Ok(()),
        }
    }
}

/// A command line in which one can see where a word ends.
pub(super) fn line(argv: &[String]) -> String {
    let words = argv.iter().map(|word| {
        let is_odd = |c: char| c.is_whitespace() || "'\"".contains(c);
        match word.is_empty() || word.contains(is_odd) {
            false => word.clone(),
            true => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

fn cut(mut text: String) -> String {
    if text.len() > MOST {
        let mut end = MOST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("\n(cut here)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines before and after the tree.
    const HEAD: usize = 3;
    const FOOT: usize = 3;

    fn process(pid: u64, ppid: Option<u64>) -> Process {
        let argv = vec![format!("p{pid}")];
        Process { pid, ppid, argv, ..Process::default() }
    }

    #[test]
    fn a_tree_is_indented_and_complete_however_deep() {
        let mut processes = vec![process(2, Some(999)), process(9, Some(2))];
        processes.extend((10..400).map(|pid| process(pid, Some(pid - 1))));
        let notes = vec!["cut".into()];
        let evidence = Evidence { processes, notes, ..Evidence::default() };
        let tree = evidence.tree();
        assert_eq!(tree.lines().count(), HEAD + 392 + FOOT + 1);
        assert!(tree.contains("\nnote: cut\n"), "{tree}");
        let of = |pid: u64| {
            let end = format!("p{pid}");
            tree.lines().find(|line| line.ends_with(&end)).unwrap().len()
        };
        assert!(of(10) > of(9) + 1, "{tree}");
    }

    #[test]
    fn processes_that_are_each_others_parents_do_not_hang_it() {
        let processes = vec![process(2, Some(3)), process(3, Some(2))];
        let evidence = Evidence { processes, ..Evidence::default() };
        assert_eq!(evidence.tree().lines().count(), HEAD + 2 + FOOT);
    }

    #[test]
    fn a_report_is_bounded() {
        let long = "x".repeat(1000);
        let processes = (0..4000).map(|pid| Process {
            argv: vec![long.clone()],
            ..process(pid, None)
        });
        let processes = processes.collect();
        let evidence = Evidence { processes, ..Evidence::default() };
        assert!(evidence.tree().len() < MOST + 100);
    }

    #[test]
    fn it_is_seen_where_a_word_of_a_command_ends() {
        let argv = ["sh", "-c", "a 'b'", ""].map(str::to_owned);
        assert_eq!(line(&argv), r"sh -c 'a '\''b'\''' ''");
    }

    #[test]
    fn the_last_seconds_hold_nothing_that_steers_a_terminal() {
        let folded = vec![("a;\u{1b}[2J".to_owned(), 3), ("b".to_owned(), 5)];
        let window = Window { seconds: 1, folded };
        assert_eq!(window.text(), "b 5\na;\\x1b[2J 3\n");
    }
}
