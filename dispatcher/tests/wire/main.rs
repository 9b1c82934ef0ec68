//! The dispatcher, asked through the wire.

mod artefacts;
mod bad_input;
mod crash;
mod output;
mod people;
mod runners;
mod support;
