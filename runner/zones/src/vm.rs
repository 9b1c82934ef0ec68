//! A VM as `vmadm get` tells it.
//!
//! Plain values from JSON. Must not know how the JSON was had. What a
//! stand-in adds (`ntrace`) is optional everywhere.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::name::WorkerUuid;

/// The state of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
pub enum VmState {
    /// Its init runs; that says nothing about being ready.
    Running,
    /// It is down and can be started.
    Stopped,
    /// It is being created.
    Provisioning,
    /// Something went wrong for good.
    Failed,
    /// On its way down.
    ShuttingDown,
    /// Almost down: held by something.
    Down,
    /// Almost up.
    Ready,
    /// Half made or half removed.
    Incomplete,
    /// Not installed.
    Configured,
    /// What vmadm knows and we do not.
    Other(String),
}

impl From<String> for VmState {
    fn from(text: String) -> Self {
        match text.as_str() {
            "running" => Self::Running,
            "stopped" => Self::Stopped,
            "provisioning" => Self::Provisioning,
            "failed" => Self::Failed,
            "shutting_down" => Self::ShuttingDown,
            "down" => Self::Down,
            "ready" => Self::Ready,
            "incomplete" => Self::Incomplete,
            "configured" => Self::Configured,
            _ => Self::Other(text),
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Provisioning => "provisioning",
            Self::Failed => "failed",
            Self::ShuttingDown => "shutting_down",
            Self::Down => "down",
            Self::Ready => "ready",
            Self::Incomplete => "incomplete",
            Self::Configured => "configured",
            Self::Other(text) => {
                return f.write_str(&crate::quote::visible(text));
            }
        })
    }
}

/// A snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Snapshot {
    /// Its name. Free text: others than us may have made it.
    pub name: String,
    /// Its size in MiB.
    #[serde(default)]
    pub size: Option<f64>,
    /// When it was made, in whole seconds.
    #[serde(default)]
    pub created_at: Option<String>,
}

/// Which boot of a VM this is. Two equal ones are the same boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Boot {
    timestamp: Option<String>,
    id: Option<String>,
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.timestamp, &self.id) {
            (Some(text), _) | (None, Some(text)) => {
                f.write_str(&crate::quote::visible(text))
            }
            (None, None) => f.write_str("never"),
        }
    }
}

/// What a stand-in says beyond SmartOS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Extension {
    /// Counts up with each rollback.
    pub generation: Option<u64>,
    /// Random at each boot.
    pub boot_id: Option<String>,
    /// How ids are mapped: `range` or `single`.
    pub userns: Option<String>,
    /// How the file system is made.
    pub overlay: Option<String>,
    /// What network there is.
    pub network: Option<String>,
    /// By what means each limit is kept.
    pub limits: Means,
    /// Sentences on each weaker means.
    pub notes: Vec<String>,
    /// What the current boot has used.
    pub usage: Option<VmUsage>,
    /// Where a tracer finds it.
    pub trace: Option<TracePlaces>,
}

/// Where a tracer finds a stand-in's zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TracePlaces {
    /// The cgroup for perf events.
    pub group: Option<PathBuf>,
    /// The socket on which the job's first process looks for a tracer.
    pub socket: Option<PathBuf>,
}

/// By what means each limit of a stand-in's zone is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Means {
    /// `cgroup`, `watched` or `none`.
    pub memory: Option<String>,
    /// `cgroup` or `none`.
    pub cpu: Option<String>,
    /// `cgroup`, `pid_max`, `rlimit` or `none`.
    pub pids: Option<String>,
    /// `watched`, `tmpfs` or `none`.
    pub disk: Option<String>,
}

