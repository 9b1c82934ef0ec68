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
    /// The last stack that was pushed whole, from its first frame: the next
    /// one often begins alike, and need not be looked up then.
    last: Vec<StackId>,
}

impl Default for Stacks {
    fn default() -> Self {
        let root = Node { parent: 0, frame: FrameId(0) };
        Self {
            nodes: vec![root],
            index: Index::default(),
            most: MAX_NODES,
            last: Vec::new(),
        }
    }
}

impl Stacks {
    pub(crate) const EMPTY: StackId = StackId(0);

    /// The stack of these frames, outermost first; and whether it was cut,
    /// for want of room.
    pub(crate) fn push_all(
        &mut self,
        frames: impl Iterator<Item = FrameId>,
    ) -> (StackId, bool) {
        let mut stack = Self::EMPTY;
        let mut last = std::mem::take(&mut self.last);
        let (mut depth, mut is_alike, mut is_new) = (0, true, false);
        for frame in frames {
            if is_alike {
                match last.get(depth) {
                    Some(next) if self.frame(*next) == frame => {
                        stack = *next;
                        depth += 1;
                        continue;
                    }
                    _ => last.truncate(depth),
                }
                is_alike = false;
            }
            // Nothing stands on a node that is new.
            let known = match is_new {
                true => None,
                false => self.find(stack, frame),
            };
            is_new = known.is_none();
            let Some(next) = known.or_else(|| self.grow(stack, frame)) else {
                self.last = last;
                return (stack, true);
            };
            stack = next;
            last.push(next);
        }
        self.last = last;
        (stack, false)
    }

    /// The stack of `parent` with one frame more; `None` when full.
    pub(crate) fn push(
        &mut self,
        parent: StackId,
        frame: FrameId,
    ) -> Option<StackId> {
        self.find(parent, frame).or_else(|| self.grow(parent, frame))
    }

    fn find(&self, parent: StackId, frame: FrameId) -> Option<StackId> {
        let hash = self.index.hash_pair(parent.0, frame.0);
        let nodes = &self.nodes;
        let found = self.index.find(hash, |row| {
            let node = nodes[row as usize];
            node.parent == parent.0 && node.frame == frame
        });
        found.map(StackId)
    }

    /// Adds what was not found.
    fn grow(&mut self, parent: StackId, frame: FrameId) -> Option<StackId> {
        if self.nodes.len() >= self.most {
            return None;
        }
        let hash = self.index.hash_pair(parent.0, frame.0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_like_the_last_stack_is_found_as_if_it_were_looked_up() {
        let (mut whole, mut single) = (Stacks::default(), Stacks::default());
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut frames = Vec::new();
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            for level in 0..state >> 60 {
                frames.push(FrameId((state >> (30 + level)) as u32 & 1));
            }
            let (stack, is_cut) = whole.push_all(frames.iter().copied());
            let mut at = Stacks::EMPTY;
            for frame in &frames {
                at = single.push(at, *frame).unwrap();
            }
            assert!(!is_cut);
            assert_eq!(stack, at);
            let mut back: Vec<_> = whole.leaf_first(stack).collect();
            back.reverse();
            assert_eq!(back, frames);
        }
        assert_eq!(whole.len(), single.len());
        assert!(whole.len() > 1000, "{}", whole.len());
    }
}
