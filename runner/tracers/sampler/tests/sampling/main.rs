//! The sampler on real zones: known programs must give known profiles.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod armed;
mod languages;
mod seen;
mod stacks;
mod stripped;
mod tree;
mod trouble;
mod truth;
mod zone;
