//! Counting of real programs, as root.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod end;
mod exact;
mod group;
#[cfg(target_arch = "x86_64")]
mod narrow;
mod sys;
