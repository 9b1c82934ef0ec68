//! What a user asks for: the arguments of `push` and `submit`, as types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::WireError;
use crate::id::JobId;
use crate::limits::Limits;
use crate::name::{Commit, Label, Owner, Repo};
use crate::text::quote;
use crate::trace::{MAX_HZ, MAX_REPEAT, TraceOptions};

/// How often a lost run is repeated unless the caller says otherwise.
pub const DEFAULT_RETRY: u32 = 2;
/// The most that a caller may say.
pub const MAX_RETRY: u32 = 20;
/// The most labels of a job or worker.
pub const MAX_LABELS: usize = 32;
/// The most variables of a job's environment.
pub const MAX_ENV: usize = 256;
/// The most bytes of a job's commands and environment together.
pub const MAX_TEXT: usize = 128 * 1024;
/// Priorities go from minus this to this.
pub const MAX_PRIORITY: i64 = 1000;

/// A commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Whose repository.
    pub owner: Owner,
    /// Which repository.
    pub repo: Repo,
    /// Which commit.
    pub commit: Commit,
}

/// A whole job as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The tree; none for a submitted command without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// A given command, of `submit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// A shell command in place of the repository's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// A shell command in place of the repository's own set-up; empty for
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
    /// Variables of the job's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What is to be traced; the repository's own wish if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceOptions>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Words to find it by.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i64,
    /// How often a lost run is repeated; [`DEFAULT_RETRY`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<u32>,
}

impl JobSpec {
    /// How often a lost run is repeated.
    pub fn retries(&self) -> u32 {
        self.retry.unwrap_or(DEFAULT_RETRY)
    }
}

/// A request for a job: what, and under which id if the caller chose one.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRequest {
    /// The caller's own id: the same again makes no second job.
    pub id: Option<JobId>,
    /// The job.
    pub spec: JobSpec,
}

impl JobRequest {
    /// Reads the arguments of `push`.
    ///
    /// # Errors
    /// `EINVAL` that names the argument.
    pub fn from_push(args: &[Value]) -> Result<Self, WireError> {
        if let [Value::Object(payload)] = args {
            let source = source_of_payload(payload)?;
            let spec = JobSpec { source: Some(source), ..JobSpec::default() };
            return Ok(Self { id: None, spec });
        }
        let source = Source {
            owner: text_arg(args, 0, "owner")?.parse()?,
            repo: text_arg(args, 1, "repo")?.parse()?,
            commit: text_arg(args, 2, "commit")?.parse()?,
        };
        let mut request = match args.get(3) {
            None | Some(Value::Null) => {
                Self { id: None, spec: JobSpec::default() }
            }
            Some(Value::String(id)) => {
                Self { id: Some(own_id(id)?), spec: JobSpec::default() }
            }
            Some(Value::Object(options)) => {
                Self::from_options(options, "options", &PUSH_OPTIONS)?
            }
            Some(other) => {
                return Err(WireError::invalid(
                    "options",
                    format!(
                        "{} is neither a UUID nor an object of options",
                        quote(&other.to_string())
                    ),
                ));
            }
        };
        request.spec.source = Some(source);
        Ok(request)
    }

    /// Reads the arguments of `submit`.
    ///
    /// # Errors
    /// `EINVAL` that names the argument.
    pub fn from_submit(args: &[Value]) -> Result<Self, WireError> {
        let Some(Value::Object(job)) = args.first() else {
            return Err(WireError::invalid(
                "job",
                "the argument must be an object like \
                 {\"argv\":[\"echo\",\"hello\"]}",
            ));
        };
        let request = Self::from_options(job, "job", &SUBMIT_OPTIONS)?;
        if request.spec.argv.is_none() {
            return Err(WireError::invalid(
                "argv",
                "argv is missing: give the command and its arguments, like \
                 [\"echo\",\"hello\"]",
            ));
        }
        Ok(request)
    }

    fn from_options(
        options: &Map<String, Value>,
        what: &str,
        known: &[&str],
    ) -> Result<Self, WireError> {
        let mut request = Self { id: None, spec: JobSpec::default() };
        for (name, value) in options {
            if !known.contains(&name.as_str()) {
                return Err(WireError::invalid(
                    what,
                    format!(
                        "there is no option {}; there are {}",
                        quote(name),
                        known.join(", ")
                    ),
                ));
            }
            if !value.is_null() {
                request.set(name, value)?;
            }
        }
        let text = request.spec.text_bytes();
        if text > MAX_TEXT {
            return Err(WireError::invalid(
                what,
                format!(
                    "commands and environment have {text} bytes; at most \
                     {MAX_TEXT} are taken"
                ),
            ));
        }
        Ok(request)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), WireError> {
        let spec = &mut self.spec;
        match name {
            "id" => self.id = Some(own_id(text(value, "id")?)?),
            "run" => spec.run = Some(command(value, "run")?),
            "setup" => {
                spec.setup = Some(no_nul(text(value, "setup")?, "setup")?);
            }
            "argv" => spec.argv = Some(argv(value)?),
            "env" => spec.env = env(value)?,
            "trace" => spec.trace = Some(trace(value)?),
            "limits" => spec.limits = Limits::from_value(value)?,
            "labels" => spec.labels = labels(value)?,
            "priority" => spec.priority = priority(value)?,
            "retry" => spec.retry = Some(retry(value)?),
            "source" => spec.source = Some(source(value)?),
            _ => unreachable!("the caller compared with the known options"),
        }
        Ok(())
    }
}