/// What the current boot of a stand-in's zone has used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VmUsage {
    /// Processor time.
    pub cpu_ms: Option<u64>,
    /// Peak memory in bytes.
    pub max_rss: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
    /// How often the limit on processes was met.
    pub pids_hits: Option<u64>,
    /// Whether the zone's processes were killed for their disk use.
    pub disk_killed: Option<bool>,
    /// Whether they were killed for their memory use by a watcher.
    pub memory_killed: Option<bool>,
    /// Bytes written to the zone's own layer.
    pub disk_bytes: Option<u64>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Vm {
    /// Its UUID.
    pub uuid: WorkerUuid,
    /// Its state.
    pub state: VmState,
    /// The state of its zone, which may differ while it is made.
    #[serde(default)]
    pub zone_state: Option<String>,
    /// What kind of VM it is.
    #[serde(default)]
    pub brand: Option<String>,
    /// A name for people.
    #[serde(default)]
    pub alias: Option<String>,
    /// Whether it is started with its host.
    #[serde(default)]
    pub autoboot: Option<bool>,
    /// When it was booted, if it is running.
    #[serde(default)]
    boot_timestamp: Option<String>,
    /// The pid of its process 1, if it is running.
    #[serde(default)]
    pub pid: Option<i64>,
    /// Its snapshots, newest first.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// Its memory in MiB.
    #[serde(default)]
    pub max_physical_memory: Option<u64>,
    /// Its processors in hundredths.
    #[serde(default)]
    pub cpu_cap: Option<u64>,
    /// Its processes and threads.
    #[serde(default)]
    pub max_lwps: Option<u64>,
    /// Its disk in GiB.
    #[serde(default)]
    pub quota: Option<u64>,
    /// What only a stand-in says.
    #[serde(default)]
    pub ntrace: Option<Extension>,
}

impl Vm {
    /// Which boot this is; only a running VM has one.
    #[must_use]
    pub fn boot(&self) -> Option<Boot> {
        if self.state != VmState::Running {
            return None;
        }
        let id = self.ntrace.as_ref().and_then(|own| own.boot_id.clone());
        Some(Boot { timestamp: self.boot_timestamp.clone(), id })
    }

    /// Snapshots that are newer than `name`; None when it has no `name`.
    #[must_use]
    pub fn newer_than(&self, name: &str) -> Option<&[Snapshot]> {
        let at = self.snapshots.iter().position(|one| one.name == name)?;
        Some(&self.snapshots[..at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "c0ffee00-1111-4222-8333-444455556666";

    fn vm(more: &str) -> Vm {
        let text = format!("{{\"uuid\":\"{U}\",{more}}}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_smartos_object_is_read_and_strange_fields_are_passed_over() {
        let vm =
            vm(r#""state":"running","zone_state":"running","autoboot":true,
            "brand":"joyent","nics":[{"ip":"dhcp"}],"quota":10,
            "max_physical_memory":1024,"boot_timestamp":
            "2026-01-01T00:00:00.000Z","zoneid":null,"snapshots":[
            {"name":"newer","size":0.2,"created_at":"2026-01-02T00:00:00.000Z"},
            {"name":"clean","size":0.01,"created_at":"2026-01-01T00:00:00.000Z"}
            ]"#);
        assert_eq!(vm.state, VmState::Running);
        assert_eq!(vm.newer_than("clean").unwrap().len(), 1);
        assert_eq!(vm.newer_than("newer").unwrap().len(), 0);
        assert!(vm.newer_than("other").is_none());
        assert!(vm.ntrace.is_none());
    }

    #[test]
    fn an_unknown_state_keeps_its_name_but_not_its_escapes() {
        let vm = vm(r#""state":"re\u001bceiving""#);
        assert_eq!(vm.state.to_string(), r"re\u{1b}ceiving");
    }

    #[test]
    fn two_boots_differ_by_timestamp_or_by_id() {
        let at = |time: &str, id: &str| {
            vm(&format!(
                r#""state":"running","boot_timestamp":"{time}",
                "ntrace":{{"boot_id":"{id}","future":1}}"#
            ))
            .boot()
        };
        assert_eq!(at("a", "1"), at("a", "1"));
        assert_ne!(at("a", "1"), at("b", "1"));
        assert_ne!(at("a", "1"), at("a", "2"));
        assert_eq!(vm(r#""state":"stopped""#).boot(), None);
    }

    #[test]
    fn a_null_usage_is_no_usage() {
        let vm = vm(r#""state":"stopped","ntrace":{"usage":null}"#);
        assert_eq!(vm.ntrace.unwrap().usage, None);
    }
}
