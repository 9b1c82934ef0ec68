//! Writing the picture: the only place that makes markup.
//!
//! Invariant: every text that is not a constant of this file goes through
//! [`xml`], which leaves nothing that XML, HTML or a script could take for
//! markup, and no character that hides or turns text.

use std::fmt::{self, Write as _};

use ntrace_protocol::text;

use super::Growth;
use super::colour::Rgb;
use super::layout::Layout;
use super::words::Words;
use crate::tree::Tree;

/// Bytes of a name that are shown.
pub(super) const NAME_MAX: usize = 240;
const WIDTH: f64 = 1200.0;
const PAD: f64 = 12.0;
const ROW: u32 = 17;
/// Width of a character of a box's font, in pixels.
const CHAR: f64 = 6.63;
/// Between neighbours, so that they can be told apart.
const GAP: f64 = 0.6;
const LINE: u32 = 18;
const SCRIPT: &str = include_str!("script.js");
const STYLE: &str = include_str!("style.css");

/// The picture.
pub(super) fn write(
    tree: &Tree,
    layout: &Layout,
    words: &Words,
    growth: Growth,
) -> String {
    let mut out = String::new();
    draw(&mut out, tree, layout, words, growth)
        .expect("writing to a string does not fail");
    out
}

fn draw(
    out: &mut String,
    tree: &Tree,
    layout: &Layout,
    words: &Words,
    growth: Growth,
) -> fmt::Result {
    let title = shorten(&words.title);
    let head = 74 + LINE * (words.lines.len() + words.warnings.len()) as u32;
    let reasons = words.reason.as_ref().map_or(0, Vec::len) as u32;
    let graph = layout.rows * ROW + reasons * 24;
    let icicle = growth == Growth::Icicle;
    let (top, details) = match icicle {
        true => (head + 20, head + 8),
        false => (head, head + graph + 20),
    };
    let height = head + graph + 36;
    open(out, height, title)?;
    header(out, words)?;
    for (n, line) in words.reason.iter().flatten().enumerate() {
        let y = top + 20 + 24 * n as u32;
        writeln!(
            out,
            r#"<text class="reason" x="{PAD}" y="{y}">{}</text>"#,
            xml(line)
        )?;
    }
    boxes(out, tree, layout, words, |row| {
        let row = if icicle { row } else { layout.rows - 1 - row };
        top + row * ROW
    })?;
    writeln!(
        out,
        r#"<text id="details" class="sub" x="{PAD}" y="{details}"></text>"#
    )?;
    writeln!(out, "<script><![CDATA[\n{SCRIPT}]]></script>\n</svg>")
}

fn open(out: &mut String, height: u32, title: &str) -> fmt::Result {
    writeln!(
        out,
        concat!(
            r#"<?xml version="1.0" encoding="UTF-8"?>"#,
            "\n",
            r#"<svg xmlns="http://www.w3.org/2000/svg" version="1.1" "#,
            r#"width="{w}" height="{h}" viewBox="0 0 {w} {h}">"#,
            "\n<title>{t}</title>\n<style>\n{s}</style>\n",
            r#"<rect class="back" width="{w}" height="{h}"/>"#,
        ),
        w = WIDTH,
        h = height,
        t = xml(title),
        s = STYLE
    )
}

