//! What is written on a picture: title, figures, legend, and each box's
//! details.

mod change;

pub(super) use change::{Levels, diff};

use super::Options;
use super::colour::{Paint, Rgb};
use super::layout::Layout;
use crate::profile::Profile;
use crate::tree::{Side, Tree, Unit};

/// Warnings that are shown; the others are counted.
const MAX_WARNINGS: usize = 4;
/// Characters of a line that fit, also where the window is narrow.
const MAX_LINE: usize = 135;
/// Characters of a line of the reason, whose letters are larger.
const MAX_REASON: usize = 110;
/// Characters of a line of the title.
const MAX_TITLE: usize = 84;
/// Lines of the title.
const TITLE_LINES: usize = 3;
/// The texts and colours of a picture.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) title: Vec<String>,
    pub(super) lines: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) legend: Vec<(Rgb, String)>,
    /// Why there is nothing to see, when there is nothing.
    pub(super) reason: Option<Vec<String>>,
    /// By place of the layout.
    pub(super) looks: Vec<Look>,
}

/// How a box looks, and what is to be known of it.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) colour: Rgb,
    /// Stands before the name; or empty.
    pub(super) mark: String,
    pub(super) details: String,
}

/// The words of a flame graph.
pub(super) fn flame(
    profiles: &[&Profile],
    tree: &Tree,
    layout: &Layout,
    options: &Options,
) -> Words {
    let side = Side::New as usize;
    let root = tree.nodes()[0];
    let whole = root.total[side];
    let mut words = Words {
        title: title(profiles, options, "flame graph"),
        lines: wrap(&figures(profiles), MAX_LINE),
        ..Words::default()
    };
    words.common(profiles, layout, options, whole == 0);
    for place in &layout.places {
        let node = &tree.nodes()[place.node as usize];
        let name = tree.name(node);
        let paint = Paint::of(node.kind, name);
        let details = format!(
            "{} ({}), {}\nitself {} ({}), {}",
            amount(tree.unit, node.total[side] as f64),
            share(node.total[side], whole),
            samples(node.seen[side]),
            amount(tree.unit, node.own[side] as f64),
            share(node.own[side], whole),
            paint.words(),
        );
        let colour = paint.shade(name);
        words.looks.push(Look { colour, mark: String::new(), details });
    }
    words.legend = legend(tree, side, whole);
    words
}

impl Words {
    fn common(
        &mut self,
        profiles: &[&Profile],
        layout: &Layout,
        options: &Options,
        empty: bool,
    ) {
        if layout.hidden > 0 {
            self.lines.push(format!(
                "{} boxes are too narrow to draw ({:.1} % of the whole)",
                thousands(layout.hidden as u64),
                layout.hidden_share * 100.0
            ));
        }
        let mut warnings: Vec<&String> = Vec::new();
        for profile in profiles {
            for sentence in &profile.header.warnings {
                if !warnings.contains(&sentence) {
                    warnings.push(sentence);
                }
            }
        }
        if empty {
            self.reason = Some(reason(profiles, &warnings, options));
            return;
        }
        let more = warnings.len().saturating_sub(MAX_WARNINGS);
        self.warnings = warnings
            .iter()
            .take(MAX_WARNINGS)
            .flat_map(|sentence| wrap(&format!("! {sentence}"), MAX_LINE))
            .collect();
        if more > 0 {
            self.warnings.push(format!("and {more} more warnings"));
        }
    }
}

/// Why there are no samples, in lines.
fn reason(
    profiles: &[&Profile],
    warnings: &[&String],
    options: &Options,
) -> Vec<String> {
    let mut lines = vec!["There is nothing to draw: no samples.".to_owned()];
    if let Some(reason) = &options.reason {
        lines.extend(wrap(reason, MAX_REASON));
    }
    let wrapped = |sentence: &&String| wrap(sentence, MAX_REASON);
    lines.extend(warnings.iter().flat_map(wrapped));
    if lines.len() == 1 {
        let hz = profiles.iter().map(|p| p.header.hz).max().unwrap_or(0);
        lines.push(match hz {
            0 => "The tracer left no reason.".to_owned(),
            hz => format!(
                "At {hz} samples a second, work of less than {:.0} ms of \
                 CPU may not be seen.",
                1000.0 / f64::from(hz)
            ),
        });
    }
    lines
}

