//! The live run of a job, as the writer changes it.
//!
//! Must not know who asks. Every move goes through the table in
//! `protocol::job`; a run that is not the current one of its job is not
//! found, so nothing final moves.

use std::collections::BTreeMap;

use ntrace_protocol::job::JobEvent;
use ntrace_protocol::report::{Acked, End, Outcome, Phase};
use ntrace_protocol::{
    Exit, JobSpec, JobState, Lease, Reason, RunId, Timestamp,
};
use rusqlite::{Connection, params};

use crate::db::Tx;
use crate::lease::{AfterLoss, Decide, Loss, LossFacts, Progress, RunError};
use crate::row::{self, int};

/// The most notes that are kept of a run.
const NOTES_MAX: usize = 32;

/// The live run of a job, in the writer.
pub(crate) struct Live {
    seq: i64,
    run: RunId,
    pub(crate) state: JobState,
    retry: u32,
    lost_begun: u32,
    lost_idle: u32,
    stop_asked: bool,
    times: BTreeMap<String, Timestamp>,
    notes: Vec<String>,
}

impl Live {
    pub(crate) fn find(
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

    pub(crate) fn step(
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
            Progress::Parents(parents) => {
                let text = "UPDATE runs SET parents = ?2 WHERE id = ?1";
                let run = &self.run.as_bytes()[..];
                tx.sql
                    .prepare_cached(text)?
                    .execute(params![run, row::to_json(parents)])?;
                Ok(())
            }
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

    pub(crate) fn end(
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

    pub(crate) fn lose(
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
        let trace = over.end.and_then(|end| end.trace.as_ref());
        let text = "UPDATE runs SET state = ?2, reason = ?3, sentence = ?4,
            times = ?5, exit = ?6, usage = ?7, acked = ?8, trace = ?9
            WHERE id = ?1";
        tx.sql.prepare_cached(text)?.execute(params![
            &self.run.as_bytes()[..],
            over.run_state,
            over.reason.map(Reason::as_str),
            over.sentence,
            row::to_json(&self.times),
            exit.map(row::to_json),
            usage.map(row::to_json),
            row::to_json(over.acked),
            trace.map(row::to_json),
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
