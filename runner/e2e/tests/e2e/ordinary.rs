//! As a user without any right: the same promises, with weaker means where
//! the machine gives no others.
//!
//! Where root runs the tests, these run everything as a user that nobody
//! else is; where an ordinary user does, all other modules say it already.

use ntrace_e2e::{Setup, Stage, Who, is_root, skip};
use ntrace_protocol::JobState;
use serde_json::Value;

async fn stage(workers: usize) -> Option<Stage> {
    if !is_root() {
        skip("the tests are run by an ordinary user already");
        return None;
    }
    Some(Stage::start(Setup::workers(workers).who(Who::NOBODY_ELSE)).await)
}

#[tokio::test]
async fn an_ordinary_user_runs_a_commit() {
    let Some(stage) = stage(1).await else { return };
    let repo = stage.repos.make("dscape", "nano");
    repo.write("Makefile", "test:\n\t@id -u; id -un; cat README; exit 3\n")
        .write("README", "hello\n");
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    let output = stage.output(id).await;
    assert_eq!(output.text(), "1000\njob\nhello\n", "{}", output.errors());
    let place = stage.worker(&stage.workers[0]).await.unwrap().place;
    eprintln!("the place: {place:?}");
}

#[tokio::test]
async fn limits_hold_or_are_refused_for_an_ordinary_user() {
    let Some(stage) = stage(1).await else { return };
    crate::verdicts::limits_of_the_place_hold(&stage).await;
}

#[tokio::test]
async fn the_next_job_of_an_ordinary_user_sees_nothing() {
    let Some(stage) = stage(1).await else { return };
    crate::clean::the_next_job_sees_nothing(&stage).await;
}

#[tokio::test]
async fn secrets_of_an_ordinary_user_are_out_of_reach() {
    let Some(stage) = stage(2).await else { return };
    crate::clean::secrets_are_out_of_reach(&stage).await;
}

#[tokio::test]
async fn a_job_of_an_ordinary_user_cannot_command() {
    let Some(stage) = stage(1).await else { return };
    crate::clean::a_job_cannot_command(&stage).await;
}

#[tokio::test]
async fn a_killed_runner_of_an_ordinary_user_leaves_nothing_alive() {
    let Some(mut stage) = stage(1).await else { return };
    crate::robust::a_killed_runner_leaves_nothing_alive(&mut stage).await;
}

#[tokio::test]
async fn jobs_of_an_ordinary_user_are_traced_with_names() {
    let Some(stage) = stage(1).await else { return };
    crate::traces::a_c_job_is_traced(&stage).await;
    crate::traces::a_node_job_is_traced(&stage).await;
}

#[tokio::test]
async fn hangs_of_an_ordinary_user_are_named() {
    let Some(stage) = stage(1).await else { return };
    crate::traces::hangs_are_named(&stage).await;
}

#[tokio::test]
async fn an_ordinary_user_is_told_why_system_calls_are_not_counted() {
    let Some(stage) = stage(1).await else { return };
    crate::syscalls::who_may_not_count_is_told(&stage).await;
}
