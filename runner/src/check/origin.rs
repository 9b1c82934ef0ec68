//! git, and the place where commits come from.

use std::time::Duration;

use ntrace_source::{GitError, Reach, Repository, Template};
use tokio::time::Instant;

use super::finding::{Finding, Need};
use super::words::shell;

/// A name that hardly anybody has taken: asked for when no repository was
/// named, since an answer that there is none such is an answer.
const NOBODYS: (&str, &str) = ("ntrace-check", "ntrace-check");

/// What was found of git and the source.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) git: Result<String, GitError>,
    pub(super) source: SourceFact,
}

/// What was found of the source.
#[derive(Debug)]
pub(super) enum SourceFact {
    /// The directory of a `file://` source is not there.
    NoDirectory(String),
    /// What asking for a repository gave.
    Asked(Asked),
}

/// A question to the source.
#[derive(Debug)]
pub(super) struct Asked {
    /// `owner/repo`, if the operator named one.
    pub(super) named: Option<String>,
    pub(super) reach: Reach,
}

pub(super) async fn look(
    source: &Template,
    named: Option<&Repository>,
    late: Duration,
) -> Origin {
    let until = Instant::now() + late;
    let (git, source) = tokio::join!(
        ntrace_source::git_version(until),
        look_at_source(source, named, until),
    );
    Origin { git, source }
}

async fn look_at_source(
    source: &Template,
    named: Option<&Repository>,
    until: Instant,
) -> SourceFact {
    if let Some(root) = source.local_root()
        && !root.is_dir()
    {
        return SourceFact::NoDirectory(root.display().to_string());
    }
    let nobodys = Repository::new(NOBODYS.0, NOBODYS.1)
        .expect("letters and dashes are a name");
    let repository = named.unwrap_or(&nobodys);
    let reach = ntrace_source::reach(source, repository, until).await;
    let named = named.map(|one| format!("{}/{}", one.owner(), one.repo()));
    SourceFact::Asked(Asked { named, reach })
}

/// `source` is the template as it may be shown.
pub(super) fn judge(source: &str, found: &Origin) -> Vec<Finding> {
    let git = match &found.git {
        Ok(version) => Finding::ok(Need::Git, format!("git {version}")),
        Err(error) => Finding::fail(
            Need::Git,
            error.to_string(),
            "apt-get install -y git   (SmartOS: pkgin -y install git)",
        ),
    };
    vec![git, judge_source(source, &found.source)]
}

fn judge_source(source: &str, found: &SourceFact) -> Finding {
    let ask = |named: Option<&str>| {
        let (owner, repo) = named
            .and_then(|named| named.split_once('/'))
            .unwrap_or(("OWNER", "REPO"));
        let url = source.replace("{owner}", owner).replace("{repo}", repo);
        let url = shell(&url);
        format!("GIT_TERMINAL_PROMPT=0 git ls-remote {url} HEAD")
    };
    let asked = match found {
        SourceFact::NoDirectory(dir) => {
            let says = format!("there is no directory {dir}");
            let mend = format!(
                "mkdir -p {}   (or give --source where the repositories are)",
                shell(dir)
            );
            return Finding::fail(Need::Source, says, mend);
        }
        SourceFact::Asked(asked) => asked,
    };
    let named = asked.named.as_deref();
    match (&asked.reach, named) {
        (Reach::Found, _) => {
            let what = named.unwrap_or("the source");
            Finding::ok(Need::Source, format!("{what} is there ({source})"))
        }
        (Reach::NoRepository(_), None) => {
            Finding::ok(Need::Source, format!("{source} answers"))
        }
        (Reach::NoRepository(error), Some(named)) => Finding::fail(
            Need::Source,
            format!("there is no {named} for us: {error}"),
            ask(Some(named)),
        ),
        (Reach::Denied(error), _) => Finding::fail(
            Need::Source,
            format!("the source does not let us in: {error}"),
            ask(named),
        ),
        (Reach::Unreachable(error), _) => Finding::fail(
            Need::Source,
            format!("{source} cannot be reached: {error}"),
            ask(named),
        ),
        (Reach::NoGit(_), _) => Finding::fail(
            Need::Source,
            "not asked: there is no git to ask with",
            "apt-get install -y git   (SmartOS: pkgin -y install git)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const SOURCE: &str = "https://h/{owner}/{repo}.git";

    fn judged(named: Option<&str>, reach: Reach) -> Finding {
        let named = named.map(str::to_owned);
        judge_source(SOURCE, &SourceFact::Asked(Asked { named, reach }))
    }

    fn said() -> GitError {
        GitError::Failed {
            verb: "ls-remote".to_owned(),
            status: "exit status 128".to_owned(),
            said: "fatal: something".to_owned(),
        }
    }

    #[test]
    fn a_refusal_of_nobodys_repository_is_an_answer() {
        let one = Some("dscape/nano");
        let state = |named, reach| judged(named, reach).state;
        assert_eq!(state(None, Reach::Found), Level::Ok);
        assert_eq!(state(one, Reach::Found), Level::Ok);
        assert_eq!(state(None, Reach::NoRepository(said())), Level::Ok);
        assert_eq!(state(one, Reach::NoRepository(said())), Level::Fail);
        for named in [None, one] {
            assert_eq!(state(named, Reach::Denied(said())), Level::Fail);
            assert_eq!(state(named, Reach::Unreachable(said())), Level::Fail);
            assert_eq!(state(named, Reach::NoGit(said())), Level::Fail);
        }
    }

    #[test]
    fn the_mend_asks_what_was_asked() {
        let found = judged(Some("a/b"), Reach::Unreachable(said()));
        let mend = found.mend.unwrap();
        assert!(mend.ends_with("ls-remote https://h/a/b.git HEAD"), "{mend}");
    }

    #[test]
    fn a_missing_git_or_directory_fails() {
        let origin = Origin {
            git: Err(GitError::Missing),
            source: SourceFact::NoDirectory("/srv/it's".to_owned()),
        };
        let found = judge("file:///srv/it's/{owner}/{repo}", &origin);
        assert!(found.iter().all(|one| one.state == Level::Fail));
        assert!(found[0].mend.as_ref().unwrap().contains("install -y git"));
        let mend = found[1].mend.as_ref().unwrap();
        assert!(mend.contains(r"'/srv/it'\''s'"), "{mend}");
    }
}
