//! Sessions of a few connections, shared by all who need one.
//!
//! One connection as a rule. A server gives only so many sessions to each
//! (`MaxSessions`, 10 by default), and a job holds one for as long as it
//! runs, so further connections are made when all are in use, one after the
//! other (`MaxStartups`), up to a bound; then callers wait. A lost
//! connection is made anew by whoever needs it next, with growing pauses.
//! Must not know commands.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::SshOptions;
use super::address::SshAddress;
use super::master::Master;
use super::place::Place;
use super::trouble::ConnectError;

/// Sessions of a connection; two less than a server gives by default, so
/// that a person can look through one of them.
const SESSIONS: usize = 8;
/// Connections at most.
pub(super) const MASTERS: usize = 8;
/// Sessions at most.
pub(super) const ALL: usize = MASTERS * SESSIONS;

/// The pause after the first failed connection, and the longest one.
const PAUSES: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(15));

/// A connection and how many sessions of it are in use.
#[derive(Debug)]
struct Slot {
    master: Arc<Master>,
    used: usize,
    most: usize,
}

impl Slot {
    fn is_alive(&self) -> bool {
        !self.master.gone().is_cancelled()
    }

    fn free(&self) -> usize {
        self.most.saturating_sub(self.used)
    }
}

/// When the next connection may be tried.
#[derive(Debug)]
struct Dial {
    next: Instant,
    failures: u32,
}

/// The connections to one global zone.
#[derive(Debug)]
pub(super) struct Pool {
    address: SshAddress,
    options: SshOptions,
    place: Arc<Place>,
    slots: Mutex<Vec<Slot>>,
    freed: Notify,
    /// Whoever connects holds it.
    dial: tokio::sync::Mutex<Dial>,
}

/// A session's place on a connection.
#[derive(Debug)]
pub(super) struct Seat {
    pool: Arc<Pool>,
    master: Arc<Master>,
}

impl Seat {
    /// The connection.
    pub(super) fn master(&self) -> &Arc<Master> {
        &self.master
    }

    /// The other side.
    pub(super) fn address(&self) -> &SshAddress {
        &self.pool.address
    }

    /// The server gives no further session on this connection. Whether
    /// others use it just now; if not, the server gives none at all.
    pub(super) fn is_shared_and_full(&self) -> bool {
        let used = self.pool.with(|slots| {
            let slot = find(slots, &self.master)?;
            slot.most = slot.used.saturating_sub(1).max(1);
            Some(slot.used)
        });
        used.is_some_and(|used| used > 1)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.release(&self.master);
    }
}

fn find<'a>(
    slots: &'a mut [Slot],
    master: &Arc<Master>,
) -> Option<&'a mut Slot> {
    slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.master, master))
}

impl Pool {
    /// Connects to nothing yet.
    pub(super) fn new(
        address: SshAddress,
        options: SshOptions,
    ) -> Result<Self, ConnectError> {
        let place = Place::new(options.control_directory.as_deref())?;
        let dial = Dial { next: Instant::now(), failures: 0 };
        Ok(Self {
            address,
            options,
            place: Arc::new(place),
            slots: Mutex::default(),
            freed: Notify::new(),
            dial: tokio::sync::Mutex::new(dial),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Slot>) -> T) -> T {
        let mut slots = self
            .slots
            .lock()
            .expect("nobody panics while holding the connections");
        act(&mut slots)
    }

    /// A session's place, connecting if need be, until the deadline.
    pub(super) async fn seat(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Seat, ConnectError> {
        let full = || ConnectError::Full {
            address: self.address.clone(),
            sessions: ALL,
        };
        loop {
            let freed = self.freed.notified();
            if let Some(seat) = self.free_seat() {
                return Ok(seat);
            }
            if self.with(|slots| slots.len()) >= MASTERS {
                timeout_at(deadline, freed).await.map_err(|_| full())?;
                continue;
            }
            let dial = timeout_at(deadline, self.dial.lock()).await;
            let Ok(mut dial) = dial else {
                let after = Duration::ZERO;
                let address = self.address.clone();
                return Err(ConnectError::Late { address, after });
            };
            // Somebody may have connected while we waited for our turn.
            if let Some(seat) = self.free_seat() {
                return Ok(seat);
            }
            self.connect(&mut dial, deadline).await?;
        }
    }

    /// Tries to connect until the deadline.
    async fn connect(
        &self,
        dial: &mut Dial,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        loop {
            sleep_until(dial.next.min(deadline)).await;
            let (address, options) = (&self.address, &self.options);
            let error =
                match Master::connect(address, options, &self.place).await {
                    Ok(master) => {
                        dial.failures = 0;
                        dial.next = Instant::now();
                        self.add(master);
                        return Ok(());
                    }
                    Err(error) => error,
                };
            dial.failures = dial.failures.saturating_add(1);
            let pause = pause_after(dial.failures);
            dial.next = Instant::now() + pause;
            tracing::warn!(address = %self.address, ?pause, %error,
                "no connection to the global zone");
            if error.is_lasting() || dial.next >= deadline {
                return Err(error);
            }
        }
    }

    fn add(&self, master: Master) {
        tracing::info!(address = %self.address,
            "connected to the global zone");
        let master = Arc::new(master);
        self.with(|slots| {
            slots.push(Slot { master, used: 0, most: SESSIONS });
        });
        self.freed.notify_waiters();
    }

    /// On the first connection with room, so that the others empty.
    fn free_seat(self: &Arc<Self>) -> Option<Seat> {
        let master = self.with(|slots| {
            slots.retain(Slot::is_alive);
            let slot = slots.iter_mut().find(|slot| slot.free() > 0)?;
            slot.used += 1;
            Some(Arc::clone(&slot.master))
        })?;
        Some(Seat { pool: Arc::clone(self), master })
    }

    /// Gives a place back. An empty connection goes when the others have
    /// room enough.
    fn release(&self, master: &Arc<Master>) {
        let dropped = self.with(|slots| {
            if let Some(slot) = find(slots, master) {
                slot.used = slot.used.saturating_sub(1);
            }
            let spare: usize = slots
                .iter()
                .filter(|slot| !Arc::ptr_eq(&slot.master, master))
                .map(Slot::free)
                .sum();
            let at = slots.iter().position(|slot| {
                Arc::ptr_eq(&slot.master, master)
                    && slot.used == 0
                    && spare >= SESSIONS / 2
            });
            at.map(|at| slots.remove(at))
        });
        drop(dropped);
        self.freed.notify_waiters();
    }

    /// Tokens of the connections that there are.
    pub(super) fn connections(&self) -> Vec<CancellationToken> {
        self.with(|slots| {
            slots.retain(Slot::is_alive);
            slots.iter().map(|slot| slot.master.gone().clone()).collect()
        })
    }
}

/// Twice as long each time, with jitter, so that many runners do not come
/// back at once.
fn pause_after(failures: u32) -> Duration {
    let (first, most) = PAUSES;
    let times = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let whole = first.saturating_mul(times).min(most);
    whole.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_jittered() {
        for failures in 1..100 {
            let pause = pause_after(failures);
            let whole = PAUSES.0 * 2_u32.pow(failures.min(7) - 1);
            let whole = whole.min(PAUSES.1);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?}");
        }
    }
}
