//! How a run is told to end.

use std::time::Duration;

use tokio::sync::watch;

/// Why a run is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhy {
    /// Somebody asked for it; its end is reported.
    Asked,
    /// It is not ours any more; nothing of it is wanted.
    Dropped,
}

/// An order to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How long the command has between TERM and KILL.
    pub grace: Duration,
    /// Why.
    pub why: StopWhy,
}

/// Where the order to end arrives; cheap to clone.
#[derive(Clone, Debug)]
pub struct StopSignal {
    orders: watch::Receiver<Option<Stop>>,
}

impl StopSignal {
    pub(super) fn new(orders: watch::Receiver<Option<Stop>>) -> Self {
        Self { orders }
    }

    /// Waits until the run is to end. Once that is so it resolves at once.
    pub async fn stopped(&mut self) -> Stop {
        loop {
            let order = *self.orders.borrow_and_update();
            if let Some(stop) = order {
                return stop;
            }
            if self.orders.changed().await.is_err() {
                // Nobody is left who could say so.
                return std::future::pending().await;
            }
        }
    }

    /// The order, if there is one by now.
    pub fn get(&self) -> Option<Stop> {
        *self.orders.borrow()
    }
}

/// Where orders are given.
#[derive(Debug)]
pub(super) struct StopSwitch(watch::Sender<Option<Stop>>);

impl StopSwitch {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(super) fn signal(&self) -> StopSignal {
        StopSignal::new(self.0.subscribe())
    }

    /// Gives an order. Dropped is final: nothing overrides it. An order
    /// that is given again changes the grace.
    pub(super) fn give(&self, stop: Stop) {
        self.0.send_if_modified(|now| {
            let is_final = now.is_some_and(|s| s.why == StopWhy::Dropped);
            if is_final || *now == Some(stop) {
                return false;
            }
            *now = Some(stop);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_is_final() {
        let switch = StopSwitch::new();
        let mut signal = switch.signal();
        assert_eq!(signal.get(), None);
        let asked = Stop { grace: Duration::from_secs(3), why: StopWhy::Asked };
        let dropped = Stop { grace: Duration::ZERO, why: StopWhy::Dropped };
        switch.give(asked);
        assert_eq!(signal.stopped().await, asked);
        assert_eq!(signal.clone().stopped().await, asked);
        switch.give(dropped);
        switch.give(asked);
        assert_eq!(signal.stopped().await, dropped);
    }
}
