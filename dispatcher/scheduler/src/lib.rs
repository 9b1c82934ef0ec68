//! Decisions of the dispatcher: who gets which job, and what a lost run
//! means.
//!
//! Pure: events and the time go in, effects come out. It must not know
//! clocks, sockets or files, and it does not know the queue either, which
//! lies on the disk: it asks for the next job and is told what came of it.
//!
//! Invariants: a job has at most one live lease; every waiter gets exactly
//! one answer unless its connection is gone; whoever gave a lease back or
//! lost it has no further say in the run.
//!
//! Reading order: [`event`] says what goes in and what comes out,
//! [`scheduler`] is the decision, [`requeue`] is what a lost run means.

pub mod early;
mod event;
mod hold;
pub mod requeue;
pub mod scheduler;

pub use event::{ConnId, Effect, Event, LostBecause, Settings, WaiterId};
pub use requeue::{After, Facts, after_loss};
pub use scheduler::{Known, Scheduler, Welcomed};
