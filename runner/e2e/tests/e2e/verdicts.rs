//! How jobs end: each way is told apart, with its reason and its words.

use std::time::Duration;

use ntrace_client::StopOptions;
use ntrace_e2e::{Output, Repo, Setup, Stage};
use ntrace_protocol::{Exit, JobState, JobView, Reason};
use serde_json::{Value, json};

fn code(code: u8) -> Option<Exit> {
    Some(Exit::Code { code })
}

fn signal(name: &str) -> Option<Exit> {
    Some(Exit::Signal { signal: name.to_owned(), core: false })
}

/// The job failed for this reason, and its sentence has these words.
fn failed(job: &JobView, reason: Reason, words: &[&str]) {
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert_eq!(job.reason, Some(reason), "{job:?}");
    let sentence = job.sentence.as_deref().unwrap_or_default();
    for word in words {
        assert!(sentence.contains(word), "{word} is missing: {sentence}");
    }
}

fn has_event<'a>(output: &'a Output, name: &str) -> Option<&'a Value> {
    output.events.iter().find(|event| event["event"] == name)
}

fn sample(stage: &Stage) -> (Repo, String) {
    let repo = stage.repos.make("dscape", "nano");
    repo.write("README", "hello\n");
    let commit = repo.commit();
    (repo, commit)
}

#[tokio::test]
async fn a_command_is_judged_by_its_status_or_signal() {
    let stage = Stage::start(Setup::workers(2)).await;
    let (repo, commit) = sample(&stage);
    for (run, state, reason, exit) in [
        ("true", JobState::Done, None, code(0)),
        ("exit 3", JobState::Failed, Some(Reason::Exit), code(3)),
        ("exit 255", JobState::Failed, Some(Reason::Exit), code(255)),
        ("no-such-command", JobState::Failed, Some(Reason::Exit), code(127)),
        (
            "kill -SEGV $$",
            JobState::Failed,
            Some(Reason::Signal),
            signal("SIGSEGV"),
        ),
        (
            "kill -9 $$",
            JobState::Failed,
            Some(Reason::Signal),
            signal("SIGKILL"),
        ),
        (
            "kill -TERM $$",
            JobState::Failed,
            Some(Reason::Signal),
            signal("SIGTERM"),
        ),
        // A status that looks like a signal is none.
        ("exit 139", JobState::Failed, Some(Reason::Exit), code(139)),
    ] {
        let id = stage.push(&repo, &commit, json!({"run": run})).await;
        let job = stage.finished(id).await;
        assert_eq!(job.state, state, "{run}: {job:?}");
        assert_eq!(job.reason, reason, "{run}: {job:?}");
        assert_eq!(job.exit, exit, "{run}: {job:?}");
        assert_eq!(job.runs.len(), 1, "{run} ran once: {job:?}");
        let name = match &job.exit {
            Some(Exit::Signal { signal, .. }) => signal.clone(),
            Some(Exit::Code { code: 1.. }) if run.starts_with("exit") => {
                run.trim_start_matches("exit ").to_owned()
            }
            _ => continue,
        };
        let sentence = job.sentence.unwrap_or_default();
        assert!(sentence.contains(&name), "{run}: {sentence}");
    }
}

#[tokio::test]
async fn a_job_sees_its_tree_its_user_and_its_environment() {
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("dscape", "nano");
    repo.write("a/b.txt", "content\n")
        .program("run.sh", "#!/bin/sh\necho ran\n");
    std::os::unix::fs::symlink("a/b.txt", repo.work().join("link")).unwrap();
    repo.write(".gitattributes", "a export-ignore\n*.id export-subst\n")
        .write("x.id", "$Format:%H$\n");
    let commit = repo.commit();
    let run = "id -u; id -un; cat a/b.txt link x.id; ./run.sh; \
               echo \"$NTRACE $CI $NTRACE_COMMIT $EXTRA\"; pwd; echo $HOME; \
               case $PATH in \
               $PWD/node_modules/.bin:*) echo first;; esac; \
               umask; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'; \
               ls -A | sort | tr '\\n' ' '";
    let options = json!({
        "run": run, "env": {"EXTRA": "a 'b' \"c\" $(id) `id`\n;"},
    });
    let id = stage.push(&repo, &commit, options).await;
    let job = stage.finished(id).await;
    let output = stage.output(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?} {output:?}");
    let expected = format!(
        "1000\njob\ncontent\ncontent\n$Format:%H$\nran\n\
         true true {commit} a 'b' \"c\" $(id) `id`\n;\n\
         /home/job/work\n/home/job\nfirst\n0022\n\
         CapEff:\t0000000000000000\nNoNewPrivs:\t1\n\
         .gitattributes a link run.sh x.id "
    );
    assert_eq!(output.text(), expected, "{}", output.errors());
}

