//! What a check says: one finding for each need, and the sum of them.
//!
//! Plain values. Invariant: whatever fails says how it is mended.

use std::fmt;

use ntrace_protocol::text::escape;
use serde::Serialize;

/// What a runner needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Settings that fit each other.
    Settings,
    /// A data directory.
    Data,
    /// Room on its disk.
    Disk,
    /// The control port.
    Control,
    /// git.
    Git,
    /// The place where commits come from.
    Source,
    /// The dispatcher.
    Dispatcher,
    /// A clock that agrees with the dispatcher's.
    Clock,
    /// A way to the global zone.
    GlobalZone,
    /// What Linux lends to zones.
    Zones,
    /// vmadm, and over ssh the gate before it.
    Vmadm,
    /// A worker's VM and its snapshot.
    Worker,
    /// Commands inside a worker.
    Zlogin,
    /// The tracer.
    Tracer,
}

impl Need {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Data => "data",
            Self::Disk => "disk",
            Self::Control => "control",
            Self::Git => "git",
            Self::Source => "source",
            Self::Dispatcher => "dispatcher",
            Self::Clock => "clock",
            Self::GlobalZone => "global-zone",
            Self::Zones => "zones",
            Self::Vmadm => "vmadm",
            Self::Worker => "worker",
            Self::Zlogin => "zlogin",
            Self::Tracer => "tracer",
        }
    }
}

/// How well a need is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is met.
    Ok,
    /// Jobs run, but something is worse than it could be.
    Warn,
    /// Jobs do not run, or not all of them.
    Fail,
}

impl Level {
    /// As it is printed: a failure is to be seen from afar.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What was found about one need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which need.
    pub need: Need,
    /// How well it is met.
    pub state: Level,
    /// What was found, in a sentence without line ends.
    pub says: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(need: Need, says: impl Into<String>) -> Self {
        Self { need, state: Level::Ok, says: says.into(), mend: None }
    }

    /// It could be better, by this command.
    pub fn warn(
        need: Need,
        says: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let mend = Some(mend.into());
        Self { need, state: Level::Warn, says: says.into(), mend }
    }

    /// Something that is known to be so, and that no command changes.
    pub fn note(need: Need, says: impl Into<String>) -> Self {
        Self { need, state: Level::Warn, says: says.into(), mend: None }
    }

    /// It fails, and this command mends it.
    pub fn fail(
        need: Need,
        says: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let mend = Some(mend.into());
        Self { need, state: Level::Fail, says: says.into(), mend }
    }
}

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Whether nothing fails.
    #[must_use]
    pub fn all_well(&self) -> bool {
        self.0.iter().all(|one| one.state != Level::Fail)
    }

    /// As JSON, for programs: `{"ok": bool, "checks": [...]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"ok": self.all_well(), "checks": self.0})
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.0 {
            let (state, need) = (one.state.word(), one.need.as_str());
            writeln!(f, "{state:<4}  {need:<11}  {}", escape(&one.says))?;
            if let Some(mend) = &one.mend {
                writeln!(f, "{:<4}  {:<11}  -> {}", "", "", escape(mend))?;
            }
        }
        let count = |level| self.0.iter().filter(|f| f.state == level).count();
        let (fail, warn) = (count(Level::Fail), count(Level::Warn));
        match (fail, warn) {
            (0, 0) => writeln!(f, "all is well"),
            (0, _) => writeln!(f, "nothing fails; {warn} to look at"),
            (_, 0) => writeln!(f, "{fail} to mend"),
            _ => writeln!(f, "{fail} to mend, {warn} to look at"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Findings {
        Findings(vec![
            Finding::ok(Need::Git, "git version 2.39"),
            Finding::warn(Need::Clock, "7 s ahead", "chronyc makestep"),
            Finding::fail(Need::Dispatcher, "gone\n\u{1b}[2J", "start it"),
        ])
    }

    #[test]
    fn people_read_one_line_each_and_what_to_do() {
        let shown = all().to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "ok    git          git version 2.39");
        assert_eq!(lines[1], "warn  clock        7 s ahead");
        assert_eq!(lines[2], "                   -> chronyc makestep");
        assert!(lines[3].starts_with("FAIL  dispatcher   gone\\n"));
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        assert_eq!(lines[5], "1 to mend, 1 to look at");
    }

    #[test]
    fn programs_read_whether_all_is_well() {
        let mut all = all();
        assert_eq!(all.to_json()["ok"], false);
        assert_eq!(all.to_json()["checks"][2]["state"], "fail");
        all.0.pop();
        assert_eq!(all.to_json()["ok"], true);
        assert_eq!(all.to_json()["checks"][1]["need"], "clock");
        assert_eq!(all.to_json()["checks"][0].get("mend"), None);
    }
}
