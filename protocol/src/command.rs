//! The fixed tables of commands: names, arguments, one example line each.
//!
//! A server looks a name up here and nowhere else, so a name that happens to
//! be a method somewhere (`constructor`) is just unknown.

use serde_json::{Value, json};

use crate::error::{Code, WireError};
use crate::text::quote;

/// One argument of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name, as errors and the help show it.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name, matched exactly.
    pub name: &'static str,
    /// Its arguments by position.
    pub args: &'static [Arg],
    /// What it does and answers.
    pub about: &'static str,
    /// A line to type.
    pub example: &'static str,
}

const fn needed(name: &'static str) -> Arg {
    Arg { name, required: true }
}

const fn optional(name: &'static str) -> Arg {
    Arg { name, required: false }
}

const PING: Command = Command {
    name: "ping",
    args: &[optional("x")],
    about: "answers x; with {\"back\":x} the server first calls your ping",
    example: r#"["ping",["hello"],1]"#,
};

const HELP: Command = Command {
    name: "help",
    args: &[optional("command")],
    about: "the commands with their arguments and an example",
    example: r#"["help",["push"],1]"#,
};

/// What the dispatcher takes on port 9181.
pub const DISPATCHER: &[Command] = &[
    PING,
    HELP,
    Command {
        name: "push",
        args: &[
            needed("owner"),
            optional("repo"),
            optional("commit"),
            optional("id or options"),
        ],
        about: "runs a commit; answers the job's id once it is on disk. \
                Takes owner, repo, commit, or one GitHub push payload. \
                Options: id, run, setup, env, trace, limits, labels, \
                priority, retry",
        example: r#"["push",["dscape","nano","0f16cfe0d6a3b8e87229c91bee901fad5dae9878"],1]"#,
    },
    Command {
        name: "submit",
        args: &[needed("job")],
        about: "runs a given command: {argv, id, env, limits, trace, labels, \
                priority, source, retry}; answers the job's id",
        example: r#"["submit",[{"argv":["echo","hello"]}],1]"#,
    },
    Command {
        name: "status",
        args: &[needed("id")],
        about: "the job with its runs; a prefix of 8 characters does",
        example: r#"["status",["0192d3a4-5b6c"],1]"#,
    },
    Command {
        name: "list",
        args: &[optional("filter")],
        about: "jobs, newest first, and where to go on: {state, repo, label, \
                after, limit}",
        example: r#"["list",[{"state":"failed","limit":10}],1]"#,
    },
    Command {
        name: "logs",
        args: &[needed("id"), optional("options")],
        about: "calls your log [record] with id -1 for each record, then \
                answers {next, ended, exit}: {from, follow, streams}",
        example: r#"["logs",["0192d3a4-5b6c",{"follow":true}],1]"#,
    },
    Command {
        name: "wait",
        args: &[needed("id"), optional("options")],
        about: "the job, once it is final; {timeout} ends with ETIME",
        example: r#"["wait",["0192d3a4-5b6c",{"timeout":"10m"}],1]"#,
    },
    Command {
        name: "stop",
        args: &[needed("id"), optional("options")],
        about: "TERM, {grace} (10s), then KILL of everything in the run; \
                {evidence: true} first looks what it is doing, a few \
                seconds at most, and keeps that as artefacts evidence/...; \
                answers the job",
        example: r#"["stop",["0192d3a4-5b6c",{"grace":"5s","evidence":true}],1]"#,
    },
    Command {
        name: "remove",
        args: &[needed("id")],
        about: "forgets a final job and all that it left",
        example: r#"["remove",["0192d3a4-5b6c"],1]"#,
    },
    Command {
        name: "artefacts",
        args: &[needed("id")],
        about: "the files that the job left: [{id, run_id, name, bytes, \
                sha256}]",
        example: r#"["artefacts",["0192d3a4-5b6c"],1]"#,
    },
    Command {
        name: "blob-get",
        args: &[needed("artefact id"), needed("offset"), needed("length")],
        about: "a piece of an artefact: base64, eof",
        example: r#"["blob-get",["0192d3a4-5b6c-7d8e-9f00-112233445566",0,65536],1]"#,
    },
    Command {
        name: "flame",
        args: &[needed("trace"), optional("options")],
        about: "a flame graph of a job, a run or owner/repo@commit: \
                {repetition, icicle, order, offset, length}; answers {name, mime, \
                bytes, sha256, of}, base64, eof",
        example: r#"["flame",["0192d3a4-5b6c"],1]"#,
    },
    Command {
        name: "diff",
        args: &[needed("trace"), optional("base"), optional("options")],
        about: "what changed, by function; each side a job, a run or \
                owner/repo@commit; without a base the last done run of the \
                parent commit, or an earlier one, and the answer says which: \
                {top}",
        example: r#"["diff",["0192d3a4-5b6c",null,{"top":10}],1]"#,
    },
    Command {
        name: "export",
        args: &[needed("trace"), needed("format"), optional("options")],
        about: "a trace as pprof, folded, speedscope, firefox, svg, diff-svg \
                or diff-svg-base: {base, repetition, icicle, order, offset, length}; \
                answers {name, mime, bytes, sha256, of, base}, base64, eof",
        example: r#"["export",["0192d3a4-5b6c","folded"],1]"#,
    },
    Command {
        name: "why",
        args: &[needed("id")],
        about: "how it came to the job's state: [{when, text}]",
        example: r#"["why",["0192d3a4-5b6c"],1]"#,
    },
    Command {
        name: "runners",
        args: &[],
        about: "the runners that are or were connected",
        example: r#"["runners",[],1]"#,
    },
    Command {
        name: "workers",
        args: &[],
        about: "each runner's workers with state, reason and since when",
        example: r#"["workers",[],1]"#,
    },
    Command {
        name: "stats",
        args: &[],
        about: "counters and latencies",
        example: r#"["stats",[],1]"#,
    },
    Command {
        name: "hello",
        args: &[needed("runner")],
        about: "a runner says who it is: {name, version, zone, workers, \
                runs}; answers {lease_ms, beat_ms, keep, drop}",
        example: r#"["hello",[{"name":"r0","version":"0.1.0","workers":[],"runs":[]}],1]"#,
    },
    Command {
        name: "next",
        args: &[optional("options")],
        about: "a runner waits for work and leases it: {wait_ms, worker}",
        example: r#"["next",[{"wait_ms":30000}],1]"#,
    },
    Command {
        name: "beat",
        args: &[needed("runs")],
        about: "a runner's sign of life: [{run_id, lease}]; answers {drop}",
        example: r#"["beat",[[]],1]"#,
    },
    Command {
        name: "result",
        args: &[needed("reports")],
        about: "a runner's report, or a list: {job, run_id, lease, stream, \
                seq, when, data}; answers what is safely kept",
        example: r#"["result",[[]],1]"#,
    },
    Command {
        name: "blob-put",
        args: &[
            needed("run_id"),
            needed("lease"),
            needed("name"),
            needed("offset"),
            needed("base64"),
            optional("options"),
        ],
        about: "a runner's artefact, piece by piece; {eof, sha256} with the \
                last; answers the length so far",
        example: r#"["blob-put",["0192d3a4-5b6c-7d8e-9f00-112233445566",7,"a.txt",0,"aGk=",{"eof":true}],1]"#,
    },
];

