//! Jobs, workers and runners in words. Pure: time is an argument.
//!
//! Whatever stands in an answer is foreign text and is escaped here.

use ntrace_protocol::compare::WhyStep;
use ntrace_protocol::job::{JobView, RunView};
use ntrace_protocol::report::Event;
use ntrace_protocol::runner::{ArtefactView, RunnerView};
use ntrace_protocol::text::escape;
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{JobState, Timestamp, WorkerState};
use serde_json::Value;

pub(crate) mod trace;

use crate::screen::{Style, paint};
use crate::table::{Table, age, short, size, took};

/// Processes of an event that are shown; the artefacts have the rest.
const PROCESSES: usize = 20;

/// The style of a job's state.
pub(crate) fn job_style(state: &str) -> Option<Style> {
    match state {
        "done" => Some(Style::Good),
        "failed" | "lost" => Some(Style::Bad),
        "stopped" | "queued" => Some(Style::Dim),
        "leased" | "preparing" | "running" | "collecting" => Some(Style::Busy),
        _ => None,
    }
}

/// The style of a worker's state.
pub(crate) fn worker_style(state: &str) -> Option<Style> {
    match state {
        "available" => Some(Style::Good),
        "defunct" => Some(Style::Bad),
        "running" => Some(Style::Busy),
        "dirty" | "halting" | "rolling_back" | "booting" | "probing"
        | "expelled" => Some(Style::Dim),
        _ => None,
    }
}

/// What a job is of: `owner/repo@commit`, or its command.
fn what(job: &JobView) -> String {
    match (&job.source, &job.argv) {
        (Some(source), None) => {
            let commit: String =
                source.commit.as_str().chars().take(12).collect();
            format!("{}/{}@{commit}", source.owner, source.repo)
        }
        (_, Some(argv)) => command(argv),
        (None, None) => String::new(),
    }
}

