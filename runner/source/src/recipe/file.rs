//! `.ntrace.toml`: all of it optional, nothing of it unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use ntrace_protocol::TraceOptions;
use ntrace_protocol::trace::{BadTrace, Profile, Tracer};
use serde::Deserialize;

use super::RecipeError;

pub(super) const NAME: &str = ".ntrace.toml";

/// More globs than this are no list that somebody wrote.
const MOST_ARTEFACTS: usize = 100;

/// The file, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct File {
    pub(super) setup: Option<String>,
    pub(super) run: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) timeout: Option<Duration>,
    pub(super) setup_timeout: Option<Duration>,
    pub(super) silence: Option<Duration>,
    pub(super) artefacts: Vec<String>,
    pub(super) trace: TraceOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    job: Job,
    #[serde(default)]
    trace: WrittenTrace,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Job {
    setup: Option<toml::Spanned<String>>,
    run: Option<toml::Spanned<String>>,
    timeout: Option<toml::Spanned<String>>,
    setup_timeout: Option<toml::Spanned<String>>,
    silence: Option<toml::Spanned<String>>,
    artefacts: Vec<toml::Spanned<String>>,
    env: BTreeMap<toml::Spanned<String>, toml::Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenTrace {
    profile: Option<Profile>,
    hz: Option<toml::Spanned<u32>>,
    repeat: Option<toml::Spanned<u32>>,
    syscalls: Option<bool>,
    tracer: Option<toml::Spanned<Tracer>>,
}

/// Reads the file.
pub(super) fn parse(text: &str) -> Result<File, RecipeError> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        bad(text, at, error.message())
    })?;
    let Written { job, trace } = written;
    let reader = Reader { text };
    Ok(File {
        setup: reader.command(job.setup, true)?,
        run: reader.command(job.run, false)?,
        timeout: reader.duration(job.timeout)?,
        setup_timeout: reader.duration(job.setup_timeout)?,
        silence: reader.duration(job.silence)?,
        artefacts: reader.artefacts(job.artefacts)?,
        env: reader.env(job.env)?,
        trace: reader.trace(&trace)?,
    })
}

fn bad(text: &str, at: usize, why: &str) -> RecipeError {
    let before = text.get(..at).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    // The parser may tell in several lines; the message is one.
    let why: Vec<&str> = why.lines().map(str::trim).collect();
    let why = format!("line {line}: {}", why.join(", "));
    RecipeError::Bad { file: NAME, why }
}

/// Turns written values into checked ones, and knows where they are.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn refuse<T>(&self, value: &toml::Spanned<T>, why: &str) -> RecipeError {
        bad(self.text, value.span().start, why)
    }

    fn command(
        &self,
        value: Option<toml::Spanned<String>>,
        may_be_empty: bool,
    ) -> Result<Option<String>, RecipeError> {
        let Some(value) = value else { return Ok(None) };
        let command = value.get_ref().trim();
        if command.contains('\0') {
            return Err(self.refuse(&value, "the command holds a NUL"));
        }
        if command.is_empty() && !may_be_empty {
            return Err(self.refuse(&value, "the command is empty"));
        }
        Ok(Some(command.to_owned()))
    }

    fn duration(
        &self,
        value: Option<toml::Spanned<String>>,
    ) -> Result<Option<Duration>, RecipeError> {
        let Some(value) = value else { return Ok(None) };
        match humantime::parse_duration(value.get_ref()) {
            Ok(time) if !time.is_zero() => Ok(Some(time)),
            Ok(_) => Err(self.refuse(&value, "the time is zero")),
            Err(error) => {
                let why =
                    format!("not a time such as \"90s\" or \"30m\": {error}");
                Err(self.refuse(&value, &why))
            }
        }
    }

    fn artefacts(
        &self,
        values: Vec<toml::Spanned<String>>,
    ) -> Result<Vec<String>, RecipeError> {
        if let Some(first) = values.first()
            && values.len() > MOST_ARTEFACTS
        {
            let why = format!("more than {MOST_ARTEFACTS} artefacts");
            return Err(self.refuse(first, &why));
        }
        for value in &values {
            let glob = value.get_ref();
            if glob.is_empty() || glob.chars().any(char::is_control) {
                return Err(self.refuse(value, "not a name of files"));
            }
            if glob.starts_with('/') || glob.split('/').any(|p| p == "..") {
                let why = "artefacts are named relative to the tree, \
                           without ..";
                return Err(self.refuse(value, why));
            }
        }
        Ok(values.into_iter().map(toml::Spanned::into_inner).collect())
    }

    fn env(
        &self,
        values: BTreeMap<toml::Spanned<String>, toml::Spanned<String>>,
    ) -> Result<BTreeMap<String, String>, RecipeError> {
        for (name, value) in &values {
            let text = name.get_ref();
            let first = |c: char| c.is_ascii_alphabetic() || c == '_';
            if !text.starts_with(first)
                || text.contains(|c: char| c == '=' || c.is_control())
            {
                let why = "not a name of a variable: a letter or _ first, \
                           no =";
                return Err(self.refuse(name, why));
            }
            if value.get_ref().contains('\0') {
                return Err(self.refuse(value, "the value holds a NUL"));
            }
        }
        Ok(values
            .into_iter()
            .map(|(name, value)| (name.into_inner(), value.into_inner()))
            .collect())
    }

    fn trace(
        &self,
        written: &WrittenTrace,
    ) -> Result<TraceOptions, RecipeError> {
        let WrittenTrace { profile, hz, repeat, syscalls, tracer } = written;
        let options = TraceOptions {
            profile: *profile,
            hz: hz.as_ref().map(|value| *value.get_ref()),
            repeat: repeat.as_ref().map(|value| *value.get_ref()),
            syscalls: *syscalls,
            tracer: tracer.as_ref().map(|value| *value.get_ref()),
        };
        let Err(error) = options.check() else { return Ok(options) };
        let span = match error {
            BadTrace::Hz => hz.as_ref().map(toml::Spanned::span),
            BadTrace::Repeat => repeat.as_ref().map(toml::Spanned::span),
            BadTrace::Tracer => tracer.as_ref().map(toml::Spanned::span),
        };
        let at = span.map_or(0, |span| span.start);
        Err(bad(self.text, at, &error.to_string()))
    }
}
