//! The server on port 9181: queue, leases, output, artefacts.
//!
//! People push jobs and read what came of them; runners take jobs and report.
//! Both speak the same protocol on the same port. What is decided is in the
//! crate `scheduler`, what is kept in `store`; this crate connects the two
//! with the wire.
//!
//! Reading order: [`config`] says how it is started, [`server`] how it lives
//! and ends; `connection` finds the command for a line, `command` holds the
//! commands, `engine` is the task that gives out work. Traces: `choose` says
//! which are meant, `render` draws and compares, `documents` says when.

mod args;
mod choose;
mod clock;
mod command;
pub mod config;
mod connection;
mod documents;
mod engine;
mod refusal;
mod render;
pub mod server;
mod stats;
mod watchers;

pub use config::Config;
pub use server::{RunError, Server, run};
