//! The calls of one or several profiles as one tree, merged by name.
//!
//! What differs in line, tier or file alone is one node here. Each node has
//! two sides, so that two commits can stand beside each other. Invariant: a
//! node's parent has a smaller number; node 0 is the root of all.

use crate::frame::FrameKind;
use crate::profile::{Profile, Value};
use crate::stacks::StackId;
use crate::strings::{StringId, Strings};
use crate::table::Index;

/// A profile with more stack nodes than this is thinned before it is merged.
const THIN_ABOVE: usize = 500_000;
/// What is then left out: less than this part of the whole.
const THIN: u64 = 100_000;
/// No node.
const NONE: u32 = u32::MAX;

/// What the numbers of a tree count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanoseconds,
    Samples,
}

/// Which of two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Base = 0,
    New = 1,
}

/// A function called by the functions above it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) parent: u32,
    pub(crate) name: StringId,
    pub(crate) kind: FrameKind,
    /// How much of the total was of this kind.
    kind_weight: u64,
    /// In the function itself, by side.
    pub(crate) own: [u64; 2],
    /// In the function and what it called, by side.
    pub(crate) total: [u64; 2],
    /// The total in samples, by side.
    pub(crate) seen: [u64; 2],
}

/// The calls of profiles.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) unit: Unit,
    strings: Strings,
    nodes: Vec<Node>,
    index: Index,
}

impl Tree {
    /// The calls of all profiles of both sides.
    pub(crate) fn new(base: &[&Profile], new: &[&Profile]) -> Self {
        let timed = |profile: &&&Profile| {
            profile.is_empty() || profile.total().cpu_ns > 0
        };
        let unit = if base.iter().chain(new).all(|p| timed(&p)) {
            Unit::Nanoseconds
        } else {
            Unit::Samples
        };
        let root = Node {
            parent: 0,
            name: StringId::default(),
            kind: FrameKind::Process,
            kind_weight: 0,
            own: [0; 2],
            total: [0; 2],
            seen: [0; 2],
        };
        let mut tree = Self {
            unit,
            strings: Strings::default(),
            nodes: vec![root],
            index: Index::default(),
        };
        for profile in base {
            tree.add(profile, Side::Base);
        }
        for profile in new {
            tree.add(profile, Side::New);
        }
        tree
    }

    fn weight(&self, value: Value) -> u64 {
        match self.unit {
            Unit::Nanoseconds => value.cpu_ns,
            Unit::Samples => value.samples,
        }
    }

    fn add(&mut self, profile: &Profile, side: Side) {
        let side = side as usize;
        let totals = profile.totals(|value| self.weight(value));
        let whole = totals[0];
        let least = if totals.len() > THIN_ABOVE { whole / THIN } else { 0 };
        let names: Vec<(StringId, FrameKind)> = profile
            .frame_ids()
            .map(|id| {
                let view = profile.view(id);
                (self.strings.intern(view.name), view.kind)
            })
            .collect();
        let mut nodes = vec![NONE; totals.len()];
        nodes[0] = 0;
        for row in 1..totals.len() {
            let stack = StackId(row as u32);
            let parent = nodes[profile.parent(stack).0 as usize];
            if parent == NONE || totals[row] <= least && least > 0 {
                continue;
            }
            let frame = profile.frame_of(stack);
            let (name, kind) = names[frame.0 as usize];
            let at = self.child(parent, name);
            nodes[row] = at;
            let node = &mut self.nodes[at as usize];
            if totals[row] >= node.kind_weight {
                (node.kind, node.kind_weight) = (kind, totals[row]);
            }
            node.total[side] = node.total[side].saturating_add(totals[row]);
        }
        let root = &mut self.nodes[0];
        root.total[side] = root.total[side].saturating_add(whole);
        for sample in profile.samples() {
            let own = self.weight(sample.value);
            let at = nodes[sample.stack.0 as usize];
            if at != NONE {
                let node = &mut self.nodes[at as usize];
                node.own[side] = node.own[side].saturating_add(own);
            }
        }
        drop(totals);
        let seen = profile.totals(|value| value.samples);
        for (at, seen) in nodes.iter().zip(seen) {
            if *at != NONE {
                let node = &mut self.nodes[*at as usize];
                node.seen[side] = node.seen[side].saturating_add(seen);
            }
        }
    }

    /// The node of this name below another.
    fn child(&mut self, parent: u32, name: StringId) -> u32 {
        let hash = self.index.hash_pair(parent, name.0);
        let nodes = &self.nodes;
        let found = self.index.find(hash, |row| {
            let node = nodes[row as usize];
            node.parent == parent && node.name == name
        });
        if let Some(row) = found {
            return row;
        }
        let row = self.nodes.len() as u32;
        self.nodes.push(Node {
            parent,
            name,
            kind: FrameKind::Unknown,
            kind_weight: 0,
            own: [0; 2],
            total: [0; 2],
            seen: [0; 2],
        });
        let nodes = &self.nodes;
        self.index.insert(hash, row, |index, row| {
            let node = nodes[row as usize];
            index.hash_pair(node.parent, node.name.0)
        });
        row
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn name(&self, node: &Node) -> &str {
        self.strings.get(node.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, folded};

    fn profile(text: &str) -> Profile {
        let header = Header { hz: 1, ..Header::default() };
        folded::read(text.as_bytes(), header).unwrap()
    }

    #[test]
    fn both_sides_meet_in_one_tree_by_name() {
        let base = profile("p;main;old 3\np;main 1\n");
        let new = profile("p;main_[j];new 2\np;main_[j] 2\n");
        let tree = Tree::new(&[&base], &[&new]);
        let shown: Vec<_> = tree.nodes()[1..]
            .iter()
            .map(|n| (tree.name(n), n.seen, n.own[1] / 1_000_000_000))
            .collect();
        let expected = [
            ("p", [4, 4], 0),
            ("main", [4, 4], 2),
            ("old", [3, 0], 0),
            ("new", [0, 2], 2),
        ];
        assert_eq!(shown, expected);
        assert_eq!(tree.nodes()[0].total, [4_000_000_000; 2]);
    }

    #[test]
    fn without_times_a_tree_counts_samples() {
        let text = b"p;main 3\n";
        let counted = folded::read(text, Header::default()).unwrap();
        let tree = Tree::new(&[], &[&counted]);
        assert_eq!(tree.unit, Unit::Samples);
        assert_eq!(tree.nodes()[0].total, [0, 3]);
    }
}
