//! A tunnel with real autossh and sshd: jobs run through it in both
//! directions, and go on when it breaks. The books balance.

use ntrace_client::ListFilter;
use ntrace_e2e::{Setup, Stage, until};
use ntrace_protocol::report::LogRecord;
use ntrace_protocol::{JobId, JobState, JobView, RunView, Stream};
use ntrace_testbed::{Options, Sshd};
use serde_json::Value;

use crate::tunnel::{Plan, Tunnel, needs_autossh, port};

/// The lines that a job of this name writes.
const LINES: u32 = 60;

/// A job that counts on its own clock, then writes noise and its hash.
pub(crate) fn noisy(name: &str) -> String {
    format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo {name} $i; \
         sleep 0.01; done; head -c 200000 /dev/urandom > noise; \
         sha256sum < noise >&2; cat noise"
    )
}

/// What the run wrote, by its own hash: all of it, once.
fn is_whole(name: &str, records: &[&LogRecord]) {
    let of = |stream: Stream| -> Vec<u8> {
        let its = records.iter().filter(|record| record.stream == stream);
        its.flat_map(|record| record.data.as_bytes().to_vec()).collect()
    };
    let (out, err) = (of(Stream::Stdout), of(Stream::Stderr));
    let lines: String = (1..=LINES).map(|i| format!("{name} {i}\n")).collect();
    let noise = out.strip_prefix(lines.as_bytes());
    let noise = noise.unwrap_or_else(|| panic!("{name}: other lines"));
    assert_eq!(noise.len(), 200_000, "{name}");
    let digest = <sha2::Sha256 as sha2::Digest>::digest(noise);
    let hash: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let said = String::from_utf8(err).unwrap();
    assert!(said.starts_with(&hash), "{name}: {hash} is not {said}");
}

/// Each job is there once, is done, by one run; and that one's output is
/// whole. Answers how many runs began: a lease that was given into a link
/// that had just died is lost before anything of it is run.
pub(crate) async fn books_balance(
    stage: &Stage,
    jobs: &[(String, JobId)],
) -> usize {
    let mut runs = 0;
    for (name, id) in jobs {
        let job: JobView = stage.finished(*id).await;
        assert_eq!(job.state, JobState::Done, "{name}: {job:?}");
        let done: Vec<_> =
            job.runs.iter().filter(|run| run.state == "done").collect();
        assert_eq!(done.len(), 1, "{name}: {job:?}");
        let others = job.runs.iter().filter(|run| run.state != "lost").count();
        assert_eq!(others, 1, "{name}: {job:?}");
        let began = |run: &&RunView| run.times.contains_key("preparing");
        runs += job.runs.iter().filter(began).count();
        let output = stage.output(*id).await;
        let run_id = done[0].run_id;
        let its = output.records.iter().filter(|r| r.run_id == run_id);
        is_whole(name, &its.collect::<Vec<_>>());
    }
    let client = stage.client().await;
    let filter = ListFilter { limit: Some(500), ..<_>::default() };
    let listed = client.list(&filter).await.unwrap().jobs;
    assert_eq!(listed.len(), jobs.len());
    runs
}

pub(crate) async fn push(
    stage: &Stage,
    jobs: &mut Vec<(String, JobId)>,
    name: &str,
) -> JobId {
    let id = stage.submit(&noisy(name), Value::Null).await;
    jobs.push((name.to_owned(), id));
    id
}

/// Whether the runner's and the dispatcher's side say that the runner is
/// connected.
pub(crate) async fn sides(stage: &Stage) -> (bool, bool) {
    let status = stage.control().await.status().await.unwrap();
    let runners = stage.client().await.runners().await.unwrap();
    let at_dispatcher = runners.iter().any(|runner| runner.connected);
    (status["connected"] == true, at_dispatcher)
}

pub(crate) async fn both_are(stage: &Stage, connected: bool) {
    let what = format!("both sides say that connected is {connected}");
    until(&what, async || {
        let found = sides(stage).await;
        (found == (connected, connected)).then_some(())
    })
    .await;
}

