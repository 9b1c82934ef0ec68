//! The scripts for a SmartOS host, run for real on this machine: the gate of
//! the global zone under every shell there is, and what sets a host up.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod behaviour;
mod gate;
mod host;
mod hostile;
mod manifests;
mod model;
mod over_sshd;
mod runner;
mod services;
mod setup;
mod traced;
mod worker;
mod zone;
