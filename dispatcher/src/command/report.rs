//! `result`: what runners report, kept before it is acknowledged.
//!
//! First the output is synced, then the job follows what its events say,
//! then the verdict is written, then it is acknowledged. A report that comes
//! again goes the same way again, so whatever was cut off in between is made
//! up for.

use std::sync::atomic::Ordering;

use futures::future::join_all;
use ntrace_protocol::report::{
    Acked, Data, End, Event, MAX_PARENTS, Outcome, Report, Stream,
};
use ntrace_protocol::runner::Held;
use ntrace_protocol::text::escape;
use ntrace_protocol::{
    Exit, JobId, JobState, Lease, RunId, Timestamp, TraceSummary, WireError,
};
use ntrace_store::{AfterLoss, AppendError, LossFacts, Progress, RunError};
use serde_json::{Map, Value, json};

use super::Answer;
use crate::args::field;
use crate::clock;
use crate::connection::{Connection, Shared};
use crate::engine::Request;
use crate::refusal::{Refusal as _, fenced};

/// Reports of one call.
const REPORTS_MAX: usize = 10_000;
/// How much of a note is kept with the run, in characters. All of it is in
/// the output.
const NOTE_MAX: usize = 300;
/// The longest sentence that says where a job hangs: names of functions are
/// long, and the last one says most.
const EVIDENCE_MAX: usize = 1000;
/// What a line needs besides a report's data, in bytes.
const LINE_REST: usize = 1024;

/// What a lost run means for its job.
pub(crate) fn decide(facts: LossFacts) -> AfterLoss {
    let after = ntrace_scheduler::after_loss(ntrace_scheduler::Facts {
        retry: facts.retry,
        lost_begun: facts.lost_begun,
        lost_idle: facts.lost_idle,
        has_begun: facts.has_begun,
        stop_asked: facts.stop_asked,
    });
    match after {
        ntrace_scheduler::After::Requeue => AfterLoss::Requeue,
        ntrace_scheduler::After::Fail => AfterLoss::Fail,
        ntrace_scheduler::After::Stop => AfterLoss::Stop,
    }
}

/// `result`.
pub(crate) async fn result(conn: &Connection, args: Vec<Value>) -> Answer {
    let max_line = conn.shared.max_line;
    match args.into_iter().next() {
        Some(Value::Object(map)) => {
            let batch = Batch::of(vec![read(map, max_line)?]);
            let outcomes = take_all(conn, batch).await;
            let first = outcomes.into_iter().next();
            let acked = first.map(|(_, outcome)| outcome).transpose()?;
            Ok(vec![json!({"acked": acked.unwrap_or_default()})])
        }
        Some(Value::Array(values)) => {
            let batch = Batch::of(read_all(values, max_line)?);
            Ok(vec![all_answered(take_all(conn, batch).await)])
        }
        _ => Err(WireError::invalid(
            "reports",
            "reports must be one report or a list of them",
        )),
    }
}

fn all_answered(outcomes: Vec<(RunId, Result<Acked, WireError>)>) -> Value {
    let (mut acked, mut refused) = (Map::new(), Vec::new());
    for (run, outcome) in outcomes {
        match outcome {
            Ok(kept) => {
                acked.insert(run.to_string(), json!(kept));
            }
            Err(error) => {
                let mut refusal = json!(error);
                refusal["run_id"] = json!(run);
                refused.push(refusal);
            }
        }
    }
    json!({"acked": acked, "refused": refused})
}

fn read_all(
    values: Vec<Value>,
    max_line: usize,
) -> Result<Vec<Report>, WireError> {
    if values.len() > REPORTS_MAX {
        return Err(WireError::invalid(
            "reports",
            format!("at most {REPORTS_MAX} reports are taken at once"),
        ));
    }
    let read = values.into_iter().enumerate().map(|(at, value)| match value {
        Value::Object(map) => read(map, max_line).map_err(|mut error| {
            error.message = format!("report {at}: {}", error.message);
            error
        }),
        _ => Err(WireError::invalid(
            "reports",
            format!("report {at} is not an object"),
        )),
    });
    read.collect()
}

/// Reads one report; what its stream may not carry is refused here.
fn read(
    mut map: Map<String, Value>,
    max_line: usize,
) -> Result<Report, WireError> {
    let map = &mut map;
    let report = Report {
        job: field(map, "job")?,
        run_id: field(map, "run_id")?,
        lease: field(map, "lease")?,
        stream: field(map, "stream")?,
        seq: field(map, "seq")?,
        when: field(map, "when")?,
        data: field(map, "data")?,
    };
    let seq_max = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    if report.seq == 0 || report.seq > seq_max {
        return Err(WireError::invalid("seq", "seq counts from 1"));
    }
    check_data(&report)?;
    // Whoever reads it gets it in one line of its own.
    let size = report.data.as_bytes().len();
    if size > max_line / 8 {
        let written = json!(report.data).to_string().len();
        if written + LINE_REST > max_line {
            return Err(WireError::invalid(
                "data",
                format!("{size} bytes do not fit a line; send smaller ones"),
            ));
        }
    }
    Ok(report)
}