/// What a runner takes on port 9182.
pub const RUNNER: &[Command] = &[
    PING,
    HELP,
    Command {
        name: "enroll",
        args: &[needed("uuid"), optional("options")],
        about: "takes a VM as a worker: {snapshot, labels}; answers it",
        example: r#"["enroll",["8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f"],1]"#,
    },
    Command {
        name: "expel",
        args: &[needed("uuid")],
        about: "lets a worker go; a running job may finish",
        example: r#"["expel",["8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f"],1]"#,
    },
    Command {
        name: "workers",
        args: &[],
        about: "the workers: [{uuid, state, reason, since, job, resets}]",
        example: r#"["workers",[],1]"#,
    },
    Command {
        name: "clean",
        args: &[needed("uuid")],
        about: "resets a defunct worker now",
        example: r#"["clean",["8e16d8d2-4d7a-4c5f-9b0e-0a1b2c3d4e5f"],1]"#,
    },
    Command {
        name: "drain",
        args: &[],
        about: "takes no new work; answers when idle",
        example: r#"["drain",[],1]"#,
    },
    Command {
        name: "status",
        args: &[],
        about: "the runner: its name, dispatcher, workers and runs",
        example: r#"["status",[],1]"#,
    },
];

/// What the dispatcher asks of a runner on the runner's own connection.
pub const TO_RUNNER: &[Command] = &[
    PING,
    Command {
        name: "stop",
        args: &[needed("run_id"), optional("grace_ms"), optional("options")],
        about: "ends a run; {evidence: true} first looks what it is doing",
        example: r#"["stop",["0192d3a4-5b6c-7d8e-9f00-112233445566",10000,{"evidence":true}],1]"#,
    },
];

