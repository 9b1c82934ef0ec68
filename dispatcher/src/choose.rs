//! Which runs a caller means by a name, and what to compare them with.
//!
//! The decision is pure: it is made over candidates that the store has
//! found. Must not know what is in a profile. A base is never chosen
//! silently: it comes with the reason why.

use ntrace_protocol::compare::TraceRef;
use ntrace_protocol::id::JobRef;
use ntrace_protocol::text::escape;
use ntrace_protocol::{Code, Commit, JobId, RunId, Source, WireError};
use ntrace_store::{Among, Traced};

use crate::command::job::look;
use crate::connection::Shared;
use crate::refusal::Refusal as _;

/// Runs of a commit that are taken together at most.
const RUNS_MAX: usize = 16;

/// Runs of one commit, or one run; never none. The newest comes first.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) runs: Vec<Traced>,
}

impl Chosen {
    /// The newest.
    pub(crate) fn first(&self) -> &Traced {
        &self.runs[0]
    }
}

/// A base and why it was chosen.
pub(crate) struct ChosenBase {
    pub(crate) chosen: Chosen,
    pub(crate) why: String,
}

/// The runs that are meant by a name.
pub(crate) async fn side(
    shared: &Shared,
    named: &TraceRef,
) -> Result<Chosen, WireError> {
    let runs = match named {
        TraceRef::Id(id) => vec![of_id(shared, id).await?],
        TraceRef::Commit(source) => of_commit(shared, source).await?,
    };
    Ok(Chosen { runs })
}

async fn of_id(shared: &Shared, id: &JobRef) -> Result<Traced, WireError> {
    let store = &shared.store;
    let job = match id {
        JobRef::Full(id) => *id,
        JobRef::Prefix(_) => {
            store.find(id.clone()).await.map_err(|e| e.wire())?
        }
    };
    let found = store.traced_job(job).await.map_err(|e| e.wire())?;
    if let Some(traced) = found {
        return Ok(traced);
    }
    // A whole id may be a run's.
    let run = RunId::from_bytes(*job.as_bytes());
    let found = store.traced_run(run).await.map_err(|e| e.wire())?;
    if let Some(traced) = found {
        return Ok(traced);
    }
    let of_run = store.job_of_run(run).await.map_err(|e| e.wire())?;
    Err(untraced(shared, of_run.unwrap_or(job), of_run.map(|_| run)).await)
}

/// Why there is nothing to be seen.
async fn untraced(shared: &Shared, id: JobId, run: Option<RunId>) -> WireError {
    let job = match look(shared, id).await {
        Ok(job) => job,
        Err(error) => return error,
    };
    let runs = job.runs.iter().rev();
    let mut runs = runs.filter(|one| run.is_none_or(|r| r == one.run_id));
    let why = runs.find_map(|run| run.trace.as_ref()?.why.clone());
    let state = job.state;
    let (code, why) = match why {
        Some(why) => (Code::Enoent, escape(&why)),
        None if state.is_final() => (
            Code::Enoent,
            format!("it is {state}, and its runner told of no trace"),
        ),
        None => (Code::Ebusy, format!("it is {state}; wait for its end")),
    };
    WireError::new(code, format!("the job {id} has no profile: {why}"))
}

async fn of_commit(
    shared: &Shared,
    source: &Source,
) -> Result<Vec<Traced>, WireError> {
    let among = Among::Commit(source.clone());
    let found = shared.store.traced_among(among).await;
    let mut found = found.map_err(|e| e.wire())?;
    let Some(newest) = found.first().cloned() else {
        let Source { owner, repo, commit } = source;
        return Err(WireError::new(
            Code::Enoent,
            format!(
                "there is no done run with a profile of {owner}/{repo} at \
                 {commit}; push it first"
            ),
        ));
    };
    found.retain(|run| run.is_same_work(&newest.spec));
    found.truncate(RUNS_MAX);
    Ok(found)
}

/// What to compare with if nobody said.
pub(crate) async fn base(
    shared: &Shared,
    new: &Chosen,
) -> Result<ChosenBase, WireError> {
    let new = new.first();
    let Some(Source { owner, repo, .. }) = new.source() else {
        return Err(WireError::new(
            Code::Enoent,
            "a job without a commit has nothing that comes before it; name \
             a base",
        )
        .on("base"));
    };
    let ask = async |among| {
        shared.store.traced_among(among).await.map_err(|e| e.wire())
    };
    let mut of_parents = Vec::new();
    for commit in &new.parents {
        let (owner, repo) = (owner.clone(), repo.clone());
        let source = Source { owner, repo, commit: commit.clone() };
        let found = ask(Among::Commit(source)).await?;
        of_parents.push((commit.clone(), found));
    }
    let before = Among::Before(owner.clone(), repo.clone(), new.row);
    let before = ask(before).await?;
    let (traced, why) = pick(new, of_parents, before).ok_or_else(|| {
        let text = format!(
            "no other done run of {owner}/{repo} with a profile runs the same \
             command; push its parent commit, or name a base"
        );
        WireError::new(Code::Enoent, text).on("base")
    })?;
    Ok(ChosenBase { chosen: Chosen { runs: vec![traced] }, why })
}

