//! What a zone used in one boot: `usage.json`, and its form in `vmadm get`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cgroup::{Cgroups, Used};
use crate::zone::{Run, Zone};

/// `usage.json`. Written by the keeper when something happens and at the
/// end; in between the cgroups are asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Of which boot.
    pub boot_id: String,
    /// Whether that boot is over, and the figures are final.
    pub finished: bool,
    /// Processor time.
    pub cpu_ms: Option<u64>,
    /// Peak of memory in bytes.
    pub max_rss: Option<u64>,
    /// Peak that the keeper saw, where it watches memory.
    pub watched_rss: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Forks refused by the limit.
    pub pids_hits: Option<u64>,
    /// Whether the keeper killed for the quota.
    pub disk_killed: bool,
    /// Whether the keeper killed for memory.
    pub memory_killed: bool,
    /// Bytes of the writable layer, as last counted.
    pub disk_bytes: Option<u64>,
}

impl Usage {
    /// Of a boot that begins.
    pub(crate) fn new(boot_id: &str) -> Usage {
        Usage { boot_id: boot_id.to_owned(), ..Usage::default() }
    }

    /// Takes over what the cgroups say.
    pub(crate) fn take(&mut self, used: &Used) {
        self.cpu_ms = used.cpu_ms;
        self.max_rss = used.max_rss.or(self.watched_rss);
        self.oom_kills = used.oom_kills;
        self.pids_hits = used.pids_hits;
    }

    /// The usage of the present boot.
    pub(crate) fn current(zone: &Zone, run: &Run) -> Usage {
        let noted = zone
            .note::<Usage>("usage.json")
            .filter(|usage| usage.boot_id == run.boot_id);
        let mut usage = noted.unwrap_or_else(|| Usage::new(&run.boot_id));
        if !usage.finished {
            usage.take(&Cgroups { groups: run.cgroups.clone() }.used());
        }
        usage
    }

    /// As `vmadm get` shows it.
    pub(crate) fn shown(&self) -> Value {
        json!({
            "cpu_ms": self.cpu_ms,
            "max_rss": self.max_rss,
            "oom_kills": self.oom_kills,
            "pids_hits": self.pids_hits,
            "disk_killed": self.disk_killed,
            "memory_killed": self.memory_killed,
            "disk_bytes": self.disk_bytes,
        })
    }
}
