//! End-to-end tests: each module is one promise, each test one claim.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod wire;