/// Finds a command and checks the number of its arguments. Trailing nulls
/// are cut off.
///
/// # Errors
/// `ENOCMD` with the list of commands, or `EINVAL` that names the argument.
pub fn check(
    table: &'static [Command],
    name: &str,
    args: &mut Vec<Value>,
) -> Result<&'static Command, WireError> {
    let command = find(table, name)?;
    while args.last().is_some_and(Value::is_null) {
        args.pop();
    }
    let most = command.args.len();
    if args.len() > most {
        return Err(WireError::new(
            Code::Einval,
            format!(
                "{name} takes at most {most} argument{}, not {}: {}",
                if most == 1 { "" } else { "s" },
                args.len(),
                command.usage()
            ),
        )
        .on(&format!("argument {}", most + 1)));
    }
    for (at, arg) in command.args.iter().enumerate() {
        if arg.required && args.get(at).is_none_or(Value::is_null) {
            return Err(WireError::invalid(
                arg.name,
                format!("{} is missing: {}", arg.name, command.usage()),
            ));
        }
    }
    Ok(command)
}

/// Finds a command by its exact name.
///
/// # Errors
/// `ENOCMD` with the list of commands.
pub fn find(
    table: &'static [Command],
    name: &str,
) -> Result<&'static Command, WireError> {
    table.iter().find(|command| command.name == name).ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|c| c.name).collect();
        WireError::new(
            Code::Enocmd,
            format!(
                "there is no command {}; there are {}",
                quote(name),
                names.join(", ")
            ),
        )
    })
}

impl Command {
    /// The command with its arguments, like `push [owner, repo, commit,
    /// id or options?]`.
    pub fn usage(&self) -> String {
        let args: Vec<_> = self
            .args
            .iter()
            .map(|arg| match arg.required {
                true => arg.name.to_owned(),
                false => format!("{}?", arg.name),
            })
            .collect();
        format!("{} [{}], like {}", self.name, args.join(", "), self.example)
    }

    fn to_value(self) -> Value {
        let args: Vec<_> = self
            .args
            .iter()
            .map(|a| format!("{}{}", a.name, if a.required { "" } else { "?" }))
            .collect();
        json!({
            "command": self.name,
            "arguments": args,
            "about": self.about,
            "example": self.example,
        })
    }
}

/// The answer to `help`: one command, or all of them.
///
/// # Errors
/// `ENOCMD`, or `EINVAL` on `command`.
pub fn help(
    table: &'static [Command],
    wanted: Option<&Value>,
) -> Result<Value, WireError> {
    match wanted {
        None | Some(Value::Null) => {
            Ok(table.iter().map(|c| c.to_value()).collect())
        }
        Some(Value::String(name)) => find(table, name).map(|c| c.to_value()),
        Some(_) => Err(WireError::invalid(
            "command",
            "command must be a string, like \"push\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_exactly() {
        for name in ["", "Push", "push ", "toString", "constructor", "-1"] {
            let error = check(DISPATCHER, name, &mut vec![]).unwrap_err();
            assert_eq!(error.code, Code::Enocmd);
            assert!(error.message.contains("push, submit, status"));
        }
    }

    #[test]
    fn arguments_are_counted() {
        let check = |name: &str, args: Value| {
            let mut args = args.as_array().unwrap().clone();
            check(DISPATCHER, name, &mut args).map(|_| args.len())
        };
        assert_eq!(check("status", json!(["x", null, null])), Ok(1));
        assert_eq!(check("ping", json!([null])), Ok(0));
        let missing = check("status", json!([])).unwrap_err();
        assert_eq!(missing.field.as_deref(), Some("id"));
        let more = check("status", json!(["x", 1])).unwrap_err();
        assert_eq!(more.code, Code::Einval);
        let null = check("blob-get", json!([null, 0, 1])).unwrap_err();
        assert_eq!(null.field.as_deref(), Some("artefact id"));
    }

    #[test]
    fn every_example_is_a_good_line_of_its_command() {
        for table in [DISPATCHER, RUNNER, TO_RUNNER] {
            for command in table {
                let line = command.example.as_bytes();
                let Ok(crate::Message::Request(mut request)) =
                    crate::message::parse(line)
                else {
                    panic!("{}", command.example);
                };
                let found = check(table, &request.name, &mut request.args);
                assert_eq!(found, Ok(command));
            }
        }
    }
}
