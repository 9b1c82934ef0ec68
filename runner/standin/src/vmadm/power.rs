//! `start`, `stop`, `reboot`, `kill`: a zone up and down.

use std::time::Duration;

use super::view::{LastExit, View};
use super::{Call, Done, Failure, Outcome, timed_out};
use crate::boot;
use crate::clock;
use crate::condition::Condition;
use crate::halt;
use crate::sys;
use crate::zone::{LockKind, Zone, ZoneError};

/// Any error of a zone's files as a failure of the command.
pub(super) fn plain(error: impl std::fmt::Display) -> Failure {
    Failure::Error(error.to_string())
}

/// The text of a child command that failed, as the original shows it.
pub(super) fn zoneadm(zone: &Zone, why: &str) -> String {
    format!(
        "Command failed: zone '{id}': {why}\n\
         zoneadm: zone '{id}': call to zoneadmd failed\n",
        id = zone.id
    )
}

fn not_running(uuid: &str, state: &str) -> String {
    format!("VM {uuid} is already not 'running' (currently: {state})")
}

/// Boots under the lock, with autoboot as the outcome says.
pub(super) fn boot(zone: &Zone) -> Result<(), Failure> {
    let started = boot::boot(zone);
    zone.set_autoboot(started.is_ok()).map_err(plain)?;
    started.map_err(|error| {
        let why = zoneadm(zone, &error.to_string());
        Failure::Error(format!("first of 1 error: {why}"))
    })
}

/// Halts under the lock and notes how it ended.
pub(super) fn halt_now(zone: &Zone) -> Result<(), Failure> {
    halt::halt(zone).map_err(|error| {
        let text = error.to_string();
        Failure::Error(format!("first of 1 error: {}", zoneadm(zone, &text)))
    })?;
    note_exit(zone)
}

fn note_exit(zone: &Zone) -> Result<(), Failure> {
    let last = LastExit { status: 0, ended_ms: clock::now_ms() };
    zone.save_note("exit.json", &last).map_err(plain)
}

/// `vmadm start`.
pub(super) fn start(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let failed = |text: &str| {
        Failure::Error(format!("Unable to start VM {uuid}: {text}"))
    };
    let Some(zone) = call.zone(uuid) else {
        return Err(failed("bad statusCode: 404"));
    };
    let before = View::of(&zone).map_err(|e| failed(&e.to_string()))?;
    match before.condition {
        Condition::Stopped => {}
        Condition::Running => {
            return Ok(Done::message(format!(
                "Unable to start VM {uuid}: VM {uuid} is already 'running'"
            )));
        }
        other => {
            return Err(failed(&format!(
                "Cannot start vm from state \"{}\", must be \"stopped\".",
                other.state()
            )));
        }
    }
    let _lock =
        zone.lock(LockKind::Power).map_err(|e| failed(&e.to_string()))?;
    // Another start may have won meanwhile; its success is ours too.
    if zone.run().is_none() {
        halt::mend(&zone);
        if let Err(Failure::Error(text)) = boot(&zone) {
            return Err(failed(&text));
        }
    }
    timed_out(&zone, "start")?;
    Ok(Done::message(format!("Successfully started VM {uuid}")))
}

/// `vmadm stop`.
pub(super) fn stop(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let force = call.has_flag("-F");
    let Some(zone) = call.zone(uuid) else {
        return Err(Failure::new(if force {
            "bad statusCode: 404".to_owned()
        } else {
            format!("VM {uuid} not found")
        }));
    };
    let before = View::of(&zone).map_err(plain)?;
    let state = before.state();
    if force && !before.condition.can_be_halted() {
        let text = not_running(uuid, state);
        return Err(Failure::Error(format!("first of 1 error: {text}")));
    }
    if !force && before.condition != Condition::Running {
        zone.set_autoboot(false).map_err(plain)?;
        return Ok(Done::message(not_running(uuid, state)));
    }
    if call.has_flag("-t") && !force {
        zone.set_autoboot(false).map_err(plain)?;
        return Err(Failure::new(
            "first of 1 error: Timeout option is only supported for bhyve, \
             KVM and docker containers.",
        ));
    }
    let _lock = zone.lock(LockKind::Power).map_err(plain)?;
    let still =
        zone.run().map(|run| run.boot_id) == before.run.map(|run| run.boot_id);
    match (still, force) {
        (true, true) => halt_now(&zone)?,
        (true, false) => {
            halt::stop(&zone).map_err(|error| {
                let text = zoneadm(&zone, &error.to_string());
                Failure::Error(format!("first of 1 error: {text}"))
            })?;
            note_exit(&zone)?;
        }
        (false, true) => {
            let text = not_running(uuid, "running");
            return Err(Failure::Error(format!("first of 1 error: {text}")));
        }
        (false, false) => {}
    }
    zone.set_autoboot(false).map_err(plain)?;
    timed_out(&zone, "stop")?;
    Ok(Done::message(format!("Successfully completed stop for VM {uuid}")))
}

