//! Runs that left a profile: found by job, by run, by commit.
//!
//! Must not know what is in a profile. A run counts as traced if an artefact
//! stands under a profile's name; the runner alone writes such names.

use ntrace_protocol::id::ArtefactId;
use ntrace_protocol::trace::{MAX_REPEAT, TraceFile, TraceSummary};
use ntrace_protocol::{
    Commit, JobId, JobSpec, JobState, Owner, Repo, RunId, Source, StopOrder,
    Timestamp, WorkerUuid,
};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use crate::db::{Db, Fault};
use crate::row::{self, Id as _, uint};

/// How many jobs are looked at for one that fits.
const LOOKED_AT: u32 = 1000;
/// How many of those that fit are given.
const FOUND_MAX: u32 = 64;

/// A profile of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredProfile {
    /// The artefact.
    pub id: ArtefactId,
    /// Which repetition of the command it is of, from 1.
    pub repetition: u32,
    /// Its size.
    pub bytes: u64,
}

/// A run that left a profile.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// The job's place in the order of arrival.
    pub row: u64,
    /// What became of the job.
    pub state: JobState,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// What was asked for.
    pub spec: JobSpec,
    /// In which worker it was.
    pub worker: Option<WorkerUuid>,
    /// The commits before its own.
    pub parents: Vec<Commit>,
    /// What the runner said of the trace.
    pub trace: Option<TraceSummary>,
    /// In the order of repetitions.
    pub profiles: Vec<StoredProfile>,
}

impl Traced {
    /// Whether the same was run, so that a comparison of the two compares
    /// what was run in.
    pub fn is_same_work(&self, other: &JobSpec) -> bool {
        let JobSpec { argv, run, .. } = &self.spec;
        (argv, run) == (&other.argv, &other.run)
    }

    /// The commit that it ran.
    pub fn source(&self) -> Option<&Source> {
        self.spec.source.as_ref()
    }
}

/// What is behind a job, besides its runs.
#[derive(Clone, Debug)]
pub struct Behind {
    /// What was asked for.
    pub spec: JobSpec,
    /// Runs lost that had begun.
    pub lost_begun: u32,
    /// Runs lost of which nobody ever heard.
    pub lost_idle: u32,
    /// Set if its end was asked for while it ran.
    pub stop: Option<StopOrder>,
}

/// Which jobs to look among.
#[derive(Clone, Debug)]
pub enum Among {
    /// The done ones of this commit.
    Commit(Source),
    /// The done ones of this repository that came before that row.
    Before(Owner, Repo, u64),
}

impl Db {
    /// The last run of a job that left a profile.
    pub(crate) async fn traced_job(
        &self,
        job: JobId,
    ) -> Result<Option<Traced>, Fault> {
        self.read(move |sql| {
            one(sql, "id = ?1", "true", &[&&job.as_bytes()[..]])
        })
        .await
    }

    /// A run, if it left a profile.
    pub(crate) async fn traced_run(
        &self,
        run: RunId,
    ) -> Result<Option<Traced>, Fault> {
        self.read(move |sql| {
            one(
                sql,
                "seq = (SELECT job FROM runs WHERE id = ?1)",
                "runs.id = ?1",
                &[&&run.as_bytes()[..]],
            )
        })
        .await
    }

    /// The job of a run.
    pub(crate) async fn job_of_run(
        &self,
        run: RunId,
    ) -> Result<Option<JobId>, Fault> {
        self.read(move |sql| {
            let text = "SELECT jobs.id FROM runs
                JOIN jobs ON jobs.seq = runs.job WHERE runs.id = ?1";
            let id: Option<Vec<u8>> = sql
                .prepare_cached(text)?
                .query_row([&run.as_bytes()[..]], |row| row.get(0))
                .optional()?;
            id.map(|blob| JobId::of(&blob)).transpose()
        })
        .await
    }

    /// The traced ones among these jobs, newest first, of each job its last
    /// run; no more than a few.
    pub(crate) async fn traced_among(
        &self,
        among: Among,
    ) -> Result<Vec<Traced>, Fault> {
        self.read(move |sql| match &among {
            Among::Commit(Source { owner, repo, commit }) => many(
                sql,
                "+state = 'done' AND hash = ?1 AND repo = ?2 AND owner = ?3",
                params![commit.as_str(), repo.as_str(), owner.as_str()],
            ),
            Among::Before(owner, repo, row) => many(
                sql,
                "+state = 'done' AND seq < ?1 AND repo = ?2 AND owner = ?3",
                params![row::int(*row), repo.as_str(), owner.as_str()],
            ),
        })
        .await
    }

