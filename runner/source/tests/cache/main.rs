//! The cache against real repositories, made by real git.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod fetching;
mod harm;
mod keeping;
mod place;
mod trees;
