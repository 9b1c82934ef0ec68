//! One box of a picture: its rectangle, its label, what is to be known.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use ntrace_protocol::text;

use super::{Hex, NAME_MAX, PAD, ROW, WIDTH, xml, xml_lines};
use crate::svg::layout::Place;
use crate::svg::words::Look;

/// Width of a character of a box's font, in pixels.
pub(super) const CHAR: f64 = 6.63;
/// Between neighbours, so that they can be told apart.
pub(super) const GAP: f64 = 0.6;
/// Boxes wider than this have the whole gap.
pub(super) const GAP_FROM: f64 = 3.0;

/// Writes a box whose upper edge is at `y`.
pub(super) fn write(
    out: &mut String,
    place: &Place,
    name: &str,
    look: &Look,
    y: u32,
) -> fmt::Result {
    let wide = WIDTH - 2.0 * PAD;
    let name = text::escape(shorten(name));
    let (x, width) = (PAD + place.x * wide, place.width * wide);
    write!(out, r#"<g class="b" data-row="{}""#, place.row)?;
    let label = match look.mark.as_str() {
        "" => Cow::Borrowed(&name),
        mark => {
            write!(out, r#" data-mark="{}""#, xml(mark))?;
            Cow::Owned(format!("{mark} {name}"))
        }
    };
    write!(
        out,
        concat!(
            "><title>{name}\n{details}</title>",
            r#"<rect x="{x:.4}" y="{y}" width="{w:.4}" height="{h}" "#,
            r#"fill="{fill}"{round}/>"#,
        ),
        name = xml(&name),
        details = xml_lines(&look.details),
        x = x,
        y = y,
        w = drawn(width),
        h = ROW - 1,
        fill = Hex(look.colour),
        round = if width > 5.0 { r#" rx="2""# } else { "" }
    )?;
    let room = ((width - 6.0) / CHAR).max(0.0) as usize;
    if let Some(shown) = fitting(&label, room) {
        write!(
            out,
            r#"<text x="{:.1}" y="{}">{}</text>"#,
            x + 4.0,
            y + 12,
            xml(&shown)
        )?;
    }
    out.push_str("</g>\n");
    Ok(())
}

/// The width that is drawn. The script computes it back.
fn drawn(width: f64) -> f64 {
    if width > GAP_FROM {
        return width - GAP;
    }
    width * (1.0 - GAP / GAP_FROM)
}

/// The beginning of a name that is too long to keep whole.
fn shorten(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_MAX)]
}

/// The name, cut to a number of columns; `None` when too few fit.
fn fitting(name: &str, room: usize) -> Option<String> {
    if room < 3 {
        return None;
    }
    if name.chars().map(columns).sum::<usize>() <= room {
        return Some(name.to_owned());
    }
    let mut left = room - 1;
    let fits = |c: &char| {
        let fits = columns(*c) <= left;
        left = left.saturating_sub(columns(*c));
        fits
    };
    let mut cut: String = name.chars().take_while(fits).collect();
    cut.push('…');
    Some(cut)
}

/// Characters of far scripts and pictures are two columns wide.
fn columns(c: char) -> usize {
    if c >= '\u{1100}' { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_character_takes_two_columns() {
        assert_eq!(fitting("日本語", 6).unwrap(), "日本語");
        assert_eq!(fitting("日本語", 5).unwrap(), "日本…");
        assert_eq!(fitting("abcdef", 5).unwrap(), "abcd…");
        assert_eq!(fitting("abcdef", 2), None);
    }

    #[test]
    fn the_gap_between_boxes_does_not_jump() {
        let mut last = 0.0;
        for n in 1..1000 {
            let drawn = drawn(f64::from(n) / 100.0);
            assert!(drawn > last && drawn < last + 0.02);
            last = drawn;
        }
    }
}