    /// What is behind a job, besides its runs.
    pub(crate) async fn behind(
        &self,
        job: JobId,
    ) -> Result<Option<Behind>, Fault> {
        self.read(move |sql| {
            let text = "SELECT spec, lost_begun, lost_idle, stop_grace,
                stop_evidence
                FROM jobs WHERE id = ?1";
            let mut query = sql.prepare_cached(text)?;
            let mut rows = query.query([&job.as_bytes()[..]])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            Ok(Some(Behind {
                spec: row::from_json(&row.get::<_, String>(0)?, "spec")?,
                lost_begun: row.get(1)?,
                lost_idle: row.get(2)?,
                stop: row::stop_order(row, 3)?,
            }))
        })
        .await
    }
}

fn one(
    sql: &Connection,
    jobs: &str,
    runs: &str,
    values: &[&dyn ToSql],
) -> Result<Option<Traced>, Fault> {
    Ok(find(sql, (jobs, runs), values, 1)?.into_iter().next())
}

fn many(
    sql: &Connection,
    jobs: &str,
    values: &[&dyn ToSql],
) -> Result<Vec<Traced>, Fault> {
    let mut found = find(sql, (jobs, "true"), values, FOUND_MAX)?;
    // The newest run of a job comes first.
    found.dedup_by_key(|traced| traced.job);
    Ok(found)
}

/// Jobs and runs that fit, newest first. How many jobs are looked at is
/// bounded, since most of a repository's may have no profile.
fn find(
    sql: &Connection,
    (jobs, runs): (&str, &str),
    values: &[&dyn ToSql],
    most: u32,
) -> Result<Vec<Traced>, Fault> {
    let sql = &sql.unchecked_transaction()?;
    let first = TraceFile::Profile.name(1);
    let text = format!(
        "SELECT jobs.id, runs.id, jobs.seq, jobs.state, jobs.submitted,
            jobs.spec, runs.worker, runs.parents, runs.trace
        FROM (SELECT * FROM jobs WHERE {jobs}
            ORDER BY seq DESC LIMIT {LOOKED_AT}) AS jobs
        JOIN runs ON runs.job = jobs.seq
        WHERE {runs} AND EXISTS (SELECT 1 FROM artefacts
            WHERE artefacts.run = runs.id AND artefacts.name = '{first}')
        ORDER BY jobs.seq DESC, runs.attempt DESC LIMIT {most}"
    );
    let mut query = sql.prepare_cached(&text)?;
    let mut rows = query.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut traced = traced_of(row)?;
        traced.profiles = profiles(sql, traced.run)?;
        found.push(traced);
    }
    Ok(found)
}

fn traced_of(row: &Row<'_>) -> Result<Traced, Fault> {
    let worker: Option<Vec<u8>> = row.get(6)?;
    Ok(Traced {
        job: JobId::of(&row.get::<_, Vec<u8>>(0)?)?,
        run: RunId::of(&row.get::<_, Vec<u8>>(1)?)?,
        row: uint(row.get(2)?),
        state: row::state(&row.get::<_, String>(3)?)?,
        submitted: Timestamp(uint(row.get(4)?)),
        spec: row::from_json(&row.get::<_, String>(5)?, "spec")?,
        worker: worker.map(|blob| WorkerUuid::of(&blob)).transpose()?,
        parents: row::maybe_json(row.get(7)?, "parents")?.unwrap_or_default(),
        trace: row::maybe_json(row.get(8)?, "trace")?,
        profiles: Vec::new(),
    })
}

fn profiles(sql: &Connection, run: RunId) -> Result<Vec<StoredProfile>, Fault> {
    let text = "SELECT id, name, bytes FROM artefacts
        WHERE run = ?1 AND name GLOB 'trace/*'";
    let mut query = sql.prepare_cached(text)?;
    let mut rows = query.query([&run.as_bytes()[..]])?;
    let mut profiles = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let repetition = TraceFile::Profile.repetition(&name);
        let Some(repetition) = repetition.filter(|n| *n <= MAX_REPEAT) else {
            continue;
        };
        let id = ArtefactId::of(&row.get::<_, Vec<u8>>(0)?)?;
        let bytes = uint(row.get(2)?);
        profiles.push(StoredProfile { id, repetition, bytes });
    }
    profiles.sort_by_key(|profile| profile.repetition);
    Ok(profiles)
}
