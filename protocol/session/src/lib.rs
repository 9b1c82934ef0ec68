//! One connection: requests and answers in both directions, bounded.
//!
//! Either side may ask at any time. This crate keeps the promises of the wire
//! that hold for every command (see docs/protocol.md): each request gets
//! exactly one answer, a bad line is answered and reading goes on, a
//! half-closed peer still gets its answers, and a peer that does not read is
//! first not read from, then cut off. It knows no command and keeps no state
//! beyond the connection.

mod listen;
mod outbox;
mod owner;
mod peer;
mod session;

pub use listen::{
    BindError, ListenAddr, Listener, NotAListenAddr, accept_loop,
};
pub use owner::{Verdict, judge};
pub use peer::{CallError, Closed, Peer};
pub use session::{Call, Config, Service, SessionHandle, spawn};
