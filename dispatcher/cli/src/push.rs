//! `push` and `submit`: a job with an id of its own, sent until it is
//! answered.
//!
//! The id is made here before anything is sent, so that a push whose answer
//! was lost is the same push when it is repeated.

use ntrace_client::{CallError, Dispatcher};
use ntrace_protocol::spec::JobRequest;
use ntrace_protocol::text::escape;
use ntrace_protocol::trace::{Profile, Tracer};
use ntrace_protocol::{JobId, JobSpec, TraceOptions, WireError};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::args::{JobArgs, PushArgs, SubmitArgs, TraceArg, TracerArg};
use crate::failure::{Failure, Status};
use crate::git;
use crate::link::Link;
use crate::logs::{self, Output, OutputOptions, Reading};
use crate::screen::Screen;
use crate::wait;

pub(crate) async fn push(
    args: PushArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let mut options = options(&args.job)?;
    put(&mut options, "run", args.run);
    put(&mut options, "setup", args.setup);
    let (owner, repo, commit) = match (args.owner, args.repo, args.commit) {
        (Some(owner), Some(repo), Some(commit)) => (owner, repo, commit),
        _ => from_here(screen).await?,
    };
    let wire =
        [json!(owner), json!(repo), json!(commit), Value::Object(options)];
    let request = JobRequest::from_push(&wire).map_err(|e| usage(&e))?;
    let pushed = send(&request, link, screen, async |d, spec, id| {
        d.push(spec, Some(id)).await
    });
    let id = pushed.await?;
    after(id, &args.job, link, screen).await
}

pub(crate) async fn submit(
    args: SubmitArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let mut options = options(&args.job)?;
    options.insert("argv".into(), json!(args.argv));
    if let Some(source) = &args.source {
        options.insert("source".into(), source_value(source)?);
    }
    let wire = [Value::Object(options)];
    let request = JobRequest::from_submit(&wire).map_err(|e| usage(&e))?;
    let submitted = send(&request, link, screen, async |d, spec, id| {
        d.submit(spec, Some(id)).await
    });
    let id = submitted.await?;
    after(id, &args.job, link, screen).await
}

/// What this work tree would push.
async fn from_here(
    screen: &Screen,
) -> Result<(String, String, String), Failure> {
    let here = git::here().await?;
    let (owner, repo) = (here.origin.owner, here.origin.repo);
    let commit = here.commit;
    screen.say(&format!("pushing {owner}/{repo} at {commit}"));
    if !here.is_at_origin {
        screen.say(
            "no branch of origin is known to have this commit; if the runner \
             cannot find it, `git push` it first",
        );
    }
    Ok((owner.into(), repo.into(), commit.into()))
}

/// Sends it until it is answered.
async fn send(
    request: &JobRequest,
    link: &mut Link,
    screen: &Screen,
    send: impl AsyncFn(&Dispatcher, &JobSpec, JobId) -> Result<JobId, CallError>,
) -> Result<JobId, Failure> {
    let own = JobId::from_bytes(*Uuid::now_v7().as_bytes());
    let id = request.id.unwrap_or(own);
    let spec = &request.spec;
    let sent = link.ask(screen, async |d| send(d, spec, id).await).await;
    if let Err(Failure::Lost { .. } | Failure::Late { .. }) = &sent {
        screen.say(&format!(
            "whether job {id} was taken is not known; the same command with \
             --id {id} makes no second job"
        ));
    }
    sent
}

/// What comes after the answer: the id, the output, or the verdict.
async fn after(
    id: JobId,
    args: &JobArgs,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    if args.follow {
        // Stdout is the job's.
        screen.say(&format!("job {id}"));
        let raw = args.raw;
        let options = OutputOptions { raw, ..OutputOptions::default() };
        let output = Output::new(screen, options);
        let reading = Reading {
            job: id,
            next: 0,
            follow: true,
            streams: output.wanted(),
        };
        let (job, end) = logs::read(reading, output, link, screen).await?;
        return logs::conclude(&job, Some(&end), true, screen);
    }
    if !args.wait {
        match screen.json {
            true => screen.json(&json!({"id": id}))?,
            false => screen.line(&id.to_string())?,
        }
        return Ok(Status::Ok);
    }
    if screen.json {
        screen.say(&format!("job {id}"));
        let job = wait::until_final(id, None, link, screen).await?;
        screen.json(&job)?;
        return Ok(logs::verdict_status(job.state));
    }
    screen.line(&id.to_string())?;
    let job = wait::until_final(id, None, link, screen).await?;
    logs::conclude(&job, None, true, screen)
}

/// The options of a job as the wire has them; the protocol checks them.
fn options(args: &JobArgs) -> Result<Map<String, Value>, Failure> {
    let mut options = Map::new();
    put(&mut options, "id", args.id);
    put(&mut options, "priority", args.priority);
    put(&mut options, "retry", args.retry);
    options.insert("labels".into(), json!(args.label));
    options.insert("env".into(), unique("--env", &args.env, |_, v| json!(v))?);
    options
        .insert("limits".into(), unique("--limit", &args.limit, limit_value)?);
    let trace = trace(args);
    if trace != TraceOptions::default() {
        options.insert("trace".into(), json!(trace));
    }
    Ok(options)
}

