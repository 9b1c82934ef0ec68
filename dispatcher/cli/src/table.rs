//! Tables, aligned, and short forms of ids, ages, sizes and durations.
//!
//! Pure. A cell is foreign text until it is escaped here; width is counted in
//! characters, which is right for the names and words that stand in tables.

use ntrace_protocol::text::escape;

/// How many characters of an id a table shows: its time, and a little more.
pub const SHORT_ID: usize = 13;

/// The widest that a cell may be, in characters.
const MAX_CELL: usize = 60;

/// A column's heading and its cells, row by row.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row. Cells are escaped and cut to a sensible width.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| cell(&c)).collect());
    }

    /// Whether there is nothing but the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines; the heading is the first. The last column is not padded.
    pub fn lines(&self) -> Vec<String> {
        self.painted(|_, cell| cell.to_owned())
    }

    /// The same with colours: each cell goes through `paint`, with the number
    /// of its column, after its width was counted.
    pub fn painted(
        &self,
        paint: impl Fn(usize, &str) -> String,
    ) -> Vec<String> {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let widths = self.rows.iter().map(|r| width(r, column));
                widths.max().unwrap_or_default()
            })
            .collect();
        self.rows.iter().map(|row| line(row, &widths, &paint)).collect()
    }
}

fn width(row: &[String], column: usize) -> usize {
    row.get(column).map_or(0, |cell| cell.chars().count())
}

fn line(
    row: &[String],
    widths: &[usize],
    paint: impl Fn(usize, &str) -> String,
) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        line.push_str(&paint(column, cell));
        let used = cell.chars().count();
        line.extend(std::iter::repeat_n(' ', width - used + 2));
    }
    line.trim_end().to_owned()
}

fn cell(text: &str) -> String {
    let text = escape(text);
    if text.is_empty() {
        return "-".to_owned();
    }
    cut(&text, MAX_CELL)
}

/// The text, cut to so many characters.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

/// The first characters of an id.
pub fn short(id: &impl ToString) -> String {
    id.to_string().chars().take(SHORT_ID).collect()
}

/// How long ago something was, in its largest unit.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long something took.
pub fn took(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}.{:02}s", ms % 1000 / 10),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number of bytes, in the unit that suits it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_foreign_text_is_escaped() {
        let mut table = Table::new(&["ID", "STATE", "WHY"]);
        table.row(["1".into(), "done".into(), String::new()]);
        table.row(["é2".into(), "failed".into(), "a\u{1b}[2Jb\nc".into()]);
        assert_eq!(
            table.lines(),
            ["ID  STATE   WHY", "1   done    -", "é2  failed  a\\x1b[2Jb\\nc",]
        );
    }

    #[test]
    fn a_long_cell_is_cut() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["x".repeat(500), "y".into()]);
        let line = &table.lines()[1];
        assert_eq!(line.chars().count(), MAX_CELL + 3);
        assert!(line.contains('…'));
    }

    #[test]
    fn numbers_are_short() {
        let ages = [0, 59_999, 60_000, 7_200_000, 172_800_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "2h", "2d"]);
        let times = [7, 1_239, 61_000, 3_660_000].map(took);
        assert_eq!(times, ["7ms", "1.23s", "1m01s", "1h01m"]);
        let sizes = [0, 1023, 1024, 1_572_864, u64::MAX].map(size);
        assert_eq!(sizes[..4], ["0B", "1023B", "1.0KiB", "1.5MiB"]);
        assert!(sizes[4].ends_with("TiB"), "{}", sizes[4]);
    }
}
