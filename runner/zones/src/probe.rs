//! Is a booted zone ready for a job, and how are commands run in it?
//!
//! `running` only says that init was started. Ready is what answers: a
//! command through zlogin, and on SmartOS the milestones of its services.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::carrier::Carrier;
use crate::command::{Command, Program};
use crate::doing::Doing;
use crate::door::{self, CommandError, Failure, Output};
use crate::inside::{Inside, Kind};
use crate::name::WorkerUuid;
use crate::quote;
use crate::vmadm::Chain;
use crate::worker::Pauses;

/// Pauses between two tries.
const TRY: Pauses =
    Pauses { first: Duration::from_millis(5), most: Duration::from_secs(1) };

/// One try may take this long; a zlogin right at boot can block.
const ONE_TRY: Duration = Duration::from_secs(20);

/// How long the story of failed services may take to tell.
const EXPLAIN: Duration = Duration::from_secs(10);

/// Read by the zone's shell: a constant.
const LOOK: &str = "if [ -x /native/zone-job ]; then k=native; \
                    else k=shell; fi; \
                    printf 'ntrace-probe %s %s\\n' \"$k\" \"$(uname -s)\"";

/// Read by the zone's shell: a constant.
const SERVICES: &str = "/usr/bin/svcs -H -o state \
                        svc:/milestone/multi-user-server:default \
                        svc:/smartdc/mdata:execute";

/// Read by the zone's shell: a constant.
const WHY: &str = "/usr/bin/svcs -xv";

/// The constant questions, each with a name.
pub(crate) const QUESTIONS: [(&str, &str); 3] =
    [("probe", LOOK), ("services", SERVICES), ("why", WHY)];

/// Why a zone is not ready.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing ran inside by the deadline.
    #[error("nothing runs in worker {worker} after {tries} tries")]
    Silent {
        /// Which VM.
        worker: WorkerUuid,
        /// How often it was tried.
        tries: u32,
        /// How the last try failed.
        source: TryError,
    },
    /// A service that jobs need has failed for good.
    #[error("a service of worker {worker} is in maintenance: {why}")]
    Maintenance {
        /// Which VM.
        worker: WorkerUuid,
        /// What the zone says of it.
        why: String,
    },
    /// The services did not come up by the deadline.
    #[error("the services of worker {worker} are not up in time: {states}")]
    Services {
        /// Which VM.
        worker: WorkerUuid,
        /// Their states.
        states: String,
    },
}

/// How one try of a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum TryError {
    /// The command did not end well.
    #[error("cannot hear from zlogin")]
    Command(#[from] CommandError),
    /// The command failed.
    #[error("zlogin failed")]
    Failed(#[source] Failure),
    /// The command ended well but did not answer the question.
    #[error("the zone answered {0:?}")]
    Strange(String),
}

pub(crate) async fn probe(
    carrier: &Arc<Carrier>,
    worker: WorkerUuid,
    doing: &Doing,
    deadline: Instant,
) -> Result<Inside, ProbeError> {
    let zone = Zone { carrier, worker, doing };
    let (native, uname) = first_answer(&zone, deadline).await?;
    if uname == "SunOS" {
        services(&zone, deadline).await?;
    }
    let kind = if native { Kind::Native } else { Kind::Shell { uname } };
    Ok(Inside::new(Arc::clone(carrier), worker, kind))
}

/// The zone that is asked.
struct Zone<'a> {
    carrier: &'a Carrier,
    worker: WorkerUuid,
    doing: &'a Doing,
}

async fn first_answer(
    zone: &Zone<'_>,
    deadline: Instant,
) -> Result<(bool, String), ProbeError> {
    let mut pause = TRY.first;
    let mut tries = 0;
    loop {
        tries += 1;
        let source = match ask(zone, LOOK, deadline).await {
            Ok(output) => match answer(&output.stdout.text()) {
                Some(found) => return Ok(found),
                None => TryError::Strange(shown(&output)),
            },
            Err(error) => error,
        };
        zone.doing.tried(Chain(&source).to_string());
        match TRY.wait(pause, deadline).await {
            Some(next) => pause = next,
            None => {
                let worker = zone.worker;
                return Err(ProbeError::Silent { worker, tries, source });
            }
        }
    }
}