fn trace(args: &JobArgs) -> TraceOptions {
    TraceOptions {
        profile: args.trace.map(|profile| match profile {
            TraceArg::Cpu => Profile::Cpu,
            TraceArg::None => Profile::None,
        }),
        hz: args.hz,
        repeat: args.repeat,
        syscalls: args.syscalls.then_some(true),
        tracer: args.tracer.map(|tracer| match tracer {
            TracerArg::Sample => Tracer::Sample,
            TracerArg::Dtrace => Tracer::Dtrace,
            TracerArg::Perf => Tracer::Perf,
        }),
    }
}

fn put<T: serde::Serialize>(
    options: &mut Map<String, Value>,
    name: &str,
    value: Option<T>,
) {
    if let Some(value) = value {
        options.insert(name.to_owned(), json!(value));
    }
}

/// Pairs as an object. A name that is given twice is a mistake.
fn unique(
    flag: &str,
    pairs: &[(String, String)],
    value_of: impl Fn(&str, &str) -> Value,
) -> Result<Value, Failure> {
    let mut map = Map::new();
    for (name, value) in pairs {
        let value = value_of(name, value);
        if map.insert(name.clone(), value).is_some() {
            let name = escape(name);
            return Err(Failure::Usage(format!(
                "{flag} {name} is given twice"
            )));
        }
    }
    Ok(Value::Object(map))
}

/// A limit as the wire has it: processors are a number.
fn limit_value(name: &str, value: &str) -> Value {
    match (name, value.parse::<f64>()) {
        ("cpus", Ok(number)) => json!(number),
        _ => json!(value),
    }
}

/// Reads `OWNER/REPO@COMMIT`.
fn source_value(text: &str) -> Result<Value, Failure> {
    let parts = text.split_once('@').and_then(|(name, commit)| {
        let (owner, repo) = name.split_once('/')?;
        Some(json!({"owner": owner, "repo": repo, "commit": commit}))
    });
    parts.ok_or_else(|| {
        Failure::Usage("--source takes OWNER/REPO@COMMIT".to_owned())
    })
}

/// What the protocol's rules found wrong with the command line.
fn usage(error: &WireError) -> Failure {
    Failure::Usage(match &error.field {
        Some(field) => format!("{field}: {}", error.message),
        None => error.message.clone(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    /// Parses a command line of `push` into what would be sent.
    fn check(words: &[&str]) -> Result<JobRequest, String> {
        let line = ["ntrace", "push"].iter().chain(words);
        let args = Args::try_parse_from(line).map_err(|e| e.to_string())?;
        let Command::Push(args) = args.command else { panic!("not a push") };
        let options = options(&args.job).map_err(|e| e.to_string())?;
        let wire = [
            json!("o"),
            json!("r"),
            json!("0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233"),
            Value::Object(options),
        ];
        JobRequest::from_push(&wire).map_err(|e| usage(&e).to_string())
    }

    #[test]
    fn options_become_what_the_wire_takes() {
        let request = check(&[
            "--env",
            "A=b=c",
            "--env",
            "B=",
            "--limit",
            "time=5m",
            "--limit",
            "cpus=1.5",
            "--limit",
            "memory=512MiB",
            "--limit",
            "pids=100",
            "--label",
            "x",
            "--priority",
            "-5",
            "--retry",
            "0",
            "--trace",
            "cpu",
            "--hz",
            "99",
            "--repeat",
            "8",
            "--syscalls",
            "--tracer",
            "perf",
        ])
        .unwrap();
        let spec = request.spec;
        assert_eq!(spec.env["A"], "b=c");
        assert_eq!(spec.env["B"], "");
        assert_eq!(spec.limits.cpus, Some(1.5));
        assert_eq!(spec.limits.memory, Some(512 << 20));
        assert_eq!(spec.limits.pids, Some(100));
        assert_eq!((spec.priority, spec.retry), (-5, Some(0)));
        let trace = spec.trace.unwrap();
        assert_eq!((trace.hz, trace.repeat), (Some(99), Some(8)));
        assert_eq!(trace.tracer, Some(Tracer::Perf));
        assert_eq!(trace.syscalls, Some(true));
        assert_eq!(check(&[]).unwrap().spec.trace, None);
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (words, said) in [
            (&["--limit", "tyme=5m"][..], "there is no limit"),
            (&["--limit", "time=soon"], "limits.time"),
            (&["--limit", "time=1s", "--limit", "time=2s"], "given twice"),
            (&["--env", "1A=x"], "env:"),
            (&["--priority", "1001"], "priority:"),
            (&["--retry", "21"], "retry:"),
            (&["--label", "a b"], "labels:"),
            (&["--hz", "0"], "hz is from 1"),
            (&["--repeat", "99"], "repeat is from 1"),
            (&["--id", "x"], "--id"),
        ] {
            let error = check(words).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }

    #[test]
    fn a_source_is_owner_repo_and_commit() {
        let value = source_value("a/b@c").unwrap();
        assert_eq!(value, json!({"owner": "a", "repo": "b", "commit": "c"}));
        assert!(source_value("a/b").is_err());
        assert!(source_value("a@b").is_err());
    }
}
