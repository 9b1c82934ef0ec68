//! The dispatcher's commands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntrace_protocol::compare::{DiffView, Document, Format, WhyStep};
use ntrace_protocol::job::JobView;
use ntrace_protocol::report::{Acked, Report};
use ntrace_protocol::runner::{
    ArtefactView, Assignment, Held, Hello, Next, RunnerView, Welcome,
};
use ntrace_protocol::unit::format_duration;
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{Code, JobId, JobSpec, RunId, WireError};
use ntrace_session::{CallError, Config, Peer, spawn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connect::{ConnectError, Open, connect};
use crate::logs::{ClientService, LogStream, LogsOptions};
use crate::result;

/// How long a command may take that does not wait for anything.
const PROMPT: Duration = Duration::from_secs(60);

/// How long work on traces may take: the dispatcher bounds it itself.
const TRACE_WORK: Duration = Duration::from_secs(120);

/// What is added to a wait that the dispatcher bounds itself.
const SLACK: Duration = Duration::from_secs(30);

/// Which jobs `list` is to show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListFilter {
    /// Only in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only of this repository: `owner/repo`, or the repository's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Only with this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Go on behind this job: what `list` answered as `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Jobs, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct ListPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// For `after`; none at the end.
    pub next: Option<String>,
}

/// How `stop` is to stop a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// How long it has between TERM and KILL; the dispatcher's default
    /// without one.
    pub grace: Option<Duration>,
    /// Whether to see first what it is doing.
    pub evidence: bool,
}

impl StopOptions {
    /// Stops with this grace.
    pub fn within(grace: Duration) -> Self {
        Self { grace: Some(grace), ..Self::default() }
    }

    /// The same, with evidence.
    #[must_use]
    pub fn with_evidence(self) -> Self {
        Self { evidence: true, ..self }
    }

    /// As `stop` takes it; nothing where nothing is asked for, which an
    /// older dispatcher understands as well.
    fn to_value(self) -> Option<Value> {
        let mut map = serde_json::Map::new();
        if let Some(grace) = self.grace {
            map.insert("grace".to_owned(), json!(format_duration(grace)));
        }
        if self.evidence {
            map.insert("evidence".to_owned(), json!(true));
        }
        (!map.is_empty()).then_some(Value::Object(map))
    }
}

/// A run whose reports were refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The run.
    pub run_id: RunId,
    /// Why.
    #[serde(flatten)]
    pub error: WireError,
}

/// The answer to `result`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AckReply {
    /// What is safely kept, per run.
    #[serde(default)]
    pub acked: BTreeMap<RunId, Acked>,
    /// What was not taken.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// Which document of a trace `export` is to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// A job, a run, or `owner/repo@commit`.
    pub trace: String,
    /// As what.
    pub format: Format,
    /// The other side of a difference, if not the dispatcher's choice.
    pub base: Option<String>,
    /// Only this repetition of the command.
    pub repetition: Option<u32>,
    /// Whether graphs grow downwards.
    pub icicle: bool,
    /// Whether the widest stand first, not in the order of names.
    pub by_width: bool,
}

/// A dispatcher at the other end of a connection.
#[derive(Clone)]
pub struct Dispatcher {
    peer: Peer,
    service: Arc<ClientService>,
    /// Closes the connection with the last handle; none if somebody else
    /// serves it.
    open: Option<Arc<Open>>,
}

impl Dispatcher {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nobody is there.
    pub async fn connect(addr: &str) -> Result<Self, ConnectError> {
        let stream = connect(addr).await?;
        let service = Arc::new(ClientService::default());
        let session = spawn(stream, Config::default(), |_| service.clone())
            .map_err(|source| ConnectError::Connect {
                addr: addr.to_owned(),
                source,
            })?;
        let open = Some(Open::new(&session.peer));
        Ok(Self { peer: session.peer, service, open })
    }

    /// The dispatcher behind a connection that somebody else serves. Its
    /// `logs` bring nothing.
    pub fn over(peer: Peer) -> Self {
        Self { peer, service: Arc::default(), open: None }
    }

