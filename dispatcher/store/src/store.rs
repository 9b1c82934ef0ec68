//! The store as a whole: opens all parts in order, and keeps files and rows
//! in step.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ntrace_protocol::id::{ArtefactId, JobRef};
use ntrace_protocol::report::{Acked, End};
use ntrace_protocol::runner::ArtefactView;
use ntrace_protocol::{
    JobId, JobState, JobView, Lease, RunId, RunnerName, StopOrder, Timestamp,
};

use crate::artefact::{Artefacts, Caps, GetError, Piece, PutError};
use crate::db::{Counts, Db, Fault, OpenDbError};
use crate::dir::{DataDir, DirError};
use crate::jobs::{
    Filter, FindError, NewJob, Page, PushError, Pushed, RemoveError,
};
use crate::lease::{
    Decide, Leased, LiveRun, Loss, PastRun, Progress, RunError,
};
use crate::output::Output;
use crate::traced::{Among, Behind, Traced};

/// All that the dispatcher keeps, to be shared.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    output: Output,
    artefacts: Artefacts,
    dir: Arc<DataDir>,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not fit to be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The database cannot be opened.
    #[error(transparent)]
    Db(#[from] OpenDbError),
    /// The database cannot be read.
    #[error("cannot read the runs that were under way")]
    Read(#[from] Fault),
    /// The files cannot be used.
    #[error("cannot use the output or the artefacts")]
    Files(#[from] io::Error),
}

impl Store {
    /// Opens the store, and says which runs are under way: their logs are
    /// open again, cut to what is whole.
    ///
    /// # Errors
    /// The directory is in use or not fit, or something in it is damaged.
    pub async fn open(
        path: &Path,
        caps: Caps,
    ) -> Result<(Self, Vec<LiveRun>), OpenError> {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let dir = DataDir::open(&owned)?;
            let db = Db::open(&dir.path().join("jobs.db"))?;
            let output = Output::start(&dir.path().join("output"))?;
            Ok::<_, OpenError>((dir, db, output))
        });
        let opened = opened.await.unwrap_or(Err(Fault::Closed.into()));
        let (dir, db, output) = opened?;
        let live = db.live_runs().await?;
        let runs = live.clone();
        let opened = tokio::task::spawn_blocking(move || {
            for run in &runs {
                output.recover(run.job, run.run, run.lease)?;
            }
            let ids: Vec<RunId> = runs.iter().map(|run| run.run).collect();
            let root = dir.path().join("artefacts");
            let artefacts = Artefacts::start(&root, caps, &ids)?;
            let dir = Arc::new(dir);
            Ok::<_, OpenError>(Self { db, output, artefacts, dir })
        });
        let store = opened.await.unwrap_or(Err(Fault::Closed.into()))?;
        for job in store.db.removed().await? {
            store.sweep(job).await?;
        }
        Ok((store, live))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The output of runs.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// What the writer has done.
    pub fn counts(&self) -> &Counts {
        self.db.counts()
    }

    /// Waits until the store has failed, and says why. Nothing that was not
    /// answered by then is known to be kept: the process must end.
    pub async fn failure(&self) -> String {
        let (mut db, mut output) = (self.db.failed(), self.output.failed());
        tokio::select! {
            why = failure(&mut db) => why,
            why = failure(&mut output) => why,
        }
    }

    /// Keeps a job. The same id with the same content is the same job.
    ///
    /// # Errors
    /// The id is another job's, or the queue or the disk is full.
    pub async fn push(&self, job: NewJob) -> Result<Pushed, PushError> {
        self.db.push(job).await
    }

    /// Finds a job by its id or a prefix of it.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub async fn find(&self, id: JobRef) -> Result<JobId, FindError> {
        self.db.find(id).await
    }

    /// A job with its runs, and its position if it is queued.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Option<JobView>, Fault> {
        self.db.job(id).await
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, filter: Filter) -> Result<Page, Fault> {
        self.db.list(filter).await
    }

    /// The row number of a job, for [`Filter::before`].
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn row_of(&self, id: JobId) -> Result<Option<u64>, Fault> {
        self.db.row_of(id).await
    }

    /// Forgets a final job with all its files.
    ///
    /// # Errors
    /// It is not final, or a file cannot be removed.
    pub async fn remove(&self, id: JobId) -> Result<(), RemoveError> {
        self.db.remove(id).await?;
        // Its rows are gone for good; files that resist are tried again at
        // the next start.
        if let Err(error) = self.sweep(id).await {
            tracing::warn!(
                job = %id,
                error = &error as &dyn std::error::Error,
                "files of a removed job are left"
            );
        }
        Ok(())
    }

    /// Removes the files of a removed job.
    async fn sweep(&self, job: JobId) -> Result<(), OpenError> {
        let (output, artefacts) = (self.output.clone(), self.artefacts.clone());
        let swept = tokio::task::spawn_blocking(move || {
            output.remove(job)?;
            artefacts.remove(job)
        });
        swept.await.unwrap_or_else(|e| Err(io::Error::other(e)))?;
        Ok(self.db.swept(job).await?)
    }

    /// Leases the job that is next, or none, and opens the log of its run.
    /// `skip` names jobs that this asker is not to get.
    ///
    /// # Errors
    /// The disk is full, or the database refused.
    pub async fn lease_next(
        &self,
        run: RunId,
        runner: Option<RunnerName>,
        skip: Vec<JobId>,
        at: Timestamp,
    ) -> Result<Option<Leased>, Fault> {
        // Opened before the commit, so that whoever sees a live run finds its
        // log open.
        let output = self.output.clone();
        let opened = move |leased: &Leased| {
            output.open(leased.job, leased.run, leased.lease);
        };
        let leased = self.db.lease_next(run, runner, skip, at, opened).await;
        if leased.is_err() {
            self.output.close(run).await;
        }
        leased
    }

    /// Closes the log of a run and writes down that it is lost; says what
    /// became of its job.
    ///
    /// # Errors
    /// It is over already, or the disk is full.
    pub async fn lose(
        &self,
        run: RunId,
        lease: Lease,
        (reason, sentence): (ntrace_protocol::Reason, String),
        at: Timestamp,
        decide: Decide,
    ) -> Result<JobState, RunError> {
        let acked = self.output.close(run).await.unwrap_or_default();
        let loss = Loss { run, lease, reason, sentence, acked, at };
        let state = self.db.lose(loss, decide).await?;
        self.drop_parts(run).await;
        Ok(state)
    }

    /// Writes down how a run went on.
    ///
    /// # Errors
    /// It is over already, or the disk is full.
    pub async fn progress(
        &self,
        run: RunId,
        lease: Lease,
        steps: Vec<(Progress, Timestamp)>,
    ) -> Result<JobState, RunError> {
        self.db.progress(run, lease, steps).await
    }

    /// Writes down the verdict of a run and closes its log; says what became
    /// of its job.
    ///
    /// # Errors
    /// It is over already, or the disk is full.
    pub async fn end(
        &self,
        run: RunId,
        lease: Lease,
        (end, acked): (End, Acked),
        at: Timestamp,
        decide: Decide,
    ) -> Result<JobState, RunError> {
        let state = self.db.end(run, lease, end, acked, at, decide).await?;
        self.output.close(run).await;
        self.drop_parts(run).await;
        Ok(state)
    }

    async fn drop_parts(&self, run: RunId) {
        let artefacts = self.artefacts.clone();
        let dropped =
            tokio::task::spawn_blocking(move || artefacts.drop_parts(run));
        if let Ok(Err(error)) = dropped.await {
            tracing::warn!(%run, %error, "parts of artefacts are left");
        }
    }

    /// Stops a queued job at once, and remembers the wish for a live one.
    /// Says in which state it is then; none if there is no such job.
    ///
    /// # Errors
    /// The disk is full, or the database refused.
    pub async fn ask_stop(
        &self,
        id: JobId,
        order: StopOrder,
        at: Timestamp,
    ) -> Result<Option<JobState>, RunError> {
        self.db.ask_stop(id, order, at).await
    }

    /// A run that is over.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn past_run(&self, run: RunId) -> Result<Option<PastRun>, Fault> {
        self.db.past_run(run).await
    }

    /// Takes a piece of an artefact; says how long that is then.
    ///
    /// # Errors
    /// It does not fit to what is there, or is too much.
    pub async fn put_piece(&self, piece: Piece) -> Result<u64, PutError> {
        self.db.put_piece(&self.artefacts, piece).await
    }

    /// The artefacts of a job.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn artefacts(
        &self,
        job: JobId,
    ) -> Result<Vec<ArtefactView>, Fault> {
        self.db.artefacts(job).await
    }

    /// The last run of a job that left a profile.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn traced_job(
        &self,
        job: JobId,
    ) -> Result<Option<Traced>, Fault> {
        self.db.traced_job(job).await
    }

    /// A run, if it left a profile.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn traced_run(
        &self,
        run: RunId,
    ) -> Result<Option<Traced>, Fault> {
        self.db.traced_run(run).await
    }

    /// The traced ones among these jobs, newest first; no more than a few.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn traced_among(
        &self,
        among: Among,
    ) -> Result<Vec<Traced>, Fault> {
        self.db.traced_among(among).await
    }

    /// The job of a run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn job_of_run(&self, run: RunId) -> Result<Option<JobId>, Fault> {
        self.db.job_of_run(run).await
    }

    /// What is behind a job, besides its runs.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn behind(&self, job: JobId) -> Result<Option<Behind>, Fault> {
        self.db.behind(job).await
    }

    /// A piece of an artefact, and whether it reaches the end.
    ///
    /// # Errors
    /// There is no such artefact.
    pub async fn get_piece(
        &self,
        id: ArtefactId,
        offset: u64,
        length: usize,
    ) -> Result<(Vec<u8>, bool), GetError> {
        self.db.get_piece(&self.artefacts, id, offset, length).await
    }
}

async fn failure(
    failed: &mut tokio::sync::watch::Receiver<Option<String>>,
) -> String {
    match failed.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "the store is closed".to_owned(),
    }
}
