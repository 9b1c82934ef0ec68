//! Profiles for other people's viewers.
//!
//! A profile has no times, but viewers show one thing after the other. So
//! stacks that begin alike are written side by side, by name: read from left
//! to right a viewer shows what the picture shows.

mod firefox;
mod functions;
mod order;
mod speedscope;

pub use firefox::firefox;
pub use speedscope::speedscope;
