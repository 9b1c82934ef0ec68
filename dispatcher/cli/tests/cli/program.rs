//! Runs the built program, with a deadline, and takes all that it says.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a program may take that should end.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// The program with a dispatcher, nothing of our own environment, and pipes.
pub fn ntrace(dispatcher: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ntrace"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("TERM", "xterm")
        .env("NTRACE_DISPATCHER", dispatcher)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs it to its end.
pub async fn run(dispatcher: &str, args: &[&str]) -> Ran {
    finish(ntrace(dispatcher, args).spawn().unwrap()).await
}

/// Runs it in a directory.
pub async fn run_in(dir: &Path, dispatcher: &str, args: &[&str]) -> Ran {
    let mut command = ntrace(dispatcher, args);
    command.current_dir(dir).env("HOME", dir);
    finish(command.spawn().unwrap()).await
}

/// Waits for its end.
pub async fn finish(child: Child) -> Ran {
    let output = timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.expect("it ends in time").unwrap();
    Ran {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits for its end, when somebody else reads what it says.
pub async fn ended(child: &mut Child) -> ExitStatus {
    let status = timeout(DEADLINE, child.wait()).await;
    status.expect("it ends in time").unwrap()
}

/// Asks until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let asking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("{what}"));
}
