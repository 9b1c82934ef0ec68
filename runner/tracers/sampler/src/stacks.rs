//! Stacks as a tree of calls, each path once: what a long run keeps of its
//! samples. Bounded: when it is full, new paths end where it was full.

use std::collections::HashMap;
use std::hash::Hash;

/// Calls kept at most; about 40 bytes each with their index.
const NODES_MAX: usize = 3_000_000;

/// A call: which frame, called from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node(u32);

/// Which of the known frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FrameId(u32);

const ROOT: u32 = u32::MAX;

/// All stacks, and how often each was seen.
#[derive(Debug)]
pub(crate) struct Stacks<F> {
    frames: Vec<F>,
    known: HashMap<F, FrameId>,
    /// Parent, frame.
    nodes: Vec<(u32, FrameId)>,
    index: HashMap<(u32, FrameId), u32>,
    counts: HashMap<u32, u64>,
    limit: usize,
    shortened: u64,
}

impl<F: Copy + Eq + Hash> Stacks<F> {
    /// None yet.
    pub(crate) fn new() -> Stacks<F> {
        Stacks {
            frames: Vec::new(),
            known: HashMap::new(),
            nodes: Vec::new(),
            index: HashMap::new(),
            counts: HashMap::new(),
            limit: NODES_MAX,
            shortened: 0,
        }
    }

    fn frame_id(&mut self, frame: F) -> FrameId {
        let next = FrameId(self.frames.len() as u32);
        let id = *self.known.entry(frame).or_insert(next);
        if id == next {
            self.frames.push(frame);
        }
        id
    }

    /// Counts a stack, outermost frame first; gives its innermost call.
    pub(crate) fn add(
        &mut self,
        frames: impl IntoIterator<Item = F>,
    ) -> Option<Node> {
        let mut at = ROOT;
        for frame in frames {
            let full = self.nodes.len() >= self.limit;
            if full && !self.known.contains_key(&frame) {
                self.shortened += 1;
                break;
            }
            let frame = self.frame_id(frame);
            let next = self.nodes.len() as u32;
            match self.index.get(&(at, frame)) {
                Some(known) => at = *known,
                None if full => {
                    self.shortened += 1;
                    break;
                }
                None => {
                    self.index.insert((at, frame), next);
                    self.nodes.push((at, frame));
                    at = next;
                }
            }
        }
        if at == ROOT {
            return None;
        }
        *self.counts.entry(at).or_insert(0) += 1;
        Some(Node(at))
    }

    /// The frames of a stack, outermost first.
    pub(crate) fn frames(&self, node: Node) -> Vec<F> {
        let mut found = Vec::new();
        let mut at = node.0;
        while let Some((parent, frame)) = self.nodes.get(at as usize) {
            found.push(self.frames[frame.0 as usize]);
            at = *parent;
        }
        found.reverse();
        found
    }

    /// Each stack that was counted, in a stable order.
    pub(crate) fn counted(&self) -> Vec<(Node, u64)> {
        let mut all: Vec<(Node, u64)> = self
            .counts
            .iter()
            .map(|(node, count)| (Node(*node), *count))
            .collect();
        all.sort_unstable_by_key(|(node, _)| node.0);
        all
    }

    /// Each frame that was seen.
    pub(crate) fn all_frames(&self) -> &[F] {
        &self.frames
    }

    /// How many stacks lost their inner part for want of room.
    pub(crate) fn shortened(&self) -> u64 {
        self.shortened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_are_one_and_come_back_in_order() {
        let mut stacks = Stacks::new();
        let one = stacks.add([1, 2, 3]).unwrap();
        assert_eq!(stacks.add([1, 2, 3]), Some(one));
        let two = stacks.add([1, 2]).unwrap();
        assert_eq!(stacks.frames(one), [1, 2, 3]);
        assert_eq!(stacks.counted(), [(two, 1), (one, 2)]);
        assert_eq!(stacks.add([]), None);
    }

    #[test]
    fn a_full_tree_shortens_new_stacks_and_counts_them() {
        let mut stacks = Stacks::new();
        stacks.limit = 3;
        stacks.add([1, 2, 3]);
        let short = stacks.add([1, 2, 4]).unwrap();
        assert_eq!(stacks.frames(short), [1, 2]);
        assert_eq!(stacks.add([9]), None);
        assert_eq!(stacks.shortened(), 2);
        assert_eq!(
            stacks.add([1, 2, 3]).map(|n| stacks.frames(n).len()),
            Some(3)
        );
    }

    #[test]
    fn a_very_deep_stack_does_not_recurse() {
        let mut stacks = Stacks::new();
        let deep = stacks.add(0..100_000).unwrap();
        assert_eq!(stacks.frames(deep).len(), 100_000);
    }
}
