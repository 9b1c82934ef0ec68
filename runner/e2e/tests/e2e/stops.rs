//! A stop that asks for evidence: what a job was doing is seen first, told in
//! the record and kept as files.

use std::net::TcpListener;
use std::time::Duration;

use ntrace_client::StopOptions;
use ntrace_e2e::proxy::Way;
use ntrace_e2e::{Repo, Setup, Stage, leftovers};
use ntrace_protocol::{JobId, JobState, JobView, Reason};
use serde_json::{Value, json};

use crate::traces::{artefact, evidence, has};

const DEADLOCK: &str = r#"
#include <pthread.h>
#include <stdio.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
__attribute__((noinline)) static void *take_it_again(void *arg) {
    puts("locked");
    fflush(stdout);
    pthread_mutex_lock(&lock);
    puts("never");
    return arg;
}
int main(void) {
    pthread_t thread;
    pthread_mutex_lock(&lock);
    pthread_create(&thread, 0, take_it_again, 0);
    pthread_join(thread, 0);
    return 0;
}
"#;

fn recipe(repo: &Repo, setup: &str, run: &str) -> String {
    let text = format!("[job]\nsetup = \"{setup}\"\nrun = \"{run}\"\n");
    repo.write(".ntrace.toml", text).commit()
}

async fn stopped(stage: &Stage, id: JobId) -> JobView {
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Stopped, "{job:?}");
    assert_eq!(job.reason, Some(Reason::Stopped), "{job:?}");
    job
}

/// The sentence of the evidence, which is in the record as well.
async fn sentence(stage: &Stage, id: JobId) -> String {
    let job = stage.status(id).await;
    let output = stage.output(id).await;
    let sentence = evidence(stage, id, &output).await;
    let notes = &job.runs[0].notes;
    assert!(notes.iter().any(|n| n.contains(&sentence)), "{notes:?}");
    sentence
}

async fn text(stage: &Stage, id: JobId, name: &str) -> String {
    let bytes = artefact(stage, id, name).await;
    String::from_utf8(bytes.expect("it is kept")).unwrap()
}

#[tokio::test]
async fn a_stop_with_evidence_outlives_the_dispatcher_and_names_the_lock() {
    let setup =
        Setup::workers(2).proxied().dispatcher_args(&["--lease", "60s"]);
    let mut stage = Stage::start(setup).await;
    if !has("cc") {
        return;
    }
    let repo = stage.repos.make("dscape", "locked");
    repo.write("a.c", DEADLOCK);
    let commit = recipe(&repo, "cc -O2 -g -pthread a.c -o prog", "./prog");
    let locked = stage.push(&repo, &commit, Value::Null).await;
    let spins = "echo spins; while :; do :; done";
    let spins = stage.submit(spins, Value::Null).await;
    stage.says(locked, "locked").await;
    stage.says(spins, "spins").await;
    // The runner cannot hear of it before the dispatcher has gone and come
    // back.
    stage.proxy().set(Way::Cut);
    let client = stage.client().await;
    let order = StopOptions::default().with_evidence();
    for id in [locked, spins] {
        client.stop(&id.to_string(), order).await.unwrap();
    }
    stage.kill_dispatcher();
    stage.restart_dispatcher();
    stage.proxy().set(Way::Open);

    stopped(&stage, locked).await;
    let said = sentence(&stage, locked).await;
    for word in ["(prog)", "waits", "take_it_again"] {
        assert!(said.contains(word), "{said}");
    }
    let stacks = text(&stage, locked, "evidence/stacks.txt").await;
    assert!(stacks.contains("take_it_again"), "{stacks}");
    let chain = stage.client().await.why(&locked.to_string()).await.unwrap();
    let has_step = |words: &str| chain.iter().any(|s| s.text.contains(words));
    assert!(has_step("its end was asked for, with evidence"), "{chain:?}");
    assert!(has_step("evidence: pid"), "{chain:?}");

    stopped(&stage, spins).await;
    let said = sentence(&stage, spins).await;
    assert!(said.contains("(sh) runs"), "{said}");
    let last = text(&stage, spins, "evidence/last-seconds.folded").await;
    assert!(last.contains("sh;"), "{last}");
}

#[tokio::test]
async fn a_set_up_that_hangs_is_looked_at_as_a_command_is() {
    let stage = Stage::start(Setup::workers(2)).await;
    let repo = stage.repos.make("dscape", "hung");
    let hung = "echo hung; sleep 83.5";
    let commit = recipe(&repo, hung, "true");
    let quiet = json!({"limits": {"silence": "1s"}});
    let asked = stage.push(&repo, &commit, Value::Null).await;
    let quiet = stage.push(&repo, &commit, quiet).await;
    stage.says(asked, "hung").await;
    let order = StopOptions::default().with_evidence();
    let client = stage.client().await;
    client.stop(&asked.to_string(), order).await.unwrap();
    stopped(&stage, asked).await;
    let job = stage.finished(quiet).await;
    assert_eq!(job.reason, Some(Reason::Silence), "{job:?}");
    for id in [asked, quiet] {
        let said = sentence(&stage, id).await;
        assert!(said.contains("(sleep) waits"), "{said}");
        let tree = text(&stage, id, "evidence/processes.txt").await;
        assert!(tree.contains("sleep 83.5"), "{tree}");
    }
}

#[tokio::test]
async fn what_ignores_term_is_seen_though_it_is_asked_for_only_then() {
    // Whoever fetches from here waits for an answer that never comes.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let source = format!("http://127.0.0.1:{port}/{{owner}}/{{repo}}");
    let setup = Setup::workers(2).runner_args(&["--source", &source]);
    let stage = Stage::start(setup).await;
    let client = stage.client().await;

    // Nothing of this one has begun.
    let commit = "c".repeat(40);
    let repo = stage.repos.make("dscape", "nano");
    let options = json!({"run": "true"});
    let fetched = stage.push(&repo, &commit, options).await;
    stage.reaches(fetched, JobState::Preparing).await;
    let order = StopOptions::default().with_evidence();
    client.stop(&fetched.to_string(), order).await.unwrap();
    let job = stopped(&stage, fetched).await;
    let notes = &job.runs[0].notes;
    let nothing = "evidence: there was nothing to look at: no process";
    assert!(notes.iter().any(|note| note.contains(nothing)), "{notes:?}");

    // This one is asked to end, does not listen, and is then to be seen.
    let stubborn = "trap '' TERM; echo ready; sleep 84.5; sleep 84.5";
    let stubborn = stage.submit(stubborn, Value::Null).await;
    stage.says(stubborn, "ready").await;
    let id = stubborn.to_string();
    let long = StopOptions::within(Duration::from_secs(600));
    client.stop(&id, long).await.unwrap();
    let soon = StopOptions::within(Duration::from_millis(10));
    client.stop(&id, soon.with_evidence()).await.unwrap();
    let job = stopped(&stage, stubborn).await;
    let tree = text(&stage, stubborn, "evidence/processes.txt").await;
    assert!(tree.contains("sleep 84.5"), "{tree} {job:?}");
    assert!(sentence(&stage, stubborn).await.contains("(sleep) waits"));
    assert!(leftovers::with_word("sleep 84.5").is_empty());
}
