//! `create`, `update`, `delete`, `validate`: what a zone is.

use std::io::{IsTerminal, Read};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::nics;
use super::payload::{self, Changes, MAPS};
use super::power::{boot, gone, halt_now, plain};
use super::{Call, Done, Failure, Outcome, timed_out};
use crate::boot as booting;
use crate::cgroup::Cgroups;
use crate::clock;
use crate::faults::{Fault, Faults};
use crate::halt;
use crate::names::ZoneId;
use crate::place::{Place, make_dir};
use crate::skeleton;
use crate::spec::{HOST_IMAGE, Spec};
use crate::trash;
use crate::zone::{Disk, LockKind, Metadata, Zone};

/// Longest payload that is read.
const PAYLOAD_MAX: u64 = 16 << 20;

/// Reads a payload from the file of `-f`, or from stdin.
fn read_payload(args: &[String]) -> Result<Map<String, Value>, Failure> {
    let file = args
        .iter()
        .position(|arg| arg == "-f")
        .map(|at| args.get(at + 1).ok_or(Failure::Usage(None)))
        .transpose()?;
    let mut text = String::new();
    let read = match file.filter(|name| *name != "-") {
        Some(name) => {
            let file = std::fs::File::open(name).map_err(|_| {
                let name = super::printable(name);
                Failure::Error(format!("File: {name} does not exist."))
            })?;
            file.take(PAYLOAD_MAX).read_to_string(&mut text)
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::Usage(Some(
                "Will not create from stdin when stdin is a tty.".into(),
            )));
        }
        None => std::io::stdin().take(PAYLOAD_MAX).read_to_string(&mut text),
    };
    let bad = |error: &dyn std::fmt::Display| {
        Failure::Error(format!("Invalid JSON payload: {error}"))
    };
    read.map_err(|error| bad(&error))?;
    match serde_json::from_str(&text).map_err(|error| bad(&error))? {
        Value::Object(payload) => Ok(payload),
        _ => Err(bad(&"not an object")),
    }
}

fn refuse(faults: &payload::Faults) -> Result<(), Failure> {
    if !faults.bad_values.is_empty() {
        let names = faults.bad_values.join(",");
        return Err(Failure::Error(format!("Invalid value(s) for: {names}")));
    }
    if !faults.missing.is_empty() {
        let names = faults.missing.join(",");
        let text = format!("Missing required properties: {names}");
        return Err(Failure::Error(text));
    }
    Ok(())
}

/// `vmadm create`.
pub(super) fn create(call: &Call<'_>) -> Outcome {
    let payload = read_payload(call.args)?;
    let (mut good, faults) = payload::check_create(&payload);
    refuse(&faults)?;
    let id = match good.get("uuid").and_then(Value::as_str) {
        Some(text) => ZoneId::parse(text).map_err(plain)?,
        None => ZoneId::random(),
    };
    if Zone::find(&call.place, &id).is_ok() {
        return Err(Failure::Error(format!(
            "VM with UUID {id} already exists"
        )));
    }
    let image = good.get("image_uuid").and_then(Value::as_str).unwrap_or("");
    let base = base_of(&call.place, image)?;
    let mut metadata = Metadata::default();
    for name in MAPS {
        if let Some(Value::Object(map)) = good.remove(name) {
            *map_of(&mut metadata, name) = map;
        }
    }
    let mut manifest = payload::with_defaults(good);
    let autoboot = manifest.remove("autoboot") == Some(Value::Bool(true));
    if let Some(given) = manifest.get("nics") {
        let random = || {
            let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
            [a, b, c]
        };
        let kept = nics::filled_in(given, random);
        manifest.insert("nics".to_owned(), kept);
    }
    if manifest.remove("delegate_dataset") == Some(Value::Bool(true)) {
        let data = json!([format!("zones/{id}/data")]);
        manifest.insert("datasets".to_owned(), data);
    }
    for (name, value) in [
        ("uuid", json!(id)),
        ("zonename", json!(id)),
        ("zonepath", json!(call.place.zone(&id))),
        ("create_timestamp", json!(clock::iso(clock::now_ms()))),
        ("ntrace_base", json!(base)),
    ] {
        manifest.insert(name.to_owned(), value);
    }
    let zone = write_new(&call.place, &id, &manifest, metadata)?;
    if autoboot {
        let _lock = zone.lock(LockKind::Power).map_err(plain)?;
        boot(&zone)?;
        provisioned(&zone)?;
    }
    Ok(Done::message(format!("Successfully created VM {id}")))
}

