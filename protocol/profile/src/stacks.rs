//! The stacks of a profile as one tree: a node is a frame below a node.
//!
//! Stacks that begin alike share their beginning, so a stack costs what is
//! new in it, about 16 bytes a frame. Invariants: node 0 is the empty
//! stack; a node's parent has a smaller number, so a pass over the numbers
//! backwards meets children before their parents, and nothing recurses.

use crate::frame::FrameId;
use crate::table::Index;

/// Nodes of one profile: about 200 MiB. Past this a new stack is cut where
/// it leaves what is known, and the cut is counted.
const MAX_NODES: usize = 12_000_000;

/// A stack: the last frame's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub(crate) u32);

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    frame: FrameId,
}

/// All stacks of one profile.
#[derive(Debug, Clone)]
pub(crate) struct Stacks {
    nodes: Vec<Node>,
    index: Index,
    most: usize,
}

impl Default for Stacks {
    fn default() -> Self {
        let root = Node { parent: 0, frame: FrameId(0) };
        Self { nodes: vec![root], index: Index::default(), most: MAX_NODES }
    }
}

impl Stacks {
    pub(crate) const EMPTY: StackId = StackId(0);

    /// The stack of `parent` with one frame more; `None` when full.
    pub(crate) fn push(
        &mut self,
        parent: StackId,
        frame: FrameId,
    ) -> Option<StackId> {
        let hash = self.index.hash_pair(parent.0, frame.0);
        let nodes = &self.nodes;
        let found = self.index.find(hash, |row| {
            let node = nodes[row as usize];
            node.parent == parent.0 && node.frame == frame
        });
        if let Some(row) = found {
            return Some(StackId(row));
        }
        if self.nodes.len() >= self.most {
            return None;
        }
        let row = self.nodes.len() as u32;
        self.reserve();
        self.nodes.push(Node { parent: parent.0, frame });
        let nodes = &self.nodes;
        self.index.insert(hash, row, |index, row| {
            let node = nodes[row as usize];
            index.hash_pair(node.parent, node.frame.0)
        });
        Some(StackId(row))
    }

    /// Grows by a quarter: doubling would hold twice what is needed.
    fn reserve(&mut self) {
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact((self.nodes.len() / 4).max(64));
        }
    }

    pub(crate) fn parent(&self, stack: StackId) -> StackId {
        StackId(self.nodes[stack.0 as usize].parent)
    }

    pub(crate) fn frame(&self, stack: StackId) -> FrameId {
        self.nodes[stack.0 as usize].frame
    }

    /// Nodes, the empty one included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The frames of a stack, leaf first.
    pub(crate) fn leaf_first(
        &self,
        stack: StackId,
    ) -> impl Iterator<Item = FrameId> + '_ {
        let mut at = stack;
        std::iter::from_fn(move || {
            if at == Self::EMPTY {
                return None;
            }
            let frame = self.frame(at);
            at = self.parent(at);
            Some(frame)
        })
    }

    #[cfg(test)]
    pub(crate) fn limit(&mut self, most: usize) {
        self.most = most;
    }
}
