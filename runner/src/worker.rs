//! Workers: made clean, kept clean, given to one job at a time.
//!
//! [`machine`] decides, [`task`] does it for one worker, [`roster`] holds
//! all of them, [`enrolled`] is what survives a restart.

mod enrolled;
mod machine;
mod roster;
mod task;

pub(crate) use enrolled::enrolled;
pub use roster::{Roster, RosterConfig, RosterError};
