//! The global zone: the way there, vmadm, the workers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ntrace_protocol::WorkerUuid;
use ntrace_protocol::worker::WorkerView;
use ntrace_zones::{Carrier, Driver, VmState, VmadmError};
use tokio::time::{Instant, sleep, timeout};

use super::chain;
use super::finding::{Finding, Need};
use super::ssh::{self, Way};
use super::worker::{Hands, Look, WorkerFact};
use crate::config::Config;

/// Workers that are looked at at once; each is a session of ssh.
const AT_ONCE: usize = 4;

/// How long a VM between two states may take to reach one.
const SETTLE: Duration = Duration::from_secs(10);
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// What is said where there is no worker.
pub(super) const NONE_ENROLLED: &str = "none is enrolled";

/// A worker to look at.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) uuid: WorkerUuid,
    pub(super) snapshot: String,
    pub(super) told: Option<WorkerView>,
}

/// What was found of the global zone.
#[derive(Debug)]
pub(super) enum ZoneFact {
    /// There is no way to it.
    NoWay(String),
    /// There is.
    There {
        /// How long the way took.
        took: Duration,
        /// How many VMs vmadm lists, or why it does not.
        vms: Result<usize, String>,
        /// The workers, unless vmadm fails.
        workers: Vec<WorkerFact>,
        /// What the zones of Linux cannot enforce, each once.
        notes: Vec<String>,
    },
}

pub(super) async fn look(
    config: &Config,
    wanted: Vec<Wanted>,
    late: Duration,
) -> ZoneFact {
    let began = Instant::now();
    let carrier = match timeout(late, crate::run::carrier(config)).await {
        Ok(Ok(carrier)) => carrier,
        Ok(Err(error)) => return ZoneFact::NoWay(format!("{error:#}")),
        Err(_) => {
            return ZoneFact::NoWay(format!("no connection within {late:?}"));
        }
    };
    let took = began.elapsed();
    ask(carrier, wanted, took, late).await
}

async fn ask(
    carrier: Carrier,
    wanted: Vec<Wanted>,
    took: Duration,
    late: Duration,
) -> ZoneFact {
    let driver = Driver::new(Arc::new(carrier));
    let listed = driver.vmadm().lookup(Instant::now() + late).await;
    let vms = match listed {
        Ok(vms) => vms,
        Err(error) => {
            let vms = Err(chain(&error));
            let (workers, notes) = (vec![], vec![]);
            return ZoneFact::There { took, vms, workers, notes };
        }
    };
    let workers: Vec<_> = futures::stream::iter(wanted)
        .map(|one| look_at_worker(&driver, one, late))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut notes: Vec<String> = workers
        .iter()
        .filter_map(|fact| match &fact.look {
            Look::Seen(vm) => vm.ntrace.as_ref(),
            Look::Failed(..) => None,
        })
        .flat_map(|own| own.notes.clone())
        .collect();
    notes.sort();
    notes.dedup();
    ZoneFact::There { took, vms: Ok(vms.len()), workers, notes }
}

async fn look_at_worker(
    driver: &Driver,
    wanted: Wanted,
    late: Duration,
) -> WorkerFact {
    let uuid = wanted.uuid;
    let first = see(driver, uuid, late).await;
    let mut fact = WorkerFact {
        uuid: uuid.to_string(),
        snapshot: wanted.snapshot,
        look: first,
        zlogin: None,
        again: None,
        told: wanted.told,
    };
    let Look::Seen(vm) = &fact.look else { return fact };
    if vm.boot().is_some() {
        let said = run_in(driver, uuid, late).await;
        let is_well = said.is_ok();
        fact.zlogin = Some(said);
        if is_well {
            return fact;
        }
    }
    fact.again = Some(settled(driver, uuid, late).await);
    fact
}

/// A second look: what looks wrong may be on its way, so it gets a while.
async fn settled(driver: &Driver, uuid: WorkerUuid, late: Duration) -> Look {
    let until = Instant::now() + late.min(SETTLE);
    loop {
        let look = see(driver, uuid, late).await;
        let is_moving = matches!(&look, Look::Seen(vm) if matches!(
            vm.state,
            VmState::ShuttingDown | VmState::Down | VmState::Ready
        ));
        if !is_moving || Instant::now() >= until {
            return look;
        }
        sleep(SETTLE_PAUSE).await;
    }
}

async fn see(driver: &Driver, uuid: WorkerUuid, late: Duration) -> Look {
    match driver.vmadm().get(uuid, Instant::now() + late).await {
        Ok(vm) => Look::Seen(Box::new(vm)),
        Err(error) => Look::Failed(VmadmError::class(&error), chain(&error)),
    }
}

/// The runner's own probe; it changes nothing in the zone.
async fn run_in(
    driver: &Driver,
    uuid: WorkerUuid,
    late: Duration,
) -> Result<(), String> {
    let until = Instant::now() + late;
    let worker = driver.take(uuid, until).await;
    let worker = worker.ok_or_else(|| "it is in other hands".to_owned())?;
    match worker.probe(until).await {
        Ok(_) => Ok(()),
        Err(error) => Err(chain(&error)),
    }
}

