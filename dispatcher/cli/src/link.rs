//! The connection to the dispatcher, made again when it was lost.
//!
//! The first connection is tried once: nobody there is an answer. A lost one
//! is tried again with growing pauses, until nothing has come for as long as
//! the user has patience.

use std::time::Duration;

use ntrace_client::{Backoff, CallError, Dispatcher};
use ntrace_protocol::unit::format_duration;
use tokio::time::{Instant, sleep, timeout_at};

use crate::failure::Failure;
use crate::screen::{Screen, causes};

/// The first pause before a connection is tried again.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MOST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that outlives its sockets.
pub(crate) struct Link {
    addr: String,
    patience: Duration,
    live: Option<Live>,
    backoff: Backoff,
    /// Since when nothing of use has come.
    lost_since: Option<Instant>,
}

struct Live {
    dispatcher: Dispatcher,
    since: Instant,
}

impl Link {
    /// Nothing is connected before it is needed.
    pub(crate) fn new(addr: String, patience: Duration) -> Self {
        Self {
            addr,
            patience,
            live: None,
            backoff: Backoff::new(LEAST_PAUSE, MOST_PAUSE),
            lost_since: None,
        }
    }

    /// Where the dispatcher is.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// The dispatcher; connects if need be.
    pub(crate) async fn dispatcher(&mut self) -> Result<Dispatcher, Failure> {
        if let Some(live) = &self.live {
            return Ok(live.dispatcher.clone());
        }
        let dispatcher = Dispatcher::connect(&self.addr)
            .await
            .map_err(Failure::Unreachable)?;
        self.live = Some(Live {
            dispatcher: dispatcher.clone(),
            since: Instant::now(),
        });
        Ok(dispatcher)
    }

    /// Something of use came: the connection works.
    pub(crate) fn works(&mut self) {
        self.lost_since = None;
    }

    /// The connection was lost: makes a new one.
    pub(crate) async fn again(
        &mut self,
        screen: &Screen,
    ) -> Result<(), Failure> {
        if let Some(live) = self.live.take() {
            live.dispatcher.peer().close();
            let lasted = live.since.elapsed();
            self.backoff.lasted(lasted);
            if lasted >= MOST_PAUSE {
                // A silent connection was of use too: this is a new loss.
                self.works();
            }
        }
        let since = match self.lost_since {
            Some(since) => since,
            None => {
                let patience = format_duration(self.patience);
                screen.say(&format!(
                    "the connection was lost; trying again for {patience}"
                ));
                *self.lost_since.insert(Instant::now())
            }
        };
        let end = since + self.patience;
        let mut last = String::new();
        loop {
            let pause = self.backoff.pause();
            if Instant::now() + pause >= end {
                let patience = format_duration(self.patience);
                return Err(Failure::Lost {
                    hint: format!(
                        " and could not be had again within {patience}{last}"
                    ),
                });
            }
            sleep(pause).await;
            match timeout_at(end, self.dispatcher()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(Failure::Unreachable(error))) => {
                    last = format!("; {}", causes(&error));
                }
                Ok(Err(failure)) => return Err(failure),
                // The next pause passes the end.
                Err(_) => {}
            }
        }
    }

    /// Asks, and asks again if the connection is lost before the answer. Only
    /// for what may be asked twice.
    pub(crate) async fn ask<T>(
        &mut self,
        screen: &Screen,
        ask: impl AsyncFn(&Dispatcher) -> Result<T, CallError>,
    ) -> Result<T, Failure> {
        loop {
            let dispatcher = self.dispatcher().await?;
            match ask(&dispatcher).await {
                Err(CallError::Closed { .. }) => self.again(screen).await?,
                answered => {
                    self.works();
                    return answered.map_err(Failure::from);
                }
            }
        }
    }
}
