//! `create-snapshot`, `rollback-snapshot`, `delete-snapshot`.

use serde_json::{Map, Value};

use super::power::{boot, gone, halt_now, plain};
use super::view::View;
use super::{Call, Done, Failure, Outcome, timed_out};
use crate::checkpoint::{self, Checkpoint};
use crate::condition::Condition;
use crate::faults::{Fault, Faults};
use crate::halt;
use crate::names::SnapshotName;
use crate::snapshot;
use crate::spec::Spec;
use crate::sys;
use crate::trash;
use crate::zone::{LockKind, Zone};

fn arguments<'a>(
    call: &'a Call<'_>,
) -> Result<(&'a str, SnapshotName), Failure> {
    let uuid = call.uuid()?;
    let [_, name] = call.args else {
        return Err(Failure::Usage(Some(format!(
            "Wrong number of parameters to \"{}\"",
            call.word
        ))));
    };
    let name = SnapshotName::parse(name)
        .map_err(|_| Failure::new("Invalid snapshot name"))?;
    Ok((uuid, name))
}

/// Refuses kinds of VMs that have no snapshots.
fn check_brand(manifest: &Map<String, Value>) -> Result<(), Failure> {
    if manifest.get("brand").is_some_and(|brand| brand == "kvm") {
        return Err(Failure::new(
            "snapshots for kvm VMs currently unsupported",
        ));
    }
    Ok(())
}

/// `vmadm create-snapshot`.
pub(super) fn create(call: &Call<'_>) -> Outcome {
    let (uuid, name) = arguments(call)?;
    let zone = call.zone(uuid).ok_or_else(|| gone(uuid))?;
    let manifest = zone.manifest().map_err(plain)?;
    check_brand(&manifest)?;
    let _power = zone.lock(LockKind::Power).map_err(plain)?;
    let _config = zone.lock(LockKind::Config).map_err(plain)?;
    halt::sweep(&zone);
    let datasets = manifest.get("datasets").and_then(Value::as_array);
    if datasets.is_some_and(|all| !all.is_empty()) {
        return Err(Failure::new(
            "Cannot currently snapshot zones that have datasets",
        ));
    }
    let disk = zone.disk().map_err(plain)?;
    if disk.snapshot(&name).is_some() {
        return Err(Failure::Error(format!(
            "snapshot with name \"{name}\" already exists."
        )));
    }
    snapshot::create(&zone, &name).map_err(|error| {
        Failure::Error(format!(
            "first of 1 error: Command failed: cannot create snapshot \
             'zones/{uuid}@vmsnap-{name}': {error}\n"
        ))
    })?;
    show(&zone, &name)?;
    timed_out(&zone, "create_snapshot")?;
    trash::purge_behind(&call.place);
    Ok(Done::message(format!("Created snapshot {name} for VM {uuid}")))
}

/// Shows a new snapshot in its zone, if that is up. As in the original, a
/// mount that fails is no failure of the command.
fn show(zone: &Zone, name: &SnapshotName) -> Result<(), Failure> {
    let Some(run) = zone.run() else { return Ok(()) };
    let disk = zone.disk().map_err(plain)?;
    let manifest = zone.manifest().map_err(plain)?;
    let spec = Spec::of(&manifest, &disk.metadata.internal_metadata);
    let base = checkpoint::base_of(&zone.place, &spec);
    if let Some(made) = disk.snapshot(name) {
        let made = Checkpoint::of(&zone.place, &base, made);
        let _ = checkpoint::show(zone.place.owner, &run, &made);
    }
    Ok(())
}

