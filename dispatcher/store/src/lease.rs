//! Runs of jobs: leased, going on, lost, ended.
//!
//! Must not know connections or clocks. Every change of a job's state goes
//! through the table of moves in `protocol::job`, in the writer, so that of
//! two verdicts that race exactly one is written. What a lost run means is
//! decided by the caller's function, from facts read in the same
//! transaction.

use std::collections::BTreeMap;

use ntrace_protocol::job::JobEvent;
use ntrace_protocol::report::{Acked, End, Outcome, Phase};
use ntrace_protocol::{
    Commit, JobId, JobSpec, JobState, Lease, Reason, RunId, RunnerName,
    StopOrder, Timestamp, WorkerUuid,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::db::{Db, Fault, Tx};
use crate::live::Live;
use crate::row::{self, Id as _, int, uint};

/// A job that was just leased.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The job.
    pub job: JobId,
    /// The new run.
    pub run: RunId,
    /// Its fencing number.
    pub lease: Lease,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// What was asked for.
    pub spec: JobSpec,
    /// When it was asked for.
    pub submitted: Timestamp,
}

/// A run that is under way.
#[derive(Clone, Debug)]
pub struct LiveRun {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// Its fencing number.
    pub lease: Lease,
    /// Who has it; none for an anonymous runner.
    pub runner: Option<RunnerName>,
    /// In which worker it is.
    pub worker: Option<WorkerUuid>,
    /// Set if its end was asked for.
    pub stop: Option<StopOrder>,
}

/// What is known of a job whose run was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossFacts {
    /// How often it may be run again.
    pub retry: u32,
    /// Runs lost before that had begun.
    pub lost_begun: u32,
    /// Runs lost before of which nobody ever heard.
    pub lost_idle: u32,
    /// Whether this one had begun.
    pub has_begun: bool,
    /// Whether somebody asked to stop it.
    pub stop_asked: bool,
}

/// What a lost run means for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// It goes back to the queue.
    Requeue,
    /// It has failed for good.
    Fail,
    /// It was to be stopped anyway.
    Stop,
}

/// Decides what a lost run means.
pub type Decide = fn(LossFacts) -> AfterLoss;

/// Why and how a run was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The run.
    pub run: RunId,
    /// Its fencing number.
    pub lease: Lease,
    /// `zone` or `runner_lost`.
    pub reason: Reason,
    /// The same in a sentence.
    pub sentence: String,
    /// What was kept of its output.
    pub acked: Acked,
    /// Now.
    pub at: Timestamp,
}

