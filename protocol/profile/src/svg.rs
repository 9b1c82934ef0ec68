//! Flame graphs as SVG: one file, no outside resource, one script.
//!
//! The picture is complete without its script (which zooms, searches and
//! shows details), so it can be converted and printed. Every text in it is
//! escaped. It is bounded: what is too narrow to see is left out, and the
//! picture says how much that is. A profile without samples is a picture of
//! the reason.

mod colour;
mod layout;
mod page;
mod words;

use crate::profile::Profile;
use crate::tree::{Side, Tree};

use layout::Layout;

/// In which order callees stand beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By name: the same place in each picture.
    #[default]
    Name,
    /// The widest first.
    Width,
}

/// Where the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Growth {
    /// The root at the bottom.
    #[default]
    Flame,
    /// The root at the top.
    Icicle,
}

/// Which of two commits gives the widths of a differential picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The new one: what is gone cannot be seen.
    New,
    /// The base: what is new cannot be seen.
    Base,
}

/// How a picture is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The first line; by default repository and commit.
    pub title: Option<String>,
    /// Why there are no samples, if there are none and it is known.
    pub reason: Option<String>,
    /// In which order callees stand.
    pub order: Order,
    /// Where the root is.
    pub growth: Growth,
}

/// The flame graph of the sum of some profiles.
pub fn flame(profiles: &[&Profile], options: &Options) -> String {
    let tree = Tree::new(&[], profiles);
    let layout = Layout::new(&tree, Side::New, options.order);
    let words = words::flame(profiles, &tree, &layout, options);
    page::write(&tree, &layout, &words, options.growth)
}

/// The differential flame graph of two commits: red is what takes more CPU
/// itself than it did, blue what takes less; several profiles of a side are
/// averaged. What may be noise is pale.
pub fn diff(
    base: &[&Profile],
    new: &[&Profile],
    direction: Direction,
    options: &Options,
) -> String {
    let levels = words::Levels::new(base, new);
    let tree = Tree::new(base, new);
    let side = match direction {
        Direction::New => Side::New,
        Direction::Base => Side::Base,
    };
    let layout = Layout::new(&tree, side, options.order);
    let words = words::diff(base, new, &levels, &tree, &layout, side, options);
    page::write(&tree, &layout, &words, options.growth)
}
