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
    Exit, JobId, JobSpec, JobState, Lease, Reason, RunId, RunnerName,
    Timestamp, WorkerUuid,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::db::{Db, Fault, Tx};
use crate::row::{self, Id as _, int, uint};

/// The most notes that are kept of a run.
const NOTES_MAX: usize = 32;

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
    /// Set if its end was asked for: how long it may take, in milliseconds.
    pub stop_grace: Option<u64>,
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
        grace_ms: u64,
        at: Timestamp,
    ) -> Result<Option<JobState>, RunError> {
        self.write(move |tx| ask_stop(tx, id, grace_ms, at)).await
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

/// The live run of a job, in the writer.
struct Live {
    seq: i64,
    run: RunId,
    state: JobState,
    retry: u32,
    lost_begun: u32,
    lost_idle: u32,
    stop_asked: bool,
    times: BTreeMap<String, Timestamp>,
    notes: Vec<String>,
}

impl Live {
    fn find(
        sql: &Connection,
        run: RunId,
        lease: Lease,
    ) -> Result<Self, RunError> {
        let text = "SELECT jobs.seq, jobs.state, jobs.spec, jobs.lost_begun,
            jobs.lost_idle, jobs.stop_grace, runs.times, runs.notes
            FROM runs JOIN jobs ON jobs.seq = runs.job
            WHERE runs.id = ?1 AND runs.lease = ?2
            AND jobs.lease = ?2 AND jobs.run = ?1";
        let mut query = sql.prepare_cached(text)?;
        let blob = &run.as_bytes()[..];
        let mut rows = query.query(params![blob, int(lease.0)])?;
        let row = rows.next()?.ok_or(RunError::Fenced(run))?;
        let state = row::state(&row.get::<_, String>(1)?)?;
        if !state.is_live() {
            return Err(RunError::Fenced(run));
        }
        let spec: JobSpec = row::from_json(&row.get::<_, String>(2)?, "spec")?;
        let times: String = row.get(6)?;
        let notes: String = row.get(7)?;
        Ok(Self {
            seq: row.get(0)?,
            run,
            state,
            retry: spec.retries(),
            lost_begun: row.get(3)?,
            lost_idle: row.get(4)?,
            stop_asked: row.get::<_, Option<i64>>(5)?.is_some(),
            times: row::from_json(&times, "times")?,
            notes: row::from_json(&notes, "notes")?,
        })
    }

    fn step(
        &mut self,
        tx: &Tx<'_>,
        step: &Progress,
        at: Timestamp,
    ) -> Result<(), RunError> {
        match step {
            Progress::Worker(worker) => {
                let text = "UPDATE runs SET worker = ?2 WHERE id = ?1";
                let blob = &worker.as_bytes()[..];
                let run = &self.run.as_bytes()[..];
                tx.sql.prepare_cached(text)?.execute([run, blob])?;
                Ok(())
            }
            Progress::Phase(phase) => self.enter(tx, *phase, at),
            Progress::Note(note) => self.note(tx, note),
        }
    }

    /// A phase that the table does not allow from here (told twice, or out
    /// of order) changes nothing: the record itself is kept in the output.
    fn enter(
        &mut self,
        tx: &Tx<'_>,
        phase: Phase,
        at: Timestamp,
    ) -> Result<(), RunError> {
        let to = match phase {
            Phase::Preparing => self.state.next(JobEvent::Prepare),
            Phase::Running => self.state.next(JobEvent::Run),
            Phase::Collecting => match self.state {
                JobState::Leased => JobState::Preparing.next(JobEvent::Collect),
                state => state.next(JobEvent::Collect),
            },
        };
        let Ok(to) = to else {
            return Ok(());
        };
        self.state = to;
        self.times.entry(to.as_str().to_owned()).or_insert(at);
        let text = "UPDATE jobs SET state = ?2 WHERE seq = ?1";
        tx.sql.prepare_cached(text)?.execute(params![self.seq, to.as_str()])?;
        let text = "UPDATE runs SET state = ?2, times = ?3 WHERE id = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            &self.run.as_bytes()[..],
            to.as_str(),
            row::to_json(&self.times),
        ])?;
        Ok(())
    }

    fn note(&mut self, tx: &Tx<'_>, note: &str) -> Result<(), RunError> {
        let is_known = self.notes.iter().any(|n| n == note);
        if is_known || self.notes.len() >= NOTES_MAX {
            return Ok(());
        }
        self.notes.push(note.to_owned());
        let text = "UPDATE runs SET notes = ?2 WHERE id = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            &self.run.as_bytes()[..],
            row::to_json(&self.notes)
        ])?;
        Ok(())
    }

    fn end(
        mut self,
        tx: &mut Tx<'_>,
        end: &End,
        acked: Acked,
        at: Timestamp,
        decide: Decide,
    ) -> Result<JobState, RunError> {
        let is_ours = end.reason.is_some_and(Reason::is_ours);
        let was_lost = end.outcome == Outcome::Lost
            || (end.outcome == Outcome::Failed && is_ours);
        if was_lost {
            let loss = Loss {
                run: self.run,
                lease: Lease(0),
                reason: end
                    .reason
                    .filter(|reason| reason.is_ours())
                    .unwrap_or(Reason::Zone),
                sentence: end
                    .sentence
                    .clone()
                    .unwrap_or_else(|| "the runner lost the run".to_owned()),
                acked,
                at,
            };
            return self.lose(tx, &loss, Some(end), decide);
        }
        let (event, reason) = match end.outcome {
            Outcome::Done => (JobEvent::Done, None),
            Outcome::Stopped => {
                (JobEvent::Stop, Some(end.reason.unwrap_or(Reason::Stopped)))
            }
            Outcome::Failed | Outcome::Lost => {
                (JobEvent::Fail, Some(end.reason.unwrap_or(Reason::Internal)))
            }
        };
        // A runner that told no phases still ran the command.
        if event == JobEvent::Done
            && let Ok(running) = self.state.next(JobEvent::Run)
        {
            self.state = running;
        }
        let to = self.state.next(event)?;
        let over = Over {
            run_state: end.outcome.as_str(),
            reason,
            sentence: end.sentence.clone(),
            end: Some(end),
            acked: &acked,
            at,
        };
        self.finish_run(tx, &over)?;
        self.finish_job(tx, to, reason, over.sentence, end.exit.as_ref(), at)?;
        Ok(to)
    }

    fn lose(
        mut self,
        tx: &mut Tx<'_>,
        loss: &Loss,
        end: Option<&End>,
        decide: Decide,
    ) -> Result<JobState, RunError> {
        let has_begun = !loss.acked.is_empty();
        let after = decide(LossFacts {
            retry: self.retry,
            lost_begun: self.lost_begun,
            lost_idle: self.lost_idle,
            has_begun,
            stop_asked: self.stop_asked,
        });
        let over = Over {
            run_state: Outcome::Lost.as_str(),
            reason: Some(loss.reason),
            sentence: Some(loss.sentence.clone()),
            end,
            acked: &loss.acked,
            at: loss.at,
        };
        self.finish_run(tx, &over)?;
        let exit = end.and_then(|end| end.exit.as_ref());
        let sentence = Some(loss.sentence.clone());
        match after {
            AfterLoss::Requeue => {
                self.requeue(tx, has_begun, sentence)?;
                Ok(JobState::Queued)
            }
            AfterLoss::Fail => {
                let to = self.state.next(JobEvent::Fail)?;
                let reason = Some(loss.reason);
                self.finish_job(tx, to, reason, sentence, exit, loss.at)?;
                Ok(to)
            }
            AfterLoss::Stop => {
                let to = self.state.next(JobEvent::Stop)?;
                let reason = Some(Reason::Stopped);
                self.finish_job(tx, to, reason, sentence, exit, loss.at)?;
                Ok(to)
            }
        }
    }

    fn requeue(
        &self,
        tx: &mut Tx<'_>,
        has_begun: bool,
        sentence: Option<String>,
    ) -> Result<(), RunError> {
        let to = self.state.next(JobEvent::Requeue)?;
        let text = "UPDATE jobs SET state = ?2, lease = NULL, sentence = ?3,
            lost_begun = lost_begun + ?4, lost_idle = lost_idle + ?5
            WHERE seq = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            self.seq,
            to.as_str(),
            sentence,
            i64::from(has_begun),
            i64::from(!has_begun),
        ])?;
        *tx.queued += 1;
        Ok(())
    }

    fn finish_run(
        &mut self,
        tx: &Tx<'_>,
        over: &Over<'_>,
    ) -> Result<(), RunError> {
        self.times.insert(over.run_state.to_owned(), over.at);
        let exit = over.end.and_then(|end| end.exit.as_ref());
        let usage = over.end.and_then(|end| end.usage.as_ref());
        let text = "UPDATE runs SET state = ?2, reason = ?3, sentence = ?4,
            times = ?5, exit = ?6, usage = ?7, acked = ?8 WHERE id = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            &self.run.as_bytes()[..],
            over.run_state,
            over.reason.map(Reason::as_str),
            over.sentence,
            row::to_json(&self.times),
            exit.map(row::to_json),
            usage.map(row::to_json),
            row::to_json(over.acked),
        ])?;
        Ok(())
    }

    fn finish_job(
        &self,
        tx: &Tx<'_>,
        to: JobState,
        reason: Option<Reason>,
        sentence: Option<String>,
        exit: Option<&Exit>,
        at: Timestamp,
    ) -> Result<(), RunError> {
        let text = "UPDATE jobs SET state = ?2, lease = NULL, reason = ?3,
            sentence = ?4, exit = ?5, ended = ?6 WHERE seq = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            self.seq,
            to.as_str(),
            reason.map(Reason::as_str),
            sentence,
            exit.map(row::to_json),
            int(at.0),
        ])?;
        Ok(())
    }
}

/// How a run is over.
struct Over<'a> {
    run_state: &'static str,
    reason: Option<Reason>,
    sentence: Option<String>,
    end: Option<&'a End>,
    acked: &'a Acked,
    at: Timestamp,
}

fn ask_stop(
    tx: &mut Tx<'_>,
    id: JobId,
    grace_ms: u64,
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
        let text = "UPDATE jobs SET stop_grace = ?2 WHERE seq = ?1";
        tx.sql.prepare_cached(text)?.execute([seq, int(grace_ms)])?;
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
        jobs.stop_grace
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
            stop_grace: row.get::<_, Option<i64>>(5)?.map(uint),
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