    /// The connection.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn prompt(
        &self,
        name: &str,
        args: &[Value],
    ) -> Result<Vec<Value>, CallError> {
        self.peer.call(name, args, PROMPT).await
    }

    /// `ping`: proves that the other side lives.
    ///
    /// # Errors
    /// As every call.
    pub async fn ping(&self, deadline: Duration) -> Result<(), CallError> {
        self.peer.call("ping", &[json!(1)], deadline).await.map(drop)
    }

    /// `push` with options; the spec must have a source.
    ///
    /// # Errors
    /// As every call.
    pub async fn push(
        &self,
        spec: &JobSpec,
        id: Option<JobId>,
    ) -> Result<JobId, CallError> {
        let Some(source) = &spec.source else {
            return Err(CallError::Refused(WireError::invalid(
                "owner",
                "a push needs owner, repo and commit",
            )));
        };
        let mut options = json!({
            "run": spec.run, "setup": spec.setup, "env": spec.env,
            "trace": spec.trace, "limits": spec.limits,
            "labels": spec.labels, "priority": spec.priority,
            "retry": spec.retry,
        });
        if let Some(id) = id {
            options["id"] = json!(id);
        }
        let args = [
            json!(source.owner),
            json!(source.repo),
            json!(source.commit),
            options,
        ];
        let mut results = self.prompt("push", &args).await?;
        result("push", &mut results, 0)
    }

    /// `submit`; the spec must have a command.
    ///
    /// # Errors
    /// As every call.
    pub async fn submit(
        &self,
        spec: &JobSpec,
        id: Option<JobId>,
    ) -> Result<JobId, CallError> {
        let mut job = json!({
            "argv": spec.argv, "env": spec.env, "trace": spec.trace,
            "limits": spec.limits, "labels": spec.labels,
            "priority": spec.priority, "retry": spec.retry,
            "source": spec.source,
        });
        if let Some(id) = id {
            job["id"] = json!(id);
        }
        let mut results = self.prompt("submit", &[job]).await?;
        result("submit", &mut results, 0)
    }

    /// `status` of a job, by id or prefix.
    ///
    /// # Errors
    /// As every call.
    pub async fn status(&self, id: &str) -> Result<JobView, CallError> {
        let mut results = self.prompt("status", &[json!(id)]).await?;
        result("status", &mut results, 0)
    }

    /// `list`.
    ///
    /// # Errors
    /// As every call.
    pub async fn list(
        &self,
        filter: &ListFilter,
    ) -> Result<ListPage, CallError> {
        let mut results = self.prompt("list", &[json!(filter)]).await?;
        Ok(ListPage {
            jobs: result("list", &mut results, 0)?,
            next: result("list", &mut results, 1)?,
        })
    }

    /// `logs`: the job's output.
    ///
    /// # Errors
    /// The output of this job is being read on this connection already.
    pub fn logs(
        &self,
        job: JobId,
        options: &LogsOptions,
    ) -> Result<LogStream, CallError> {
        let open = self.open.clone();
        self.service.open(&self.peer, open, job, options)
    }

    /// `wait` until the job is final.
    ///
    /// # Errors
    /// As every call; `ETIME` after the time-out.
    pub async fn wait(
        &self,
        id: &str,
        timeout: Option<Duration>,
    ) -> Result<JobView, CallError> {
        let mut args = vec![json!(id)];
        let waiting = match timeout {
            Some(timeout) => {
                args.push(json!({"timeout": format_duration(timeout)}));
                self.peer.call("wait", &args, timeout + SLACK).await
            }
            None => self.peer.call_unbounded("wait", &args).await,
        };
        result("wait", &mut waiting?, 0)
    }

    /// `stop`.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop(
        &self,
        id: &str,
        options: StopOptions,
    ) -> Result<JobView, CallError> {
        let mut args = vec![json!(id)];
        args.extend(options.to_value());
        let mut results = self.prompt("stop", &args).await?;
        result("stop", &mut results, 0)
    }

    /// `remove`.
    ///
    /// # Errors
    /// As every call; `EBUSY` while the job is not final.
    pub async fn remove(&self, id: &str) -> Result<(), CallError> {
        self.prompt("remove", &[json!(id)]).await.map(drop)
    }

    /// `artefacts` of a job.
    ///
    /// # Errors
    /// As every call.
    pub async fn artefacts(
        &self,
        id: &str,
    ) -> Result<Vec<ArtefactView>, CallError> {
        let mut results = self.prompt("artefacts", &[json!(id)]).await?;
        result("artefacts", &mut results, 0)
    }

    /// `blob-get`: a piece of an artefact, and whether it was the last.
    ///
    /// # Errors
    /// As every call.
    pub async fn blob_get(
        &self,
        artefact: &str,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<u8>, bool), CallError> {
        let args = [json!(artefact), json!(offset), json!(length)];
        let mut results = self.prompt("blob-get", &args).await?;
        let text: String = result("blob-get", &mut results, 0)?;
        let bytes = STANDARD.decode(text).map_err(|e| {
            CallError::Refused(WireError::new(Code::Eproto, e.to_string()))
        })?;
        Ok((bytes, result("blob-get", &mut results, 1)?))
    }

    /// `blob-put`: a piece of an artefact; with the last one its hash.
    /// Answers the length so far.
    ///
    /// # Errors
    /// As every call.
    pub async fn blob_put(
        &self,
        held: Held,
        name: &str,
        offset: u64,
        piece: &[u8],
        last: Option<&str>,
    ) -> Result<u64, CallError> {
        let mut args = vec![
            json!(held.run_id),
            json!(held.lease),
            json!(name),
            json!(offset),
            json!(STANDARD.encode(piece)),
        ];
        if let Some(sha256) = last {
            args.push(json!({"eof": true, "sha256": sha256}));
        }
        let mut results = self.prompt("blob-put", &args).await?;
        result("blob-put", &mut results, 0)
    }

    /// `export`: a piece of a document that is made of traces, and whether
    /// it was the last.
    ///
    /// # Errors
    /// As every call.
    pub async fn export(
        &self,
        export: &Export,
        offset: u64,
        length: u64,
    ) -> Result<(Document, Vec<u8>, bool), CallError> {
        let options = json!({
            "base": export.base, "repetition": export.repetition,
            "icicle": export.icicle,
            "order": export.by_width.then_some("width"), "offset": offset, "length": length,
        });
        let args = [json!(export.trace), json!(export.format), options];
        let mut results = self.peer.call("export", &args, TRACE_WORK).await?;
        let document = result("export", &mut results, 0)?;
        let text: String = result("export", &mut results, 1)?;
        let bytes = STANDARD.decode(text).map_err(|e| {
            CallError::Refused(WireError::new(Code::Eproto, e.to_string()))
        })?;
        Ok((document, bytes, result("export", &mut results, 2)?))
    }

    /// `diff`: what changed between two traces, by function.
    ///
    /// # Errors
    /// As every call.
    pub async fn diff(
        &self,
        trace: &str,
        base: Option<&str>,
        top: Option<u32>,
    ) -> Result<DiffView, CallError> {
        let args = [json!(trace), json!(base), json!({"top": top})];
        let mut results = self.peer.call("diff", &args, TRACE_WORK).await?;
        result("diff", &mut results, 0)
    }

    /// `why` a job is as it is.
    ///
    /// # Errors
    /// As every call.
    pub async fn why(&self, id: &str) -> Result<Vec<WhyStep>, CallError> {
        let mut results = self.prompt("why", &[json!(id)]).await?;
        result("why", &mut results, 0)
    }

    /// `runners`.
    ///
    /// # Errors
    /// As every call.
    pub async fn runners(&self) -> Result<Vec<RunnerView>, CallError> {
        let mut results = self.prompt("runners", &[]).await?;
        result("runners", &mut results, 0)
    }

    /// `workers` of all runners.
    ///
    /// # Errors
    /// As every call.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, CallError> {
        let mut results = self.prompt("workers", &[]).await?;
        result("workers", &mut results, 0)
    }

    /// `stats`.
    ///
    /// # Errors
    /// As every call.
    pub async fn stats(&self) -> Result<Value, CallError> {
        let mut results = self.prompt("stats", &[]).await?;
        result("stats", &mut results, 0)
    }

    /// `hello`: a runner says who it is.
    ///
    /// # Errors
    /// As every call.
    pub async fn hello(&self, hello: &Hello) -> Result<Welcome, CallError> {
        let mut results = self.prompt("hello", &[json!(hello)]).await?;
        result("hello", &mut results, 0)
    }

    /// `next`: waits for work; none after `wait_ms`.
    ///
    /// # Errors
    /// As every call.
    pub async fn next(
        &self,
        next: &Next,
    ) -> Result<Option<Assignment>, CallError> {
        let args = [json!(next)];
        let waiting = match next.wait_ms {
            Some(ms) => {
                let wait = Duration::from_millis(ms);
                self.peer.call("next", &args, wait + SLACK).await
            }
            None => self.peer.call_unbounded("next", &args).await,
        };
        result("next", &mut waiting?, 0)
    }

    /// `beat`: a sign of life; answers what is to be dropped.
    ///
    /// # Errors
    /// As every call.
    pub async fn beat(
        &self,
        held: &[Held],
        deadline: Duration,
    ) -> Result<Vec<RunId>, CallError> {
        #[derive(Deserialize)]
        struct Beat {
            drop: Vec<RunId>,
        }
        let mut results =
            self.peer.call("beat", &[json!(held)], deadline).await?;
        result("beat", &mut results, 0).map(|beat: Beat| beat.drop)
    }

    /// `result` with a list of reports.
    ///
    /// # Errors
    /// As every call.
    pub async fn result(
        &self,
        reports: &[Report],
        deadline: Duration,
    ) -> Result<AckReply, CallError> {
        let args = [json!(reports)];
        let mut results = self.peer.call("result", &args, deadline).await?;
        result("result", &mut results, 0)
    }
}
