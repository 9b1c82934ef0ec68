//! The agent beside the zones: asks for work, keeps workers clean, runs jobs, reports.

pub mod uplink;
pub mod workers;
