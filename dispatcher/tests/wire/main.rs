//! The dispatcher, asked through the wire.
#![expect(clippy::unwrap_used, reason = "a test ends at what is wrong")]

mod artefacts;
mod bad_input;
mod crash;
mod output;
mod people;
mod profiles;
mod runners;
mod support;
mod traces;