/// Decides: the last run of a parent, else the last earlier run of another
/// commit, else of the same one. What ran another command is no base.
fn pick(
    new: &Traced,
    of_parents: Vec<(Commit, Vec<Traced>)>,
    before: Vec<Traced>,
) -> Option<(Traced, String)> {
    let fits = |run: &Traced| run.job != new.job && run.is_same_work(&new.spec);
    let short = |commit: &Commit| commit.as_str()[..12].to_owned();
    let parents: Vec<_> = of_parents.iter().map(|(c, _)| short(c)).collect();
    for (at, (commit, runs)) in of_parents.into_iter().enumerate() {
        if let Some(run) = runs.into_iter().find(fits) {
            let which = if at == 0 { "the" } else { "another" };
            let commit = short(&commit);
            let why =
                format!("the last done run of {which} parent commit {commit}");
            return Some((run, why));
        }
    }
    let but = match parents.is_empty() {
        true => "no parent commit is known".to_owned(),
        false => format!(
            "no done run of the parent commit {} has a profile of this \
             command",
            parents.join(" or ")
        ),
    };
    let commit = |run: &Traced| run.source().map(|s| s.commit.clone());
    let own = commit(new);
    let mut earlier: Vec<_> = before.into_iter().filter(fits).collect();
    let other = earlier.iter().position(|run| commit(run) != own);
    let is_other = other.is_some();
    let at = other.or((!earlier.is_empty()).then_some(0))?;
    let run = earlier.swap_remove(at);
    let which = match (is_other, commit(&run)) {
        (true, Some(commit)) => {
            format!("the last earlier done run, of commit {}", short(&commit))
        }
        _ => "the last earlier done run of the same commit".to_owned(),
    };
    Some((run, format!("{which}: {but}")))
}

#[cfg(test)]
mod tests {
    use ntrace_protocol::{JobSpec, JobState, Timestamp};

    use super::*;

    fn run(number: u64, commit: char, command: Option<&str>) -> Traced {
        let source = Source {
            owner: "o".parse().unwrap(),
            repo: "r".parse().unwrap(),
            commit: commit.to_string().repeat(40).parse().unwrap(),
        };
        let spec = JobSpec {
            source: Some(source),
            run: command.map(str::to_owned),
            ..JobSpec::default()
        };
        Traced {
            job: JobId::generate(number, 0),
            run: RunId::generate(number, 0),
            row: number,
            state: JobState::Done,
            submitted: Timestamp(number),
            spec,
            worker: None,
            parents: Vec::new(),
            trace: None,
            profiles: Vec::new(),
        }
    }

    fn commit(of: char) -> Commit {
        of.to_string().repeat(40).parse().unwrap()
    }

    #[track_caller]
    fn picked(
        new: &Traced,
        of_parents: Vec<(Commit, Vec<Traced>)>,
        before: Vec<Traced>,
        row: u64,
        said: &str,
    ) {
        let (run, why) = pick(new, of_parents, before).unwrap();
        assert_eq!(run.row, row, "{why}");
        assert!(why.contains(said), "{why}");
    }

    #[test]
    fn the_last_run_of_the_parent_goes_before_all_others() {
        let new = run(9, 'c', None);
        let of_parents = vec![
            (commit('a'), vec![run(12, 'a', None), run(3, 'a', None)]),
            (commit('b'), vec![run(8, 'b', None)]),
        ];
        let before = vec![run(8, 'b', None), run(3, 'a', None)];
        let said = "the last done run of the parent commit aaaaaaaaaaaa";
        picked(&new, of_parents, before, 12, said);
    }

    #[test]
    fn a_merge_takes_its_second_parent_if_the_first_has_no_run() {
        let of_parents =
            vec![(commit('a'), vec![]), (commit('b'), vec![run(8, 'b', None)])];
        let said = "another parent commit bbbbbbbbbbbb";
        picked(&run(9, 'c', None), of_parents, vec![], 8, said);
    }

    #[test]
    fn without_the_parent_it_is_an_earlier_commit_then_the_same_one() {
        let new = run(9, 'c', None);
        let before =
            vec![run(8, 'c', None), run(7, 'b', None), run(6, 'a', None)];
        let parents = vec![(commit('a'), vec![])];
        let said = "of commit bbbbbbbbbbbb: no done run of the parent commit \
                    aaaaaaaaaaaa";
        picked(&new, parents, before, 7, said);
        let said = "of the same commit: no parent commit is known";
        picked(&new, vec![], vec![run(8, 'c', None)], 8, said);
        assert!(pick(&new, vec![], vec![]).is_none());
    }

    #[test]
    fn another_command_is_no_base_and_neither_is_the_job_itself() {
        let new = run(9, 'c', Some("make bench"));
        let parents = vec![(
            commit('a'),
            vec![run(8, 'a', None), run(7, 'a', Some("make bench"))],
        )];
        picked(&new, parents, vec![], 7, "of the parent commit");
        let own = vec![(commit('c'), vec![new.clone()])];
        assert!(pick(&new, own, vec![run(8, 'a', None)]).is_none());
    }
}