#[tokio::test]
async fn words_of_a_submitted_command_arrive_as_they_were_sent() {
    let stage = Stage::start(Setup::workers(1)).await;
    let words = [
        "$(id)",
        "`id`",
        "; id",
        "'",
        "\"",
        "\\",
        "a\nb",
        "",
        " ",
        "-n",
        "*",
        "\u{e9}\u{1f600}",
        "--",
        "~",
        "$HOME",
        "\u{1b}[2J",
    ];
    let mut argv = vec!["printf", "<%s>"];
    argv.extend(words);
    let answer = stage.ask("submit", &[json!({"argv": argv})]).await.unwrap();
    let id = answer[0].as_str().unwrap().parse().unwrap();
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let expected: String =
        words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(stage.output(id).await.text(), expected);
}

#[tokio::test]
async fn what_cannot_be_fetched_fails_with_the_words_of_git() {
    let stage = Stage::start(Setup::workers(1)).await;
    let (repo, _) = sample(&stage);
    let none = "d".repeat(40);
    let id = stage.push(&repo, &none, json!({"run": "true"})).await;
    let job = stage.finished(id).await;
    failed(&job, Reason::Source, &[&none]);
    let sentence = job.sentence.unwrap();
    let words = ["not our ref", "bad object", "did not send", "fatal"];
    assert!(words.iter().any(|word| sentence.contains(word)), "{sentence}");
    let mut missing = repo;
    missing.name = "missing".to_owned();
    let id = stage.push(&missing, &none, json!({"run": "true"})).await;
    let job = stage.finished(id).await;
    failed(&job, Reason::Source, &["missing"]);
    assert_eq!(job.runs.len(), 1, "it is not tried again: {job:?}");
}

#[tokio::test]
async fn a_recipe_that_is_missing_or_bad_says_what_to_do() {
    let stage = Stage::start(Setup::workers(1)).await;
    let (repo, commit) = sample(&stage);
    let id = stage.push(&repo, &commit, Value::Null).await;
    let job = stage.finished(id).await;
    failed(&job, Reason::Recipe, &[".ntrace.toml"]);
    repo.write(".ntrace.toml", "[job]\nrun = \"true\"\nrum = 5\n");
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    failed(&stage.finished(id).await, Reason::Recipe, &["rum"]);
    repo.write(".ntrace.toml", "[job\n");
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    failed(&stage.finished(id).await, Reason::Recipe, &[".ntrace.toml"]);
    repo.write(
        ".ntrace.toml",
        "[job]\nsetup = \"echo s; exit 4\"\nrun = \"true\"\n",
    );
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    let job = stage.finished(id).await;
    failed(&job, Reason::Setup, &["4"]);
    assert_eq!(job.exit, code(4), "{job:?}");
    assert_eq!(stage.output(id).await.text(), "s\n");
    repo.write(".ntrace.toml", "[job]\nsetup = \"echo s > made\"\nrun = \"cat made; echo $V\"\ntimeout = \"5m\"\n[job.env]\nV = \"toml\"\n");
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    assert_eq!(stage.finished(id).await.state, JobState::Done);
    assert_eq!(stage.output(id).await.text(), "s\ntoml\n");
}

#[tokio::test]
async fn limits_of_time_and_output_end_a_job_and_say_so() {
    let stage = Stage::start(Setup::workers(2)).await;
    let time = json!({"limits": {"time": "700ms"}});
    let silence = json!({"limits": {"silence": "700ms"}});
    let little = json!({"limits": {"output": 100_000}});
    let late = stage.submit("echo a; sleep 71.5 & wait", time).await;
    let quiet = stage.submit("echo a; sleep 72.5", silence.clone()).await;
    let loud = stage.submit("yes loud", little.clone()).await;
    let chatty = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done";
    let chatty = stage.submit(chatty, silence).await;
    let exact = stage.submit("head -c 100000 /dev/zero", little).await;

    let job = stage.finished(late).await;
    failed(&job, Reason::Timeout, &["700ms"]);
    let output = stage.output(late).await;
    assert_eq!(output.text(), "a\n");
    let evidence = has_event(&output, "evidence").expect("evidence first");
    assert!(evidence.to_string().contains("71.5"), "{evidence}");

    let job = stage.finished(quiet).await;
    failed(&job, Reason::Silence, &["700ms"]);
    assert!(has_event(&stage.output(quiet).await, "evidence").is_some());
    assert_eq!(stage.finished(chatty).await.state, JobState::Done);

    let job = stage.finished(loud).await;
    failed(&job, Reason::OutputLimit, &["100000"]);
    let output = stage.output(loud).await;
    assert_eq!(output.stdout, b"loud\n".repeat(20_000));
    let gap = has_event(&output, "gap").expect("what is missing is told");
    assert_eq!(gap["stream"], "stdout");
    assert!(gap["bytes"].as_u64().unwrap() > 0, "{gap}");

    let job = stage.finished(exact).await;
    assert_eq!(job.state, JobState::Done, "the limit itself is fine: {job:?}");
    assert_eq!(stage.output(exact).await.stdout, vec![0; 100_000]);
}