/// `vmadm reboot`.
pub(super) fn reboot(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let force = call.has_flag("-F");
    let Some(zone) = call.zone(uuid) else {
        return Err(Failure::new("bad statusCode: 404"));
    };
    let before = View::of(&zone).map_err(plain)?;
    if before.condition != Condition::Running {
        let state = before.state();
        return Err(Failure::Error(if force {
            format!(
                "Cannot reset vm from state \"{state}\", must be \"running\"."
            )
        } else {
            format!(
                "Cannot reboot vm from state \"{state}\", must be \"running\""
            )
        }));
    }
    let _lock = zone.lock(LockKind::Power).map_err(plain)?;
    if !force {
        halt::stop(&zone).map_err(plain)?;
    }
    halt_now(&zone)?;
    boot(&zone)?;
    timed_out(&zone, "reboot")?;
    Ok(Done::message(format!("Successfully completed reboot for VM {uuid}")))
}

/// `vmadm kill`.
pub(super) fn kill(call: &Call<'_>) -> Outcome {
    let (name, rest) = signal_of(call.args)?;
    let rest = Call { word: "kill", args: &rest, place: call.place.clone() };
    let uuid = rest.uuid()?;
    let Some(zone) = rest.zone(uuid) else {
        return Err(Failure::new("bad statusCode: 404"));
    };
    let Some(run) = zone.run() else {
        return Err(Failure::Error(format!(
            "Cannot find running init PID for VM {uuid}"
        )));
    };
    let number = crate::signals::number(&name).ok_or_else(|| {
        Failure::Usage(Some(format!("Invalid signal: {name}")))
    })?;
    sys::kill(run.init.pid, number).map_err(plain)?;
    if number == libc::SIGKILL {
        // Process 1 is gone in a moment; let the next command see that.
        clock::Deadline::after(Duration::from_secs(5))
            .wait_until(Duration::from_millis(2), || !run.keeper.alive());
    }
    Ok(Done::message(format!(
        "Sent signal \"{name}\" to init process for VM {uuid}"
    )))
}

/// `vmadm sysrq`: only for machines, and it says so as the original.
pub(super) fn sysrq(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let kind = call.args.get(1).map_or("", String::as_str);
    if !["nmi", "screenshot"].contains(&kind) {
        let kind = super::printable(kind);
        let text = format!("Invalid sysrq type: {kind}");
        return Err(Failure::Usage(Some(text)));
    }
    let Some(zone) = call.zone(uuid) else {
        return Err(Failure::new("bad statusCode: 404"));
    };
    let view = View::of(&zone).map_err(plain)?;
    Err(Failure::Error(match view.condition {
        Condition::Running => "The sysrq command is only supported for VMs  \
                               with brand \"bhyve\" or \"kvm\"."
            .to_owned(),
        other => format!(
            "Unable to send request to vm from state \"{}\", must be \
             \"running\" or \"stopping\".",
            other.state()
        ),
    }))
}

/// `vmadm console`: a zone here has none.
pub(super) fn console(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let Some(zone) = call.zone(uuid) else {
        return Err(Failure::new("bad statusCode: 404"));
    };
    let view = View::of(&zone).map_err(plain)?;
    Err(Failure::Error(match view.condition {
        Condition::Running => {
            format!("VM {uuid} has no console; use zlogin")
        }
        other => format!(
            "cannot connect to console when state is \"{}\" must be \
             \"running\".",
            other.state()
        ),
    }))
}

/// Splits the signal off the arguments of `kill`.
fn signal_of(args: &[String]) -> Result<(String, Vec<String>), Failure> {
    let mut name = "SIGTERM".to_owned();
    let mut rest = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.strip_prefix('-') {
            Some("s") => {
                name = args.next().ok_or(Failure::Usage(None))?.to_uppercase();
            }
            Some(signal) => name = signal.to_uppercase(),
            None => rest.push(arg.clone()),
        }
    }
    if !name.starts_with("SIG") && !name.bytes().all(|b| b.is_ascii_digit()) {
        name = format!("SIG{name}");
    }
    Ok((name, rest))
}

/// For messages of commands that find no zone.
pub(super) fn gone(uuid: &str) -> Failure {
    match crate::names::ZoneId::parse(uuid) {
        Ok(id) => plain(ZoneError::Gone(id)),
        Err(_) => Failure::new("uuid (uuid) is required"),
    }
}
