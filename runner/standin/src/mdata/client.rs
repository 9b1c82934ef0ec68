//! The programs inside a zone: words, texts and exit statuses of the
//! original.
//!
//! The original waits without limit for a host that does not answer; these
//! give up, and say so.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::agent::{read_line, write_line};
use super::{Answer, CONTROL, Key, Request, SOCKET, VALUE_MAX};
use crate::clock::Deadline;

/// How long an answer is awaited.
const WAIT: Duration = Duration::from_secs(30);

/// The four programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `mdata-get`.
    Get,
    /// `mdata-put`.
    Put,
    /// `mdata-delete`.
    Delete,
    /// `mdata-list`.
    List,
}

impl Verb {
    /// The program of that name.
    pub(crate) fn of(name: &str) -> Option<Verb> {
        Some(match name.strip_prefix("mdata-")? {
            "get" => Verb::Get,
            "put" => Verb::Put,
            "delete" => Verb::Delete,
            "list" => Verb::List,
            _ => return None,
        })
    }

    /// Names of all four, as links are made for them.
    pub(crate) const NAMES: [&str; 4] =
        ["mdata-get", "mdata-put", "mdata-delete", "mdata-list"];

    fn usage(self) -> &'static str {
        match self {
            Verb::Get => "mdata-get: Usage: mdata-get <keyname>",
            Verb::Put => "mdata-put: Usage: mdata-put <keyname> [ <value> ]",
            Verb::Delete => "mdata-delete: Usage: mdata-delete <keyname>",
            Verb::List => "mdata-list: Usage: mdata-list",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Verb::Get => "getting metadata",
            Verb::Put => "putting metadata",
            Verb::Delete => "deleting metadata",
            Verb::List => "listing metadata",
        }
    }
}

/// A program that did not do what it was to do: status and text.
#[derive(Debug)]
struct Failure(u8, String);

/// Runs the program; gives its exit status.
pub(crate) fn main(verb: Verb, args: &[String]) -> u8 {
    match run(verb, args) {
        Ok(text) => {
            // A reader that left is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err(Failure(code, text)) => {
            eprintln!("{text}");
            code
        }
    }
}

fn run(verb: Verb, args: &[String]) -> Result<String, Failure> {
    let (name, request) = request(verb, args)?;
    let no_host = |why: &str| {
        Failure(2, format!("ERROR: could not initialise protocol: {why}"))
    };
    let deadline = Deadline::after(WAIT);
    // Absent, closed to us, or hung up on us: the original finds no socket
    // where it is not run by root.
    let missing = || no_host("Could not find metadata socket.");
    let host = connect().map_err(|_| missing())?;
    let line = serde_json::to_vec(&request)
        .map_err(|error| no_host(&error.to_string()))?;
    if !write_line(host.as_fd(), &line, deadline) {
        return Err(missing());
    }
    let answer =
        read_line(host.as_fd(), deadline).ok_or_else(|| {
            match deadline.left() {
                Some(_) => missing(),
                None => no_host("the host gives no answer"),
            }
        })?;
    let answer = serde_json::from_slice(&answer)
        .map_err(|error| no_host(&error.to_string()))?;
    match answer {
        Answer::Done => Ok(String::new()),
        Answer::Value { value } if value.ends_with('\n') => Ok(value),
        Answer::Value { value } => Ok(value + "\n"),
        Answer::Keys { keys } => {
            Ok(keys.iter().map(|key| format!("{key}\n")).collect())
        }
        Answer::Missing => Err(Failure(1, format!("No metadata for '{name}'"))),
        Answer::Failed { why } => Err(Failure(
            2,
            format!("Error {} for key '{name}': {why}", verb.doing()),
        )),
    }
}

/// What to ask for, and the name for messages.
fn request(verb: Verb, args: &[String]) -> Result<(String, Request), Failure> {
    if verb == Verb::List {
        return Ok((String::new(), Request::List));
    }
    let most = if verb == Verb::Put { 2 } else { 1 };
    let usage = || Failure(3, verb.usage().to_owned());
    let name = args.first().filter(|_| args.len() <= most);
    let name = name.ok_or_else(usage)?.clone();
    let key = Key::try_from(name.clone())
        .map_err(|why| Failure(2, format!("Error {}: {why}", verb.doing())))?;
    let request = match verb {
        Verb::Put => Request::Put { key, value: value(args.get(1))? },
        Verb::Delete => Request::Delete { key },
        _ => Request::Get { key },
    };
    Ok((name, request))
}

/// The value of a put: the argument, else all of stdin.
fn value(given: Option<&String>) -> Result<String, Failure> {
    if let Some(value) = given {
        return Ok(value.clone());
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure(
            2,
            "ERROR: either specify the metadata value as the second \
             command-line argument, or pipe content to stdin."
                .to_owned(),
        ));
    }
    let mut bytes = Vec::new();
    // One byte more than fits, so that the host can refuse it.
    let most = VALUE_MAX as u64 + 1;
    stdin.take(most).read_to_end(&mut bytes).map_err(|error| {
        Failure(2, format!("ERROR: cannot read stdin: {error}"))
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn connect() -> rustix::io::Result<OwnedFd> {
    let host = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // A full backlog holds a connect up.
    sockopt::set_socket_timeout(&host, sockopt::Timeout::Send, Some(WAIT))?;
    let path = format!("/{CONTROL}/{SOCKET}");
    rustix::net::connect(&host, &SocketAddrUnix::new(path)?)?;
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_words_are_answered_with_the_usage() {
        let words = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        for (verb, args) in [
            (Verb::Get, words(&[])),
            (Verb::Get, words(&["a", "b"])),
            (Verb::Put, words(&["a", "b", "c"])),
            (Verb::Delete, words(&[])),
        ] {
            let Failure(code, text) = request(verb, &args).unwrap_err();
            assert_eq!((code, text.as_str()), (3, verb.usage()));
        }
        for name in Verb::NAMES {
            assert!(Verb::of(name).is_some());
        }
        assert_eq!(Verb::of("mdata-"), None);
    }
}
