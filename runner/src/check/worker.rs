//! Each enrolled worker: its VM, its snapshot, and whether commands run in
//! it.
//!
//! A runner beside us may reset a worker while we look. So what looks wrong
//! is looked at twice, and a VM that is on its way is not called broken.

use ntrace_protocol::WorkerState;
use ntrace_protocol::worker::WorkerView;
use ntrace_zones::{Class, Vm, VmState};

use super::finding::{Finding, Need};

/// What vmadm said of a VM.
#[derive(Clone, Debug)]
pub(super) enum Look {
    /// It is there.
    Seen(Box<Vm>),
    /// vmadm failed.
    Failed(Option<Class>, String),
}

/// What was found of a worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerFact {
    pub(super) uuid: String,
    pub(super) snapshot: String,
    pub(super) look: Look,
    /// What running a command in it gave, if it was running.
    pub(super) zlogin: Option<Result<(), String>>,
    /// A second look, after something was wrong.
    pub(super) again: Option<Look>,
    /// What a runner at work here says of it.
    pub(super) told: Option<WorkerView>,
}

/// How commands reach the place.
#[derive(Clone, Debug)]
pub(super) struct Hands {
    /// What stands before `vmadm`: nothing, or ssh with its options.
    pub(super) before: String,
    /// Where the runner listens, as nc takes it.
    pub(super) control: String,
}

impl Hands {
    fn vmadm(&self, args: &str) -> String {
        format!("{}vmadm {args}", self.before)
    }

    fn control(&self, command: &str, uuid: &str) -> String {
        let control = &self.control;
        format!("printf '[\"{command}\",[\"{uuid}\"],1]\\n' | nc -N {control}")
    }
}

/// What is known about one worker.
pub(super) fn judge(fact: &WorkerFact, hands: &Hands) -> Vec<Finding> {
    let uuid = &fact.uuid;
    let vm = match &fact.look {
        Look::Seen(vm) => vm,
        Look::Failed(class, said) => {
            return vec![not_seen(uuid, *class, said, hands)];
        }
    };
    if let Some(finding) = wrong_vm(fact, vm, hands) {
        return vec![finding];
    }
    let mut findings = vec![told(fact, vm, hands)];
    if let Some(finding) = zlogin(fact, vm, hands) {
        findings.push(finding);
    }
    findings
}

fn not_seen(
    uuid: &str,
    class: Option<Class>,
    said: &str,
    hands: &Hands,
) -> Finding {
    if class == Some(Class::VmGone) {
        let mend = format!(
            "{}   (or make it again, and give it its snapshot)",
            hands.control("expel", uuid)
        );
        let says = format!("{uuid}: there is no such VM");
        return Finding::fail(Need::Worker, says, mend);
    }
    let says = format!("{uuid}: {said}");
    Finding::fail(Need::Worker, says, hands.vmadm(&format!("get {uuid}")))
}

/// What makes a VM useless as a worker.
fn wrong_vm(fact: &WorkerFact, vm: &Vm, hands: &Hands) -> Option<Finding> {
    let (uuid, snapshot) = (&fact.uuid, &fact.snapshot);
    let fail = |says: String, mend: String| {
        Some(Finding::fail(Need::Worker, format!("{uuid}: {says}"), mend))
    };
    if let Some(brand) = vm.brand.as_deref()
        && ["kvm", "bhyve"].contains(&brand)
    {
        let says = format!("a VM of brand {brand} cannot be rolled back");
        return fail(says, hands.control("expel", uuid));
    }
    if vm.newer_than(snapshot).is_none() {
        let mend = hands.vmadm(&format!("create-snapshot {uuid} {snapshot}"));
        return fail(format!("it has no snapshot {snapshot}"), mend);
    }
    let state = match &fact.again {
        Some(Look::Seen(again)) => &again.state,
        _ => &vm.state,
    };
    match state {
        VmState::Running | VmState::Stopped => None,
        // A reset passes through these.
        VmState::ShuttingDown | VmState::Down | VmState::Ready
            if fact.told.is_some() =>
        {
            None
        }
        VmState::ShuttingDown | VmState::Down => fail(
            format!("it is {state} and does not get further"),
            hands.vmadm(&format!("stop {uuid} -F")),
        ),
        state => fail(
            format!("it is {state}, which the runner cannot mend"),
            hands.vmadm(&format!("get {uuid}")),
        ),
    }
}

