//! Colours: the hue says what kind of code it is, the shade tells
//! neighbours apart. The same name has the same colour in each picture.

use crate::frame::FrameKind;

/// A colour as red, green, blue.
pub(super) type Rgb = [u8; 3];

/// The colour of a function.
pub(super) fn of(kind: FrameKind, name: &str) -> Rgb {
    let hash = fnv(name);
    let (hue, saturation, light) = base(kind);
    // Two independent shifts from the name: hue and lightness.
    let part = |bits: u64| (bits & 0xff) as f64 / 255.0 - 0.5;
    let shift = if kind == FrameKind::Process { 0.0 } else { 1.0 };
    hsl(
        hue + shift * part(hash >> 8) * spread(kind),
        saturation,
        light + shift * part(hash >> 24) * 0.12,
    )
}

/// The colour of a kind in the legend.
pub(super) fn of_kind(kind: FrameKind) -> Rgb {
    let (hue, saturation, light) = base(kind);
    hsl(hue, saturation, light)
}

fn base(kind: FrameKind) -> (f64, f64, f64) {
    match kind {
        FrameKind::Process => (215.0, 0.20, 0.78),
        FrameKind::Native => (24.0, 0.88, 0.70),
        FrameKind::Jit => (135.0, 0.45, 0.66),
        FrameKind::Interpreted => (185.0, 0.48, 0.68),
        FrameKind::Kernel => (265.0, 0.52, 0.78),
        FrameKind::Inlined => (48.0, 0.88, 0.72),
        FrameKind::Unknown => (0.0, 0.0, 0.78),
    }
}

fn spread(kind: FrameKind) -> f64 {
    match kind {
        FrameKind::Native => 30.0,
        FrameKind::Inlined => 12.0,
        _ => 24.0,
    }
}

/// The colour of a change: `change` from -1 (all less) to 1 (all more).
pub(super) fn of_change(change: f64) -> Rgb {
    let strength = change.abs().min(1.0);
    if strength < 0.02 {
        return [233, 232, 228];
    }
    // A small change must be seen at all, so the scale starts pale.
    let strength = 0.12 + 0.88 * strength.sqrt();
    let hue = if change > 0.0 { 6.0 } else { 214.0 };
    hsl(hue, 0.30 + 0.55 * strength, 0.92 - 0.34 * strength)
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
        let kind = FrameKind::Native;
        assert_eq!(of(kind, "main"), of(kind, "main"));
        assert_ne!(of(kind, "main"), of(kind, "qsort"));
    }
}