/// Why nothing was changed about a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not the live run of its job, or never was.
    #[error("the run {0} is over: its lease is not the current one")]
    Fenced(RunId),
    /// The move is not in the table.
    #[error(transparent)]
    Illegal(#[from] ntrace_protocol::job::IllegalJobMove),
    /// The database did not do it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<rusqlite::Error> for RunError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// The state of a run that is over, and whose.
#[derive(Clone, Debug)]
pub struct PastRun {
    /// The job.
    pub job: JobId,
    /// Its fencing number.
    pub lease: Lease,
    /// Whether it was lost.
    pub was_lost: bool,
    /// What was kept of its output.
    pub acked: Acked,
}

/// One thing that a run's events say.
#[derive(Clone, Debug)]
pub enum Progress {
    /// It is in this worker.
    Worker(WorkerUuid),
    /// It came into this phase.
    Phase(Phase),
    /// These commits come before the one that it runs.
    Parents(Vec<Commit>),
    /// Something to be known about it.
    Note(String),
}

impl Db {
    /// Leases the job that is next, or none. `skip` names jobs that this
    /// asker is not to get.
    pub(crate) async fn lease_next(
        &self,
        run: RunId,
        runner: Option<RunnerName>,
        skip: Vec<JobId>,
        at: Timestamp,
        opened: impl FnOnce(&Leased) + Send + 'static,
    ) -> Result<Option<Leased>, Fault> {
        self.write(move |tx| {
            let leased = lease_next(tx, run, runner.as_ref(), &skip, at)?;
            if let Some(leased) = &leased {
                opened(leased);
            }
            Ok(leased)
        })
        .await
    }

    /// Writes down that a run is lost; says what became of its job.
    pub(crate) async fn lose(
        &self,
        loss: Loss,
        decide: Decide,
    ) -> Result<JobState, RunError> {
        self.write(move |tx| {
            let live = Live::find(tx.sql, loss.run, loss.lease)?;
            live.lose(tx, &loss, None, decide)
        })
        .await
    }

    /// Writes down how a run went on.
    pub(crate) async fn progress(
        &self,
        run: RunId,
        lease: Lease,
        steps: Vec<(Progress, Timestamp)>,
    ) -> Result<JobState, RunError> {
        self.write(move |tx| {
            let mut live = Live::find(tx.sql, run, lease)?;
            for (step, at) in &steps {
                live.step(tx, step, *at)?;
            }
            Ok(live.state)
        })
        .await
    }

    /// Writes down the verdict of a run; says what became of its job.
    pub(crate) async fn end(
        &self,
        run: RunId,
        lease: Lease,
        end: End,
        acked: Acked,
        at: Timestamp,
        decide: Decide,
    ) -> Result<JobState, RunError> {
        self.write(move |tx| {
            let live = Live::find(tx.sql, run, lease)?;
            live.end(tx, &end, acked, at, decide)
        })
        .await
    }

    /// Stops a queued job at once, and remembers the wish for a live one.
    /// Says in which state it is then; none if there is no such job.
    pub(crate) async fn ask_stop(
        &self,
        id: JobId,
        order: StopOrder,
        at: Timestamp,
    ) -> Result<Option<JobState>, RunError> {
        self.write(move |tx| ask_stop(tx, id, order, at)).await
    }

    /// All runs that are under way.
    pub(crate) async fn live_runs(&self) -> Result<Vec<LiveRun>, Fault> {
        self.read(live_runs).await
    }

    /// A run that is over.
    pub(crate) async fn past_run(
        &self,
        run: RunId,
    ) -> Result<Option<PastRun>, Fault> {
        self.read(move |sql| past_run(sql, run)).await
    }
}

fn lease_next(
    tx: &mut Tx<'_>,
    run: RunId,
    runner: Option<&RunnerName>,
    skip: &[JobId],
    at: Timestamp,
) -> Result<Option<Leased>, Fault> {
    let Some((seq, id, spec, submitted)) = next_queued(tx.sql, skip)? else {
        return Ok(None);
    };
    let state = JobState::Queued
        .next(JobEvent::Lease)
        .map_err(|_| Fault::Corrupt { what: "state" })?;
    let number: i64 = tx
        .sql
        .prepare_cached(
            "UPDATE meta SET value = value + 1 WHERE key = 'lease'
             RETURNING value",
        )?
        .query_row([], |row| row.get(0))?;
    let attempt: i64 = tx
        .sql
        .prepare_cached(
            "SELECT coalesce(max(attempt), 0) + 1 FROM runs WHERE job = ?1",
        )?
        .query_row([seq], |row| row.get(0))?;
    let text = "UPDATE jobs SET state = ?2, run = ?3, lease = ?4
        WHERE seq = ?1";
    let blob = &run.as_bytes()[..];
    tx.sql.prepare_cached(text)?.execute(params![
        seq,
        state.as_str(),
        blob,
        number
    ])?;
    let times = BTreeMap::from([(state.as_str(), at)]);
    let text =
        "INSERT INTO runs (id, job, lease, attempt, runner, state, times)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    tx.sql.prepare_cached(text)?.execute(params![
        blob,
        seq,
        number,
        attempt,
        runner.map(RunnerName::as_str),
        state.as_str(),
        row::to_json(&times),
    ])?;
    *tx.queued = tx.queued.saturating_sub(1);
    Ok(Some(Leased {
        job: JobId::of(&id)?,
        run,
        lease: Lease(uint(number)),
        attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
        spec: row::from_json(&spec, "spec")?,
        submitted: Timestamp(uint(submitted)),
    }))
}

type QueuedRow = (i64, Vec<u8>, String, i64);

