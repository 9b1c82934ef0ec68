//! The source cache (bare git mirrors) and the recipe of a commit.
//!
//! [`Cache::ensure`] brings a commit here and gives its [`Tree`]; from the
//! tree come files, an archive, and the [`Recipe`]: what to run. Nothing is
//! ever checked out here, no hook, filter or attribute of a repository acts.

mod cache;
mod error;
mod git;
mod mirror;
mod name;
mod reach;
mod recipe;
mod template;
mod tree;
mod upkeep;

pub use cache::{Cache, Config, OpenError};
pub use error::SourceError;
pub use git::GitError;
pub use name::{BadName, CommitId, Repository};
pub use reach::{Reach, git_version, reach};
pub use recipe::{Overrides, Recipe, RecipeError, Root, RootError};
pub use template::{BadTemplate, Scheme, Template};
pub use tree::{Archive, Entry, Kind, ReadError, Tree};