fn header(out: &mut String, words: &Words) -> fmt::Result {
    let line = |out: &mut String, class: &str, y: u32, text: &str| {
        writeln!(
            out,
            r#"<text class="{class}" x="{PAD}" y="{y}">{}</text>"#,
            xml(text)
        )
    };
    line(out, "title", 28, shorten(&words.title))?;
    let mut y = 30;
    for text in &words.lines {
        y += LINE;
        line(out, "sub", y, text)?;
    }
    for text in &words.warnings {
        y += LINE;
        line(out, "warn", y, &format!("! {text}"))?;
    }
    y += 22;
    let mut x = PAD;
    for (colour, text) in &words.legend {
        writeln!(
            out,
            concat!(
                r#"<rect x="{x:.0}" y="{top}" width="12" height="12" rx="3" "#,
                r#"fill="{fill}"/><text x="{tx:.0}" y="{y}">{text}</text>"#,
            ),
            x = x,
            top = y - 10,
            fill = Hex(*colour),
            tx = x + 18.0,
            y = y,
            text = xml(text)
        )?;
        x += 18.0 + text.chars().count() as f64 * 7.0 + 22.0;
    }
    for (id, x, anchor, text) in [
        ("reset", 910, "start", "Reset zoom"),
        ("search", 990, "start", "Search (/)"),
    ] {
        writeln!(
            out,
            concat!(
                r#"<text id="{id}" class="button off" x="{x}" y="54" "#,
                r#"text-anchor="{anchor}">{text}</text>"#,
            ),
            id = id,
            x = x,
            anchor = anchor,
            text = text
        )?;
    }
    writeln!(out, r#"<text id="found" x="1188" y="28" text-anchor="end"/>"#)
}

fn boxes(
    out: &mut String,
    tree: &Tree,
    layout: &Layout,
    words: &Words,
    y_of: impl Fn(u32) -> u32,
) -> fmt::Result {
    let wide = WIDTH - 2.0 * PAD;
    let about = words.colours.iter().zip(&words.details);
    for (place, (colour, details)) in layout.places.iter().zip(about) {
        let name = match place.node {
            0 => "all",
            node => tree.name(&tree.nodes()[node as usize]),
        };
        let name = text::escape(shorten(name));
        let (x, width) = (PAD + place.x * wide, place.width * wide);
        let y = y_of(place.row);
        write!(
            out,
            concat!(
                r#"<g class="b" data-row="{row}"><title>{name}"#,
                "\n{details}</title>",
                r#"<rect x="{x:.3}" y="{y}" width="{w:.3}" height="{h}" "#,
                r#"fill="{fill}"{round}/>"#,
            ),
            row = place.row,
            name = xml(&name),
            details = xml_lines(details),
            x = x,
            y = y,
            w = if width > 3.0 { width - GAP } else { width },
            h = ROW - 1,
            fill = Hex(*colour),
            round = if width > 5.0 { r#" rx="2""# } else { "" }
        )?;
        let room = ((width - 6.0) / CHAR).max(0.0) as usize;
        if let Some(shown) = fitting(&name, room) {
            write!(
                out,
                r#"<text x="{:.1}" y="{}">{}</text>"#,
                x + 4.0,
                y + 12,
                xml(&shown)
            )?;
        }
        out.push_str("</g>\n");
    }
    Ok(())
}

/// The beginning of a name that is too long to keep whole.
fn shorten(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_MAX)]
}

/// The name, cut to a number of characters; `None` when too few fit.
fn fitting(name: &str, room: usize) -> Option<String> {
    if room < 3 {
        return None;
    }
    if name.chars().count() <= room {
        return Some(name.to_owned());
    }
    let mut cut: String = name.chars().take(room - 1).collect();
    cut.push('…');
    Some(cut)
}

/// One line of text, harmless in XML.
fn xml(text: &str) -> String {
    markup(&text::escape(text))
}

/// The same, whose lines stay lines.
fn xml_lines(text: &str) -> String {
    text.lines().map(xml).collect::<Vec<_>>().join("\n")
}

fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // These two are no characters of XML at all.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

struct Hex(Rgb);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r, g, b] = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(
            xml("<script>]]>'\"&\u{1b}[1m\u{202e}\n\u{ffff}"),
            "&lt;script&gt;]]&gt;&#39;&quot;&amp;\\x1b[1m\\u{202e}\\n\u{fffd}"
        );
    }

    #[test]
    fn the_script_cannot_end_its_section() {
        assert!(!SCRIPT.contains("]]>") && !SCRIPT.contains("</"));
        assert!(!STYLE.contains('<') && !STYLE.contains('&'));
    }
}
