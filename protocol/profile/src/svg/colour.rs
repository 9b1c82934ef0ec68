//! Colours: the hue says what kind of code it is, the shade tells
//! neighbours apart. The same name has the same colour in each picture.
//!
//! Invariant: black text can be read on each of them.

use crate::frame::FrameKind;
use crate::language::Language;

/// A colour as red, green, blue.
pub(super) type Rgb = [u8; 3];

/// What a box is painted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Process,
    Native,
    JavaScript,
    InterpretedJavaScript,
    Python,
    Jit,
    Interpreted,
    Kernel,
    Inlined,
    Unknown,
}

impl Paint {
    /// Every paint, in the order in which they are numbered.
    pub(super) const ALL: [Self; 10] = [
        Self::Process,
        Self::Native,
        Self::JavaScript,
        Self::InterpretedJavaScript,
        Self::Python,
        Self::Jit,
        Self::Interpreted,
        Self::Kernel,
        Self::Inlined,
        Self::Unknown,
    ];

    /// The paint of a frame.
    pub(super) fn of(kind: FrameKind, name: &str) -> Self {
        match kind {
            FrameKind::Process => Self::Process,
            FrameKind::Native => Self::Native,
            FrameKind::Kernel => Self::Kernel,
            FrameKind::Inlined => Self::Inlined,
            FrameKind::Unknown => Self::Unknown,
            FrameKind::Jit => match Language::of_script(name) {
                Language::JavaScript => Self::JavaScript,
                Language::Python => Self::Python,
                Language::Other => Self::Jit,
            },
            FrameKind::Interpreted => match Language::of_script(name) {
                Language::JavaScript => Self::InterpretedJavaScript,
                Language::Python => Self::Python,
                Language::Other => Self::Interpreted,
            },
        }
    }

    /// The words for it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Native => "native",
            Self::JavaScript => "JavaScript",
            Self::InterpretedJavaScript => "JavaScript, interpreted",
            Self::Python => "Python",
            Self::Jit => "compiled while it ran",
            Self::Interpreted => "interpreted",
            Self::Kernel => "kernel",
            Self::Inlined => "inlined",
            Self::Unknown => "no name",
        }
    }

    /// Its colour in the legend.
    pub(super) fn rgb(self) -> Rgb {
        let (hue, saturation, light, _) = self.base();
        hsl(hue, saturation, light)
    }

    /// Its colour for a function of this name.
    pub(super) fn shade(self, name: &str) -> Rgb {
        let hash = fnv(name);
        let (hue, saturation, light, spread) = self.base();
        // Two independent shifts from the name: hue and lightness.
        let part = |bits: u64| (bits & 0xff) as f64 / 255.0 - 0.5;
        let lighter = if spread > 0.0 { part(hash >> 24) * 0.12 } else { 0.0 };
        hsl(hue + part(hash >> 8) * spread, saturation, light + lighter)
    }

    /// Hue, saturation, lightness, and how far the hue varies.
    fn base(self) -> (f64, f64, f64, f64) {
        match self {
            Self::Process => (215.0, 0.20, 0.78, 0.0),
            Self::Native => (22.0, 0.88, 0.72, 22.0),
            Self::JavaScript => (150.0, 0.42, 0.66, 22.0),
            Self::InterpretedJavaScript => (184.0, 0.46, 0.70, 12.0),
            Self::Python => (213.0, 0.72, 0.76, 16.0),
            Self::Jit => (88.0, 0.46, 0.66, 18.0),
            Self::Interpreted => (200.0, 0.24, 0.72, 10.0),
            Self::Kernel => (268.0, 0.55, 0.80, 20.0),
            Self::Inlined => (50.0, 0.90, 0.70, 8.0),
            Self::Unknown => (0.0, 0.0, 0.78, 0.0),
        }
    }
}

/// The colour of a change: `change` from -1 (all less) to 1 (all more). Red
/// and blue differ for people who do not see red and green apart as well.
pub(super) fn of_change(change: f64) -> Rgb {
    let strength = change.abs().min(1.0);
    if strength < 0.02 {
        return [233, 232, 228];
    }
    // A small change must be seen at all, so the scale starts pale.
    let strength = 0.12 + 0.88 * strength.sqrt();
    let hue = if change > 0.0 { 6.0 } else { 214.0 };
    hsl(hue, 0.30 + 0.55 * strength, 0.92 - 0.32 * strength)
}

fn fnv(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Names that differ in their last letter only shall differ as well.
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

fn hsl(hue: f64, saturation: f64, light: f64) -> Rgb {
    let chroma = saturation * light.min(1.0 - light);
    [0.0, 8.0, 4.0].map(|n| {
        let k = (n + hue / 30.0).rem_euclid(12.0);
        let level = light - chroma * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (level.clamp(0.0, 1.0) * 255.0).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contrast of two colours as WCAG 2 counts it.
    fn contrast(a: Rgb, b: Rgb) -> f64 {
        let luminance = |rgb: Rgb| {
            let linear = rgb.map(|level| match f64::from(level) / 255.0 {
                low if low <= 0.04045 => low / 12.92,
                level => ((level + 0.055) / 1.055).powf(2.4),
            });
            0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        };
        let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
        a.max(b) / a.min(b)
    }

    #[test]
    fn more_is_red_and_less_is_blue() {
        let [r, _, b] = of_change(0.5);
        assert!(r > b + 60);
        let [r, _, b] = of_change(-0.5);
        assert!(b > r + 60);
        let [r, g, b] = of_change(0.0);
        assert!(r.abs_diff(g) < 8 && r.abs_diff(b) < 8);
    }

    #[test]
    fn a_name_has_one_colour_and_neighbours_differ() {
        let paint = Paint::Native;
        assert_eq!(paint.shade("main"), paint.shade("main"));
        assert_ne!(paint.shade("main"), paint.shade("qsort"));
    }

    #[test]
    fn black_text_can_be_read_on_every_colour() {
        // As in style.css.
        let text = [0x14, 0x16, 0x1a];
        for paint in Paint::ALL {
            for n in 0..2000 {
                let rgb = paint.shade(&format!("function_{n}"));
                let contrast = contrast(rgb, text);
                assert!(contrast > 6.0, "{paint:?} {rgb:?} {contrast}");
            }
        }
        for n in -20..=20 {
            let rgb = of_change(f64::from(n) / 20.0);
            assert!(contrast(rgb, text) > 5.0, "{n} {rgb:?}");
        }
    }

    #[test]
    fn scripts_are_painted_by_their_language() {
        let of = |kind, name| Paint::of(kind, name);
        assert_eq!(of(FrameKind::Jit, "f a.js"), Paint::JavaScript);
        assert_eq!(of(FrameKind::Interpreted, "f a.py"), Paint::Python);
        assert_eq!(of(FrameKind::Jit, "Builtin:X"), Paint::Jit);
        assert_eq!(of(FrameKind::Native, "f a.js"), Paint::Native);
    }
}
