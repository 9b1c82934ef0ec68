//! What a command that is about to be ended is doing: gathered in seconds,
//! before anything is signalled.
//!
//! Must not know why it is ended. Nothing here can fail a run, and nothing
//! takes longer than its deadline.

use std::time::Duration;

use ntrace_protocol::report::Event;
use ntrace_protocol::trace::EVIDENCE_DIR;
use ntrace_tracers::evidence::{Bounds, Evidence, of_zone};
use ntrace_tracers::{Sample, Window};
use ntrace_zones::{Carrier, Inside, InsideError, ProcessInfo, Worker};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::chain;
use super::keep::Keepsakes;
use super::trace::Live;
use crate::uplink::RunOut;

/// How long all of it may take.
const EVIDENCE: Duration = Duration::from_secs(6);

/// How long the reading of `/proc` may go on.
const READING: Duration = Duration::from_millis(1500);

/// What is left of the time when stacks must be there.
const LAST: Duration = Duration::from_millis(200);

/// Processes that the event lists at most.
const LISTED: usize = 500;

/// How far a run came, as seen by whoever asks for evidence of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// Nothing of the user's has run yet.
    #[default]
    NotBegun,
    /// It ran, and nobody looked.
    Begun,
    /// It was looked at, and that is in the record.
    Looked,
}

impl Seen {
    /// What the record says where evidence was asked for and there is none.
    pub(super) fn why_nothing(self) -> Option<&'static str> {
        match self {
            Self::NotBegun => Some(
                "there was nothing to look at: no process of the job had begun",
            ),
            Self::Begun => Some(
                "there was nothing to look at: the job's processes had ended, \
                 or were being killed, when it was asked for",
            ),
            Self::Looked => None,
        }
    }
}

/// Where evidence is gathered.
pub(super) struct Scene<'a> {
    pub(super) worker: &'a Worker,
    pub(super) inside: &'a Inside,
    pub(super) live: &'a Mutex<Live>,
    pub(super) keep: &'a Keepsakes,
    pub(super) sample: &'a Sample,
    pub(super) out: &'a RunOut,
}

impl Scene<'_> {
    /// Gathers it and reports it.
    pub(super) async fn gather(&self) {
        let deadline = Instant::now() + EVIDENCE;
        let (listed, seen, window) = tokio::join!(
            self.inside.ps(deadline),
            timeout_at(deadline, self.see(deadline)),
            self.window(deadline),
        );
        let late = || Err("it took too long".to_owned());
        let seen = seen.unwrap_or_else(|_| late());
        self.tell_list(&listed).await;
        let mut evidence = match (seen, &listed) {
            (Ok(evidence), _) => evidence,
            (Err(why), Ok(listed)) => {
                let mut evidence = of_list(listed);
                evidence.notes.push(format!("not seen from outside: {why}"));
                evidence
            }
            (Err(why), Err(_)) => {
                let notes = vec![format!("not seen from outside: {why}")];
                Evidence { notes, ..Evidence::default() }
            }
        };
        if let Some(note) = idle(&window) {
            evidence.notes.push(note);
        }
        self.tell(&evidence, window.ok()).await;
    }

    /// The processes, and the stacks of those that matter most first.
    async fn see(&self, deadline: Instant) -> Result<Evidence, String> {
        let vm = self.vm(deadline).await?;
        let mut evidence = look(&vm).await?;
        // What was seen so far is not lost if these are late.
        let deadline = deadline - LAST;
        let pids = evidence.by_interest();
        let asking = self.sample.stacks_of(&vm, &pids, deadline);
        let why = match timeout_at(deadline, asking).await {
            Ok(Ok(stacks)) => {
                evidence.merge(stacks);
                return Ok(evidence);
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "they were not to be had in time".to_owned(),
        };
        evidence.notes.push(format!("no stacks: {why}"));
        Ok(evidence)
    }

    /// The zone, where it is on this machine.
    async fn vm(&self, deadline: Instant) -> Result<Value, String> {
        if !matches!(**self.worker.carrier(), Carrier::Local(_)) {
            return Err("the zone is on another machine".to_owned());
        }
        self.worker.object(deadline).await.map_err(|e| chain(&e))
    }

    async fn window(&self, deadline: Instant) -> Result<Window, String> {
        self.live.lock().await.window(deadline).await
    }

    async fn tell_list(&self, listed: &Result<Vec<ProcessInfo>, InsideError>) {
        match listed {
            Ok(listed) => {
                let own = listed.iter().filter(|p| !is_ours(p));
                let processes = own.map(|p| {
                    json!({
                        "pid": p.pid, "ppid": p.ppid, "state": p.state,
                        "wchan": p.wchan, "args": p.argv.join(" "),
                        "rss": p.rss,
                    })
                });
                let processes = processes.take(LISTED).collect();
                self.out.event(Event::Evidence { processes }).await;
            }
            Err(error) => {
                let text = format!("no list of processes: {}", chain(error));
                self.out.event(Event::Note { text }).await;
            }
        }
    }

    async fn tell(&self, evidence: &Evidence, window: Option<Window>) {
        let mut artefacts = Vec::new();
        let mut keep = |base: &str, text: String| {
            let name = format!("{EVIDENCE_DIR}/{base}");
            if !text.is_empty() && self.keep.put(&name, text.into_bytes()) {
                artefacts.push(name);
            }
        };
        keep("processes.txt", evidence.tree());
        keep("stacks.txt", evidence.stacks());
        if let Some(window) = window {
            keep("last-seconds.folded", window.text());
        }
        let sentence = evidence.sentence();
        self.out.event(Event::EvidenceSummary { sentence, artefacts }).await;
    }
}