/// A command in one line; only for eyes.
fn command(argv: &[String]) -> String {
    let words = argv.iter().map(|word| {
        let is_plain = !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_alphanumeric() || "-_./=:,+@%".contains(c));
        match is_plain {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The table of `list`.
pub(crate) fn jobs(jobs: &[JobView], now: Timestamp) -> Table {
    let mut table =
        Table::new(&["ID", "STATE", "REASON", "AGE", "TOOK", "WHAT", "LABELS"]);
    for job in jobs {
        let labels: Vec<_> = job.labels.iter().map(|l| l.as_str()).collect();
        table.row([
            short(&job.id),
            job.state.to_string(),
            job.reason.map(|r| r.to_string()).unwrap_or_default(),
            age(now.ms_since(job.submitted)),
            wall(job).map(took).unwrap_or_default(),
            what(job),
            labels.join(","),
        ]);
    }
    table
}

fn wall(job: &JobView) -> Option<u64> {
    job.runs.last()?.usage.as_ref()?.wall_ms
}

/// What `status` says.
pub(crate) fn job(job: &JobView, now: Timestamp, colours: bool) -> Vec<String> {
    let ago =
        |time: Timestamp| format!("{time} ({} ago)", age(now.ms_since(time)));
    let state = match job_style(job.state.as_str()) {
        Some(style) => paint(colours, style, job.state.as_str()),
        None => job.state.to_string(),
    };
    let state = match (job.reason, job.position) {
        (Some(reason), _) => format!("{state} ({reason})"),
        (None, Some(position)) => format!("{state}, position {position}"),
        (None, None) => state,
    };
    let labels: Vec<_> = job.labels.iter().map(|l| l.as_str()).collect();
    let source = job.source.as_ref().map(|source| {
        format!("{}/{} {}", source.owner, source.repo, source.commit)
    });
    let facts = [
        ("job", Some(job.id.to_string())),
        ("state", Some(state)),
        ("why", job.sentence.as_deref().map(escape)),
        ("source", source),
        ("command", job.argv.as_deref().map(|a| escape(&command(a)))),
        ("labels", (!labels.is_empty()).then(|| labels.join(", "))),
        ("priority", (job.priority != 0).then(|| job.priority.to_string())),
        ("submitted", Some(ago(job.submitted))),
        ("ended", job.ended.map(ago)),
        ("exit", job.exit.as_ref().map(|e| escape(&e.to_string()))),
    ];
    let mut lines = Vec::new();
    for (name, value) in facts {
        lines.extend(value.map(|value| format!("{name:<10} {value}")));
    }
    for (at, one) in job.runs.iter().enumerate() {
        lines.extend(run(at + 1, one, colours));
    }
    lines
}

fn run(number: usize, run: &RunView, colours: bool) -> Vec<String> {
    let state = escape(&run.state);
    let state = match job_style(&run.state) {
        Some(style) => paint(colours, style, &state),
        None => state,
    };
    let reason = run.reason.map(|r| format!(" ({r})")).unwrap_or_default();
    let mut lines = vec![format!(
        "run {number:<6} {} {state}{reason}, lease {}",
        run.run_id, run.lease
    )];
    let mut add = |text: String| lines.push(format!("{:<10}   {text}", ""));
    if let Some(sentence) = &run.sentence {
        add(escape(sentence));
    }
    match (&run.runner, &run.worker) {
        (Some(runner), Some(worker)) => {
            add(format!("worker {worker} of runner {runner}"));
        }
        (Some(runner), None) => add(format!("runner {runner}")),
        (None, Some(worker)) => add(format!("worker {worker}")),
        (None, None) => {}
    }
    let mut times: Vec<_> = run.times.iter().collect();
    times.sort_by_key(|(_, time)| **time);
    for (state, time) in times {
        add(format!("{time} {}", escape(state)));
    }
    if let Some(exit) = &run.exit {
        add(escape(&exit.to_string()));
    }
    let used = usage(run);
    if !used.is_empty() {
        add(used.join(", "));
    }
    for line in run.trace.iter().flat_map(trace::summary) {
        add(line);
    }
    for note in &run.notes {
        add(format!("note: {}", escape(note)));
    }
    lines
}

/// What a run used, in words.
fn usage(run: &RunView) -> Vec<String> {
    let Some(usage) = &run.usage else { return Vec::new() };
    let mut words = Vec::new();
    words.extend(usage.wall_ms.map(|ms| format!("wall {}", took(ms))));
    words.extend(usage.cpu_ms.map(|ms| format!("cpu {}", took(ms))));
    words.extend(usage.max_rss.map(|b| format!("memory {}", size(b))));
    words.extend(usage.output_bytes.map(|b| format!("output {}", size(b))));
    words
}

/// How a job ended, in one line.
pub(crate) fn verdict(job: &JobView, colours: bool) -> String {
    let mut state = job.state.to_string();
    if let Some(reason) = job.reason {
        state = format!("{state} ({reason})");
    }
    if let Some(style) = job_style(job.state.as_str()) {
        state = paint(colours, style, &state);
    }
    let mut words = Vec::new();
    words.extend(job.sentence.as_deref().map(escape));
    words.extend(job.exit.as_ref().map(|e| escape(&e.to_string())));
    if let Some(run) = job.runs.last() {
        words.extend(usage(run).into_iter().take(2));
    }
    let words = match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.join("; ")),
    };
    format!("{} {state}{words}", short(&job.id))
}

/// Where a job is that has not ended, in one line.
pub(crate) fn unfinished(job: &JobView) -> String {
    let more = match job.state {
        JobState::Queued => match job.position {
            Some(position) => format!(", position {position}"),
            None => String::new(),
        },
        _ => String::new(),
    };
    format!(
        "{} is {}{more}; `ntrace logs -f {}` follows it",
        short(&job.id),
        job.state,
        job.id
    )
}

/// The chain of `why`, a line each.
pub(crate) fn why(chain: &[WhyStep]) -> Vec<String> {
    let line = |step: &WhyStep| {
        let when = step.when.map(|when| when.to_string());
        format!("{:<24}  {}", when.unwrap_or_default(), escape(&step.text))
    };
    chain.iter().map(line).collect()
}

/// The table of `workers`.
pub(crate) fn workers(workers: &[WorkerView], now: Timestamp) -> Table {
    let headings = ["WORKER", "STATE", "SINCE", "RUNNER", "JOB", "WHY"];
    let mut table = Table::new(&headings);
    for worker in workers {
        let mut why = worker.reason.clone().unwrap_or_default();
        if worker.leaving && worker.state != WorkerState::Expelled {
            why = format!("it goes after its job; {why}");
        }
        table.row([
            short(&worker.uuid),
            worker.state.to_string(),
            age(now.ms_since(worker.since)),
            worker.runner.clone().unwrap_or_default(),
            worker.job.map(|job| short(&job)).unwrap_or_default(),
            why.trim_end_matches("; ").to_owned(),
        ]);
    }
    table
}

/// The table of `runners`.
pub(crate) fn runners(runners: &[RunnerView], now: Timestamp) -> Table {
    let headings = [
        "RUNNER", "STATE", "SINCE", "SEEN", "WORKERS", "RUNS", "VERSION",
        "ADDRESS",
    ];
    let mut table = Table::new(&headings);
    for runner in runners {
        let state = if runner.connected { "connected" } else { "away" };
        table.row([
            runner.name.to_string(),
            state.to_owned(),
            age(now.ms_since(runner.since)),
            age(now.ms_since(runner.seen)),
            runner.workers.to_string(),
            runner.runs.len().to_string(),
            runner.version.clone(),
            runner.peer.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// The table of `artefacts list`.
pub(crate) fn artefacts(artefacts: &[ArtefactView]) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "RUN", "ARTEFACT", "SHA256"]);
    for one in artefacts {
        table.row([
            one.name.clone(),
            size(one.bytes),
            short(&one.run_id),
            one.id.to_string(),
            one.sha256.chars().take(16).collect(),
        ]);
    }
    table
}

/// Nested counters, one a line: `jobs.queued  3`.
pub(crate) fn stats(value: &Value) -> Table {
    let mut table = Table::new(&["NAME", "VALUE"]);
    flatten("", value, &mut table);
    table
}

fn flatten(name: &str, value: &Value, table: &mut Table) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(&format!("{name}{dot}{key}"), value, table);
            }
        }
        Value::String(text) => table.row([name.to_owned(), text.clone()]),
        other => table.row([name.to_owned(), other.to_string()]),
    }
}

