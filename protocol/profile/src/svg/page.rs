//! Writing the picture: here alone, and for a box below, markup is made.
//!
//! Invariant: every text that is not a constant of these files goes through
//! [`xml`], which leaves nothing that XML, HTML or a script could take for
//! markup, and no character that hides or turns text.

mod a_box;

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
const LINE: u32 = 18;
/// Room for the tools above the boxes, and for the details below them.
const BAR: u32 = 30;
const SCRIPT: &str = include_str!("script.js");
const STYLE: &str = include_str!("style.css");

/// The picture.
pub(super) fn write(
    tree: &Tree,
    layout: &Layout,
    words: &Words,
    growth: Growth,
) -> String {
    let mut page = Page { out: String::new(), y: 0 };
    page.draw(tree, layout, words, growth)
        .expect("writing to a string does not fail");
    page.out
}

/// A picture that is being written, from the top down.
struct Page {
    out: String,
    /// Where the next thing stands.
    y: u32,
}

impl Page {
    fn draw(
        &mut self,
        tree: &Tree,
        layout: &Layout,
        words: &Words,
        growth: Growth,
    ) -> fmt::Result {
        self.header(words)?;
        let tool = self.y + 8;
        if !layout.places.is_empty() {
            self.y = tool + BAR + 4;
        }
        for line in words.reason.iter().flatten() {
            self.line("reason", 24, line)?;
        }
        let top = self.y;
        self.boxes(tree, layout, words, |row| {
            let row = match growth {
                Growth::Icicle => row,
                Growth::Flame => layout.rows - 1 - row,
            };
            top + row * ROW
        })?;
        let height = top + layout.rows * ROW + BAR + 6;
        if !layout.places.is_empty() {
            self.tools(tool, height)?;
        }
        // What stands before is written last, since it has the height.
        let mut out = String::with_capacity(self.out.len() + 24_000);
        open(&mut out, height, words)?;
        out.push_str(&self.out);
        self.out = out;
        write!(self.out, "<script><![CDATA[\n{SCRIPT}]]></script>\n</svg>\n")
    }

    fn line(&mut self, class: &str, step: u32, text: &str) -> fmt::Result {
        self.y += step;
        writeln!(
            self.out,
            r#"<text class="{class}" x="{PAD}" y="{y}">{text}</text>"#,
            y = self.y,
            text = xml(text)
        )
    }

    fn header(&mut self, words: &Words) -> fmt::Result {
        self.y = 6;
        for text in &words.title {
            self.y += 22;
            writeln!(
                self.out,
                concat!(
                    r#"<text class="title" font-size="18" x="{x}" y="{y}">"#,
                    "{text}</text>",
                ),
                x = PAD,
                y = self.y,
                text = xml(text)
            )?;
        }
        self.y += 2;
        for text in &words.lines {
            self.line("sub", LINE, text)?;
        }
        for text in &words.warnings {
            self.line("warn", LINE, text)?;
        }
        self.legend(words)
    }

    fn legend(&mut self, words: &Words) -> fmt::Result {
        if words.legend.is_empty() {
            return Ok(());
        }
        self.y += 22;
        let mut x = PAD;
        for (colour, text) in &words.legend {
            let wide = 18.0 + text.chars().count() as f64 * 6.8 + 20.0;
            if x > PAD && x + wide > WIDTH - PAD {
                x = PAD;
                self.y += LINE;
            }
            writeln!(
                self.out,
                concat!(
                    r#"<rect x="{x:.0}" y="{top}" width="12" height="12" "#,
                    r#"rx="3" fill="{fill}"/>"#,
                    r#"<text x="{tx:.0}" y="{y}">{text}</text>"#,
                ),
                x = x,
                top = self.y - 10,
                fill = Hex(*colour),
                tx = x + 18.0,
                y = self.y,
                text = xml(text)
            )?;
            x += wide;
        }
        Ok(())
    }

    fn boxes(
        &mut self,
        tree: &Tree,
        layout: &Layout,
        words: &Words,
        y_of: impl Fn(u32) -> u32,
    ) -> fmt::Result {
        if layout.places.is_empty() {
            return Ok(());
        }
        self.out.push_str(concat!(
            r#"<g id="boxes" font-family="monospace" font-size="11" "#,
            "fill=\"#14161a\">\n",
        ));
        for (place, look) in layout.places.iter().zip(&words.looks) {
            let name = match place.node {
                0 => "all",
                node => tree.name(&tree.nodes()[node as usize]),
            };
            a_box::write(&mut self.out, place, name, look, y_of(place.row))?;
        }
        self.out.push_str("</g>\n");
        Ok(())
    }

    /// The places for what the script shows; without it they are not seen.
    fn tools(&mut self, top: u32, height: u32) -> fmt::Result {
        writeln!(
            self.out,
            concat!(
                r#"<g id="tool" class="tool" display="none" "#,
                r#"data-y="{top}"/>"#,
                "\n",
                r#"<g id="status" class="status" display="none" "#,
                r#"transform="translate(0 {bottom})">"#,
                r##"<rect class="back" width="{w}" height="{bar}" "##,
                r##"fill="#fff"/><text class="sub" x="{x}" y="19"/></g>"##,
            ),
            x = PAD,
            top = top,
            w = WIDTH,
            bar = BAR,
            bottom = height - BAR
        )
    }
}

fn open(out: &mut String, height: u32, words: &Words) -> fmt::Result {
    let about: Vec<&str> =
        words.lines.iter().chain(&words.warnings).map(String::as_str).collect();
    // Fonts and colours stand here as well, for viewers without styles.
    writeln!(
        out,
        concat!(
            r#"<?xml version="1.0" encoding="UTF-8"?>"#,
            "\n",
            r#"<svg xmlns="http://www.w3.org/2000/svg" version="1.1" "#,
            r#"width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" "#,
            r#"aria-labelledby="name about" font-family="sans-serif" "#,
            r##"font-size="12" fill="#30343b">"##,
            "\n<title id=\"name\">{name}</title>",
            "\n<desc id=\"about\">{about}</desc>",
            "\n<style>\n{style}</style>\n",
            r##"<rect class="back" width="{w}" height="{h}" fill="#fff"/>"##,
        ),
        w = WIDTH,
        h = height,
        name = xml(&words.title.join(" ")),
        about = xml(&about.join("; ")),
        style = STYLE
    )
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

/// A colour as markup has it.
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

    #[test]
    fn the_script_counts_with_the_same_measures() {
        use a_box::{CHAR, GAP, GAP_FROM};
        let wide = format!("PAD = {PAD}, STILL = {WIDTH} - 2 * PAD");
        let bar = format!("CHAR = {CHAR}, GAP = {GAP}, BAR = {BAR}");
        let gap = format!("drawn > {GAP_FROM} - GAP");
        for measure in [wide, bar, gap] {
            assert!(SCRIPT.contains(&measure), "{measure}");
        }
    }

    #[test]
    fn the_script_makes_no_markup_and_asks_nobody() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval",
            "Function(",
            "import",
            "fetch",
            "XMLHttp",
            "WebSocket",
            "sendBeacon",
            "location",
            "window.open",
            "postMessage",
            "Storage",
            "cookie",
            "href",
            "src",
        ] {
            assert!(!SCRIPT.contains(word), "{word} is in the script");
        }
        for word in ["url(", "@import", "expression"] {
            assert!(!STYLE.contains(word), "{word} is in the style");
        }
    }
}
