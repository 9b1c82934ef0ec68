//! A comparison as a table for people.

use std::fmt::Write as _;

use ntrace_protocol::text;

use super::{Change, Commit, Diff, Level, Unit};

/// Characters of a function's name in the table.
const NAME_MAX: usize = 100;

impl Diff {
    /// The comparison as text: totals, then the rows that changed most, at
    /// most `top`. Safe on a terminal.
    pub fn table(&self, top: usize) -> String {
        let mut out = String::new();
        self.write(&mut out, top).expect("writing to a string does not fail");
        out
    }

    fn write(&self, out: &mut String, top: usize) -> std::fmt::Result {
        writeln!(out, "base   {}", side(&self.base))?;
        writeln!(out, "new    {}", side(&self.new))?;
        let total = &self.total;
        let p = total.p.map_or(String::new(), |p| format!(" (p {p:.4})"));
        writeln!(
            out,
            "total  {} a run, {}{p}",
            self.step(total),
            total.level.words()
        )?;
        for note in &self.notes {
            writeln!(out, "note   {}", text::escape(note))?;
        }
        let rows: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.own.delta != 0.0 || row.inclusive.delta != 0.0)
            .take(top)
            .collect();
        if rows.is_empty() {
            return writeln!(out, "\nno function differs");
        }
        let unit = match self.unit {
            Unit::Seconds => "seconds of CPU a run",
            Unit::Samples => "samples a run",
        };
        writeln!(
            out,
            "\n{:^34}  {:^18}  ({unit})\n{:>9} {:>8} {:>8} {:>6}  {:>9} {:>8}  \
             {:<18}  function",
            "itself",
            "with callees",
            "change",
            "base",
            "new",
            "",
            "change",
            "",
            ""
        )?;
        for row in &rows {
            let (own, all) = (&row.own, &row.inclusive);
            writeln!(
                out,
                "{:>9} {:>8} {:>8} {:>6}  {:>9} {:>8}  {:<18}  {}",
                self.signed(own.delta),
                self.plain(own.base),
                self.plain(own.new),
                percent(own),
                self.signed(all.delta),
                percent(all),
                judgement(own, all),
                name(&row.function),
            )?;
        }
        let shown = self.rows.len() + self.omitted;
        if shown > rows.len() {
            let more = shown - rows.len();
            writeln!(out, "and {more} more functions")?;
        }
        Ok(())
    }

    fn step(&self, change: &Change) -> String {
        let unit = match self.unit {
            Unit::Seconds => " s of CPU",
            Unit::Samples => " samples",
        };
        format!(
            "{} → {}{unit}, {} ({})",
            self.plain(change.base),
            self.plain(change.new),
            self.signed(change.delta),
            percent(change)
        )
    }

    fn plain(&self, value: f64) -> String {
        match self.unit {
            Unit::Seconds => format!("{value:.3}"),
            Unit::Samples => format!("{value:.1}"),
        }
    }

    fn signed(&self, value: f64) -> String {
        match self.unit {
            Unit::Seconds => format!("{value:+.3}"),
            Unit::Samples => format!("{value:+.1}"),
        }
    }
}

fn side(commit: &Commit) -> String {
    let digits: String = commit.commit.chars().take(12).collect();
    let runs = match commit.runs {
        1 => "1 run".to_owned(),
        runs => format!("{runs} runs"),
    };
    let mut parts = vec![commit.repository.clone(), digits, runs];
    parts.push(format!("{} samples", commit.samples));
    if commit.lost > 0 {
        parts.push(format!("{} lost", commit.lost));
    }
    parts.retain(|part| !part.is_empty());
    text::escape(&parts.join(" · "))
}

fn percent(change: &Change) -> String {
    match change.relative {
        Some(part) if part.abs() < 10.0 => format!("{:+.0} %", part * 100.0),
        Some(part) => format!("×{:.0}", part + 1.0),
        None if change.new > 0.0 => "new".to_owned(),
        None => String::new(),
    }
}

/// The surest that can be said of a row, and of which of its measures.
fn judgement(own: &Change, inclusive: &Change) -> String {
    let said = |change: &Change| match change.q {
        Some(q) => format!("{} q {q:.3}", change.level.words()),
        None => change.level.words().to_owned(),
    };
    match (own.level, inclusive.level) {
        (Level::NoDifference, Level::NoDifference) => "–".to_owned(),
        (Level::NoDifference, _) => format!("callees: {}", said(inclusive)),
        _ => said(own),
    }
}

fn name(function: &str) -> String {
    let name = text::escape(function);
    if name.chars().count() <= NAME_MAX {
        return name;
    }
    let mut cut: String = name.chars().take(NAME_MAX - 1).collect();
    cut.push('…');
    cut
}