/// Whether the first boot came to its end. One that did not makes the zone
/// `failed`, and it is halted.
fn provisioned(zone: &Zone) -> Result<(), Failure> {
    if !Faults::of_place(&zone.place).take(Fault::ProvisionTimeout) {
        return Ok(());
    }
    let id = &zone.id;
    let why =
        format!("timed out waiting for /var/svc/provisioning to move for {id}");
    halt_now(zone)?;
    zone.set_autoboot(false).map_err(plain)?;
    let mut disk = zone.disk().map_err(plain)?;
    disk.failed = Some(why.clone());
    zone.save_disk(&disk).map_err(plain)?;
    Err(Failure::Error(format!("first of 1 error: {why}")))
}

/// The lowest layer of an image, below the directory of images.
fn base_of(place: &Place, image: &str) -> Result<String, Failure> {
    if image == HOST_IMAGE {
        return skeleton::ensure(place).map_err(|error| {
            Failure::Error(format!(
                "cannot make the image of the host: {error}"
            ))
        });
    }
    if place.images().join(image).join("root").is_dir() {
        return Ok(image.to_owned());
    }
    Err(Failure::new("Invalid value(s) for: image_uuid"))
}

/// Makes the zone's directory under a draft's name and puts it in place
/// whole.
fn write_new(
    place: &Place,
    id: &ZoneId,
    manifest: &Map<String, Value>,
    metadata: Metadata,
) -> Result<Zone, Failure> {
    let draft_name = format!(".new-{}-{id}", std::process::id());
    let draft = place.zones().join(draft_name);
    let internal = metadata.internal_metadata.clone();
    let disk = Disk::new(metadata);
    let write = |name: &str, value: &Value| {
        let text = format!("{value:#}\n");
        std::fs::write(draft.join(name), text)?;
        std::fs::File::open(draft.join(name))?.sync_all()
    };
    let filled = make_dir(&draft)
        .and_then(|()| write("manifest.json", &manifest.clone().into()))
        .and_then(|()| write("state.json", &json!(disk)))
        .and_then(|()| std::fs::File::open(&draft)?.sync_all())
        .and_then(|()| std::fs::rename(&draft, place.zone(id)))
        .and_then(|()| std::fs::File::open(place.zones())?.sync_all());
    if let Err(error) = filled {
        let _ = trash::discard(place, &draft);
        if place.zone(id).exists() {
            let text = format!("VM with UUID {id} already exists");
            return Err(Failure::Error(text));
        }
        return Err(Failure::Error(format!("cannot write VM {id}: {error}")));
    }
    let zone = Zone { place: place.clone(), id: id.clone() };
    let spec = Spec::of(manifest, &internal);
    if let Err(error) = booting::write_names(&zone, &spec) {
        let _ = trash::discard(place, &zone.dir());
        return Err(plain(error));
    }
    Ok(zone)
}

fn map_of<'a>(
    metadata: &'a mut Metadata,
    name: &str,
) -> &'a mut Map<String, Value> {
    match name {
        "customer_metadata" => &mut metadata.customer_metadata,
        "internal_metadata" => &mut metadata.internal_metadata,
        "tags" => &mut metadata.tags,
        _ => &mut metadata.routes,
    }
}

/// `vmadm validate`.
pub(super) fn validate(call: &Call<'_>) -> Outcome {
    let (verb, brand, faults) = match call.args.first().map(String::as_str) {
        Some("create") => {
            let payload = read_payload(call.args)?;
            let brand = payload.get("brand").and_then(Value::as_str);
            let brand = brand.unwrap_or("joyent").to_owned();
            ("create", brand, payload::validate_create(&payload))
        }
        Some("update") => {
            let brand = call.args.get(1).ok_or(Failure::Usage(None))?;
            let payload = read_payload(call.args)?;
            ("update", brand.clone(), payload::check_update(&payload).1)
        }
        _ => return Err(Failure::Usage(None)),
    };
    if !["joyent", "joyent-minimal", "lx"].contains(&brand.as_str()) {
        return Err(Failure::Error(json!({ "bad_brand": brand }).to_string()));
    }
    if faults == payload::Faults::default() {
        return Ok(Done::message(format!(
            "VALID '{verb}' payload for {brand} brand VMs."
        )));
    }
    let report = serde_json::to_string(&faults).map_err(plain)?;
    Err(Failure::Error(report))
}

