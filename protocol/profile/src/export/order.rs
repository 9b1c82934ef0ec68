//! In which order samples are written.

use crate::profile::{Profile, Sample};
use crate::stacks::StackId;

/// The samples as a walk through their tree meets them: callees by name,
/// after their caller.
pub(super) fn by_stack(profile: &Profile) -> Vec<Sample> {
    let place = places(profile);
    let mut samples = profile.samples().to_vec();
    samples.sort_unstable_by_key(|sample| place[sample.stack.0 as usize]);
    samples
}

/// When the walk meets each stack. Nothing recurses: a stack may be as deep
/// as it likes.
fn places(profile: &Profile) -> Vec<u32> {
    let count = profile.stack_count();
    // Frames of one name are beside each other: first all names are ranked.
    let mut frames: Vec<_> = profile.frame_ids().collect();
    frames.sort_by_key(|id| {
        let view = profile.view(*id);
        (view.name, view.file, view.line)
    });
    let mut rank = vec![0_u32; frames.len()];
    for (n, id) in (0..).zip(&frames) {
        rank[id.0 as usize] = n;
    }
    drop(frames);
    let parent = |row: u32| profile.parent(StackId(row)).0;
    let rank_of = |row: &u32| rank[profile.frame_of(StackId(*row)).0 as usize];
    // All stacks, those of one caller together and in order.
    let mut inner: Vec<u32> = (1..count).collect();
    inner.sort_unstable_by_key(|row| (parent(*row), rank_of(row)));
    let mut place = vec![0_u32; count as usize];
    let mut next = 0;
    let mut open = vec![0_u32];
    while let Some(row) = open.pop() {
        place[row as usize] = next;
        next += 1;
        // Searched for rather than kept: there may be millions of stacks.
        let from = inner.partition_point(|other| parent(*other) < row);
        let mine = inner[from..].iter().take_while(|at| parent(**at) == row);
        let before = open.len();
        open.extend(mine);
        open[before..].reverse();
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, folded};

    #[test]
    fn stacks_that_begin_alike_stand_together_in_order_of_name() {
        let text = b"p;m;b;x 1\no;z 1\np;m;a 1\np;c 1\np;m;b 1\np;m 1\n";
        let profile = folded::read(text, Header::default()).unwrap();
        let shown: Vec<String> = by_stack(&profile)
            .iter()
            .map(|sample| {
                let stack = profile.stack(sample.stack);
                let names: Vec<&str> =
                    stack.iter().map(|id| profile.view(*id).name).collect();
                names.join(";")
            })
            .collect();
        assert_eq!(shown, ["o;z", "p;c", "p;m", "p;m;a", "p;m;b", "p;m;b;x"]);
    }
}