/// What the runner beside us says, or the VM alone.
fn told(fact: &WorkerFact, vm: &Vm, hands: &Hands) -> Finding {
    let (uuid, snapshot) = (&fact.uuid, &fact.snapshot);
    let newer = vm.newer_than(snapshot).map_or(0, <[_]>::len);
    if let Some(view) = &fact.told
        && view.state == WorkerState::Defunct
    {
        let why = view.reason.as_deref().unwrap_or("nobody knows why");
        let says = format!("{uuid}: the runner has given it up: {why}");
        let mend =
            format!("{}   (once that is mended)", hands.control("clean", uuid));
        return Finding::fail(Need::Worker, says, mend);
    }
    if newer > 0 {
        let says = format!(
            "{uuid}: {newer} of its snapshots are newer than {snapshot}; a \
             rollback deletes them"
        );
        let mend = hands.vmadm(&format!("get {uuid}"));
        return Finding::warn(Need::Worker, says, mend);
    }
    let is_left_down = vm.state == VmState::Stopped
        && vm.autoboot == Some(false)
        && fact.told.is_none();
    if is_left_down {
        let says = format!(
            "{uuid}: it is stopped and will not start with its host, as \
             after a failed rollback; the runner starts it"
        );
        let mend = hands.vmadm(&format!("start {uuid}"));
        return Finding::warn(Need::Worker, says, mend);
    }
    let alias = vm.alias.as_deref().map(|alias| format!(" ({alias})"));
    let alias = alias.unwrap_or_default();
    let state = match &fact.told {
        Some(view) => format!("{} at the runner", view.state.as_str()),
        None => vm.state.to_string(),
    };
    let says = format!("{uuid}{alias}: {state}, snapshot {snapshot}");
    Finding::ok(Need::Worker, says)
}