/// `way` is none for this machine.
pub(super) fn judge(
    way: Option<&Way<'_>>,
    fact: &ZoneFact,
    hands: &Hands,
) -> Vec<Finding> {
    let (took, vms, workers, notes) = match fact {
        ZoneFact::NoWay(said) => return vec![no_way(way, said)],
        ZoneFact::There { took, vms, workers, notes } => {
            (took, vms, workers, notes)
        }
    };
    let there = match way {
        None => "this machine".to_owned(),
        Some(way) => format!("{} in {took:.1?}", way.address),
    };
    let mut findings = vec![Finding::ok(Need::GlobalZone, there)];
    match vms {
        Ok(count) => {
            let says = format!("it lists {count} VMs");
            findings.push(Finding::ok(Need::Vmadm, says));
        }
        Err(said) => {
            findings.push(no_vmadm(said, hands));
            return findings;
        }
    }
    for fact in workers {
        findings.extend(super::worker::judge(fact, hands));
    }
    if workers.is_empty() {
        let mend = format!(
            "printf '[\"enroll\",[\"UUID\"],1]\\n' | nc -N {}",
            hands.control
        );
        findings.push(Finding::warn(Need::Worker, NONE_ENROLLED, mend));
    }
    let notes = notes.iter().map(|note| Finding::note(Need::Zones, note));
    findings.extend(notes);
    findings
}

fn no_way(way: Option<&Way<'_>>, said: &str) -> Finding {
    match way {
        Some(way) => ssh::judge(way, said),
        None => Finding::fail(
            Need::GlobalZone,
            said,
            "ntrace-runner --global-zone ssh://root@HOST   (or local)",
        ),
    }
}

fn no_vmadm(said: &str, hands: &Hands) -> Finding {
    let lower = said.to_lowercase();
    if lower.contains("ntrace-gate: refused") {
        let says = format!("the gate refuses what the runner asks: {said}");
        let mend = "scripts/smartos/setup-gz   (puts the gate of this \
                    version in place)";
        return Finding::fail(Need::Vmadm, says, mend);
    }
    if lower.contains("ntrace-gate:") {
        let says = format!("the gate is not set up: {said}");
        return Finding::fail(Need::Vmadm, says, "scripts/smartos/setup-gz");
    }
    if lower.contains("econnrefused") {
        let says = format!("vminfod does not answer: {said}");
        let mend = "svcadm restart vminfod   (in the global zone; after a \
                    boot it takes minutes)";
        return Finding::fail(Need::Vmadm, says, mend);
    }
    let mend = format!("{}vmadm lookup -j", hands.before);
    Finding::fail(Need::Vmadm, said, mend)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn hands() -> Hands {
        let control = "localhost 9182".to_owned();
        Hands { before: String::new(), control }
    }

    fn there(vms: Result<usize, String>, notes: &[&str]) -> ZoneFact {
        ZoneFact::There {
            took: Duration::ZERO,
            vms,
            workers: vec![],
            notes: notes.iter().map(|&note| note.to_owned()).collect(),
        }
    }

    #[test]
    fn no_way_is_told_as_what_it_is() {
        let fact = ZoneFact::NoWay("Permission denied".to_owned());
        let way =
            Way { address: "ssh://a@b", identity: None, known_hosts: None };
        let found = judge(Some(&way), &fact, &hands());
        assert_eq!(found[0].state, Level::Fail);
        assert!(found[0].says.contains("does not take our key"));
        let found = judge(None, &fact, &hands());
        assert_eq!(found[0].need, Need::GlobalZone);
    }

    #[test]
    fn a_vmadm_that_fails_is_told_by_its_words() {
        for (said, mend) in [
            ("x: ntrace-gate: refused: no such call", "setup-gz"),
            ("x: ntrace-gate: the list is missing", "setup-gz"),
            ("connect ECONNREFUSED", "vminfod"),
            ("killed", "vmadm lookup -j"),
        ] {
            let fact = there(Err(said.to_owned()), &[]);
            let found = judge(None, &fact, &hands());
            let last = found.last().unwrap();
            assert_eq!((last.need, last.state), (Need::Vmadm, Level::Fail));
            assert!(last.mend.as_ref().unwrap().contains(mend), "{last:?}");
        }
    }

    #[test]
    fn no_worker_and_weak_limits_are_warnings() {
        let found =
            judge(None, &there(Ok(0), &["memory is watched"]), &hands());
        let warned: Vec<_> =
            found.iter().filter(|f| f.state == Level::Warn).collect();
        assert_eq!(warned.len(), 2, "{found:?}");
        assert!(warned[0].mend.as_ref().unwrap().contains("enroll"));
        assert_eq!(warned[1].need, Need::Zones);
    }
}