fn check_data(report: &Report) -> Result<(), WireError> {
    let is_object = matches!(report.data, Data::Object(_));
    match report.stream {
        Stream::Stdout | Stream::Stderr if is_object => {
            Err(WireError::invalid(
                "data",
                "output must be a string or {\"base64\"}",
            ))
        }
        Stream::Events if !is_object => Err(WireError::invalid(
            "data",
            "an event must be an object like {\"event\":\"phase\"}",
        )),
        Stream::Control => read_end(&report.data).map(drop),
        _ => Ok(()),
    }
}

/// The verdict in a control report.
fn read_end(data: &Data) -> Result<End, WireError> {
    let end: Result<End, _> = match data {
        Data::Object(map) => serde_json::from_value(Value::Object(map.clone())),
        other => serde_json::from_value(json!(other)),
    };
    let mut end = end.map_err(|e| {
        WireError::invalid(
            "data",
            format!("control must be {{\"event\":\"end\",…}}: {e}"),
        )
    })?;
    let failed = end.exit.as_ref().is_some_and(|exit| !exit.is_success());
    if end.outcome == Outcome::Done && failed {
        return Err(WireError::invalid(
            "data",
            "done means exit status 0; this one is another",
        ));
    }
    if end.outcome == Outcome::Done && end.exit.is_none() {
        end.exit = Some(Exit::Code { code: 0 });
    }
    end.sentence = end.sentence.map(|text| short(&text));
    end.trace = end.trace.map(TraceSummary::bounded);
    Ok(end)
}

fn short(text: &str) -> String {
    cut(text, NOTE_MAX)
}

fn cut(text: &str, most: usize) -> String {
    escape(&text.chars().take(most).collect::<String>())
}

/// The reports of one run, in order.
struct Group {
    job: JobId,
    run: RunId,
    lease: Lease,
    reports: Vec<Report>,
}

/// Reports by run.
struct Batch(Vec<Group>);

impl Batch {
    fn of(reports: Vec<Report>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for report in reports {
            let fits = |g: &&mut Group| {
                g.run == report.run_id
                    && g.lease == report.lease
                    && g.job == report.job
            };
            match groups.iter_mut().find(fits) {
                Some(group) => group.reports.push(report),
                None => groups.push(Group {
                    job: report.job,
                    run: report.run_id,
                    lease: report.lease,
                    reports: vec![report],
                }),
            }
        }
        Self(groups)
    }
}

async fn take_all(
    conn: &Connection,
    batch: Batch,
) -> Vec<(RunId, Result<Acked, WireError>)> {
    let held = batch.0.iter();
    let held: Vec<_> =
        held.map(|g| Held { run_id: g.run, lease: g.lease }).collect();
    let shared = &conn.shared;
    // The reports are handed on before anything is waited for, so that they
    // stay in the order in which they came.
    let taken =
        join_all(batch.0.into_iter().map(|group| async move {
            (group.run, take(shared, group).await)
        }));
    let sign = Request::Sign { from: conn.as_runner(), runs: held };
    let (taken, ()) = tokio::join!(biased; taken, shared.engine.tell(sign));
    taken
}

/// What a report says that is more than output.
enum Said {
    Step(Progress),
    End(Box<End>),
}

async fn take(shared: &Shared, group: Group) -> Result<Acked, WireError> {
    let Group { job, run, lease, reports } = group;
    let output = shared.store.output();
    if output.job_of(run, lease).is_some_and(|known| known != job) {
        return Err(WireError::invalid(
            "job",
            format!("the run {run} belongs to another job"),
        ));
    }
    let count = reports.len() as u64;
    let said = said(&reports);
    let highest = highest(&reports);
    let appended = match output.append(run, lease, reports).await {
        Ok(appended) => appended,
        Err(AppendError::Fenced(_)) => {
            return past(shared, job, run, lease, &highest).await;
        }
        Err(error) => return Err(error.wire()),
    };
    shared.stats.reports.fetch_add(count, Ordering::Relaxed);
    let is_kept = |stream, seq| {
        appended.acked.get(&stream).is_some_and(|kept| seq <= *kept)
    };
    let said = said.into_iter().filter(|(s, n, _, _)| is_kept(*s, *n));
    let followed =
        follow(shared, (job, run, lease), said, &appended.acked).await;
    match followed {
        Ok(()) => Ok(appended.acked),
        // The verdict was written by the same report that came before.
        Err(RunError::Fenced(_)) => {
            past(shared, job, run, lease, &highest).await
        }
        Err(error) => Err(error.wire()),
    }
}