fn zlogin(fact: &WorkerFact, vm: &Vm, hands: &Hands) -> Option<Finding> {
    let uuid = &fact.uuid;
    let why = match fact.zlogin.as_ref()? {
        Ok(()) => {
            let says = format!("{uuid}: commands run in it");
            return Some(Finding::ok(Need::Zlogin, says));
        }
        Err(why) => why,
    };
    let is_another_boot = match &fact.again {
        Some(Look::Seen(again)) => again.boot() != vm.boot(),
        _ => false,
    };
    let on_its_way = fact.told.as_ref().is_some_and(|view| {
        !matches!(view.state, WorkerState::Available | WorkerState::Running)
    });
    if is_another_boot || on_its_way {
        let says = format!("{uuid}: not asked, it is being reset");
        return Some(Finding::ok(Need::Zlogin, says));
    }
    let says = format!("{uuid}: nothing runs in it: {why}");
    let mend = format!("{}zlogin -Q {uuid} true", hands.before);
    Some(Finding::fail(Need::Zlogin, says, mend))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::finding::Level;
    use super::*;

    const U: &str = "c0ffee00-1111-4222-8333-444455556666";

    fn vm(more: Value) -> Look {
        let mut vm = json!({
            "uuid": U, "state": "running", "autoboot": true,
            "boot_timestamp": "2026-01-01T00:00:00.000Z",
            "snapshots": [{"name": "clean"}],
        });
        for (key, value) in more.as_object().unwrap() {
            vm[key] = value.clone();
        }
        Look::Seen(Box::new(serde_json::from_value(vm).unwrap()))
    }

    fn fact(look: Look) -> WorkerFact {
        WorkerFact {
            uuid: U.to_owned(),
            snapshot: "clean".to_owned(),
            look,
            zlogin: None,
            again: None,
            told: None,
        }
    }

    fn told(state: &str) -> Option<WorkerView> {
        Some(
            serde_json::from_value(json!({
                "uuid": U, "state": state, "snapshot": "clean",
                "since": "2026-01-01T00:00:00.000Z", "reason": "because",
            }))
            .unwrap(),
        )
    }

    #[track_caller]
    fn check(fact: &WorkerFact, level: Level, says: &str, mend: &str) {
        let hands = Hands {
            before: "ssh ssh://root@gz ".to_owned(),
            control: "localhost 9182".to_owned(),
        };
        let findings = judge(fact, &hands);
        let worst = findings.iter().max_by_key(|one| one.state).unwrap();
        assert_eq!(worst.state, level, "{findings:?}");
        let all = format!("{findings:?}");
        assert!(all.contains(says), "{all}");
        let shown = worst.mend.clone().unwrap_or_default();
        assert!(shown.contains(mend), "{shown}");
    }

    #[test]
    fn a_prepared_vm_is_well() {
        let mut good = fact(vm(json!({})));
        check(&good, Level::Ok, "snapshot clean", "");
        good.zlogin = Some(Ok(()));
        check(&good, Level::Ok, "commands run in it", "");
        good.told = told("available");
        check(&good, Level::Ok, "available at the runner", "");
        check(&fact(vm(json!({"state": "stopped"}))), Level::Ok, "stopped", "");
    }

    #[test]
    fn what_is_missing_is_named_with_its_command() {
        let gone = fact(Look::Failed(Some(Class::VmGone), "x".to_owned()));
        check(&gone, Level::Fail, "no such VM", "[\"expel\",");
        let bare = fact(vm(json!({"snapshots": []})));
        let mend = format!("ssh ssh://root@gz vmadm create-snapshot {U} clean");
        check(&bare, Level::Fail, "no snapshot clean", &mend);
        let kvm = fact(vm(json!({"brand": "kvm"})));
        check(&kvm, Level::Fail, "brand kvm", "expel");
        let broken = fact(vm(json!({"state": "failed"})));
        check(&broken, Level::Fail, "failed", "vmadm get");
        let hung = fact(Look::Failed(None, "late".to_owned()));
        check(&hung, Level::Fail, "late", "vmadm get");
    }

    #[test]
    fn what_a_person_should_know_is_a_warning() {
        let newer = json!({"snapshots": [{"name": "mine"}, {"name": "clean"}]});
        check(&fact(vm(newer)), Level::Warn, "deletes them", "vmadm get");
        let down = json!({"state": "stopped", "autoboot": false});
        check(&fact(vm(down)), Level::Warn, "failed rollback", "vmadm start");
    }

    #[test]
    fn a_vm_that_a_runner_resets_is_not_broken() {
        let mut going = fact(vm(json!({"state": "shutting_down"})));
        check(&going, Level::Fail, "further", "stop");
        going.told = told("halting");
        check(&going, Level::Ok, "halting at the runner", "");
        let mut booted = fact(vm(json!({})));
        booted.zlogin = Some(Err("no".to_owned()));
        check(&booted, Level::Fail, "nothing runs in it", "zlogin -Q");
        booted.again =
            Some(vm(json!({"boot_timestamp": "2026-01-02T00:00:00.000Z"})));
        check(&booted, Level::Ok, "being reset", "");
        booted.again = None;
        booted.told = told("probing");
        check(&booted, Level::Ok, "being reset", "");
    }

    #[test]
    fn a_defunct_worker_fails_with_the_runners_reason() {
        let mut one = fact(vm(json!({})));
        one.told = told("defunct");
        check(&one, Level::Fail, "because", "[\"clean\",");
    }
}
