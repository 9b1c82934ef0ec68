//! A zone as `vmadm get` shows it: one JSON object.

use serde_json::{Map, Value, json};

use crate::cgroup::Cgroups;
use crate::clock;
use crate::condition::Condition;
use crate::usage::Usage;
use crate::zone::{Run, Zone, ZoneError};

/// The last end of a zone: `exit.json`.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct LastExit {
    /// 0 after a halt.
    pub status: i32,
    /// When, milliseconds since 1970.
    pub ended_ms: u64,
}

/// A zone with everything that the commands ask about it.
#[derive(Debug)]
pub(super) struct View {
    /// Its present boot.
    pub run: Option<Run>,
    /// In which state it is.
    pub condition: Condition,
    /// The whole object.
    pub object: Map<String, Value>,
}

/// Properties that stand in the manifest for our own use.
const HIDDEN: [&str; 1] = ["ntrace_base"];

impl View {
    /// The property `state`.
    pub(super) fn state(&self) -> &'static str {
        self.condition.state()
    }

    /// Looks at a zone.
    pub(super) fn of(zone: &Zone) -> Result<View, ZoneError> {
        let mut object = zone.manifest()?;
        for name in HIDDEN {
            object.remove(name);
        }
        let disk = zone.disk()?;
        let run = zone.run();
        let condition =
            Condition::of(zone, run.as_ref(), disk.failed.is_some());
        let mut put = |name: &str, value: Value| {
            object.insert(name.to_owned(), value);
        };
        put("state", json!(condition.state()));
        put("zone_state", json!(condition.zone_state()));
        put("autoboot", json!(zone.autoboot()));
        put("customer_metadata", disk.metadata.customer_metadata.into());
        put("internal_metadata", disk.metadata.internal_metadata.into());
        put("tags", disk.metadata.tags.into());
        put("routes", disk.metadata.routes.into());
        put("last_modified", json!(last_modified(zone)));
        let mut snapshots: Vec<_> = disk.snapshots.iter().collect();
        snapshots.sort_by_key(|one| {
            std::cmp::Reverse((one.created_ms / 1000, one.serial))
        });
        let shown = snapshots.into_iter().map(|one| {
            json!({
                "name": one.name,
                "size": one.bytes as f64 / f64::from(1 << 20),
                "created_at": clock::iso(one.created_ms / 1000 * 1000),
            })
        });
        put("snapshots", shown.collect());
        if let Some(why) = &disk.failed {
            put("failure", json!(why));
        }
        match &run {
            Some(run) => {
                put("pid", json!(run.init.pid));
                put("zoneid", json!(run.zoneid));
                put("boot_timestamp", json!(clock::iso(run.booted_ms)));
                put("ntrace", own(zone, run, disk.generation));
            }
            None => {
                put("zoneid", Value::Null);
                if let Some(last) = zone.note::<LastExit>("exit.json") {
                    put("exit_status", json!(last.status));
                    put("exit_timestamp", json!(clock::iso(last.ended_ms)));
                }
                put("ntrace", json!({ "generation": disk.generation }));
            }
        }
        Ok(View { run, condition, object })
    }
}

fn own(zone: &Zone, run: &Run, generation: u64) -> Value {
    let cgroups = Cgroups { groups: run.cgroups.clone() };
    json!({
        "generation": generation,
        "boot_id": run.boot_id,
        "userns": run.userns,
        "overlay": run.overlay,
        "network": run.network,
        "limits": run.limits,
        "notes": run.notes,
        "usage": Usage::current(zone, run).shown(),
        "trace": {
            "group": cgroups.trace_group(),
            "socket": zone.tracer_socket(),
        },
    })
}

fn last_modified(zone: &Zone) -> String {
    let of = |name: &str| {
        let meta = std::fs::metadata(zone.dir().join(name)).ok()?;
        let since =
            meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs() * 1000)
    };
    let latest = ["manifest.json", "state.json", "autoboot"]
        .into_iter()
        .filter_map(of)
        .max();
    clock::iso(latest.unwrap_or(0))
}
