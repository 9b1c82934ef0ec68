//! A difference as it is said on the wire. Pure.

use ntrace_profile::diff::{self, Change, Diff};
use ntrace_protocol::compare::{DiffRow, Level, Measure, Unit};

/// The longest name of a function that an answer shows, in characters.
const NAME_MAX: usize = 300;

/// What the numbers count.
pub(super) fn unit(unit: diff::Unit) -> Unit {
    match unit {
        diff::Unit::Seconds => Unit::Seconds,
        diff::Unit::Samples => Unit::Samples,
    }
}

/// A measure of both sides.
pub(super) fn measure(change: &Change) -> Measure {
    Measure {
        base: change.base,
        new: change.new,
        level: match change.level {
            diff::Level::NoDifference => Level::None,
            diff::Level::Hint => Level::Hint,
            diff::Level::Likely => Level::Likely,
            diff::Level::Changed => Level::Changed,
        },
        q: change.q,
    }
}

/// The first rows, as many as are wanted and fit; and how many there are
/// besides.
pub(super) fn rows(
    found: &Diff,
    top: usize,
    max_bytes: usize,
) -> (Vec<DiffRow>, u64) {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in found.rows.iter().take(top) {
        let row = DiffRow {
            name: row.function.chars().take(NAME_MAX).collect(),
            own: measure(&row.own),
            inclusive: measure(&row.inclusive),
        };
        bytes += serde_json::to_string(&row).map_or(0, |text| text.len());
        if bytes > max_bytes {
            break;
        }
        rows.push(row);
    }
    let all = found.rows.len() + found.omitted;
    let left_out = all - rows.len();
    (rows, left_out as u64)
}

#[cfg(test)]
mod tests {
    use ntrace_profile::{FrameKind, Header, Profile, Symbol};

    use super::*;

    #[test]
    fn rows_end_where_the_line_would() {
        let mut profile = Profile::new(Header::default());
        let process = profile.process("x");
        for n in 0..100 {
            let name = format!("{n:03}{}", "\u{1}".repeat(400));
            let frame = profile.frame(&Symbol::new(name, FrameKind::Native));
            profile.add_samples(process, &[frame], n);
        }
        let empty = Profile::new(Header::default());
        let found = diff::diff(&[&empty], &[&profile]);
        assert_eq!(unit(found.unit), Unit::Samples);
        let (some, left_out) = rows(&found, 500, 20_000);
        let text = serde_json::to_string(&some).unwrap();
        assert!(text.len() < 21_000 && some.len() > 5, "{}", text.len());
        let all = found.rows.len() + found.omitted;
        assert_eq!(left_out as usize + some.len(), all);
        assert_eq!(rows(&found, 3, 1 << 20).0.len(), 3);
        assert_eq!(some[0].own.new, 99.0);
    }
}