/// Kills ssh so often, with jobs running and jobs pushed.
async fn a_killed_ssh_is_made_again(
    direction: &str,
    more: &[&str],
    kills: u32,
) {
    if !needs_autossh() {
        return;
    }
    let sshd = Sshd::start(Options::free());
    let near = port();
    let setup =
        Setup::workers(2).via(near).dispatcher_args(&["--lease", "90s"]);
    let stage = Stage::start(setup).await;
    let far = stage.dispatcher_port();
    let plan = Plan { direction, near, far, alive: 1, more, at: None };
    let tunnel = Tunnel::start(&sshd, &plan);
    both_are(&stage, true).await;
    let mut jobs = Vec::new();
    for round in 0..kills {
        let running = push(&stage, &mut jobs, &format!("a{round}")).await;
        stage.says(running, "0\n").await;
        let old = tunnel.kill_ssh();
        push(&stage, &mut jobs, &format!("b{round}")).await;
        push(&stage, &mut jobs, &format!("c{round}")).await;
        let new = tunnel.ssh(Some(old));
        assert_ne!(old, new);
        both_are(&stage, true).await;
    }
    // The lease is long: nothing may have been run twice.
    let runs = books_balance(&stage, &jobs).await;
    assert_eq!(runs, jobs.len());
}

#[tokio::test]
async fn from_the_runner_a_killed_ssh_is_made_again_and_nothing_is_lost() {
    a_killed_ssh_is_made_again("to-dispatcher", &[], 2).await;
}

#[tokio::test]
async fn from_the_laptop_a_killed_ssh_is_made_again_and_nothing_is_lost() {
    a_killed_ssh_is_made_again("to-runner", &[], 2).await;
}

#[tokio::test]
async fn without_autossh_the_loop_makes_it_again() {
    a_killed_ssh_is_made_again("to-dispatcher", &["--plain"], 1).await;
}

#[tokio::test]
async fn the_control_port_comes_along_with_the_way_to_the_runner() {
    if !needs_autossh() {
        return;
    }
    let sshd = Sshd::start(Options::free());
    let (near, control) = (port(), port());
    let stage = Stage::start(Setup::workers(0).via(near)).await;
    let far = stage.dispatcher_port();
    let both = format!("{control}:{}", stage.runner_port());
    let more = ["--control", both.as_str()];
    let direction = "to-runner";
    let plan = Plan { direction, near, far, alive: 1, more: &more, at: None };
    let _tunnel = Tunnel::start(&sshd, &plan);
    until("the runner answers through the tunnel", async || {
        let addr = format!("127.0.0.1:{control}");
        let runner = ntrace_client::RunnerControl::connect(&addr).await.ok()?;
        runner.status().await.ok().filter(|s| s["connected"] == true)
    })
    .await;
}

#[tokio::test]
async fn a_frozen_server_is_noticed_by_ssh_and_the_tunnel_made_again() {
    if !needs_autossh() {
        return;
    }
    let sshd = Sshd::start(Options::free());
    let near = port();
    let setup =
        Setup::workers(1).via(near).dispatcher_args(&["--lease", "90s"]);
    let stage = Stage::start(setup).await;
    let far = stage.dispatcher_port();
    let direction = "to-dispatcher";
    let plan = Plan { direction, near, far, alive: 1, more: &[], at: None };
    let tunnel = Tunnel::start(&sshd, &plan);
    both_are(&stage, true).await;
    let mut jobs = Vec::new();
    let running = push(&stage, &mut jobs, "a").await;
    stage.says(running, "a 5\n").await;
    let old = tunnel.ssh(None);
    sshd.freeze();
    push(&stage, &mut jobs, "b").await;
    // Three missing signs of life, and autossh has another ssh.
    tunnel.ssh(Some(old));
    sshd.thaw();
    both_are(&stage, true).await;
    assert_eq!(books_balance(&stage, &jobs).await, jobs.len());
}