/// Either the limit holds, or the job was refused because it cannot.
fn refused(job: &JobView, name: &str) -> bool {
    let sentence = job.sentence.as_deref().unwrap_or_default();
    let is_refused = job.reason == Some(Reason::Recipe);
    if is_refused {
        assert!(sentence.contains(name), "{job:?}");
        assert!(sentence.contains("cannot be limited"), "{job:?}");
        eprintln!("refused here: {sentence}");
    }
    is_refused
}

/// Whether the record names a weaker means for a limit.
fn weaker(output: &Output, name: &str) -> bool {
    let word = format!("{name} is limited by ");
    output.events.iter().any(|event| {
        event["text"].as_str().is_some_and(|text| text.starts_with(&word))
    })
}

pub(crate) async fn limits_of_the_place_hold(stage: &Stage) {
    let memory = json!({"limits": {"memory": "64MiB", "time": "1m"}});
    let (job, _) =
        stage.run("head -c 600m /dev/zero | tail >/dev/null", memory).await;
    if !refused(&job, "memory") {
        let is_done = job.state == JobState::Done;
        if is_done {
            panic!("600 MiB fit into 64: {job:?}");
        }
        failed(&job, Reason::Oom, &["memory"]);
    }
    let pids = json!({"limits": {"pids": 30, "time": "1m"}});
    let fork = "i=0; while [ $i -lt 100 ]; do sleep 30 & i=$((i+1)); done; \
                echo all; exit 1";
    let (job, output) = stage.run(fork, pids).await;
    if !refused(&job, "pids") {
        // Where no cgroup counts, the command's own failure must do.
        match job.reason {
            Some(Reason::Exit) if weaker(&output, "pids") => {}
            _ => failed(&job, Reason::ProcessLimit, &["processes"]),
        }
        assert_eq!(output.text(), "", "100 processes fit into 30");
    }
    let cpus = json!({"limits": {"cpus": 0.3, "time": "1m"}});
    let (job, _) =
        stage.run("timeout 3 sh -c 'while :; do :; done'", cpus).await;
    if !refused(&job, "cpus") {
        let usage = job.runs[0].usage.clone().unwrap();
        let (cpu, wall) = (usage.cpu_ms.unwrap(), usage.wall_ms.unwrap());
        assert!(cpu * 2 < wall, "{cpu} ms of {wall} with 0.3 cpus");
    }
    let disk = json!({"limits": {"disk": "1GiB", "time": "1m"}});
    let fill = "fallocate -l 1500M big && sleep 60";
    let (job, _) = stage.run(fill, disk).await;
    if !refused(&job, "disk") {
        failed(&job, Reason::DiskFull, &["disk"]);
    }
    // The next one has none of these limits, and none of their marks.
    let (job, output) = stage
        .run("head -c 100m /dev/zero | tail | wc -c; echo fine", Value::Null)
        .await;
    assert_eq!(job.state, JobState::Done, "{job:?} {}", output.errors());
    assert_eq!(output.text(), "104857600\nfine\n");
}

#[tokio::test]
async fn limits_of_the_place_are_enforced_or_refused() {
    let stage = Stage::start(Setup::workers(1)).await;
    limits_of_the_place_hold(&stage).await;
    if ntrace_e2e::is_root() {
        let job = stage.run("true", json!({"limits": {"pids": 50}})).await.0;
        assert_eq!(job.state, JobState::Done, "{job:?}");
    }
}

#[tokio::test]
async fn what_a_worker_or_runner_cannot_give_is_refused() {
    let setup = Setup::workers(1).runner_args(&["--most", "time=1h"]);
    let stage = Stage::start(setup).await;
    for (limits, word) in [
        (json!({"memory": "1TiB"}), "memory"),
        (json!({"pids": 1_000_000}), "pids"),
        (json!({"disk": "100TiB"}), "disk"),
        (json!({"time": "2h"}), "time"),
    ] {
        let (job, _) = stage.run("true", json!({"limits": limits})).await;
        failed(&job, Reason::Recipe, &[word]);
    }
}

