//! End-to-end tests: each module is one promise, each test one claim.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod armed;
mod clean;
mod diffs;
mod faults;
mod leaks;
mod many;
mod npm;
mod ordinary;
mod perf;
mod projects;
mod quickstart;
mod races;
mod robust;
mod ssh;
mod stops;
mod syscalls;
mod traces;
mod verdicts;
mod wire;
mod workers;

/// The SHA-256 of bytes, in hex.
fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