/// What this machine's kernel says of a zone on it.
async fn look(vm: &Value) -> Result<Evidence, String> {
    let init = vm.get("pid").and_then(Value::as_u64);
    let init = init.and_then(|pid| u32::try_from(pid).ok());
    let init = init.ok_or("the zone has no first process")?;
    let until = std::time::Instant::now() + READING;
    let reading = tokio::task::spawn_blocking(move || {
        of_zone(init, Bounds::until(until)).map_err(|e| e.to_string())
    });
    reading.await.unwrap_or_else(|_| Err("it was cut off".to_owned()))
}

/// What there is to be said of last seconds in which nothing ran: a file
/// without a line says less.
fn idle(window: &Result<Window, String>) -> Option<String> {
    let window = window.as_ref().ok().filter(|w| w.folded.is_empty())?;
    Some(format!(
        "no processor time was used in the last {} s, so there is no \
         last-seconds.folded",
        window.seconds
    ))
}

/// What the zone says of itself, where nothing better is to be had.
fn of_list(listed: &[ProcessInfo]) -> Evidence {
    let processes = listed.iter().filter(|p| !is_ours(p)).map(|p| {
        let program = p.argv.first().map_or("", String::as_str);
        let program = program.split(' ').next().unwrap_or(program);
        let comm = program.rsplit('/').next().unwrap_or(program);
        ntrace_tracers::evidence::Process {
            pid: p.pid,
            ppid: p.ppid,
            comm: comm.to_owned(),
            argv: p.argv.clone(),
            state: p.state.as_ref().and_then(|s| s.chars().next()),
            wchan: p.wchan.clone(),
            rss: p.rss,
            ..Default::default()
        }
    });
    Evidence { processes: processes.collect(), ..Evidence::default() }
}

/// Whether it is one of those that serve the job.
fn is_ours(process: &ProcessInfo) -> bool {
    let first = process.argv.first().map_or("", String::as_str);
    process.pid == 1 || first.contains("zone-job")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_looked_at_once_needs_no_other_word() {
        let late = Seen::Begun.max(Seen::Looked);
        assert_eq!(late.why_nothing(), None);
        let words = |seen: Seen| seen.why_nothing().unwrap();
        assert!(words(Seen::NotBegun).contains("no process of the job had"));
        assert!(words(Seen::Begun).contains("had ended"));
    }
}
