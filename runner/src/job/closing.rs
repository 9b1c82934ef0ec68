//! Ending a command: it is looked at where that is wanted, asked (TERM), given
//! its grace, killed, and at last its zone is halted.
//!
//! The streams are read on meanwhile. Each step has a deadline. Nothing here
//! outlasts the wish to know: a run that is dropped is halted at once.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ntrace_protocol::report::Event;
use ntrace_zones::Signal;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::command::Stage;
use super::evidence::Seen;
use super::verdict::Ended;
use super::{chain, dropped, environment};
use crate::uplink::StopSignal;

/// How long a command has between TERM and KILL, unless who stops it says
/// otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// How long a signal may take to be delivered.
const DELIVER: Duration = Duration::from_secs(5);

/// How long after KILL the zone is halted.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// How long halting may take.
const HALT: Duration = Duration::from_secs(60);

/// How long after the halt the streams may still be open.
pub(super) const AFTER_HALT: Duration = Duration::from_secs(10);

/// A command that is to end, and its streams.
pub(super) struct Closing<'a, F> {
    pub(super) stage: Stage<'a>,
    pub(super) pumps: Pin<&'a mut F>,
    pub(super) stop: StopSignal,
    pub(super) seen: Seen,
}

/// Whether the streams are at their end, so that nothing is left to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Open,
    Over,
}

impl<F: Future> Closing<'_, F> {
    /// Ends it; says whether it was looked at.
    pub(super) async fn end(mut self, why: Ended) -> Seen {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = dropped(&mut stop) => {
                // Nobody wants to know any more.
                self.stage.live.lock().await.drop_it();
                self.halt().await;
            }
            () = self.step_by_step(why) => {}
        }
        self.seen
    }

    async fn step_by_step(&mut self, why: Ended) {
        if self.is_to_be_seen(why) && self.look().await == Streams::Over {
            return;
        }
        if self.signal(Signal::Term).await == Streams::Over
            || self.grace().await == Streams::Over
            || self.signal(Signal::Kill).await == Streams::Over
        {
            return;
        }
        if timeout(AFTER_KILL, self.pumps.as_mut()).await.is_err() {
            self.halt().await;
        }
    }

    /// A clock asks for evidence always, a person when they say so.
    fn is_to_be_seen(&self, why: Ended) -> bool {
        match why {
            Ended::Timeout(_) | Ended::Silence(_) => true,
            Ended::Asked => self.stop.get().is_some_and(|o| o.evidence),
            Ended::Output(_) => false,
        }
    }

    /// Looks once at what it is doing. That is finished even if the streams
    /// end meanwhile: it has a deadline of its own, and a tracer that is left
    /// in the middle of a question loses the trace.
    async fn look(&mut self) -> Streams {
        if self.seen == Seen::Looked {
            return Streams::Open;
        }
        self.seen = Seen::Looked;
        let scene = self.stage.scene();
        let mut looking = std::pin::pin!(scene.gather());
        tokio::select! {
            () = &mut looking => return Streams::Open,
            _ = self.pumps.as_mut() => {}
        }
        looking.await;
        Streams::Over
    }

    /// Waits for the end that was asked for. Whoever asks again meanwhile
    /// changes the grace, which counts from TERM, and may have it looked at.
    async fn grace(&mut self) -> Streams {
        let began = Instant::now();
        loop {
            let grace = self.stop.get().map_or(GRACE, |order| order.grace);
            let order = tokio::select! {
                // Who asks for evidence with no grace left still gets it.
                biased;
                _ = self.pumps.as_mut() => return Streams::Over,
                order = self.stop.changed() => order,
                () = sleep_until(began + grace) => return Streams::Open,
            };
            if !order.evidence || self.seen == Seen::Looked {
                continue;
            }
            let text = "evidence was asked for after TERM was sent: it shows \
                        what was still there";
            let text = text.to_owned();
            self.stage.out.event(Event::Note { text }).await;
            if self.look().await == Streams::Over {
                return Streams::Over;
            }
        }
    }

    async fn halt(&mut self) {
        let Stage { worker, live, .. } = self.stage;
        let halt = async {
            live.lock().await.end_before_halt().await;
            let halted = worker.halt(Instant::now() + HALT).await;
            if let Err(error) = halted {
                // The reset that follows halts again, and tells.
                warn!(error = chain(&error), "cannot halt a worker");
            }
        };
        if during(&mut self.pumps, halt).await == Streams::Open {
            // What the streams still held has come by now, or never will.
            let _ = timeout(AFTER_HALT, self.pumps.as_mut()).await;
        }
    }

    async fn signal(&mut self, signal: Signal) -> Streams {
        let inside = self.stage.inside;
        let send = async {
            let deadline = Instant::now() + DELIVER;
            let user = environment::user();
            if let Err(error) = inside.kill(&user, signal, deadline).await {
                // The next step is harder, so this is only worth a line.
                warn!(error = chain(&error), "cannot signal a job");
            }
        };
        during(&mut self.pumps, send).await
    }
}

/// Does something while the streams are read on; leaves it when they end.
async fn during<F: Future>(
    pumps: &mut Pin<&mut F>,
    action: impl Future<Output = ()>,
) -> Streams {
    tokio::select! {
        () = action => Streams::Open,
        _ = pumps.as_mut() => Streams::Over,
    }
}
