//! Shipping: from the spool to the dispatcher, until it is acknowledged.
//!
//! All runs in turn, a bounded number of bytes per request, a few requests
//! on their way. A new connection begins again behind what is acknowledged;
//! the same report twice is harmless.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use ntrace_client::{AckReply, Backoff, CallError, Dispatcher};
use ntrace_protocol::report::Report;
use ntrace_protocol::{Code, RunId, WireError};
use ntrace_spool::Cursor;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, warn};

use super::held::HeldSpool;
use super::{Shared, chain};

/// Requests on their way; the next one waits for an answer.
const WINDOW: usize = 4;

/// The most bytes of reports in one request, as JSON; half of what a line
/// may have.
const REQUEST: usize = 512 * 1024;

/// Pauses of a run whose reports were refused for the moment.
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(15);

/// A run whose reports are refused so often, each time as wrong, is let go.
const TRIES: u32 = 5;

type Answer = (RunId, Result<AckReply, CallError>);

/// How far the shipping of one run is, on this connection.
struct Way {
    run: Arc<HeldSpool>,
    cursor: Cursor,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    backoff: Backoff,
    refused: u32,
}

struct Shipper<'a> {
    shared: &'a Arc<Shared>,
    dispatcher: &'a Dispatcher,
    ways: HashMap<RunId, Way>,
    /// The run that was served last; the one behind it is next.
    last: Option<RunId>,
    sent: FuturesUnordered<BoxFuture<'static, Answer>>,
}

/// Ships all runs until the connection is over.
pub(super) async fn ship(shared: &Arc<Shared>, dispatcher: &Dispatcher) {
    let mut shipper = Shipper {
        shared,
        dispatcher,
        ways: HashMap::new(),
        last: None,
        sent: FuturesUnordered::new(),
    };
    loop {
        let wake_at = shipper.fill();
        let is_idle = shipper.sent.is_empty();
        tokio::select! {
            () = shared.wake.notified() => {}
            Some(answer) = shipper.sent.next(), if !is_idle => {
                if shipper.take(answer).is_err() {
                    return;
                }
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The connection is over.
struct Over;

impl Shipper<'_> {
    /// Fills the window. Answers when a paused run may go on.
    fn fill(&mut self) -> Option<Instant> {
        self.look();
        let now = Instant::now();
        while self.sent.len() < WINDOW {
            let Some(run_id) = self.choose(now) else { break };
            self.last = Some(run_id);
            self.send(run_id);
        }
        let paused = self.ways.values().filter_map(|way| way.not_before);
        paused.filter(|at| *at > now).min()
    }

    /// Takes up new runs and forgets those that are over.
    fn look(&mut self) {
        let runs = self.shared.runs();
        self.ways.retain(|run_id, _| runs.contains_key(run_id));
        for (run_id, run) in runs.iter() {
            self.ways.entry(*run_id).or_insert_with(|| Way {
                run: run.clone(),
                cursor: Cursor::default(),
                not_before: None,
                backoff: Backoff::new(PAUSE_LEAST, PAUSE_MOST),
                refused: 0,
            });
        }
    }

    /// The next run that has something to send, in turn.
    fn choose(&self, now: Instant) -> Option<RunId> {
        let ready = self.ways.iter().filter(|(_, way)| {
            way.not_before.is_none_or(|at| at <= now)
                && way.run.spool.has_more(way.cursor)
        });
        let ready = ready.map(|(run_id, _)| *run_id);
        let last = self.last;
        ready.min_by_key(|id| (last.is_some_and(|last| *id <= last), *id))
    }

    fn send(&mut self, run_id: RunId) {
        let Some(way) = self.ways.get_mut(&run_id) else { return };
        match way.run.spool.read(&mut way.cursor, REQUEST) {
            Ok(reports) if reports.is_empty() => {}
            Ok(reports) => {
                let answer = self.shared.config.waits.answer;
                let sending = post(self.dispatcher.clone(), reports, answer);
                self.sent.push(Box::pin(sending));
            }
            Err(error) => {
                error!(run = %run_id, error = chain(&error),
                    "a spool cannot be read, the run is let go");
                self.shared.drop_run(run_id, "its spool cannot be read");
                self.ways.remove(&run_id);
            }
        }
    }

    fn take(&mut self, (run_id, answer): Answer) -> Result<(), Over> {
        match answer {
            Ok(reply) => {
                self.acked(&reply);
                for refused in &reply.refused {
                    self.refused(refused.run_id, &refused.error);
                }
            }
            Err(CallError::Refused(error)) => self.refused(run_id, &error),
            // The answer was lost, or takes its time: again.
            Err(CallError::Late { .. }) => self.again(run_id),
            Err(CallError::Closed { .. }) => return Err(Over),
        }
        Ok(())
    }

    fn acked(&mut self, reply: &AckReply) {
        for (run_id, acked) in &reply.acked {
            let Some(run) = self.shared.run(*run_id) else { continue };
            if let Some(way) = self.ways.get_mut(run_id) {
                way.refused = 0;
                way.not_before = None;
                way.backoff = Backoff::new(PAUSE_LEAST, PAUSE_MOST);
            }
            match run.spool.ack(acked) {
                Ok(progress) if progress.finished => {
                    self.shared.forget(*run_id);
                }
                Ok(progress) if progress.freed > 0 => {
                    self.shared.freed.send_modify(|n| *n += 1);
                }
                Ok(_) => {}
                Err(error) => warn!(run = %run_id, error = chain(&error),
                    "what is acknowledged cannot be deleted"),
            }
        }
    }

    fn refused(&mut self, run_id: RunId, error: &WireError) {
        match error.code {
            Code::Efenced => {
                self.shared.drop_run(run_id, "a newer lease exists");
            }
            Code::Enoent => {
                self.shared.drop_run(run_id, "the dispatcher forgot the job");
            }
            Code::Eagain | Code::Ebusy | Code::Etime | Code::Einternal => {
                self.again(run_id);
            }
            _ => {
                warn!(run = %run_id, %error, "reports were refused");
                let Some(way) = self.ways.get_mut(&run_id) else { return };
                way.refused += 1;
                if way.refused < TRIES {
                    self.again(run_id);
                } else {
                    let why = "the dispatcher refuses its reports";
                    self.shared.drop_run(run_id, why);
                }
            }
        }
    }

    /// Sends what is not acknowledged once more, after a pause.
    fn again(&mut self, run_id: RunId) {
        let Some(way) = self.ways.get_mut(&run_id) else { return };
        way.cursor = Cursor::default();
        way.not_before = Some(Instant::now() + way.backoff.pause());
    }
}

async fn post(
    dispatcher: Dispatcher,
    reports: Vec<Report>,
    deadline: Duration,
) -> Answer {
    let run_id = reports[0].run_id;
    (run_id, dispatcher.result(&reports, deadline).await)
}
