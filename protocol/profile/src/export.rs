//! Profiles for other people's viewers.

mod firefox;
mod speedscope;

pub use firefox::firefox;
pub use speedscope::speedscope;
