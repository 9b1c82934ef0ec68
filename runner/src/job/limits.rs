//! From what a job asks for to what is enforced, or why it is refused.
//!
//! Pure. A limit is enforced or refused, never ignored; where a place has
//! only a weaker means, the record says which.

use std::time::Duration;

use ntrace_protocol::Limits;
use ntrace_zones::{Means, Vm, VmLimits};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a runner gives to jobs that ask for nothing, and at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// For what a job does not name.
    pub defaults: Limits,
    /// What a job may ask for at most.
    pub ceiling: Limits,
}

/// The VM's own limits, as its operator set them: what a job gets that asks
/// for nothing, and the most that a job can get.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Baseline {
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Processors in hundredths; none or 0 is no cap.
    pub cpu_cap: Option<u64>,
    /// Processes and threads.
    pub max_lwps: Option<u64>,
    /// Disk in GiB.
    pub quota_gib: Option<u64>,
}

impl Baseline {
    /// The limits that a VM has now.
    pub fn of(vm: &Vm) -> Self {
        Self {
            memory_mib: vm.max_physical_memory,
            cpu_cap: vm.cpu_cap,
            max_lwps: vm.max_lwps,
            quota_gib: vm.quota,
        }
    }
}

/// What is enforced for a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// How long the command may run.
    pub(super) time: Option<Duration>,
    /// How long the set-up may run.
    pub(super) setup_time: Option<Duration>,
    /// How long it may say nothing.
    pub(super) silence: Option<Duration>,
    /// Bytes of output that are kept.
    pub(super) output: Option<u64>,
    /// Bytes of artefacts that are kept.
    pub(super) artefacts: Option<u64>,
    /// Processes at once, where the place itself cannot change its limit
    /// while it runs.
    pub(super) pids: Option<u64>,
    /// What is to be changed at the VM; empty if it is so already.
    pub(super) vm: VmLimits,
    /// What is to be known: weaker means, rounding.
    pub(super) notes: Vec<String>,
}

/// Makes a plan.
///
/// # Errors
/// A sentence that names each limit that cannot be enforced here.
pub(super) fn plan(
    asked: &Limits,
    policy: &Policy,
    baseline: &Baseline,
    vm: &Vm,
) -> Result<Plan, String> {
    let above = asked.above(&policy.ceiling);
    if !above.is_empty() {
        return Err(format!(
            "it asks for more than this runner allows: {}; the most is {}",
            above.join(", "),
            policy.ceiling.to_value()
        ));
    }
    let granted = asked.clone().or(&policy.defaults);
    let means = vm.ntrace.as_ref().map(|own| &own.limits);
    let mut notes: Vec<String> = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    let mut check = |name: &str, is_asked: bool, means: Option<&str>| {
        match means {
            // SmartOS enforces all of them.
            None | Some("cgroup" | "tmpfs") => {}
            Some("none") if is_asked => missing.push(format!(
                "{name} cannot be limited in this worker; leave that limit \
                 out or use a worker that has cgroups"
            )),
            Some(weaker) if is_asked => {
                notes.push(format!("{name} is limited by {weaker}"));
            }
            Some(_) => {}
        }
    };
    let by = |of: fn(&Means) -> &Option<String>| {
        means.map(|m| of(m).as_deref().unwrap_or("none"))
    };
    check("memory", granted.memory.is_some(), by(|m| &m.memory));
    check("cpus", granted.cpus.is_some(), by(|m| &m.cpu));
    check("pids", granted.pids.is_some(), by(|m| &m.pids));
    check("disk", granted.disk.is_some(), by(|m| &m.disk));
    let has_cgroup = matches!(by(|m| &m.pids), None | Some("cgroup"));
    let wanted = wanted(&granted, baseline, &mut missing, &mut notes);
    if !missing.is_empty() {
        return Err(missing.join("; "));
    }
    Ok(Plan {
        time: granted.time,
        setup_time: granted.setup_time,
        silence: granted.silence,
        output: granted.output,
        artefacts: granted.artefacts,
        pids: granted.pids.filter(|_| !has_cgroup),
        vm: differing(wanted, Baseline::of(vm)),
        notes,
    })
}

