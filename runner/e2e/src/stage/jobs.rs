//! The jobs of a stage, reached as a client reaches them.

use ntrace_client::{LogEnd, LogsOptions};
use ntrace_protocol::{JobId, JobState, JobView};
use serde_json::{Value, json};

use super::Stage;
use crate::git::Repo;
use crate::output::Output;
use crate::wait::{DEADLINE, until};

impl Stage {
    async fn job(&self, name: &str, args: &[Value]) -> JobId {
        let results = self
            .ask(name, args)
            .await
            .unwrap_or_else(|error| panic!("{name} {args:?}: {error}"));
        let id = results.first().and_then(Value::as_str);
        id.and_then(|id| id.parse().ok()).expect("the answer is a job id")
    }

    /// Pushes a commit with options.
    pub async fn push(
        &self,
        repo: &Repo,
        commit: &str,
        options: Value,
    ) -> JobId {
        let args =
            [json!(repo.owner), json!(repo.name), json!(commit), options];
        self.job("push", &args).await
    }

    /// Submits a shell command with options.
    pub async fn submit(&self, script: &str, options: Value) -> JobId {
        let mut job = options;
        if job.is_null() {
            job = json!({});
        }
        job["argv"] = json!(["/bin/sh", "-c", script]);
        self.job("submit", &[job]).await
    }

    /// The job as it is.
    ///
    /// # Panics
    /// There is none such.
    pub async fn status(&self, job: JobId) -> JobView {
        let status = self.client().await.status(&job.to_string()).await;
        status.unwrap_or_else(|error| panic!("status {job}: {error}"))
    }

    /// The job, once it is final.
    ///
    /// # Panics
    /// It is not final before the deadline.
    pub async fn finished(&self, job: JobId) -> JobView {
        let client = self.client().await;
        match client.wait(&job.to_string(), Some(2 * DEADLINE)).await {
            Ok(job) => job,
            Err(error) => {
                let now = self.status(job).await;
                panic!("{job} does not end: {error}; it is {now:?}")
            }
        }
    }

    /// The job, once it is in a state.
    pub async fn reaches(&self, job: JobId, state: JobState) -> JobView {
        let client = self.client().await;
        until(&format!("{job} is {state}"), async || {
            let view = client.status(&job.to_string()).await.ok()?;
            assert!(
                view.state == state || !view.state.is_final(),
                "{job} is to be {state} and is {view:?}"
            );
            (view.state == state).then_some(view)
        })
        .await
    }

    /// Waits until the job has written this.
    pub async fn says(&self, job: JobId, word: &str) {
        let client = self.client().await;
        let options = LogsOptions { follow: Some(true), ..<_>::default() };
        let mut logs = client.logs(job, &options).expect("the first reader");
        let mut output = Output::default();
        let reading = async {
            while let Some(record) = logs.next().await {
                output.take(record);
                if output.text().contains(word) {
                    return;
                }
            }
            panic!("{job} ended without {word:?}: {output:?}");
        };
        let in_time = tokio::time::timeout(DEADLINE, reading).await;
        in_time.unwrap_or_else(|_| panic!("{job} does not say {word:?}"));
    }

    /// All output of a job that has ended.
    pub async fn output(&self, job: JobId) -> Output {
        self.follow(job).await.0
    }

    /// All output of a job, followed to its end.
    ///
    /// # Panics
    /// The output is cut off.
    pub async fn follow(&self, job: JobId) -> (Output, LogEnd) {
        let client = self.client().await;
        let options = LogsOptions { follow: Some(true), ..<_>::default() };
        let mut logs = client.logs(job, &options).expect("the first reader");
        let mut output = Output::default();
        while let Some(record) = logs.next().await {
            output.take(record);
        }
        let end = logs.end().unwrap_or_else(|e| panic!("logs {job}: {e}"));
        (output, end)
    }

    /// Submits a shell command; its end and its output.
    pub async fn run(&self, script: &str, options: Value) -> (JobView, Output) {
        let job = self.submit(script, options).await;
        let view = self.finished(job).await;
        (view, self.output(job).await)
    }
}
