//! Traces and their differences in words. Pure.

use ntrace_protocol::compare::{DiffRow, DiffView, Level, Measure, Side, Unit};
use ntrace_protocol::syscalls::{SyscallCounts, SyscallSummary};
use ntrace_protocol::text::escape;
use ntrace_protocol::trace::{Health, TraceState, TraceSummary};

use crate::screen::Style;
use crate::table::{Table, short};

/// What `status` says of a run's trace.
pub(crate) fn summary(trace: &TraceSummary) -> Vec<String> {
    let tracer = trace.tracer.map(|tracer| format!(" by {tracer}"));
    let hz = trace.hz.map(|hz| format!(" at {hz} Hz"));
    let mut first = format!(
        "trace {}{}{}",
        trace.state.as_str(),
        tracer.unwrap_or_default(),
        hz.unwrap_or_default()
    );
    if let Some(why) = &trace.why {
        first = format!("{first}: {}", escape(why));
    }
    let mut lines = vec![first];
    if trace.state == TraceState::Stored {
        lines.push(format!("trace: {}", facts(trace).join(", ")));
    }
    lines.extend(trace.syscalls.as_ref().map(SyscallSummary::sentence));
    for warning in &trace.warnings {
        lines.push(format!("trace warning: {}", escape(warning)));
    }
    lines
}

/// The table of `syscalls`.
pub(crate) fn syscalls(counts: &SyscallCounts) -> Table {
    let mut table = Table::new(&["COUNT", "SHARE", "FAILED", "CALL"]);
    for call in &counts.calls {
        let share = call.count as f64 / counts.total.max(1) as f64 * 100.0;
        let failed = match call.errors {
            0 => String::new(),
            errors => errors.to_string(),
        };
        table.row([
            call.count.to_string(),
            format!("{share:.1} %"),
            failed,
            call.to_string(),
        ]);
    }
    table
}

/// What is said below it.
pub(crate) fn syscalls_footing(counts: &SyscallCounts) -> String {
    let mut text = format!(
        "{} system calls of {} kinds, {} failed",
        counts.total,
        counts.calls.len(),
        counts.errors
    );
    if counts.missed > 0 {
        text.push_str(&format!(", {} missed", counts.missed));
    }
    text
}

fn facts(trace: &TraceSummary) -> Vec<String> {
    let mut facts = Vec::new();
    if trace.profiles > 1 {
        facts.push(format!("{} profiles", trace.profiles));
    }
    facts.extend(trace.samples.map(|n| format!("{n} samples")));
    if trace.lost > 0 {
        facts.push(format!("{} lost", trace.lost));
    }
    if trace.throttled > 0 {
        facts.push(format!("throttled {} times", trace.throttled));
    }
    let named = trace.share_named.map(|share| share * 100.0);
    facts.extend(named.map(|named| format!("{named:.1} % of frames named")));
    facts.extend(trace.cpu_seconds.map(|cpu| format!("cpu {}", seconds(cpu))));
    facts.extend(trace.samples_over_cpu.map(|share| {
        let word = match trace.health() {
            Health::Good => "good",
            Health::Poor => "poor: it does not tell where the time went",
            Health::Unknown => "too few samples to say",
        };
        format!("health {share:.2} ({word})")
    }));
    facts.push(match trace.kernel {
        true => "with the kernel".to_owned(),
        false => "without the kernel".to_owned(),
    });
    facts
}

/// Seconds, with as many digits as tell something.
fn seconds(n: f64) -> String {
    match n.abs() {
        0.0..10.0 => format!("{n:.3}s"),
        10.0..100.0 => format!("{n:.2}s"),
        _ => format!("{n:.1}s"),
    }
}

/// A number of what is counted.
fn amount(n: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds => seconds(n),
        Unit::Samples => format!("{n:.1}"),
    }
}

/// A change with its sign.
fn change(measure: &Measure, unit: Unit) -> String {
    let by = measure.new - measure.base;
    let sign = if by < 0.0 { '-' } else { '+' };
    format!("{sign}{}", amount(by.abs(), unit))
}

/// A change as a share of the base.
fn share(measure: &Measure) -> String {
    if measure.base <= 0.0 {
        return if measure.new > 0.0 { "new" } else { "" }.to_owned();
    }
    if measure.new <= 0.0 {
        return "gone".to_owned();
    }
    let share = (measure.new / measure.base - 1.0) * 100.0;
    match share.abs() {
        0.0..1000.0 => format!("{share:+.1}%"),
        _ => format!("{:.0}x", measure.new / measure.base),
    }
}

/// A side in a line.
fn side(side: &Side) -> String {
    let mut words = Vec::new();
    if let Some(source) = &side.source {
        let commit: String = source.commit.as_str().chars().take(12).collect();
        words.push(format!("{}/{}@{commit}", source.owner, source.repo));
    }
    match side.runs.as_slice() {
        [one] => words.push(format!("job {}", short(&one.job))),
        many => words.push(format!("{} runs", many.len())),
    }
    if side.profiles > 1 {
        words.push(format!("{} profiles", side.profiles));
    }
    words.push(format!("{} samples", side.samples));
    words.push(format!("cpu {}", seconds(side.cpu_seconds)));
    words.join(", ")
}