/// Finds the answer among whatever the zone's login files print.
fn answer(stdout: &str) -> Option<(bool, String)> {
    let line =
        stdout.lines().find_map(|line| line.strip_prefix("ntrace-probe "))?;
    let (kind, uname) = line.split_once(' ')?;
    let native = match kind {
        "native" => true,
        "shell" => false,
        _ => return None,
    };
    let plain = !uname.is_empty()
        && uname.len() <= 32
        && uname.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain.then(|| (native, uname.to_owned()))
}

async fn services(
    zone: &Zone<'_>,
    deadline: Instant,
) -> Result<(), ProbeError> {
    let worker = zone.worker;
    let mut pause = TRY.first;
    loop {
        let states = match ask(zone, SERVICES, deadline).await {
            Ok(output) => shown(&output),
            Err(error) => Chain(&error).to_string(),
        };
        let standing = standing(&states);
        if standing == Standing::Failed {
            let deadline = Instant::now() + EXPLAIN;
            let why = match ask(zone, WHY, deadline).await {
                Ok(output) => shown(&output),
                Err(error) => Chain(&error).to_string(),
            };
            return Err(ProbeError::Maintenance { worker, why });
        }
        if standing == Standing::Up {
            return Ok(());
        }
        zone.doing.tried(format!("the services are {states}"));
        match TRY.wait(pause, deadline).await {
            Some(next) => pause = next,
            None => return Err(ProbeError::Services { worker, states }),
        }
    }
}

/// How the services stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Up,
    Coming,
    Failed,
}

/// Judges the states of the two services that were asked for.
fn standing(states: &str) -> Standing {
    let words: Vec<&str> = states.split_whitespace().collect();
    if words.contains(&"maintenance") {
        Standing::Failed
    } else if words == ["online", "online"] {
        Standing::Up
    } else {
        Standing::Coming
    }
}

async fn ask(
    zone: &Zone<'_>,
    question: &str,
    deadline: Instant,
) -> Result<Output, TryError> {
    let worker = zone.worker.to_string();
    let command = Command::new(Program::Zlogin, ["-Q", &worker, question]);
    let _begun = zone.doing.begin(&command);
    let deadline = deadline.min(Instant::now() + ONE_TRY);
    let output =
        door::run(zone.carrier, &command, Bytes::new(), deadline).await?;
    if output.exit.success() {
        Ok(output)
    } else {
        Err(TryError::Failed(output.failure(&command)))
    }
}

/// What a command printed, for a message.
fn shown(output: &Output) -> String {
    let text = output.stdout.text();
    let words: Vec<String> =
        text.split_whitespace().map(quote::visible).collect();
    words.join(" ").chars().take(2000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_among_other_lines() {
        let text = "Last login: today\nntrace-probe native Linux\n";
        assert_eq!(answer(text), Some((true, "Linux".to_owned())));
        let text = "ntrace-probe shell SunOS\n";
        assert_eq!(answer(text), Some((false, "SunOS".to_owned())));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for text in [
            "",
            "ntrace-probe",
            "ntrace-probe native",
            "ntrace-probe shell \n",
            "ntrace-probe both Linux",
            "ntrace-probe shell \u{1b}[2J",
        ] {
            assert_eq!(answer(text), None, "{text:?}");
        }
    }

    #[test]
    fn services_are_up_only_when_both_are() {
        assert_eq!(standing("online online"), Standing::Up);
        assert_eq!(standing("online maintenance"), Standing::Failed);
        for coming in ["", "online", "offline* online", "online online* x"] {
            assert_eq!(standing(coming), Standing::Coming, "{coming}");
        }
    }
}
