//! Can the source be reached? A question for an operator, without a cache.
//!
//! Asks as a fetch would, with the same git in the same environment, so that
//! what is found here is what a job will find.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use crate::error::{Meaning, meaning};
use crate::git::{Git, GitError};
use crate::name::Repository;
use crate::template::{Scheme, Template};

/// The most that is read of an answer; one line is asked for.
const ANSWER: usize = 1 << 16;

/// Which git there is.
///
/// # Errors
/// There is none, or it does not run.
pub async fn git_version(deadline: Instant) -> Result<String, GitError> {
    let scratch = Scratch::new()?;
    let git = Git::new(scratch.0.join("config"), Scheme::File)?;
    let said = git.run(&scratch.0, &["version"], ANSWER, deadline).await?;
    let said = String::from_utf8_lossy(&said);
    let version = said.trim().trim_start_matches("git version ");
    Ok(version.chars().filter(|c| !c.is_control()).take(40).collect())
}

/// What became of asking for a repository.
#[derive(Debug, Clone)]
pub enum Reach {
    /// It is there.
    Found,
    /// The source answered that there is none such, or that it is not for
    /// us.
    NoRepository(GitError),
    /// The source does not know or trust us, whichever repository is asked.
    Denied(GitError),
    /// Nobody answered.
    Unreachable(GitError),
    /// There is no git to ask with.
    NoGit(GitError),
}

/// Asks the source for a repository; nothing is fetched.
pub async fn reach(
    source: &Template,
    repository: &Repository,
    deadline: Instant,
) -> Reach {
    let asked = ask(source, repository, deadline).await;
    let Err(error) = asked else { return Reach::Found };
    if source.scheme() == Scheme::Ssh && is_denied(&error) {
        return Reach::Denied(error);
    }
    match meaning(&error) {
        Meaning::NoGit => Reach::NoGit(error),
        Meaning::NoRepository => Reach::NoRepository(error),
        _ => Reach::Unreachable(error),
    }
}

async fn ask(
    source: &Template,
    repository: &Repository,
    deadline: Instant,
) -> Result<(), GitError> {
    let scratch = Scratch::new()?;
    let git = Git::new(scratch.0.join("config"), source.scheme())?;
    let url = source.url(repository);
    let args = ["ls-remote", "--", &url, "HEAD"];
    git.run(&scratch.0, &args, ANSWER, deadline).await.map(drop)
}

/// Over ssh these come before any repository is looked for.
fn is_denied(error: &GitError) -> bool {
    let GitError::Failed { said, .. } = error else { return false };
    let said = said.to_lowercase();
    ["host key verification failed", "permission denied (", "no such identity"]
        .iter()
        .any(|part| said.contains(part))
}

/// A directory for git's configuration, removed with us.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, GitError> {
        // A name that nobody can foresee, nor a killed one has left.
        let random = RandomState::new().build_hasher().finish();
        let name = format!("ntrace-ask-{random:016x}");
        let dir = std::env::temp_dir().join(name);
        // `create` refuses what somebody else has put there before us.
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| GitError::Start {
            why: format!("cannot make {}: {error}", dir.display()),
        })?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_repository_is_found_or_not_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let source =
            format!("file://{}/{{owner}}/{{repo}}.git", dir.path().display());
        let source: Template = source.parse().unwrap();
        let repository = Repository::new("dscape", "nano").unwrap();
        let found = reach(&source, &repository, soon()).await;
        assert!(matches!(found, Reach::NoRepository(_)), "{found:?}");
        let bare = dir.path().join("dscape/nano.git");
        let made = std::process::Command::new("git")
            .args(["init", "-q", "--bare"])
            .arg(&bare)
            .status()
            .unwrap();
        assert!(made.success());
        let found = reach(&source, &repository, soon()).await;
        assert!(matches!(found, Reach::Found), "{found:?}");
        let version = git_version(soon()).await.unwrap();
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    }

    #[tokio::test]
    async fn a_source_that_nobody_serves_is_unreachable() {
        // A port of ours that is closed again.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let source = format!("git://127.0.0.1:{port}/{{owner}}/{{repo}}");
        let repository = Repository::new("dscape", "nano").unwrap();
        let found = reach(&source.parse().unwrap(), &repository, soon()).await;
        assert!(matches!(found, Reach::Unreachable(_)), "{found:?}");
    }

    #[test]
    fn an_ssh_that_is_refused_is_no_missing_repository() {
        let failed = |said: &str| GitError::Failed {
            verb: "ls-remote".to_owned(),
            status: "exit status 128".to_owned(),
            said: said.to_owned(),
        };
        assert!(is_denied(&failed("git@h: Permission denied (publickey).")));
        assert!(is_denied(&failed("Host key verification failed.")));
        assert!(!is_denied(&failed("ERROR: Repository not found.")));
    }
}
