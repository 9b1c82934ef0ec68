//! The source cache (bare git mirrors) and the recipe of a commit.
