//! The last of a run, when its place is free again: what the runner itself
//! made of it is sent, then its end is told.
//!
//! Needs nothing of the place, so that a dispatcher that is away holds up no
//! worker. Invariant: exactly one `end` is reported, after everything else.

use std::collections::BTreeMap;

use ntrace_protocol::Usage;
use ntrace_protocol::report::{End, EndTag, Event};

use super::dropped;
use super::evidence::Seen;
use super::keep::Keepsakes;
use super::trace::Traces;
use super::verdict::Verdict;
use crate::uplink::{RunOut, StopSignal};

/// A run that is over but for telling it.
#[must_use = "a run must be told to have ended"]
pub struct Farewell {
    pub(super) out: RunOut,
    pub(super) stop: StopSignal,
    pub(super) verdict: Verdict,
    pub(super) usage: Usage,
    pub(super) traces: Option<Traces>,
    pub(super) keep: Keepsakes,
    pub(super) seen: Seen,
}

impl Farewell {
    /// Sends what is left and reports the end.
    pub async fn tell(self) {
        let Self { out, mut stop, verdict, usage, mut traces, keep, seen } =
            self;
        let missing = tokio::select! {
            missing = keep.send(&out) => missing,
            () = dropped(&mut stop) => Vec::new(),
        };
        for (name, why) in &missing {
            let text = format!("artefact {name}: {why}");
            out.event(Event::Note { text }).await;
            if let Some(traces) = &mut traces {
                traces.missing(name, why);
            }
        }
        let is_asked_for = stop.get().is_some_and(|order| order.evidence);
        if let Some(why) = seen.why_nothing().filter(|_| is_asked_for) {
            let sentence = why.to_owned();
            let artefacts = Vec::new();
            out.event(Event::EvidenceSummary { sentence, artefacts }).await;
        }
        if let Some(text) = verdict.note {
            out.event(Event::Note { text }).await;
        }
        out.end(End {
            event: EndTag::End,
            outcome: verdict.outcome,
            reason: verdict.reason,
            sentence: verdict.sentence,
            exit: verdict.exit,
            usage: Some(usage),
            trace: traces.map(Traces::summary),
            last: BTreeMap::new(),
        })
        .await;
    }
}
