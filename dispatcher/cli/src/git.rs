//! What the git work tree here says: the URL of `origin`, and HEAD.
//!
//! The one door to git: fixed arguments, no hooks and no helpers, no prompt,
//! a deadline and a limit on what is read.

use std::process::Stdio;
use std::time::Duration;

use ntrace_protocol::Commit;
use ntrace_protocol::text::{escape, quote};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::origin::{Origin, parse_origin};

/// How long git may take; it reads a few files.
const DEADLINE: Duration = Duration::from_secs(20);
/// How much of what git says is read.
const MOST: u64 = 16 * 1024;

/// What is here.
#[derive(Debug)]
pub(crate) struct Here {
    pub(crate) origin: Origin,
    pub(crate) commit: Commit,
    /// Whether a branch of origin is known to hold the commit.
    pub(crate) is_at_origin: bool,
}

/// Asks git about the current directory.
pub(crate) async fn here() -> Result<Here, Failure> {
    let url = git(&["remote", "get-url", "origin"]).await.map_err(|said| {
        Failure::Git(format!(
            "there is no remote origin here ({said}); name what to push: \
             ntrace push OWNER REPO COMMIT"
        ))
    })?;
    let origin = parse_origin(&url).map_err(|e| Failure::Git(e.to_string()))?;
    let head = ["rev-parse", "--verify", "--end-of-options", "HEAD^{commit}"];
    let head = git(&head).await.map_err(|said| {
        Failure::Git(format!("there is no commit here yet ({said})"))
    })?;
    let commit: Commit = head.parse().map_err(|_| {
        Failure::Git(format!("git says that HEAD is {}", quote(&head)))
    })?;
    let contains = format!("--contains={commit}");
    let holders =
        ["for-each-ref", "--count=1", &contains, "refs/remotes/origin/"];
    let holders = git(&holders).await.unwrap_or_default();
    Ok(Here { origin, commit, is_at_origin: !holders.is_empty() })
}

/// Runs git. The error is what it said, in one safe line.
async fn git(args: &[&str]) -> Result<String, String> {
    let run = async {
        let mut child = Command::new("git")
            .args(["-c", "core.fsmonitor=false"])
            .args(["-c", "core.hooksPath=/dev/null", "--no-pager"])
            .args(args)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let mut out = out.take(MOST);
        let mut err = err.take(MOST);
        tokio::try_join!(
            out.read_to_end(&mut said),
            err.read_to_end(&mut complained)
        )?;
        // Past the limit it gets a closed pipe, and ends.
        drop((out, err));
        let status = child.wait().await?;
        std::io::Result::Ok((status, said, complained))
    };
    let (status, said, complained) = timeout(DEADLINE, run)
        .await
        .map_err(|_| format!("git did not end within {DEADLINE:?}"))?
        .map_err(|e| format!("git cannot be run: {e}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&said).trim().to_owned());
    }
    let complained = String::from_utf8_lossy(&complained);
    Err(escape(complained.trim()))
}
