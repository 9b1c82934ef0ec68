//! Between the machines: `ntrace-runner check`, the tunnel, the services.
//! Each module is one promise, each test one claim.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod check;
mod check_ssh;
mod far;
mod half_dead;
mod keys;
mod links;
mod script;
mod tunnel;
mod unit_run;
mod units;