/// The highest priority, then the oldest, past those to be skipped.
fn next_queued(
    sql: &Connection,
    skip: &[JobId],
) -> Result<Option<QueuedRow>, Fault> {
    let text = "SELECT seq, id, spec, submitted FROM jobs
        WHERE state = 'queued' ORDER BY priority DESC, seq";
    let mut query = sql.prepare_cached(text)?;
    let mut rows = query.query([])?;
    // At most as many steps as there are jobs to skip, and one more.
    while let Some(row) = rows.next()? {
        let id: Vec<u8> = row.get(1)?;
        if skip.iter().any(|job| job.as_bytes()[..] == id[..]) {
            continue;
        }
        return Ok(Some((row.get(0)?, id, row.get(2)?, row.get(3)?)));
    }
    Ok(None)
}

fn ask_stop(
    tx: &mut Tx<'_>,
    id: JobId,
    order: StopOrder,
    at: Timestamp,
) -> Result<Option<JobState>, RunError> {
    let text = "SELECT seq, state FROM jobs WHERE id = ?1";
    let found: Option<(i64, String)> = tx
        .sql
        .prepare_cached(text)?
        .query_row([&id.as_bytes()[..]], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((seq, state)) = found else {
        return Ok(None);
    };
    let state = row::state(&state)?;
    if state.is_live() {
        // As `StopOrder::then`: the later grace, and evidence for good.
        let text = "UPDATE jobs SET stop_grace = ?2,
            stop_evidence = stop_evidence OR ?3 WHERE seq = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            seq,
            int(order.grace_ms),
            order.evidence
        ])?;
        return Ok(Some(state));
    }
    if state != JobState::Queued {
        return Ok(Some(state));
    }
    let to = state.next(JobEvent::Stop)?;
    let text = "UPDATE jobs SET state = ?2, reason = ?3, sentence = ?4,
        ended = ?5 WHERE seq = ?1";
    tx.sql.prepare_cached(text)?.execute(params![
        seq,
        to.as_str(),
        Reason::Stopped.as_str(),
        "it was stopped while it was queued",
        int(at.0)
    ])?;
    *tx.queued = tx.queued.saturating_sub(1);
    Ok(Some(to))
}

fn live_runs(sql: &Connection) -> Result<Vec<LiveRun>, Fault> {
    let text = "SELECT jobs.id, runs.id, runs.lease, runs.runner, runs.worker,
        jobs.stop_grace, jobs.stop_evidence
        FROM runs JOIN jobs ON jobs.seq = runs.job
        WHERE runs.acked IS NULL ORDER BY runs.lease";
    let mut query = sql.prepare(text)?;
    let mut rows = query.query([])?;
    let mut live = Vec::new();
    while let Some(row) = rows.next()? {
        let runner: Option<String> = row.get(3)?;
        let worker: Option<Vec<u8>> = row.get(4)?;
        live.push(LiveRun {
            job: JobId::of(&row.get::<_, Vec<u8>>(0)?)?,
            run: RunId::of(&row.get::<_, Vec<u8>>(1)?)?,
            lease: Lease(uint(row.get(2)?)),
            runner: runner
                .map(|name| name.parse())
                .transpose()
                .map_err(|_| Fault::Corrupt { what: "runner" })?,
            worker: worker.map(|w| WorkerUuid::of(&w)).transpose()?,
            stop: row::stop_order(row, 5)?,
        });
    }
    Ok(live)
}

fn past_run(sql: &Connection, run: RunId) -> Result<Option<PastRun>, Fault> {
    let text = "SELECT jobs.id, runs.lease, runs.state, runs.acked
        FROM runs JOIN jobs ON jobs.seq = runs.job
        WHERE runs.id = ?1 AND runs.acked IS NOT NULL";
    let mut query = sql.prepare_cached(text)?;
    let mut rows = query.query([&run.as_bytes()[..]])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    Ok(Some(PastRun {
        job: JobId::of(&row.get::<_, Vec<u8>>(0)?)?,
        lease: Lease(uint(row.get(1)?)),
        was_lost: row.get::<_, String>(2)? == Outcome::Lost.as_str(),
        acked: row::from_json(&row.get::<_, String>(3)?, "acked")?,
    }))
}
