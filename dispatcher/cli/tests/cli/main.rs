//! The built program against a fake dispatcher, through the real wire.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is no library"
)]

mod fake;
mod following;
mod program;
mod pushing;
mod showing;
mod statuses;
mod terminal;
mod traces;
