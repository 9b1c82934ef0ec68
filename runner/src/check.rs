//! `ntrace-runner check`: what a runner would need here, what is missing,
//! and the command that mends it.
//!
//! First everything is looked at, side by side and each within a deadline;
//! then what was found is judged, without any I/O. Nothing is changed: no
//! lock is taken, nothing is rolled back, a runner at work is not disturbed.

mod finding;
mod host;
mod origin;
mod place;
mod ssh;
mod way;
mod words;
mod worker;
mod zone;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use ntrace_protocol::unit::parse_duration;
use ntrace_source::Repository;
use ntrace_tracers::NoPerf;

pub use finding::{Finding, Findings, Level, Need};
use host::Host;
use origin::Origin;
use place::{Data, Port};
use way::Answer;
use worker::Hands;
use zone::{Wanted, ZoneFact};

use crate::config::{Config, GlobalZone};
use crate::worker::enrolled;

/// What can be said to `check` besides the runner's own flags.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Print JSON: {"ok": …, "checks": [{need, state, says, mend?}]}
    #[arg(long)]
    pub json: bool,

    /// How long each look may take
    #[arg(long, value_name = "TIME", default_value = "20s",
        value_parser = patience)]
    pub patience: Duration,

    /// A repository that the source must have
    #[arg(long, value_name = "OWNER/REPO", value_parser = repository)]
    pub repository: Option<Repository>,
}

fn patience(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        patience => Ok(patience),
    }
}

fn repository(text: &str) -> Result<Repository, String> {
    let (owner, repo) = text
        .split_once('/')
        .ok_or_else(|| "it takes OWNER/REPO, like dscape/nano".to_owned())?;
    Repository::new(owner, repo).map_err(|error| error.to_string())
}

/// All that was found.
struct Facts {
    data: Data,
    disk: std::io::Result<u64>,
    port: Port,
    origin: Origin,
    answer: Answer,
    zone: ZoneFact,
    /// Only for workers of this machine.
    host: Option<Host>,
    /// Why the enrolled workers are not known.
    unread: Option<String>,
}

/// Looks at everything and judges it.
pub async fn check(config: &Config, args: &CheckArgs) -> Findings {
    let data = match config.data_dir() {
        Ok(data) => data,
        Err(error) => {
            let mend = "ntrace-runner --data DIR";
            let says = error.to_string();
            return Findings(vec![Finding::fail(Need::Data, says, mend)]);
        }
    };
    let facts = look(config, args, &data).await;
    judge(config, &data, &facts)
}

async fn look(config: &Config, args: &CheckArgs, data: &Path) -> Facts {
    let late = args.patience;
    let name = config.runner_name();
    // Who is enrolled is told best by the runner at work.
    let port = place::look_at_port(&config.listen, late).await;
    let (wanted, unread) = match wanted(config, data, &port) {
        Ok(wanted) => (wanted, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let (origin, answer, zone, host) = tokio::join!(
        origin::look(&config.source, args.repository.as_ref(), late),
        way::look(&config.dispatcher, name.as_str(), late),
        zone::look(config, wanted, late),
        async {
            match is_remote(config) {
                true => None,
                false => Some(host::look(late).await),
            }
        },
    );
    Facts {
        data: place::look_at_data(data),
        disk: place::look_at_disk(data),
        port,
        origin,
        answer,
        zone,
        host,
        unread,
    }
}

/// The workers of the file, of the flags, and of the runner at work.
fn wanted(
    config: &Config,
    data: &Path,
    port: &Port,
) -> Result<Vec<Wanted>, String> {
    let mut found = BTreeMap::new();
    for uuid in &config.workers {
        let snapshot = config.snapshot.as_str().to_owned();
        found.insert(*uuid, Wanted { uuid: *uuid, snapshot, told: None });
    }
    for one in enrolled(data).map_err(|error| chain(&error))? {
        let (uuid, snapshot) = one;
        found.insert(uuid, Wanted { uuid, snapshot, told: None });
    }
    let name = config.runner_name();
    if let Port::Runner(running) = port
        && running.name == name.as_str()
    {
        for view in &running.workers {
            let (uuid, snapshot) = (view.uuid, view.snapshot.clone());
            let told = Some(view.clone());
            found.insert(uuid, Wanted { uuid, snapshot, told });
        }
    }
    Ok(found.into_values().collect())
}

fn is_remote(config: &Config) -> bool {
    match config.global_zone {
        GlobalZone::Local => false,
        GlobalZone::Ssh(_) => true,
        GlobalZone::Auto => !cfg!(target_os = "linux"),
    }
}

/// What the facts mean; no I/O.
fn judge(config: &Config, data: &Path, facts: &Facts) -> Findings {
    let name = config.runner_name();
    let is_at_work = matches!(&facts.port,
        Port::Runner(runner) if runner.name == name.as_str());
    let mut all = vec![settings(config)];
    all.push(place::judge_data(data, &facts.data));
    all.push(place::judge_disk(data, config.spool, &facts.disk));
    all.push(place::judge_port(&config.listen, name.as_str(), &facts.port));
    all.extend(origin::judge(&config.source.to_string(), &facts.origin));
    all.extend(way::judge(&config.dispatcher, &facts.answer, is_at_work));
    let address = match &config.global_zone {
        GlobalZone::Ssh(address) => Some(address.to_string()),
        GlobalZone::Local | GlobalZone::Auto => None,
    };
    let way = address.as_deref().map(|address| ssh::Way {
        address,
        identity: config.identity.as_deref(),
        known_hosts: config.known_hosts.as_deref(),
    });
    let before = way.as_ref().map(|way| format!("{} ", way.command()));
    let control = config.listen.to_string();
    let hands = Hands {
        before: before.unwrap_or_default(),
        control: way::nc(&control),
    };
    if let Some(why) = &facts.unread {
        let mend = format!(
            "mv {0} {0}.damaged   (and enroll again)",
            words::shell(&data.join("workers.json").to_string_lossy())
        );
        all.push(Finding::fail(Need::Worker, why, mend));
    }
    if let Some(host) = &facts.host {
        all.extend(host::judge(host));
    }
    let zone = zone::judge(way.as_ref(), &facts.zone, &hands);
    all.extend(zone.into_iter().filter(|one| {
        // That none is enrolled was not found out.
        facts.unread.is_none() || one.says != zone::NONE_ENROLLED
    }));
    let events = match &facts.host {
        Some(host) => host.events,
        None => {
            let perf = Err(NoPerf::Missing);
            host::Events { is_root: false, paranoid: None, perf }
        }
    };
    let is_remote = is_remote(config);
    all.push(host::judge_tracer(config.tracer, is_remote, events));
    Findings(all)
}

/// Settings that clap alone cannot compare.
fn settings(config: &Config) -> Finding {
    let bad = config.limits.defaults().err().or_else(|| {
        let open = !config.listen.is_loopback();
        (open && !config.allow_remote_without_auth).then(|| {
            format!("{} can be reached from other machines", config.listen)
        })
    });
    match bad {
        None => {
            let name = config.runner_name();
            Finding::ok(Need::Settings, format!("runner {name}"))
        }
        Some(why) => Finding::fail(Need::Settings, why, "ntrace-runner --help"),
    }
}

/// An error with all of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