/// `vmadm update`.
pub(super) fn update(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let zone = call.zone(uuid).ok_or_else(|| gone(uuid))?;
    let pairs: Vec<&String> =
        call.args.iter().filter(|arg| arg.contains('=')).collect();
    let payload = if pairs.is_empty() {
        read_payload(call.args)?
    } else {
        let split = |pair: &&String| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), Value::from(value)))
        };
        pairs.iter().filter_map(split).collect()
    };
    let (changes, faults) = payload::check_update(&payload);
    refuse(&faults)?;
    if !faults.bad_properties.is_empty() {
        let names = faults.bad_properties.join(",");
        return Err(Failure::Error(format!("Invalid value(s) for: {names}")));
    }
    let _config = zone.lock(LockKind::Config).map_err(plain)?;
    apply(&zone, changes)?;
    timed_out(&zone, "update")?;
    Ok(Done::message(format!("Successfully updated VM {uuid}")))
}

fn apply(zone: &Zone, mut changes: Changes) -> Result<(), Failure> {
    if let Some(Value::Bool(yes)) = changes.set.remove("autoboot") {
        zone.set_autoboot(yes).map_err(plain)?;
    }
    let mut disk = zone.disk().map_err(plain)?;
    if !changes.put.is_empty() || !changes.take.is_empty() {
        for (map, key, value) in changes.put {
            map_of(&mut disk.metadata, map).insert(key, value);
        }
        for (map, key) in changes.take {
            map_of(&mut disk.metadata, map).remove(&key);
        }
        zone.save_disk(&disk).map_err(plain)?;
    }
    if changes.set.is_empty() {
        return Ok(());
    }
    let mut manifest = zone.manifest().map_err(plain)?;
    manifest.append(&mut changes.set);
    zone.save_manifest(&manifest).map_err(plain)?;
    // A running zone feels new limits at once where cgroups hold them.
    if let Some(run) = zone.run() {
        let spec = Spec::of(&manifest, &disk.metadata.internal_metadata);
        Cgroups { groups: run.cgroups }.limit(&spec.limits);
    }
    Ok(())
}

/// `vmadm delete`.
pub(super) fn delete(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let failed = |text: &str| {
        Failure::Error(format!("Failed to delete VM {uuid}: {text}"))
    };
    let zone = match call.zone(uuid) {
        Some(zone) => zone,
        None => {
            return Err(match gone(uuid) {
                Failure::Error(text) if text.ends_with("not found") => {
                    failed(&text)
                }
                other => other,
            });
        }
    };
    let manifest = zone.manifest().map_err(plain)?;
    for name in ["indestructible_zoneroot", "indestructible_delegated"] {
        if manifest.get(name) == Some(&Value::Bool(true)) {
            return Err(failed(&format!("{name} is set, cannot delete")));
        }
    }
    let _power = zone.lock(LockKind::Power).map_err(plain)?;
    let _config = zone.lock(LockKind::Config).map_err(plain)?;
    halt::halt(&zone).map_err(|error| failed(&error.to_string()))?;
    halt::mend(&zone);
    let layers: Vec<String> = zone.disk().map_or(Vec::new(), |disk| {
        disk.needed().into_iter().map(str::to_owned).collect()
    });
    let discard = |path: &Path| {
        trash::discard(&call.place, path)
            .map_err(|error| failed(&error.to_string()))
    };
    discard(&zone.dir())?;
    for id in layers {
        discard(&call.place.layers().join(id))?;
    }
    trash::purge_behind(&call.place);
    Ok(Done::message(format!("Successfully deleted VM {uuid}")))
}
