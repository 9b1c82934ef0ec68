//! From what dtrace printed to a trace.

use ntrace_profile::{Profile, folded, import};

use super::{HZ, WHAT};
use crate::node::CHECKOUT;
use crate::render;
use crate::tracer::{Labels, Trace};

/// Stacks of a window at most.
const STACKS: usize = 200;

fn profile(text: &[u8], labels: &Labels) -> Profile {
    import::dtrace(text, render::header(WHAT, HZ, labels), CHECKOUT)
}

/// The stacks of the last seconds.
pub(super) fn window(text: &[u8]) -> Vec<(String, u64)> {
    let text = folded::write(&profile(text, &Labels::default()));
    let line = |line: &str| {
        let (stack, count) = line.rsplit_once(' ')?;
        Some((stack.to_owned(), count.parse().ok()?))
    };
    let mut stacks: Vec<(String, u64)> =
        text.lines().filter_map(line).collect();
    stacks.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    stacks.truncate(STACKS);
    stacks
}

/// The whole trace.
pub(super) fn trace(
    text: &[u8],
    lost: u64,
    warnings: Vec<String>,
    labels: &Labels,
) -> Trace {
    let mut profile = profile(text, labels);
    profile.header.lost = profile.header.lost.saturating_add(lost);
    for warning in warnings {
        profile.header.warn(warning);
    }
    render::trace(&profile)
}