#[tokio::test]
async fn a_stop_is_asked_for_first_and_enforced_then() {
    let stage = Stage::start(Setup::workers(2)).await;
    let client = stage.client().await;
    let kind = "trap 'echo bye; exit 7' TERM; echo ready; \
                while :; do sleep 0.05; done";
    let stubborn = "trap '' TERM; echo ready; sleep 73.5";
    let kind = stage.submit(kind, Value::Null).await;
    let stubborn = stage.submit(stubborn, Value::Null).await;
    for job in [kind, stubborn] {
        stage.says(job, "ready").await;
    }
    let plain = StopOptions::default();
    client.stop(&kind.to_string(), plain).await.unwrap();
    let job = stage.finished(kind).await;
    assert_eq!(job.state, JobState::Stopped, "{job:?}");
    assert_eq!(job.reason, Some(Reason::Stopped));
    assert_eq!(stage.output(kind).await.text(), "ready\nbye\n");

    let grace = StopOptions::within(Duration::from_millis(300));
    client.stop(&stubborn.to_string(), grace).await.unwrap();
    let job = stage.finished(stubborn).await;
    assert_eq!(job.state, JobState::Stopped, "{job:?}");
    assert!(ntrace_e2e::leftovers::with_word("sleep 73.5").is_empty());
    // Stopping what has ended changes nothing.
    let again = client.stop(&stubborn.to_string(), plain).await.unwrap();
    assert_eq!(again.ended, job.ended);
}

#[tokio::test]
async fn a_queued_job_stops_at_once_and_never_runs() {
    let stage = Stage::start(Setup::workers(1)).await;
    let first = stage.submit("echo up; sleep 74.5", Value::Null).await;
    stage.says(first, "up").await;
    let second = stage.submit("echo never", Value::Null).await;
    let job = stage.status(second).await;
    assert_eq!((job.state, job.position), (JobState::Queued, Some(1)));
    let client = stage.client().await;
    let plain = StopOptions::default();
    client.stop(&second.to_string(), plain).await.unwrap();
    let job = stage.finished(second).await;
    assert_eq!(job.state, JobState::Stopped);
    assert!(job.runs.is_empty(), "{job:?}");
    let none = StopOptions::within(Duration::ZERO);
    client.stop(&first.to_string(), none).await.unwrap();
    assert_eq!(stage.finished(first).await.state, JobState::Stopped);
    let (job, _) = stage.run("echo next", Value::Null).await;
    assert_eq!(job.state, JobState::Done);
}

#[tokio::test]
async fn artefacts_come_back_whole() {
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("dscape", "nano");
    repo.write(
        ".ntrace.toml",
        "[job]\nrun = \"mkdir -p out/x; head -c 3000000 /dev/urandom > \
         out/x/big; ln -s /etc/passwd out/link; echo small > out/s; \
         sha256sum out/x/big; mkdir trace; echo forged > trace/cpu.pb.gz; \
         exit 1\"\nartefacts = [\"out/**\", \"trace/*\"]\n",
    );
    let parent = repo.commit();
    repo.write("README", "changed\n");
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    let job = stage.finished(id).await;
    failed(&job, Reason::Exit, &[]);
    let run = job.runs.last().unwrap();
    let parents: Vec<_> = run.parents.iter().map(|p| p.as_str()).collect();
    assert_eq!(parents, [parent], "{run:?}");
    let left_out = |note: &String| note.contains("\"trace/cpu.pb.gz\" is left");
    assert!(run.notes.iter().any(left_out), "{run:?}");
    let sum = stage.output(id).await.text();
    let client = stage.client().await;
    let found = client.artefacts(&id.to_string()).await.unwrap();
    let mut names: Vec<_> = found.iter().map(|a| a.name.as_str()).collect();
    // What the runner itself leaves is another matter.
    let mine = crate::sha256(b"forged\n");
    assert!(found.iter().all(|a| a.sha256 != mine), "{found:?}");
    names.retain(|name| !ntrace_protocol::trace::is_reserved(name));
    names.sort_unstable();
    assert_eq!(names, ["out/s", "out/x/big"], "a link is no artefact");
    let big = found.iter().find(|a| a.name == "out/x/big").unwrap();
    assert!(sum.starts_with(&big.sha256), "{sum} {big:?}");
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len() as u64;
        let piece = client.blob_get(&big.id.to_string(), at, 500_000).await;
        let (piece, is_last) = piece.unwrap();
        bytes.extend(piece);
        if is_last {
            break;
        }
    }
    assert_eq!(bytes.len() as u64, big.bytes);
    assert_eq!(crate::sha256(&bytes), big.sha256);
    client.remove(&id.to_string()).await.unwrap();
    assert!(client.blob_get(&big.id.to_string(), 0, 1).await.is_err());
}
