//! The end of a stage: nothing of it may be left.

use std::time::Duration;

use super::Stage;
use crate::leftovers;
use crate::process::describe;

/// How long a program has to end when it is asked to.
const GOODBYE: Duration = Duration::from_secs(30);

impl Stage {
    /// Everything of the stage that still lives or lies about.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = leftovers::processes_of(self.dir.path())
            .into_iter()
            .map(|found| format!("process {} {}", found.pid, found.line))
            .collect();
        left.extend(leftovers::mounts_of(self.dir.path()));
        let groups = leftovers::cgroups_of(&self.workers);
        left.extend(groups.iter().map(|dir| dir.display().to_string()));
        for uuid in &self.workers {
            let dir = self.zones.dir(uuid);
            if dir.exists() {
                left.push(dir.display().to_string());
            }
        }
        left
    }

    fn tell(&mut self) {
        eprintln!("--- dispatcher\n{}", tail(&self.dispatcher.said()));
        if let Some(runner) = &self.runner {
            eprintln!("--- runner\n{}", tail(&runner.said()));
        }
        if let Some(gate) = &self.gate {
            eprintln!("--- gate\n{}", tail(&gate.log()));
            eprintln!("--- sshd\n{}", tail(&gate.sshd.log()));
        }
    }

    fn take_down(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        let runner = self.runner.as_mut().map(|r| (r, "runner"));
        let all = runner.into_iter();
        for (process, name) in all.chain([(&mut self.dispatcher, "dispatcher")])
        {
            if process.ended().is_some() {
                continue;
            }
            process.thaw();
            match process.end(GOODBYE) {
                Some(status) if status.success() => {}
                Some(status) => {
                    told.push(format!("{name}: {}", describe(status)));
                }
                None => told.push(format!("the {name} does not end")),
            }
        }
        told.extend(self.zones.clear());
        told
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
            self.take_down();
            return;
        }
        let mut told = self.take_down();
        let began = std::time::Instant::now();
        let mut left = self.leftovers();
        while !left.is_empty() && began.elapsed() < GOODBYE {
            std::thread::sleep(Duration::from_millis(20));
            left = self.leftovers();
        }
        told.extend(left);
        if !told.is_empty() {
            self.tell();
            panic!("the stage leaves behind: {told:#?}");
        }
    }
}

/// The last lines of a log.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
}
