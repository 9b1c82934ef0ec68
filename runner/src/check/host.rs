//! What this machine lends: namespaces and cgroups for zones, events for the
//! tracer.
//!
//! Only for workers of this machine; those behind ssh bring their own.

use std::process::Stdio;
use std::time::Duration;

use ntrace_tracers::{NoPerf, Perf};
use serde::Deserialize;
use tokio::time::timeout;

use super::finding::{Finding, Need};
use crate::config::Tracer;

/// The level up to which an ordinary user may sample his own processes.
const PARANOID_MOST: i64 = 2;

/// What `zone-check` prints: what zones would find on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Lent {
    pub(super) is_root: bool,
    /// Why there are no namespaces; none if there are.
    pub(super) namespaces: Option<String>,
    /// Limits that cgroups would not hold.
    pub(super) unheld: Vec<String>,
}

/// What was found of this machine.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) lent: Result<Lent, String>,
    pub(super) events: Events,
}

/// What was found of performance events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events {
    pub(super) is_root: bool,
    /// `perf_event_paranoid`; none where there are no such events.
    pub(super) paranoid: Option<i64>,
    pub(super) perf: Result<(), NoPerf>,
}

pub(super) async fn look(late: Duration) -> Host {
    let lent = match timeout(late, ask()).await {
        Ok(lent) => lent,
        Err(_) => Err(format!("zone-check did not end within {late:?}")),
    };
    Host { lent, events: look_at_events().await }
}

/// Asks in a process of its own: a namespace is entered to try it.
async fn ask() -> Result<Lent, String> {
    let output = tokio::process::Command::new("/proc/self/exe")
        .arg0("zone-check")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("cannot run zone-check: {error}"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cannot read what zone-check says: {error}"))
}

async fn look_at_events() -> Events {
    let paranoid =
        std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    Events {
        is_root: rustix::process::geteuid().is_root(),
        paranoid: paranoid.ok().and_then(|text| text.trim().parse().ok()),
        perf: Perf::look().await,
    }
}

pub(super) fn judge(host: &Host) -> Vec<Finding> {
    let lent = match &host.lent {
        Ok(lent) => lent,
        Err(why) => {
            let mend = "vmadm list   (does the stand-in work at all?)";
            return vec![Finding::warn(Need::Zones, why, mend)];
        }
    };
    if let Some(why) = &lent.namespaces {
        let says = format!("there are no namespaces for zones: {why}");
        let mend = "sysctl -w user.max_user_namespaces=15000 \
                    kernel.unprivileged_userns_clone=1 \
                    kernel.apparmor_restrict_unprivileged_userns=0   (those \
                    of them that are there; or run as root)";
        return vec![Finding::fail(Need::Zones, says, mend)];
    }
    if lent.unheld.is_empty() {
        let says = "namespaces and cgroups are there";
        return vec![Finding::ok(Need::Zones, says)];
    }
    let says = format!(
        "namespaces are there; no cgroup holds {}, weaker means do",
        lent.unheld.join(", ")
    );
    let mend = match lent.is_root {
        true => {
            "grep cgroup /proc/self/mountinfo   (which hierarchies are \
                 there, and are they writable?)"
        }
        false => {
            "loginctl enable-linger \"$(id -un)\"   (and start the \
                  runner as a user service with Delegate=yes: \
                  scripts/systemd/user/ntrace-runner.service)"
        }
    };
    vec![Finding::warn(Need::Zones, says, mend)]
}

pub(super) fn judge_tracer(
    wanted: Tracer,
    is_remote: bool,
    events: Events,
) -> Finding {
    let fail = |says: &str, mend: &str| {
        // A run without a trace is still a run, unless this one was named.
        match wanted {
            Tracer::Auto => Finding::warn(Need::Tracer, says, mend),
            _ => Finding::fail(Need::Tracer, says, mend),
        }
    };
    match (wanted, is_remote) {
        (Tracer::None, _) => Finding::ok(Need::Tracer, "none is wanted"),
        (Tracer::Auto | Tracer::Dtrace, true) => Finding::ok(
            Need::Tracer,
            "DTrace of the global zone, behind the gate",
        ),
        (Tracer::Sample | Tracer::Perf, true) => fail(
            "the workers are on another machine; only DTrace sees them",
            "ntrace-runner --tracer dtrace",
        ),
        (Tracer::Dtrace, false) => {
            fail("there is no DTrace on Linux", "ntrace-runner --tracer sample")
        }
        (Tracer::Perf, false) if let Err(why) = events.perf => {
            fail(why.why(), perf_mend(why))
        }
        (Tracer::Auto | Tracer::Sample | Tracer::Perf, false) => {
            judge_events(events, fail)
        }
    }
}

fn perf_mend(why: NoPerf) -> &'static str {
    match why {
        NoPerf::Missing | NoPerf::Broken | NoPerf::Old => {
            "apt-get install -y linux-perf   (or --tracer sample)"
        }
        NoPerf::Ordinary | NoPerf::NoRoom => "ntrace-runner --tracer sample",
    }
}