fn title(
    profiles: &[&Profile],
    options: &Options,
    default: &str,
) -> Vec<String> {
    let title = match (&options.title, profiles.first()) {
        (Some(title), _) => title.clone(),
        (None, None) => default.to_owned(),
        (None, Some(profile)) => {
            let header = &profile.header;
            let commit: String = header.commit.chars().take(12).collect();
            let parts = [header.repository.as_str(), &commit, default];
            let said: Vec<&str> =
                parts.into_iter().filter(|part| !part.is_empty()).collect();
            said.join(" · ")
        }
    };
    let mut lines = wrap(&title, MAX_TITLE);
    lines.truncate(TITLE_LINES);
    lines
}

/// Samples, rate, CPU time, lost, named share: the sum of some profiles.
fn figures(profiles: &[&Profile]) -> String {
    let (mut samples, mut cpu, mut lost, mut throttled) = (0, 0, 0, 0);
    let (mut named, mut weight) = (0.0, 0.0);
    for profile in profiles {
        let total = profile.total();
        samples += total.samples;
        cpu += total.cpu_ns;
        lost += profile.header.lost;
        throttled += profile.header.throttled;
        if let Some(share) = profile.named_share() {
            named += share * total.samples as f64;
            weight += total.samples as f64;
        }
    }
    let header = profiles.first().map(|profile| profile.header.clone());
    let header = header.unwrap_or_default();
    let mut parts = vec![self::samples(samples)];
    if header.hz > 0 {
        parts[0] += &format!(" at {} Hz", header.hz);
    }
    if cpu > 0 {
        let text = amount(Unit::Nanoseconds, cpu as f64);
        parts.push(format!("{text} of CPU"));
    }
    parts.push(format!("{} lost", thousands(lost)));
    if throttled > 0 {
        parts.push(format!("throttled {} times", thousands(throttled)));
    }
    if weight > 0.0 {
        let named = named / weight * 100.0;
        parts.push(format!("{named:.1} % of frames named"));
    }
    if !header.tracer.is_empty() {
        let kernel = if header.kernel { "with" } else { "without" };
        parts.push(format!("{}, {kernel} kernel frames", header.tracer));
    }
    parts.join(" · ")
}

/// Each kind with its share of the CPU itself, the largest first.
fn legend(tree: &Tree, side: usize, whole: u64) -> Vec<(Rgb, String)> {
    let mut own = [0_u64; Paint::ALL.len()];
    let mut is_there = [false; Paint::ALL.len()];
    for node in tree.nodes().iter().skip(1) {
        let paint = Paint::of(node.kind, tree.name(node)) as usize;
        own[paint] = own[paint].saturating_add(node.own[side]);
        is_there[paint] = true;
    }
    let mut paints: Vec<Paint> = Paint::ALL.into();
    paints.retain(|paint| is_there[*paint as usize]);
    paints.sort_by_key(|paint| std::cmp::Reverse(own[*paint as usize]));
    let text = |paint: Paint| match own[paint as usize] {
        0 => paint.words().to_owned(),
        own => format!("{} {}", paint.words(), share(own, whole)),
    };
    paints.iter().map(|paint| (paint.rgb(), text(*paint))).collect()
}

/// An amount with its unit.
fn amount(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Samples => format!("{value:.0} samples"),
        Unit::Nanoseconds if value >= 1e9 => format!("{:.2} s", value / 1e9),
        Unit::Nanoseconds if value == 0.0 => "0 s".to_owned(),
        Unit::Nanoseconds => format!("{:.1} ms", value / 1e6),
    }
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 / whole.max(1) as f64 * 100.0)
}

fn samples(number: u64) -> String {
    match number {
        1 => "1 sample".to_owned(),
        many => format!("{} samples", thousands(many)),
    }
}

/// A number with commas between the thousands.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A text in lines of so many characters; a word that is longer is cut.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        if word.chars().count() > room {
            word = word.chars().take(room - 1).chain(['…']).collect();
        }
        let line = lines.last_mut().expect("there is a first line");
        let both = line.chars().count() + word.chars().count();
        if !line.is_empty() && both >= room {
            lines.push(word);
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines
}
