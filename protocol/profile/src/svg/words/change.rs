//! The words and colours of a differential picture.
//!
//! A strong colour is a claim. Only a function that stands out of the noise
//! has one; what may be noise is pale, however large it looks.

use std::collections::HashMap;

use super::{Look, MAX_LINE, Words, amount, figures, title, wrap};
use crate::diff::{self, Level};
use crate::profile::Profile;
use crate::svg::Options;
use crate::svg::colour::{self, Rgb};
use crate::svg::layout::Layout;
use crate::tree::{Node, Side, Tree, Unit};

/// A change of this part of the whole has the full colour.
const FULL_CHANGE: f64 = 0.02;
/// A change of this part of the whole is written on its box.
const WRITTEN_CHANGE: f64 = 0.01;
/// The most colour that a change has which may be noise.
const PALE: f64 = 0.05;
/// What is no change at all to the eye.
const NOTHING: f64 = 0.002;

/// How sure it is of each function that it takes more or less itself.
#[derive(Debug, Default)]
pub(in crate::svg) struct Levels {
    by_name: HashMap<String, Level>,
}

impl Levels {
    /// Compares the runs of two commits.
    pub(in crate::svg) fn new(base: &[&Profile], new: &[&Profile]) -> Self {
        let rows = diff::diff(base, new).rows.into_iter();
        let by_name = rows
            .filter(|row| row.own.level > Level::NoDifference)
            .map(|row| (row.function, row.own.level))
            .collect();
        Self { by_name }
    }

    fn of(&self, name: &str) -> Level {
        self.by_name.get(name).copied().unwrap_or_default()
    }

    /// How many functions stand out, in words.
    fn sentence(&self, runs: [usize; 2]) -> String {
        let [base, new] = runs;
        if self.by_name.is_empty() {
            return format!(
                "no function stands out of the noise of {base} and {new} \
                 runs: all colours are pale"
            );
        }
        let parts = [Level::Changed, Level::Likely, Level::Hint].map(|level| {
            let count = self.by_name.values().filter(|l| **l == level).count();
            (count, level.words())
        });
        let said: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        format!("functions that stand out of the noise: {}", said.join(", "))
    }
}

/// Two sides, as means over their runs.
struct Means {
    unit: Unit,
    runs: [f64; 2],
    /// The change that has the full colour.
    full: f64,
    /// The least change that is written on its box.
    written: f64,
}

impl Means {
    fn new(tree: &Tree, runs: [usize; 2], levels: &Levels) -> Self {
        let runs = runs.map(|runs| runs.max(1) as f64);
        let mut means = Self { unit: tree.unit, runs, full: 0.0, written: 0.0 };
        let whole = means.of(tree.nodes()[0].total);
        let whole = whole[0].max(whole[1]);
        let sure =
            |node: &&Node| levels.of(tree.name(node)) > Level::NoDifference;
        let most = tree
            .nodes()
            .iter()
            .filter(sure)
            .map(|node| means.change(node).abs())
            .fold(0.0, f64::max);
        means.full = most.max(whole * FULL_CHANGE).max(1.0);
        means.written = whole * WRITTEN_CHANGE;
        means
    }

    fn of(&self, values: [u64; 2]) -> [f64; 2] {
        [values[0] as f64 / self.runs[0], values[1] as f64 / self.runs[1]]
    }

    fn change(&self, node: &Node) -> f64 {
        let own = self.of(node.own);
        own[1] - own[0]
    }

    fn look(&self, node: &Node, level: Level) -> Look {
        let change = self.change(node);
        let is_sure = level > Level::NoDifference;
        let part = change / self.full;
        let colour = match is_sure {
            true => colour::of_change(part),
            false if part.abs() < NOTHING => colour::of_change(0.0),
            false => colour::of_change(part.clamp(-PALE, PALE)),
        };
        let mark = match is_sure && change.abs() >= self.written {
            true => signed(self.unit, change),
            false => String::new(),
        };
        let details = format!(
            "itself {}\nwith callees {}\nhow sure of the function: {}",
            step(self.unit, self.of(node.own)),
            step(self.unit, self.of(node.total)),
            level.words()
        );
        Look { colour, mark, details }
    }

    fn legend(&self, is_sure: bool) -> Vec<(Rgb, String)> {
        let pale = [
            (colour::of_change(PALE), "more, may be noise".to_owned()),
            (colour::of_change(0.0), "the same".to_owned()),
            (colour::of_change(-PALE), "less, may be noise".to_owned()),
        ];
        if !is_sure {
            return pale.into();
        }
        let full = |sign: f64, word: &str| {
            let most = amount(self.unit, self.full);
            let text = format!("{word} CPU itself, full colour at {most}");
            (colour::of_change(sign), text)
        };
        let mut legend = vec![full(1.0, "more")];
        legend.extend(pale);
        legend.push(full(-1.0, "less"));
        legend
    }
}

/// The words of a differential flame graph.
pub(in crate::svg) fn diff(
    base: &[&Profile],
    new: &[&Profile],
    levels: &Levels,
    tree: &Tree,
    layout: &Layout,
    side: Side,
    options: &Options,
) -> Words {
    let runs = [base.len(), new.len()];
    let means = Means::new(tree, runs, levels);
    let wide = ["base", "new"][side as usize];
    let all: Vec<&Profile> = base.iter().chain(new).copied().collect();
    let mut words = Words {
        title: title(new, options, "what changed"),
        ..Words::default()
    };
    for (word, side) in [("base", base), ("new", new)] {
        let line = format!("{word}: {}", one_side(side));
        words.lines.extend(wrap(&line, MAX_LINE));
    }
    words.lines.push(format!(
        "widths: CPU of the {wide} commit; all together {}",
        step(tree.unit, means.of(tree.nodes()[0].total))
    ));
    let is_unseen = tree.nodes()[0].total[side as usize] == 0;
    words.common(&all, layout, options, is_unseen);
    if is_unseen {
        return words;
    }
    words.lines.push(levels.sentence(runs));
    for place in &layout.places {
        let node = &tree.nodes()[place.node as usize];
        words.looks.push(means.look(node, levels.of(tree.name(node))));
    }
    words.legend = means.legend(!levels.by_name.is_empty());
    let other = 1 - side as usize;
    let gone: f64 = tree
        .nodes()
        .iter()
        .filter(|node| node.total[side as usize] == 0)
        .map(|node| means.of(node.own)[other])
        .sum();
    if gone > 0.0 {
        words.lines.push(format!(
            "not in this picture: {} of stacks that only the {} commit has",
            amount(tree.unit, gone),
            ["base", "new"][other]
        ));
    }
    words
}

/// The figures of one side of a comparison.
fn one_side(profiles: &[&Profile]) -> String {
    let first = profiles.first().map(|profile| &profile.header);
    let commit = first.map_or("", |header| header.commit.as_str());
    let commit: String = commit.chars().take(12).collect();
    let runs = match profiles.len() {
        1 => "1 run".to_owned(),
        runs => format!("{runs} runs"),
    };
    let parts = [commit, runs, figures(profiles)];
    let said: Vec<String> =
        parts.into_iter().filter(|part| !part.is_empty()).collect();
    said.join(" · ")
}

fn step(unit: Unit, values: [f64; 2]) -> String {
    let change = signed(unit, values[1] - values[0]);
    let (base, new) = (amount(unit, values[0]), amount(unit, values[1]));
    format!("{base} → {new} ({change})")
}

/// A change with its sign.
fn signed(unit: Unit, change: f64) -> String {
    let sign = if change < 0.0 { "−" } else { "+" };
    format!("{sign}{}", amount(unit, change.abs()))
}