/// An event of the runner in a line; none if there is nothing to say.
pub(crate) fn event(event: &Event) -> Option<String> {
    let text = match event {
        Event::Assigned { worker, .. } => format!("worker {}", short(worker)),
        Event::Phase { phase } => {
            serde_json::to_value(phase).ok()?.as_str()?.to_owned()
        }
        Event::Recipe { setup, run, origin } => match setup {
            Some(setup) => format!("set-up {setup}, run {run} ({origin})"),
            None => format!("run {run} ({origin})"),
        },
        Event::Setup { begins: true } => "set-up begins".to_owned(),
        Event::Setup { begins: false } => "set-up ended".to_owned(),
        Event::Gap { stream, bytes, why } => {
            format!("{bytes} bytes of {stream} are missing here: {why}")
        }
        Event::Evidence { processes } => {
            let each = processes.iter().map(|process| {
                let of = |key| process.get(key).unwrap_or(&Value::Null);
                let word = |key| of(key).as_str().unwrap_or("-").to_owned();
                format!(
                    "{} {} {} {}",
                    of("pid"),
                    word("state"),
                    word("wchan"),
                    word("args")
                )
            });
            let each: Vec<_> = each.take(PROCESSES).collect();
            let more = match processes.len() - each.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let each = each.join("; ");
            format!("its processes before the end: {each}{more}")
        }
        Event::EvidenceSummary { sentence, artefacts } => {
            match artefacts.is_empty() {
                true => format!("evidence: {sentence}"),
                false => format!(
                    "evidence: {sentence}; the rest is in {}",
                    artefacts.join(", ")
                ),
            }
        }
        Event::Source { .. } => return None,
        Event::TraceStarted { tracer, hz, repetition: 0 | 1 } => {
            format!("traced by {tracer} at {hz} Hz")
        }
        Event::TraceStarted { tracer, hz, repetition } => {
            format!("repetition {repetition}, traced by {tracer} at {hz} Hz")
        }
        Event::TraceFailed { why } => format!("no trace: {why}"),
        Event::Note { text } => text.clone(),
        Event::Other => return None,
    };
    Some(escape(&text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-21T09:05:00.000Z";

    fn sample() -> JobView {
        serde_json::from_value(json!({
            "id": "0192d3a4-5b6c-7d8e-9f00-112233445566",
            "state": "failed", "reason": "exit",
            "sentence": "the command exited with 3 \u{1b}[2J",
            "source": {"owner": "dscape", "repo": "nano",
                "commit": "0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233"},
            "labels": ["ci", "night"],
            "submitted": "2026-11-21T09:00:00.000Z",
            "ended": "2026-11-21T09:01:00.000Z",
            "exit": {"code": 3},
            "runs": [{
                "run_id": "0192d3a4-5b6c-7d8e-9f00-000000000001",
                "runner": "r0",
                "worker": "8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f",
                "lease": 7, "state": "failed", "reason": "exit",
                "times": {"leased": "2026-11-21T09:00:01.000Z",
                    "failed": "2026-11-21T09:01:00.000Z"},
                "exit": {"code": 3},
                "usage": {"cpu_ms": 300, "wall_ms": 1200, "max_rss": 2048},
                "notes": ["no swap \u{7}limit"],
            }],
        }))
        .unwrap()
    }

    #[test]
    fn a_verdict_says_state_reason_sentence_exit_and_times() {
        assert_eq!(
            verdict(&sample(), false),
            "0192d3a4-5b6c failed (exit): the command exited with 3 \
             \\x1b[2J; exit status 3; wall 1.20s; cpu 300ms"
        );
    }

    #[test]
    fn a_status_shows_all_that_is_known() {
        let lines = job(&sample(), NOW.parse().unwrap(), false);
        let expected = "\
job        0192d3a4-5b6c-7d8e-9f00-112233445566
state      failed (exit)
why        the command exited with 3 \\x1b[2J
source     dscape/nano 0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233
labels     ci, night
submitted  2026-11-21T09:00:00.000Z (5m ago)
ended      2026-11-21T09:01:00.000Z (4m ago)
exit       exit status 3
run 1      0192d3a4-5b6c-7d8e-9f00-000000000001 failed (exit), lease 7
             worker 8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f of runner r0
             2026-11-21T09:00:01.000Z leased
             2026-11-21T09:01:00.000Z failed
             exit status 3
             wall 1.20s, cpu 300ms, memory 2.0KiB
             note: no swap \\x07limit";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn colours_stand_only_where_they_are_wanted() {
        let now = NOW.parse().unwrap();
        let plain = job(&sample(), now, false).join("\n");
        assert!(!plain.contains('\u{1b}'));
        let painted = job(&sample(), now, true).join("\n");
        assert!(painted.contains("\u{1b}[31mfailed\u{1b}[0m"));
    }

    #[test]
    fn a_list_is_a_table() {
        let lines = jobs(&[sample()], NOW.parse().unwrap()).lines();
        assert_eq!(
            lines,
            [
                "ID             STATE   REASON  AGE  TOOK   \
                 WHAT                      LABELS",
                "0192d3a4-5b6c  failed  exit    5m   1.20s  \
                 dscape/nano@0f1650a97d9b  ci,night",
            ]
        );
    }

    #[test]
    fn a_command_is_shown_as_it_could_be_typed() {
        let argv = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned);
        assert_eq!(command(&argv), "sh -c 'echo '\\''a b'\\''' ''");
    }

    #[test]
    fn an_event_is_a_safe_line() {
        let gap: Event = serde_json::from_value(json!({
            "event": "gap", "stream": "stdout", "bytes": 12,
            "why": "output \u{1b}limit",
        }))
        .unwrap();
        assert_eq!(
            event(&gap).unwrap(),
            "12 bytes of stdout are missing here: output \\x1blimit"
        );
        assert_eq!(event(&Event::Other), None);
    }

    #[test]
    fn counters_are_flattened() {
        let table = stats(&json!({"jobs": {"queued": 3}, "x": "y"}));
        assert_eq!(
            table.lines(),
            ["NAME         VALUE", "jobs.queued  3", "x            y"]
        );
    }

    #[test]
    fn of_many_processes_some_are_shown_and_the_rest_counted() {
        let one = json!({"pid": 7, "state": "S", "args": "sleep"});
        let processes = vec![one; PROCESSES + 30];
        let text = event(&Event::Evidence { processes }).unwrap();
        assert!(text.ends_with("7 S - sleep; and 30 more"), "{text}");
    }
}
