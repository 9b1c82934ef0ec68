//! Evidence as text, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Evidence, Process};
use crate::Window;

/// Bytes of a report at most.
const MOST: usize = 2 << 20;

/// How deep a tree is indented at most.
const DEEPEST: usize = 40;

impl Evidence {
    /// The tree of processes, with state, place and command line.
    #[must_use]
    pub fn tree(&self) -> String {
        let mut text = String::from(
            "   PID  S     CPU s    RSS KiB  WAITS IN              COMMAND\n",
        );
        for (depth, process) in self.in_order() {
            let cpu = process.cpu.map_or("-".into(), |c| format!("{c:.2}"));
            let rss =
                process.rss.map_or("-".into(), |b| format!("{}", b >> 10));
            let line = match process.argv.is_empty() {
                true => format!("[{}]", process.comm),
                false => process.argv.join(" "),
            };
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "{:>6}  {}  {cpu:>8} {rss:>10}  {:<20}  {:indent$}{line}",
                process.pid,
                process.state.unwrap_or('?'),
                process.wchan.as_deref().unwrap_or("-"),
                "",
                indent = 2 * depth.min(DEEPEST),
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        cut(text)
    }

    /// The stacks of each thread and the open files of each process.
    #[must_use]
    pub fn stacks(&self) -> String {
        let mut text = format!("{}\n", self.sentence());
        for process in &self.processes {
            let _ = writeln!(text, "\npid {} ({})", process.pid, process.comm);
            if let Some(why) = &process.refused {
                let _ = writeln!(text, "  no stacks: {why}");
            }
            for thread in &process.threads {
                let _ = writeln!(
                    text,
                    "  thread {} ({}) {} {}",
                    thread.tid,
                    thread.comm,
                    thread.state.unwrap_or('?'),
                    thread.wchan.as_deref().unwrap_or("-"),
                );
                for frame in &thread.frames {
                    let _ = writeln!(text, "      {frame}");
                }
            }
            for (number, name) in &process.files {
                let _ = writeln!(text, "  file {number}: {name}");
            }
        }
        cut(text)
    }

    /// The processes as a tree walked from its roots, without recursion.
    fn in_order(&self) -> Vec<(usize, &Process)> {
        let mut children: BTreeMap<Option<u64>, Vec<&Process>> =
            BTreeMap::new();
        let known = |pid| self.processes.iter().any(|p| p.pid == pid);
        for process in &self.processes {
            let parent = process.ppid.filter(|ppid| known(*ppid));
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
        let lines = folded.iter().map(|(stack, n)| format!("{stack} {n}\n"));
        cut(lines.collect())
    }
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

    fn process(pid: u64, ppid: Option<u64>) -> Process {
        let argv = vec![format!("p{pid}")];
        Process { pid, ppid, argv, ..Process::default() }
    }

    #[test]
    fn a_tree_is_indented_and_complete_however_deep() {
        let mut processes = vec![process(2, Some(999)), process(9, Some(2))];
        processes.extend((10..400).map(|pid| process(pid, Some(pid - 1))));
        let evidence = Evidence { processes, notes: vec!["cut".into()] };
        let tree = evidence.tree();
        assert_eq!(tree.lines().count(), 1 + 392 + 1);
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
        let evidence = Evidence { processes, notes: Vec::new() };
        assert_eq!(evidence.tree().lines().count(), 3);
    }

    #[test]
    fn a_report_is_bounded() {
        let long = "x".repeat(1000);
        let processes = (0..4000).map(|pid| Process {
            argv: vec![long.clone()],
            ..process(pid, None)
        });
        let evidence =
            Evidence { processes: processes.collect(), notes: Vec::new() };
        assert!(evidence.tree().len() < MOST + 100);
    }
}