impl JobSpec {
    fn text_bytes(&self) -> usize {
        let argv = self.argv.iter().flatten().map(String::len);
        let env = self.env.iter().map(|(k, v)| k.len() + v.len());
        let commands = self.run.iter().chain(&self.setup).map(String::len);
        argv.chain(env).chain(commands).sum()
    }
}

const PUSH_OPTIONS: [&str; 9] = [
    "id", "run", "setup", "env", "trace", "limits", "labels", "priority",
    "retry",
];

const SUBMIT_OPTIONS: [&str; 9] = [
    "id", "argv", "env", "limits", "trace", "labels", "priority", "source",
    "retry",
];

fn text_arg<'a>(
    args: &'a [Value],
    at: usize,
    field: &str,
) -> Result<&'a str, WireError> {
    match args.get(at) {
        None | Some(Value::Null) => Err(WireError::invalid(
            field,
            format!("{field} is missing: it takes owner, repo, commit"),
        )),
        Some(value) => text(value, field),
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, WireError> {
    value.as_str().ok_or_else(|| {
        WireError::invalid(
            field,
            format!(
                "{field} must be a string, not {}",
                quote(&value.to_string())
            ),
        )
    })
}

fn own_id(text: &str) -> Result<JobId, WireError> {
    text.parse().map_err(|e| WireError::invalid("id", format!("{e}")))
}

fn no_nul(text: &str, field: &str) -> Result<String, WireError> {
    if text.contains('\0') {
        return Err(WireError::invalid(field, "it holds a NUL character"));
    }
    Ok(text.to_owned())
}

fn command(value: &Value, field: &str) -> Result<String, WireError> {
    let command = no_nul(text(value, field)?, field)?;
    if command.trim().is_empty() {
        return Err(WireError::invalid(field, "it is empty"));
    }
    Ok(command)
}

fn argv(value: &Value) -> Result<Vec<String>, WireError> {
    let refuse =
        || WireError::invalid("argv", "argv must be a list of strings");
    let words = value.as_array().ok_or_else(refuse)?;
    let words: Vec<String> = words
        .iter()
        .map(|word| no_nul(word.as_str().ok_or_else(refuse)?, "argv"))
        .collect::<Result<_, _>>()?;
    if words.first().is_none_or(String::is_empty) {
        return Err(WireError::invalid("argv", "it names no command"));
    }
    Ok(words)
}

fn env(value: &Value) -> Result<BTreeMap<String, String>, WireError> {
    let Value::Object(map) = value else {
        return Err(WireError::invalid(
            "env",
            "env must be an object of strings",
        ));
    };
    if map.len() > MAX_ENV {
        return Err(WireError::invalid(
            "env",
            format!("{} variables are too many; {MAX_ENV} do", map.len()),
        ));
    }
    map.iter()
        .map(|(name, value)| {
            check_env_name(name)?;
            let value = no_nul(text(value, "env")?, "env")?;
            Ok((name.clone(), value))
        })
        .collect()
}

/// Checks the name of a variable.
///
/// # Errors
/// `EINVAL` on `env`.
pub fn check_env_name(name: &str) -> Result<(), WireError> {
    let fits = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits {
        return Ok(());
    }
    Err(WireError::invalid(
        "env",
        format!(
            "{} is no name of a variable: it takes letters, digits and `_`",
            quote(name)
        ),
    ))
}

fn trace(value: &Value) -> Result<TraceOptions, WireError> {
    let refuse = || {
        WireError::invalid(
            "trace",
            format!(
                "trace must be \"cpu\", \"none\", or an object like \
                 {{\"profile\":\"cpu\",\"hz\":99,\"repeat\":8,\
                 \"syscalls\":true,\"tracer\":\"sample\"}} with hz from 1 \
                 to {MAX_HZ} and repeat from 1 to {MAX_REPEAT}"
            ),
        )
    };
    let value = match value {
        Value::Bool(true) => serde_json::json!({"profile": "cpu"}),
        Value::Bool(false) => serde_json::json!({"profile": "none"}),
        Value::String(profile) => serde_json::json!({"profile": profile}),
        other => other.clone(),
    };
    let trace: TraceOptions =
        serde_json::from_value(value).map_err(|_| refuse())?;
    trace
        .check()
        .map_err(|e| WireError::invalid("trace", format!("trace: {e}")))?;
    Ok(trace)
}

/// Reads a list of labels.
///
/// # Errors
/// `EINVAL` on `labels`.
pub fn labels(value: &Value) -> Result<Vec<Label>, WireError> {
    let refuse = || {
        WireError::invalid(
            "labels",
            format!("labels must be a list of at most {MAX_LABELS} words"),
        )
    };
    let words = value.as_array().ok_or_else(refuse)?;
    if words.len() > MAX_LABELS {
        return Err(refuse());
    }
    let mut labels: Vec<Label> = words
        .iter()
        .map(|word| word.as_str().ok_or_else(refuse)?.parse())
        .collect::<Result<_, _>>()?;
    labels.sort();
    labels.dedup();
    Ok(labels)
}

fn priority(value: &Value) -> Result<i64, WireError> {
    let range = -MAX_PRIORITY..=MAX_PRIORITY;
    value.as_i64().filter(|n| range.contains(n)).ok_or_else(|| {
        WireError::invalid(
            "priority",
            format!(
                "priority must be a whole number from -{MAX_PRIORITY} to \
                 {MAX_PRIORITY}; higher goes first"
            ),
        )
    })
}

fn retry(value: &Value) -> Result<u32, WireError> {
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
    number.filter(|n| *n <= MAX_RETRY).ok_or_else(|| {
        WireError::invalid(
            "retry",
            format!("retry must be a whole number from 0 to {MAX_RETRY}"),
        )
    })
}

fn source(value: &Value) -> Result<Source, WireError> {
    let Value::Object(map) = value else {
        return Err(WireError::invalid(
            "source",
            "source must be {\"owner\",\"repo\",\"commit\"}",
        ));
    };
    let part = |name: &str| {
        map.get(name).and_then(Value::as_str).ok_or_else(|| {
            WireError::invalid(name, format!("source.{name} is missing"))
        })
    };
    Ok(Source {
        owner: part("owner")?.parse()?,
        repo: part("repo")?.parse()?,
        commit: part("commit")?.parse()?,
    })
}

/// Reads what GitHub sends for a push.
fn source_of_payload(
    payload: &Map<String, Value>,
) -> Result<Source, WireError> {
    let repository = payload.get("repository");
    let owner = repository.and_then(|r| r.get("owner"));
    let owner = owner.and_then(|o| {
        let named = |key| o.get(key).and_then(Value::as_str);
        named("name").or_else(|| named("login"))
    });
    let repo = repository.and_then(|r| r.get("name")).and_then(Value::as_str);
    let commit = payload.get("after").and_then(Value::as_str);
    let missing = |field: &str, path: &str| {
        WireError::invalid(
            field,
            format!(
                "{path} is missing: give owner, repo, commit, or one GitHub \
                 push payload"
            ),
        )
    };
    let owner = owner.ok_or_else(|| missing("owner", "repository.owner"))?;
    let repo = repo.ok_or_else(|| missing("repo", "repository.name"))?;
    let commit = commit.ok_or_else(|| missing("commit", "after"))?;
    if !commit.is_empty() && commit.bytes().all(|b| b == b'0') {
        return Err(WireError::invalid(
            "commit",
            "the push deleted its branch, so there is nothing to run",
        ));
    }
    Ok(Source {
        owner: owner.parse()?,
        repo: repo.parse()?,
        commit: commit.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHA: &str = "0f16cfe0d6a3b8e87229c91bee901fad5dae9878";
    const ID: &str = "0192d3a4-5b6c-7d8e-9f00-112233445566";

    fn push(args: &Value) -> Result<JobRequest, WireError> {
        JobRequest::from_push(args.as_array().unwrap())
    }

    fn field_of(result: Result<JobRequest, WireError>) -> String {
        result.unwrap_err().field.unwrap()
    }

    #[test]
    fn a_push_is_three_names() {
        let request = push(&json!(["dscape", "nano", SHA])).unwrap();
        let source = request.spec.source.unwrap();
        assert_eq!(source.owner.as_str(), "dscape");
        assert_eq!(source.commit.as_str(), SHA);
        assert_eq!(request.id, None);
    }

    #[test]
    fn the_fourth_argument_is_an_id_or_options() {
        let by_id = push(&json!(["a", "b", SHA, ID])).unwrap();
        assert_eq!(by_id.id, Some(ID.parse().unwrap()));
        let options = json!({"id": ID, "run": "make", "retry": 0,
            "labels": ["b", "a", "b"], "trace": false, "priority": -5,
            "env": {"A": "x y\n"}, "limits": {"time": "5s"}, "setup": null});
        let by_options = push(&json!(["a", "b", SHA, options])).unwrap();
        assert_eq!(by_options.id, by_id.id);
        assert_eq!(by_options.spec.retries(), 0);
        assert_eq!(by_options.spec.labels.len(), 2);
        assert_eq!(by_options.spec.priority, -5);
        let text = serde_json::to_string(&by_options.spec).unwrap();
        let spec: JobSpec = serde_json::from_str(&text).unwrap();
        assert_eq!(spec, by_options.spec);
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (args, field) in [
            (json!([]), "owner"),
            (json!(["a"]), "repo"),
            (json!(["a", "b"]), "commit"),
            (json!(["a", "b", null]), "commit"),
            (json!([["a"], "b", SHA]), "owner"),
            (json!(["a", 5, SHA]), "repo"),
            (json!(["a", "b", "HEAD"]), "commit"),
            (json!(["a", "b", SHA, "x"]), "id"),
            (json!(["a", "b", SHA, 5]), "options"),
            (json!(["a", "b", SHA, {"runn": "x"}]), "options"),
            (json!(["a", "b", SHA, {"argv": ["x"]}]), "options"),
            (json!(["a", "b", SHA, {"run": ""}]), "run"),
            (json!(["a", "b", SHA, {"run": 5}]), "run"),
            (json!(["a", "b", SHA, {"env": {"A=B": "x"}}]), "env"),
            (json!(["a", "b", SHA, {"env": {"A": 5}}]), "env"),
            (json!(["a", "b", SHA, {"env": {"A": "\0"}}]), "env"),
            (json!(["a", "b", SHA, {"retry": -1}]), "retry"),
            (json!(["a", "b", SHA, {"retry": 21}]), "retry"),
            (json!(["a", "b", SHA, {"priority": 1.5}]), "priority"),
            (json!(["a", "b", SHA, {"priority": 1001}]), "priority"),
            (json!(["a", "b", SHA, {"labels": "x"}]), "labels"),
            (json!(["a", "b", SHA, {"labels": ["-x"]}]), "labels"),
            (json!(["a", "b", SHA, {"trace": {"hz": 0}}]), "trace"),
            (json!(["a", "b", SHA, {"trace": {"repeat": 51}}]), "trace"),
            (json!(["a", "b", SHA, {"trace": {"hertz": 9}}]), "trace"),
            (json!(["a", "b", SHA, {"trace": {"tracer": "x"}}]), "trace"),
            (json!(["a", "b", SHA, {"trace": [9]}]), "trace"),
            (json!(["a", "b", SHA, {"trace": "gpu"}]), "trace"),
            (json!(["a", "b", SHA, {"limits": {"time": 1}}]), "limits.time"),
            (json!([{"after": SHA}]), "owner"),
        ] {
            assert_eq!(field_of(push(&args)), field, "{args}");
        }
        let huge = json!({"run": "x".repeat(MAX_TEXT + 1)});
        assert_eq!(field_of(push(&json!(["a", "b", SHA, huge]))), "options");
    }

    #[test]
    fn a_github_payload_is_a_push() {
        for key in ["name", "login"] {
            let payload = json!({"after": SHA, "ref": "refs/heads/main",
                "repository": {"name": "nano", "owner": {key: "dscape"}}});
            let request = push(&json!([payload])).unwrap();
            assert_eq!(request.spec.source.unwrap().repo.as_str(), "nano");
        }
        let deleted = json!({"after": "0".repeat(40),
            "repository": {"name": "nano", "owner": {"name": "dscape"}}});
        assert_eq!(field_of(push(&json!([deleted]))), "commit");
    }

    #[test]
    fn a_submitted_job_needs_a_command() {
        let submit =
            |job: Value| JobRequest::from_submit(std::slice::from_ref(&job));
        assert!(submit(json!({"argv": ["echo", "", "a b"]})).is_ok());
        for (job, field) in [
            (json!({}), "argv"),
            (json!({"argv": []}), "argv"),
            (json!({"argv": [""]}), "argv"),
            (json!({"argv": "echo"}), "argv"),
            (json!({"argv": [1]}), "argv"),
            (json!({"argv": ["x"], "source": {"owner": "a"}}), "repo"),
            (json!({"argv": ["x"], "run": "x"}), "job"),
            (json!("x"), "job"),
        ] {
            assert_eq!(field_of(submit(job.clone())), field, "{job}");
        }
    }
}