fn judge_events(
    events: Events,
    fail: impl FnOnce(&str, &str) -> Finding,
) -> Finding {
    let Some(paranoid) = events.paranoid else {
        return fail(
            "this kernel has no performance events",
            "ntrace-runner --tracer none",
        );
    };
    if paranoid > PARANOID_MOST && !events.is_root {
        let says =
            format!("kernel.perf_event_paranoid is {paranoid}: no events");
        return fail(&says, "sysctl -w kernel.perf_event_paranoid=2");
    }
    let who = if events.is_root { "root" } else { "an ordinary user" };
    let perf = match events.perf {
        Ok(()) => "perf is there as well",
        Err(_) => "no perf for a second opinion",
    };
    let says = format!(
        "performance events for {who} (paranoid is {paranoid}); {perf}"
    );
    Finding::ok(Need::Tracer, says)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn zones(lent: Result<Lent, String>) -> Finding {
        let events = Events {
            is_root: true,
            paranoid: Some(2),
            perf: Err(NoPerf::Missing),
        };
        judge(&Host { lent, events }).remove(0)
    }

    #[test]
    fn zones_need_namespaces_and_want_cgroups() {
        let lent = Lent::default;
        assert_eq!(zones(Ok(lent())).state, Level::Ok);
        let none = Some("EPERM".to_owned());
        let found = zones(Ok(Lent { namespaces: none, ..lent() }));
        assert_eq!(found.state, Level::Fail);
        assert!(found.mend.unwrap().contains("max_user_namespaces"));
        let unheld = vec!["memory".to_owned(), "cpu".to_owned()];
        let found = zones(Ok(Lent { unheld, ..lent() }));
        assert_eq!(found.state, Level::Warn);
        assert!(found.says.contains("memory, cpu"), "{}", found.says);
        assert_eq!(zones(Err("no".to_owned())).state, Level::Warn);
    }

    #[test]
    fn a_tracer_that_was_named_must_be_there() {
        let events = |is_root, paranoid| Events {
            is_root,
            paranoid,
            perf: Err(NoPerf::Missing),
        };
        let state = |wanted, is_remote, events| {
            judge_tracer(wanted, is_remote, events).state
        };
        let usual = events(false, Some(2));
        assert_eq!(state(Tracer::None, false, usual), Level::Ok);
        assert_eq!(state(Tracer::Auto, false, usual), Level::Ok);
        assert_eq!(state(Tracer::Auto, true, usual), Level::Ok);
        assert_eq!(state(Tracer::Dtrace, true, usual), Level::Ok);
        assert_eq!(state(Tracer::Sample, true, usual), Level::Fail);
        assert_eq!(state(Tracer::Dtrace, false, usual), Level::Fail);
        assert_eq!(state(Tracer::Perf, false, usual), Level::Fail);
        let strict = events(false, Some(3));
        assert_eq!(state(Tracer::Auto, false, strict), Level::Warn);
        assert_eq!(state(Tracer::Sample, false, strict), Level::Fail);
        assert_eq!(
            state(Tracer::Sample, false, events(true, Some(3))),
            Level::Ok
        );
        assert_eq!(state(Tracer::Auto, false, events(true, None)), Level::Warn);
    }
}
