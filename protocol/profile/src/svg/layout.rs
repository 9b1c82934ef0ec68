//! Where each box of a flame graph stands.

use super::Order;
use crate::tree::{Side, Tree};

/// Boxes narrower than this part of the whole are not drawn.
const LEAST: f64 = 1.0 / 8000.0;
/// Boxes of one picture.
const MAX_BOXES: usize = 12_000;
/// Bytes that all boxes may take.
const MAX_BYTES: usize = 1_900_000;
/// Bytes that a box takes beside its texts.
const BOX_BYTES: usize = 210;
/// Rows of one picture.
const MAX_ROWS: u32 = 400;

/// A box to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) node: u32,
    /// From 0, the root's row.
    pub(super) row: u32,
    /// Left edge and width as parts of the whole.
    pub(super) x: f64,
    pub(super) width: f64,
}

/// The boxes of a picture, outer ones before inner ones.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) places: Vec<Place>,
    pub(super) rows: u32,
    /// How many boxes were left out.
    pub(super) hidden: usize,
    /// The part of the whole that was measured in what was left out.
    pub(super) hidden_share: f64,
}

impl Layout {
    pub(super) fn new(tree: &Tree, side: Side, order: Order) -> Self {
        let side = side as usize;
        let nodes = tree.nodes();
        let whole = nodes[0].total[side];
        if whole == 0 {
            return Self::default();
        }
        let shown = choose(tree, side);
        let children = children(tree, side, order, &shown);
        let mut layout = Self::default();
        let mut x = vec![0.0; nodes.len()];
        let mut row = vec![0_u32; nodes.len()];
        let mut own_shown = 0_u64;
        let width = |at: usize| nodes[at].total[side] as f64 / whole as f64;
        for (at, node) in nodes.iter().enumerate() {
            if !shown[at] {
                layout.hidden += usize::from(node.total[side] > 0);
                continue;
            }
            own_shown = own_shown.saturating_add(node.own[side]);
            layout.rows = layout.rows.max(row[at] + 1);
            let (row_here, x_here) = (row[at], x[at]);
            let place = Place {
                node: at as u32,
                row: row_here,
                x: x_here,
                width: width(at),
            };
            layout.places.push(place);
            let mut edge = x_here;
            for child in children.of(at) {
                let child = *child as usize;
                x[child] = edge;
                row[child] = row_here + 1;
                edge += width(child);
            }
        }
        let hidden = whole.saturating_sub(own_shown);
        layout.hidden_share = hidden as f64 / whole as f64;
        layout
    }
}

/// Which nodes are drawn: the widest that fit into the bounds. A parent is
/// as wide as its children at least, so no shown box stands on a hidden one.
fn choose(tree: &Tree, side: usize) -> Vec<bool> {
    let nodes = tree.nodes();
    let least = (nodes[0].total[side] as f64 * LEAST).max(1.0);
    let mut depth = vec![0_u32; nodes.len()];
    let mut widest: Vec<u32> = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        if at > 0 {
            depth[at] = depth[node.parent as usize] + 1;
        }
        if node.total[side] as f64 >= least && depth[at] < MAX_ROWS {
            widest.push(at as u32);
        }
    }
    widest.sort_unstable_by_key(|at| {
        (std::cmp::Reverse(nodes[*at as usize].total[side]), *at)
    });
    let mut shown = vec![false; nodes.len()];
    let mut bytes = 0;
    for at in widest.into_iter().take(MAX_BOXES) {
        let at = at as usize;
        // The name stands twice; a cut one is longer than what it shows.
        let name = tree.name(&nodes[at]).len().min(super::page::NAME_MAX);
        bytes += BOX_BYTES + 2 * name;
        // The root is shown always, so that there is a picture.
        shown[at] = at == 0 || bytes <= MAX_BYTES;
    }
    shown
}

/// The shown children of each node, in the order in which they stand.
struct Children {
    starts: Vec<u32>,
    all: Vec<u32>,
}

impl Children {
    fn of(&self, node: usize) -> &[u32] {
        &self.all[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

fn children(
    tree: &Tree,
    side: usize,
    order: Order,
    shown: &[bool],
) -> Children {
    let nodes = tree.nodes();
    let mut all: Vec<u32> =
        (1..nodes.len() as u32).filter(|at| shown[*at as usize]).collect();
    all.sort_by(|a, b| {
        let (a, b) = (&nodes[*a as usize], &nodes[*b as usize]);
        let by_name = tree.name(a).cmp(tree.name(b));
        let within = match order {
            Order::Name => by_name,
            Order::Width => b.total[side].cmp(&a.total[side]).then(by_name),
        };
        a.parent.cmp(&b.parent).then(within)
    });
    let mut starts = vec![0; nodes.len() + 1];
    for at in &all {
        starts[nodes[*at as usize].parent as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    Children { starts, all }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, folded};

    fn layout(text: &str, order: Order) -> (Tree, Layout) {
        let header = Header { hz: 1, ..Header::default() };
        let profile = folded::read(text.as_bytes(), header).unwrap();
        let tree = Tree::new(&[], &[&profile]);
        let layout = Layout::new(&tree, Side::New, order);
        (tree, layout)
    }

    fn shown(tree: &Tree, layout: &Layout) -> Vec<(String, u32, f64, f64)> {
        let nodes = tree.nodes();
        let of = |place: &Place| {
            let name = tree.name(&nodes[place.node as usize]).to_owned();
            (name, place.row, place.x, place.width)
        };
        layout.places.iter().map(of).collect()
    }

    #[test]
    fn callees_stand_on_their_caller_in_order() {
        let text = "p;m;b 6\np;m;a 1\np;m 1\n";
        let (tree, by_name) = layout(text, Order::Name);
        let places = shown(&tree, &by_name);
        assert_eq!(places[0], (String::new(), 0, 0.0, 1.0));
        assert!(places.contains(&("a".into(), 3, 0.0, 0.125)));
        assert!(places.contains(&("b".into(), 3, 0.125, 0.75)));
        let (tree, by_width) = layout(text, Order::Width);
        let places = shown(&tree, &by_width);
        assert!(places.contains(&("b".into(), 3, 0.0, 0.75)));
        assert_eq!((by_width.rows, by_width.hidden), (4, 0));
    }

    #[test]
    fn what_is_too_narrow_is_left_out_and_counted() {
        let (_, layout) = layout("p;wide 99999\np;thin 1\n", Order::Name);
        assert_eq!((layout.places.len(), layout.hidden), (3, 1));
        assert!((layout.hidden_share - 1e-5).abs() < 1e-9);
    }
}