/// What was found, in a sentence: the first function that is called, and
/// how many others are.
fn verdict(diff: &DiffView) -> String {
    let by = |measure: &Measure| {
        let share = share(measure);
        let share = match share.as_str() {
            "" => share,
            _ => format!(" ({share})"),
        };
        format!("{}{share} a run", change(measure, diff.unit))
    };
    let own = |row: &&DiffRow| row.own.level > Level::None;
    let others = diff.rows.iter().filter(own).count().saturating_sub(1);
    if let Some(row) = diff.rows.iter().find(own) {
        let more = match others {
            0 => String::new(),
            1 => ", and one more function".to_owned(),
            _ => format!(", and {others} more functions"),
        };
        return format!(
            "{}: {} takes {} by itself{more}",
            row.own.level.as_str(),
            escape(&row.name),
            by(&row.own)
        );
    }
    // The innermost that holds all of the change says most.
    let called = diff.rows.iter().filter(|row| level(row) > Level::None);
    let least = called.min_by(|a, b| {
        let of = |row: &DiffRow| row.inclusive.base.max(row.inclusive.new);
        of(a).total_cmp(&of(b))
    });
    if let Some(row) = least {
        return format!(
            "{}: {} takes {} with what it calls",
            row.inclusive.level.as_str(),
            escape(&row.name),
            by(&row.inclusive)
        );
    }
    match diff.total.level {
        Level::None => Level::None.as_str().to_owned(),
        level => format!(
            "{}: the whole takes {}, no function stands out",
            level.as_str(),
            by(&diff.total)
        ),
    }
}

/// The lines above the table of `diff`.
pub(crate) fn heading(diff: &DiffView) -> Vec<String> {
    let mut lines = vec![
        format!("found  {}", verdict(diff)),
        format!("new    {}", side(&diff.new)),
        format!("base   {}", side(&diff.base.side)),
        format!("       {}", escape(&diff.base.why)),
        format!(
            "total  {} -> {}, {} ({}): {}",
            amount(diff.total.base, diff.unit),
            amount(diff.total.new, diff.unit),
            change(&diff.total, diff.unit),
            share(&diff.total),
            diff.total.level.as_str()
        ),
    ];
    for warning in &diff.warnings {
        lines.push(format!("note   {}", escape(warning)));
    }
    lines
}

/// How sure it is that a function changed.
fn level(row: &DiffRow) -> Level {
    row.own.level.max(row.inclusive.level)
}

/// What stands below the table of `diff`.
pub(crate) fn footing(diff: &DiffView) -> Option<String> {
    let mut words = Vec::new();
    if diff.unit == Unit::Samples {
        words.push(
            "the numbers are samples, since a profile does not know its rate"
                .to_owned(),
        );
    }
    if diff.left_out > 0 {
        words.push(format!(
            "{} more functions changed less; --top shows more",
            diff.left_out
        ));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

/// The table of `diff`.
pub(crate) fn rows(rows: &[DiffRow], unit: Unit) -> Table {
    let headings =
        ["HOW SURE", "SELF", "BASE", "NEW", "%", "INCLUSIVE", "FUNCTION"];
    let mut table = Table::new(&headings);
    for row in rows {
        let level = match level(row) {
            Level::None => "no",
            level => level.as_str(),
        };
        table.row([
            level.to_owned(),
            change(&row.own, unit),
            amount(row.own.base, unit),
            amount(row.own.new, unit),
            share(&row.own),
            change(&row.inclusive, unit),
            row.name.clone(),
        ]);
    }
    table
}

/// The style of how sure a change is.
pub(crate) fn level_style(level: &str) -> Option<Style> {
    match level {
        "changed" => Some(Style::Bad),
        "likely" => Some(Style::Busy),
        "no" => Some(Style::Dim),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_trace_is_shown_with_its_health_or_its_reason() {
        let trace: TraceSummary = serde_json::from_value(json!({
            "state": "stored", "tracer": "sample", "hz": 199, "profiles": 8,
            "samples": 9950, "lost": 3, "share_named": 0.9876,
            "cpu_seconds": 50.0, "samples_over_cpu": 1.0, "kernel": true,
            "syscalls": {"total": 9, "kinds": 1, "first":
                [{"name": "read", "number": 0, "count": 9}]},
            "warnings": ["short\u{7} processes"],
        }))
        .unwrap();
        assert_eq!(
            summary(&trace),
            [
                "trace stored by sample at 199 Hz",
                "trace: 8 profiles, 9950 samples, 3 lost, 98.8 % of frames \
                 named, cpu 50.00s, health 1.00 (good), with the kernel",
                "9 system calls: read 9",
                "trace warning: short\\x07 processes",
            ]
        );
        let none = TraceSummary::none("perf_event_open is not allowed");
        assert_eq!(
            summary(&none),
            ["trace none: perf_event_open is not allowed"]
        );
    }

    #[test]
    fn a_change_is_absolute_first() {
        let of = |base, new| {
            let measure = Measure { base, new, level: Level::None, q: None };
            let by = change(&measure, Unit::Seconds);
            format!("{by} {}", share(&measure))
        };
        assert_eq!(of(1.0, 1.5), "+0.500s +50.0%");
        assert_eq!(of(20.0, 5.0), "-15.00s -75.0%");
        assert_eq!(of(0.0, 0.25), "+0.250s new");
        assert_eq!(of(0.25, 0.0), "-0.250s gone");
        assert_eq!(of(0.001, 5.0), "+4.999s 5000x");
    }

    #[test]
    fn a_function_cannot_speak_to_the_terminal() {
        let measure =
            Measure { base: 1.0, new: 2.0, level: Level::Changed, q: None };
        let row = DiffRow {
            name: "f\u{1b}[2J".to_owned(),
            own: measure,
            inclusive: measure,
        };
        let lines = rows(&[row], Unit::Seconds).lines();
        assert!(lines[1].starts_with("changed   +1.000s"), "{lines:?}");
        assert!(lines[1].ends_with("f\\x1b[2J"));
    }
}