/// What the VM is to have, in its own units.
fn wanted(
    granted: &Limits,
    baseline: &Baseline,
    missing: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Baseline {
    let mut most = |name: &str, asked: Option<u64>, has: Option<u64>| match (
        asked,
        has.filter(|has| *has > 0),
    ) {
        (Some(asked), Some(has)) if asked > has => {
            missing.push(format!(
                "it asks for {name} {asked} and the worker has {has}"
            ));
            Some(has)
        }
        (asked, _) => asked.or(has),
    };
    let memory = granted.memory.map(|bytes| bytes.div_ceil(MIB));
    let disk = granted.disk.map(|bytes| bytes.div_ceil(GIB));
    if granted.disk.is_some_and(|bytes| bytes % GIB != 0) {
        notes.push("disk is limited in whole GiB, rounded up".to_owned());
    }
    // Fits: cpus is at most 4096.
    let cpus = granted.cpus.map(|cpus| (cpus * 100.0).ceil() as u64);
    Baseline {
        memory_mib: most("memory (MiB)", memory, baseline.memory_mib),
        cpu_cap: most("cpus (hundredths)", cpus, baseline.cpu_cap),
        max_lwps: most("pids", granted.pids, baseline.max_lwps),
        quota_gib: most("disk (GiB)", disk, baseline.quota_gib),
    }
}

fn differing(wanted: Baseline, has: Baseline) -> VmLimits {
    let change = |wanted: Option<u64>, has: Option<u64>| {
        wanted.filter(|_| wanted != has)
    };
    // No cap is written as 0.
    let cap = |cap: Option<u64>| Some(cap.unwrap_or(0));
    VmLimits {
        memory_mib: change(wanted.memory_mib, has.memory_mib),
        cpu_cap: change(cap(wanted.cpu_cap), cap(has.cpu_cap)),
        max_lwps: change(wanted.max_lwps, has.max_lwps),
        quota_gib: change(wanted.quota_gib, has.quota_gib),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vm(limits: Value) -> Vm {
        serde_json::from_value(json!({
            "uuid": "c0ffee00-1111-4222-8333-444455556666",
            "state": "running", "max_physical_memory": 1024,
            "max_lwps": 500, "quota": 10, "ntrace": {"limits": limits},
        }))
        .unwrap()
    }

    fn cgroups() -> Vm {
        vm(json!({"memory": "cgroup", "cpu": "cgroup", "pids": "cgroup",
            "disk": "watched"}))
    }

    fn asked(limits: Value) -> Limits {
        Limits::from_value(&limits).unwrap()
    }

    fn make(limits: Value, vm: &Vm) -> Result<Plan, String> {
        let baseline = Baseline::of(&cgroups());
        plan(&asked(limits), &Policy::default(), &baseline, vm)
    }

    #[test]
    fn a_job_that_asks_for_nothing_changes_nothing() {
        let plan = make(json!({}), &cgroups()).unwrap();
        assert_eq!(plan.vm, VmLimits::default());
        assert!(plan.notes.is_empty());
    }

    #[test]
    fn what_is_asked_for_is_set_and_taken_back_later() {
        let limits = json!({"memory": "100MiB", "cpus": 0.5, "pids": 20});
        let plan = make(limits, &cgroups()).unwrap();
        assert_eq!(plan.vm.memory_mib, Some(100));
        assert_eq!(plan.vm.cpu_cap, Some(50));
        assert_eq!(plan.vm.max_lwps, Some(20));
        assert_eq!(plan.vm.quota_gib, None);
        let mut changed = cgroups();
        changed.max_physical_memory = Some(100);
        changed.cpu_cap = Some(50);
        let plan = make(json!({}), &changed).unwrap();
        assert_eq!(plan.vm.memory_mib, Some(1024));
        assert_eq!(plan.vm.cpu_cap, Some(0));
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_by_name() {
        let bare = vm(json!({"memory": "watched", "cpu": "none",
            "pids": "pid_max", "disk": "watched"}));
        let error = make(json!({"cpus": 1}), &bare).unwrap_err();
        assert!(error.contains("cpus cannot be limited"), "{error}");
        let plan = make(json!({"memory": "64MiB"}), &bare).unwrap();
        assert_eq!(plan.notes, ["memory is limited by watched"]);
        let plan = make(json!({"pids": 20}), &bare).unwrap();
        assert_eq!(plan.pids, Some(20), "the job's own limit");
        let plan = make(json!({"pids": 20}), &cgroups()).unwrap();
        assert_eq!(plan.pids, None, "the cgroup's");
        assert!(make(json!({}), &bare).unwrap().notes.is_empty());
    }

    #[test]
    fn more_than_the_worker_has_is_refused() {
        let error = make(json!({"memory": "2GiB"}), &cgroups()).unwrap_err();
        assert!(error.contains("memory"), "{error}");
    }

    #[test]
    fn more_than_the_runner_allows_is_refused_and_defaults_fill_in() {
        let policy = Policy {
            defaults: asked(json!({"time": "10m"})),
            ceiling: asked(json!({"time": "1h"})),
        };
        let vm = cgroups();
        let baseline = Baseline::of(&vm);
        let make = |l| plan(&asked(l), &policy, &baseline, &vm);
        let error = make(json!({"time": "2h"})).unwrap_err();
        assert!(error.contains("time"), "{error}");
        let ten = Some(Duration::from_secs(600));
        assert_eq!(make(json!({})).unwrap().time, ten);
    }

    #[test]
    fn a_place_without_an_own_object_enforces_all() {
        let mut smartos = cgroups();
        smartos.ntrace = None;
        let limits = json!({"cpus": 1, "disk": "5GiB"});
        let plan = make(limits, &smartos).unwrap();
        assert_eq!(plan.vm.quota_gib, Some(5));
        assert!(plan.notes.is_empty());
    }
}
