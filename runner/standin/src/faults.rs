//! Fault switches for tests: a file `faults` in a zone's directory, one
//! switch a line, and one in the state root for all zones (`vminfod=down`,
//! `provision=timeout`). docs/zones.md has the table.
//!
//! `boot=fail*2` applies twice and then clears itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::durable::{self, Keep};
use crate::place::Place;
use crate::zone::Zone;

/// A switch without a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Halting fails.
    HaltFail,
    /// Rolling back the files fails.
    RollbackFail,
    /// Booting fails.
    BootFail,
    /// zlogin refuses.
    ProbeFail,
    /// The change is made, but vmadm says that it timed out.
    EventTimeout,
    /// vmadm dies between halt and rollback.
    KillBetween,
    /// The zone shows as stuck in `down`, and halting it fails.
    StuckDown,
    /// The same in `shutting_down`.
    StuckShuttingDown,
    /// A new zone does not come to the end of its first boot.
    ProvisionTimeout,
    /// Nothing answers.
    VminfodDown,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Fault::HaltFail => "halt=fail",
            Fault::RollbackFail => "rollback=fail",
            Fault::BootFail => "boot=fail",
            Fault::ProbeFail => "probe=fail",
            Fault::EventTimeout => "event=timeout",
            Fault::KillBetween => "kill=between",
            Fault::StuckDown => "stuck=down",
            Fault::StuckShuttingDown => "stuck=shutting_down",
            Fault::ProvisionTimeout => "provision=timeout",
            Fault::VminfodDown => "vminfod=down",
        }
    }
}

/// The switches that are set.
#[derive(Debug)]
pub(crate) struct Faults {
    dir: PathBuf,
    lines: Vec<String>,
}

impl Faults {
    /// Those of one zone.
    pub(crate) fn of(zone: &Zone) -> Faults {
        Faults::read(&zone.dir())
    }

    /// Those of the whole place.
    pub(crate) fn of_place(place: &Place) -> Faults {
        Faults::read(&place.root)
    }

    fn read(dir: &Path) -> Faults {
        let text = fs::read_to_string(dir.join("faults")).unwrap_or_default();
        let lines = text.lines().map(|line| line.trim().to_owned());
        Faults { dir: dir.to_owned(), lines: lines.collect() }
    }

    /// Whether a switch is set; counts nothing down.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.lines.iter().any(|line| split(line).0 == fault.text())
    }

    /// Whether a switch applies now; one that counts is counted down.
    pub(crate) fn take(&mut self, fault: Fault) -> bool {
        self.use_up(|name| name == fault.text()).is_some()
    }

    /// The seconds of a switch like `boot=slow:2`.
    pub(crate) fn take_seconds(
        &mut self,
        stage: &str,
        what: &str,
    ) -> Option<Duration> {
        let start = format!("{stage}={what}:");
        let name = self.use_up(|name| name.starts_with(&start))?;
        let seconds = name.strip_prefix(&start)?.parse::<f64>().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn use_up(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let at = self.lines.iter().position(|line| wanted(split(line).0))?;
        let (name, times) = split(&self.lines[at]);
        let name = name.to_owned();
        if let Some(times) = times {
            match times {
                0 | 1 => drop(self.lines.remove(at)),
                more => self.lines[at] = format!("{name}*{}", more - 1),
            }
            let text = self.lines.join("\n");
            let _ = durable::replace(
                &self.dir,
                "faults",
                text.as_bytes(),
                Keep::Process,
            );
        }
        Some(name)
    }
}

/// A line as a switch and how often it is to apply.
fn split(line: &str) -> (&str, Option<u32>) {
    match line.split_once('*') {
        Some((name, times)) => (name, times.parse().ok()),
        None => (line, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_fault_clears_itself() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("faults"), "boot=fail*2\nhalt=hang:0.5\n")
            .unwrap();
        let mut left = Vec::new();
        for _ in 0..3 {
            left.push(Faults::read(dir.path()).take(Fault::BootFail));
        }
        assert_eq!(left, [true, true, false]);
        let hang = Faults::read(dir.path()).take_seconds("halt", "hang");
        assert_eq!(hang, Some(Duration::from_millis(500)));
    }
}