/// The highest number of each stream.
fn highest(reports: &[Report]) -> Acked {
    let mut highest = Acked::new();
    for report in reports {
        let seq = highest.entry(report.stream).or_default();
        *seq = report.seq.max(*seq);
    }
    highest
}

/// A run that is over takes only what it has already.
async fn past(
    shared: &Shared,
    job: JobId,
    run: RunId,
    lease: Lease,
    highest: &Acked,
) -> Result<Acked, WireError> {
    let past = shared.store.past_run(run).await.map_err(|e| e.wire())?;
    let past = past.filter(|past| {
        let has = |stream, seq| {
            past.acked.get(stream).is_some_and(|kept| seq <= kept)
        };
        past.lease == lease
            && past.job == job
            && !past.was_lost
            && highest.iter().all(|(stream, seq)| has(stream, seq))
    });
    past.map(|past| past.acked).ok_or_else(|| fenced(run))
}

type Remark = (Stream, u64, Timestamp, Said);

/// What the reports say that is more than output.
fn said(reports: &[Report]) -> Vec<Remark> {
    let mut said = Vec::new();
    for report in reports {
        let what = match report.stream {
            Stream::Stdout | Stream::Stderr => None,
            Stream::Events => step(&report.data).map(Said::Step),
            Stream::Control => {
                read_end(&report.data).ok().map(|e| Said::End(Box::new(e)))
            }
        };
        if let Some(what) = what {
            said.push((report.stream, report.seq, report.when, what));
        }
    }
    said
}

/// What an event means for the run's record. One that is not understood is
/// kept in the output all the same.
fn step(data: &Data) -> Option<Progress> {
    let Data::Object(map) = data else {
        return None;
    };
    let event = serde_json::from_value(Value::Object(map.clone())).ok()?;
    match event {
        Event::Assigned { worker, .. } => Some(Progress::Worker(worker)),
        Event::Phase { phase } => Some(Progress::Phase(phase)),
        Event::Recipe { run, origin, .. } => {
            Some(Progress::Note(short(&format!("runs {run} (from {origin})"))))
        }
        Event::Gap { stream, bytes, why } => Some(Progress::Note(short(
            &format!("{bytes} bytes of {stream} are missing: {why}"),
        ))),
        Event::Evidence { processes } => Some(Progress::Note(short(&format!(
            "{} processes were alive before it was ended; the output \
                 lists them",
            processes.len()
        )))),
        Event::EvidenceSummary { sentence, .. } => {
            let text = format!("evidence: {sentence}");
            Some(Progress::Note(cut(&text, EVIDENCE_MAX)))
        }
        Event::Source { mut parents } => {
            parents.truncate(MAX_PARENTS);
            Some(Progress::Parents(parents))
        }
        Event::Note { text } => Some(Progress::Note(short(&text))),
        // The verdict sums up the trace.
        Event::Setup { .. }
        | Event::TraceStarted { .. }
        | Event::TraceFailed { .. }
        | Event::Other => None,
    }
}

/// Lets the job follow what was said. The times are the runner's for
/// phases, which it saw, and ours for the verdict, which we write.
async fn follow(
    shared: &Shared,
    (job, run, lease): (JobId, RunId, Lease),
    said: impl Iterator<Item = Remark>,
    acked: &Acked,
) -> Result<(), RunError> {
    let (mut steps, mut end) = (Vec::new(), None);
    for (_, _, when, what) in said {
        match what {
            Said::Step(step) => steps.push((step, when)),
            Said::End(verdict) => end = Some(*verdict),
        }
    }
    if !steps.is_empty() {
        let worker = steps.iter().find_map(|(step, _)| match step {
            Progress::Worker(worker) => Some(*worker),
            _ => None,
        });
        shared.store.progress(run, lease, steps).await?;
        shared.watchers.changed(job);
        if let Some(worker) = worker {
            shared.engine.tell(Request::Assigned { run, worker }).await;
        }
    }
    if let Some(end) = end {
        write_end(shared, (job, run, lease), end, acked).await?;
    }
    Ok(())
}

/// Writes the verdict. In a task of its own: once it is written the engine
/// must hear of it, even if the asker is gone meanwhile.
async fn write_end(
    shared: &Shared,
    (job, run, lease): (JobId, RunId, Lease),
    end: End,
    acked: &Acked,
) -> Result<(), RunError> {
    let acked = acked.clone();
    let shared_by = shared.clone();
    let written = shared.tasks.spawn(async move {
        let shared = shared_by;
        let at = clock::now();
        let verdict = (end, acked);
        let state = shared.store.end(run, lease, verdict, at, decide).await?;
        if state.is_final() {
            shared.stats.ended(state.as_str());
        }
        tracing::info!(%job, %run, %state, "run ended");
        shared.watchers.changed(job);
        let place_failed = state == JobState::Queued;
        shared.engine.tell(Request::Ended { run, place_failed }).await;
        Ok(())
    });
    written.await.unwrap_or(Err(ntrace_store::Fault::Closed.into()))
}