/// `vmadm rollback-snapshot`: ends with the zone running, whatever it was.
pub(super) fn rollback(call: &Call<'_>) -> Outcome {
    let (uuid, name) = arguments(call)?;
    let zone =
        call.zone(uuid).ok_or_else(|| Failure::new("bad statusCode: 404"))?;
    let before = View::of(&zone).map_err(plain)?;
    check_brand(&before.object)?;
    let missing =
        || Failure::Error(format!("No snapshot named \"{name}\" for {uuid}"));
    let disk = zone.disk().map_err(plain)?;
    disk.snapshot(&name).ok_or_else(missing)?;
    let lost = |state: &str| {
        Failure::Error(format!(
            "first of 1 error: VM {uuid} is already not 'running' \
             (currently: {state})"
        ))
    };
    if before.condition == Condition::Failed {
        return Err(lost(before.state()));
    }
    let _power = zone.lock(LockKind::Power).map_err(plain)?;
    let now = zone.run().map(|run| run.boot_id);
    // Somebody else booted this zone between our look and our turn: it is
    // not ours to halt. One that only went down meanwhile (the command that
    // halted it was killed, say), or came up, is rolled back all the same.
    let seen = before.run.as_ref().map(|run| run.boot_id.clone());
    if seen.is_some() && now.is_some() && now != seen {
        return Err(lost("running"));
    }
    let _config = zone.lock(LockKind::Config).map_err(plain)?;
    zone.disk().map_err(plain)?.snapshot(&name).ok_or_else(missing)?;
    let stuck = before.run.is_none() && before.condition.can_be_halted();
    if now.is_some() || stuck {
        halt_now(&zone)?;
        // Whoever dies from here on leaves a zone that does not boot itself.
        zone.set_autoboot(false).map_err(plain)?;
    } else {
        halt::mend(&zone);
    }
    roll(&zone, &name)?;
    drop(_config);
    boot(&zone)?;
    timed_out(&zone, "rollback")?;
    trash::purge_behind(&call.place);
    Ok(Done::message(format!("Rolled back snapshot {name} for VM {uuid}")))
}

/// The middle part: the zone is down.
fn roll(zone: &Zone, name: &SnapshotName) -> Result<(), Failure> {
    let mut faults = Faults::of(zone);
    if faults.take(Fault::KillBetween) {
        let _ = sys::kill(std::process::id() as i32, libc::SIGKILL);
    }
    if let Some(hang) = faults.take_seconds("rollback", "hang") {
        std::thread::sleep(hang);
    }
    let result = if faults.take(Fault::RollbackFail) {
        Err("out of space".to_owned())
    } else {
        snapshot::rollback(zone, name).map_err(|error| error.to_string())
    };
    result.map_err(|why| {
        Failure::Error(format!(
            "Command failed: cannot rollback to \
             'zones/{}@vmsnap-{name}': {why}\n",
            zone.id
        ))
    })
}

/// `vmadm delete-snapshot`.
pub(super) fn delete(call: &Call<'_>) -> Outcome {
    let (uuid, name) = arguments(call)?;
    let zone = call.zone(uuid).ok_or_else(|| gone(uuid))?;
    let manifest = zone.manifest().map_err(plain)?;
    check_brand(&manifest)?;
    let _power = zone.lock(LockKind::Power).map_err(plain)?;
    let _config = zone.lock(LockKind::Config).map_err(plain)?;
    let disk = zone.disk().map_err(plain)?;
    if disk.snapshot(&name).is_none() {
        return Err(Failure::Error(format!(
            "No snapshot named \"{name}\" for {uuid}"
        )));
    }
    if let Some(run) = zone.run() {
        let hidden = checkpoint::hide(call.place.owner, &run, &name);
        hidden.map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::EBUSY) => "busy".to_owned(),
                _ => error.to_string(),
            };
            let path = format!("/checkpoints/{name}");
            Failure::Error(format!("Command failed: umount: {path} {why}\n"))
        })?;
    }
    snapshot::delete(&zone, &name).map_err(|error| {
        Failure::Error(format!(
            "Command failed: cannot destroy \
             'zones/{uuid}@vmsnap-{name}': {error}\n"
        ))
    })?;
    timed_out(&zone, "delete_snapshot")?;
    trash::purge_behind(&call.place);
    Ok(Done::message(format!("Deleted snapshot {name} for VM {uuid}")))
}
