//! The agent beside the zones: asks for work, keeps workers clean, runs
//! jobs, reports.
//!
//! Inward are [`worker`] and [`job`], outward [`uplink`] and [`control`];
//! they meet at [`workers::Workers`] and [`uplink::Job`], and [`run`] joins
//! them. Beside it [`check`] says what a runner would miss.

pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod job;
pub mod run;
pub mod uplink;
pub mod worker;
pub mod workers;

pub use cli::Cli;
pub use config::Config;
pub use run::run;
