//! `zone-job`: the helper inside a zone, run through zlogin as its root.
//!
//! It reads one line of JSON from stdin, does one thing on behalf of the
//! job, and ends its stderr with a status record that the job cannot forge:
//! byte 0x1e, `ntrace-status`, the nonce of the request, one JSON object and
//! a newline. The nonce is known to us and to our caller alone: it comes
//! through a pipe, and the job may not look into our memory.

mod collect;
mod glob;
mod processes;
mod program;
mod tracer;
mod unpack;

use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::sys::{self, Forked};

/// Longest request line.
const HEADER_MAX: u64 = 4 << 20;

/// Longest answer of a helping process.
const ANSWER_MAX: u64 = 1 << 20;

/// The secret that marks a status record.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Nonce(String);

impl TryFrom<String> for Nonce {
    type Error = String;
    fn try_from(text: String) -> Result<Nonce, String> {
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.len() == 32 && hex {
            return Ok(Nonce(text));
        }
        Err("a nonce has 32 hexadecimal digits".to_owned())
    }
}

/// A request that cannot be served; there is no nonce to answer under.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("cannot read the request: {0}")]
    Read(#[from] std::io::Error),
    #[error("cannot make sense of the request: {0}")]
    Content(#[from] serde_json::Error),
}

fn request<T: for<'a> Deserialize<'a>>(
    input: &mut impl BufRead,
) -> Result<T, RequestError> {
    let mut line = Vec::new();
    input.take(HEADER_MAX).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Runs the program; gives its exit status.
pub(crate) fn main(args: &[String]) -> u8 {
    // Only we may end the job's supervision, not a stray signal.
    sys::ignore_signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    let mut input = std::io::BufReader::new(std::io::stdin());
    let done = match args.first().map(String::as_str) {
        Some("run") => request(&mut input).map(|header: program::Header| {
            (header.nonce.clone(), program::run(&header))
        }),
        Some("unpack") => request(&mut input).map(|header: unpack::Header| {
            (header.nonce.clone(), unpack::run(&header, &mut input))
        }),
        Some("collect") => {
            request(&mut input).map(|header: collect::Header| {
                (header.nonce.clone(), collect::run(&header))
            })
        }
        Some("kill") => request(&mut input).map(|header: processes::Kill| {
            (header.nonce.clone(), processes::kill(&header))
        }),
        Some("ps") => request(&mut input).map(|header: processes::List| {
            (header.nonce.clone(), processes::list())
        }),
        _ => {
            eprintln!("usage: zone-job run|unpack|collect|kill|ps");
            return 2;
        }
    };
    match done {
        Ok((nonce, status)) => {
            let record = format!("\u{1e}ntrace-status {} {status}\n", nonce.0);
            let sent = std::io::stderr().write_all(record.as_bytes());
            u8::from(sent.is_err())
        }
        Err(error) => {
            eprintln!("zone-job: {error}");
            2
        }
    }
}

/// A status that says why something was not done.
fn failed(why: impl std::fmt::Display) -> Value {
    json!({ "error": why.to_string(), "code": 1 })
}

/// Does some work in a child that became another user, and brings back what
/// it has to say.
fn in_child(work: impl FnOnce() -> Value) -> Value {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (answer, answer_end) = match pipe {
        Ok(pipe) => pipe,
        Err(error) => return failed(format!("cannot make a pipe: {error}")),
    };
    match sys::fork() {
        Ok(Forked::Child) => {
            let text = work().to_string();
            let mut end = std::fs::File::from(answer_end);
            let sent = end.write_all(text.as_bytes());
            sys::exit_now(i32::from(sent.is_err()))
        }
        Ok(Forked::Parent(pid)) => {
            drop(answer_end);
            let text = read_all(answer);
            let ended = sys::wait_child(pid, true);
            serde_json::from_slice(&text).unwrap_or_else(|_| {
                failed(match ended {
                    Ok(Some(ended)) => match ended.signal() {
                        Some(n) => format!(
                            "the helper was killed by {}",
                            crate::signals::name(n)
                        ),
                        None => "the helper said nothing".to_owned(),
                    },
                    _ => "the helper is lost".to_owned(),
                })
            })
        }
        Err(error) => failed(format!("cannot fork: {error}")),
    }
}

fn read_all(fd: OwnedFd) -> Vec<u8> {
    let mut text = Vec::new();
    let file = std::fs::File::from(fd);
    // What was read before an error is judged by its content.
    let _ = file.take(ANSWER_MAX).read_to_end(&mut text);
    text
}

/// Connects stdin to nothing.
fn close_stdin() {
    let null = std::fs::File::open("/dev/null");
    if let Ok(null) = null {
        let _ = sys::dup_onto(null.as_fd(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_and_leaves_the_rest() {
        let mut input: &[u8] =
            b"{\"nonce\":\"0123456789abcdef0123456789abcdef\"}\nrest";
        let header: processes::List = request(&mut input).unwrap();
        assert_eq!(header.nonce.0.len(), 32);
        assert_eq!(input, b"rest");
    }

    #[test]
    fn a_bad_nonce_is_refused() {
        for nonce in ["", "short", "0123456789abcdef0123456789abcde\\n"] {
            let line = format!("{{\"nonce\":\"{nonce}\"}}\n");
            let header = request::<processes::List>(&mut line.as_bytes());
            assert!(header.is_err(), "{nonce}");
        }
    }
}
