//! A bounded queue that is joined in the order of asking.
//!
//! A sender of tokio's bounded channel that had to wait can be overtaken by
//! one that comes later: room is promised in order, but used when the
//! sender's task gets to run. Requests that a peer sends without waiting for
//! answers must stay in order, so here only the first in line asks for room.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// The sending side of the queue.
pub struct Line<T> {
    turn: Arc<Mutex<()>>,
    sender: mpsc::Sender<T>,
}

impl<T> Clone for Line<T> {
    fn clone(&self) -> Self {
        Self { turn: self.turn.clone(), sender: self.sender.clone() }
    }
}

impl<T> std::fmt::Debug for Line<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({} free)", self.sender.capacity())
    }
}

/// The other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineClosed;

impl<T> Line<T> {
    /// A line before a bounded channel.
    pub fn new(sender: mpsc::Sender<T>) -> Self {
        Self { turn: Arc::default(), sender }
    }

    /// Waits for its turn and for room. Whoever is polled first for the first
    /// time comes first. Dropped while waiting, it sends nothing.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn send(&self, value: T) -> Result<(), LineClosed> {
        let _turn = self.turn.lock().await;
        self.sender.send(value).await.map_err(|_| LineClosed)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::{FuturesUnordered, StreamExt as _};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_asks_first_is_first_however_full_it_is() {
        let (tx, mut rx) = mpsc::channel(2);
        let line = Line::new(tx);
        const COUNT: usize = 20_000;
        let sending = tokio::spawn(async move {
            let mut open = FuturesUnordered::new();
            for n in 0..COUNT {
                let mut sent = Box::pin(line.send(n));
                // The first poll takes the place in the line.
                if futures::poll!(&mut sent).is_pending() {
                    open.push(sent);
                }
                if n % 7 == 0 {
                    let _ = futures::poll!(open.next());
                }
            }
            while open.next().await.is_some() {}
        });
        for n in 0..COUNT {
            assert_eq!(rx.recv().await, Some(n));
        }
        sending.await.unwrap();
    }
}
