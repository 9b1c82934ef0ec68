//! `ntrace-runner check` names what is missing, and the command that it
//! gives mends it.

use std::path::Path;
use std::process::Command;

use ntrace_e2e::process::command;
use ntrace_e2e::{
    DEADLINE, Setup, Stage, Who, eventually, is_root, skip, until,
};
use ntrace_protocol::WorkerState;
use serde_json::Value;

/// What a check said.
#[derive(Debug)]
pub(crate) struct Said {
    status: i32,
    checks: Vec<Value>,
}

impl Said {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text}\n{errors}"));
        let checks = json["checks"].as_array().unwrap().clone();
        let failed = checks.iter().any(|one| one["state"] == "fail");
        assert_eq!(json["ok"], !failed);
        let status = output.status.code().unwrap();
        assert_eq!(status, i32::from(failed), "{text}");
        Self { status, checks }
    }

    pub(crate) fn state(&self, need: &str) -> &str {
        self.one(need)["state"].as_str().unwrap()
    }

    /// The worst of a need.
    fn one(&self, need: &str) -> &Value {
        let mut all: Vec<_> =
            self.checks.iter().filter(|one| one["need"] == need).collect();
        all.sort_by_key(|one| match one["state"].as_str().unwrap() {
            "fail" => 0,
            "warn" => 1,
            _ => 2,
        });
        all.first().unwrap_or_else(|| panic!("no {need} in {self:#?}"))
    }

    pub(crate) fn failed(&self) -> Vec<&str> {
        let failed = self.checks.iter().filter(|one| one["state"] == "fail");
        failed.map(|one| one["need"].as_str().unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn fails_only(&self, need: &str, says: &str) -> String {
        assert_eq!(self.failed(), [need], "{self:#?}");
        assert_eq!(self.status, 1);
        let one = self.one(need);
        let text = one["says"].as_str().unwrap();
        assert!(text.contains(says), "{one:#}");
        one["mend"].as_str().expect("what fails is mended").to_owned()
    }
}

/// A check of a stage's runner, by its flags; `more` goes before them.
fn checker(stage: &Stage, more: &[&str]) -> Command {
    let runner = stage.programs().path("ntrace-runner");
    let mut check = command(&runner, &stage.env(), Who::Us);
    check.args(["check", "--json"]).args(more);
    let dispatcher = format!("127.0.0.1:{}", stage.dispatcher_port());
    let listen = format!("127.0.0.1:{}", stage.runner_port());
    let data = stage.path().join("r/data");
    for (flag, value) in [
        ("--patience", "60s"),
        ("--data", data.to_str().unwrap()),
        ("--dispatcher", &dispatcher),
        ("--listen", &listen),
        ("--source", &stage.repos.template()),
    ] {
        if !more.contains(&flag) {
            check.args([flag, value]);
        }
    }
    check
}

pub(crate) fn check(stage: &Stage, more: &[&str]) -> Said {
    Said::of(checker(stage, more))
}

/// Runs a command that a check gave, as a person would who copies it.
fn mend(stage: &Stage, mend: &str) {
    let command_line = mend.split("   (").next().unwrap();
    let mut shell = command(Path::new("/bin/sh"), &stage.env(), Who::Us);
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        stage.programs().dir().display()
    );
    let output =
        shell.args(["-c", command_line]).env("PATH", path).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command_line}: {errors}");
}

async fn is_available(stage: &Stage) {
    let control = stage.control().await;
    until("the worker is available", async || {
        let views = control.workers().await.ok()?;
        let is = |view: &ntrace_protocol::worker::WorkerView| {
            view.state == WorkerState::Available
        };
        views.iter().all(is).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_runner_at_work_is_found_well_and_not_disturbed() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    is_available(&stage).await;
    stage.repos.make("dscape", "nano").commit();
    let control = stage.control().await;
    let before = control.workers().await.unwrap();
    let said = check(&stage, &["--repository", "dscape/nano"]);
    assert_eq!(said.failed(), [""; 0], "{said:#?}");
    for need in [
        "settings",
        "data",
        "disk",
        "control",
        "git",
        "source",
        "dispatcher",
        "clock",
        "global-zone",
        "vmadm",
        "worker",
        "zlogin",
        "tracer",
    ] {
        assert_ne!(said.state(need), "fail", "{need}");
    }
    for need in ["git", "source", "dispatcher", "clock", "zlogin"] {
        assert_eq!(said.state(need), "ok", "{need}");
    }
    let text = said.one("control")["says"].as_str().unwrap();
    assert!(text.contains("at work"), "{text}");
    // Nothing was rolled back, and the next job runs.
    assert_eq!(control.workers().await.unwrap(), before);
    let job = stage.submit("echo well", Value::Null).await;
    stage.finished(job).await;
    assert!(stage.runner().ended().is_none());
}

#[tokio::test]
async fn a_missing_vm_and_a_missing_snapshot_are_named_and_mended() {
    let mut stage = Stage::start(Setup::workers(1)).await;
    is_available(&stage).await;
    let none = "00000000-1111-4222-8333-444455556666";
    let said = check(&stage, &["--worker", none]);
    let way_out = said.fails_only("worker", "no such VM");
    assert!(way_out.contains(none), "{way_out}");

    let uuid = stage.workers[0].clone();
    stage.kill_runner();
    // Its zones die with it, within a moment.
    eventually("the zone is down", DEADLINE, || {
        (stage.zones.get(&uuid)["state"] == "stopped").then_some(())
    });
    stage.zones.must(&["delete-snapshot", &uuid, "clean"], "");
    let said = check(&stage, &[]);
    let way_out = said.fails_only("worker", "no snapshot clean");
    mend(&stage, &way_out);
    let said = check(&stage, &[]);
    assert_eq!(said.failed(), [""; 0], "{said:#?}");
    stage.start_runner();
    is_available(&stage).await;
}

#[tokio::test]
async fn a_dispatcher_that_is_away_or_hangs_is_told_apart() {
    let mut stage = Stage::start(Setup::workers(0)).await;
    stage.dispatcher().freeze();
    let said = check(&stage, &["--patience", "2s"]);
    stage.dispatcher().thaw();
    // On a busy machine other things may be late as well.
    let one = said.one("dispatcher");
    let text = one["says"].as_str().unwrap();
    assert!(text.contains("does not answer"), "{one:#}");
    let way_out = one["mend"].as_str().unwrap();
    assert!(way_out.contains("ntrace-tunnel"), "{way_out}");
    stage.kill_dispatcher();
    let said = check(&stage, &[]);
    let way_out = said.fails_only("dispatcher", "cannot connect");
    assert!(way_out.contains("tunnel.sh"), "{way_out}");
    stage.restart_dispatcher();
    let said = check(&stage, &[]);
    assert_eq!(said.failed(), [""; 0], "{said:#?}");
}

#[tokio::test]
async fn a_missing_git_and_a_missing_source_are_told() {
    let stage = Stage::start(Setup::workers(0)).await;
    let said = check(&stage, &["--repository", "no/body"]);
    said.fails_only("source", "no no/body");
    let away = format!("file://{}/{{owner}}/{{repo}}", "/nowhere/at/all");
    let said = check(&stage, &["--source", &away]);
    said.fails_only("source", "no directory /nowhere/at/all");
    let can = Command::new("unshare").args(["--mount", "true"]).status();
    if !is_root() || !can.is_ok_and(|status| status.success()) {
        skip("only root can take git away from one process");
        return;
    }
    // A mount namespace in which each git is a device without bytes.
    let inner = checker(&stage, &[]);
    let hide = "for git in /usr/bin/git /usr/local/bin/git; do \
                [ ! -e $git ] || mount --bind /dev/null $git; done; \
                exec \"$@\"";
    let mut hidden = Command::new("unshare");
    hidden
        .args(["--mount", "sh", "-ec", hide, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .envs(stage.env());
    let said = Said::of(hidden);
    assert_eq!(said.failed(), ["git", "source"], "{said:#?}");
    let text = said.one("git")["says"].as_str().unwrap();
    assert!(text.contains("not installed"), "{text}");
}

#[tokio::test]
async fn people_read_lines_and_wrong_usage_is_refused() {
    let stage = Stage::start(Setup::workers(0)).await;
    let runner = stage.programs().path("ntrace-runner");
    let run = |args: &[&str]| {
        command(&runner, &stage.env(), Who::Us).args(args).output().unwrap()
    };
    assert_eq!(run(&["check", "--patience", "soon"]).status.code(), Some(2));
    assert_eq!(run(&["check", "--no-such"]).status.code(), Some(2));
    let data = stage.path().join("r/data");
    let data = data.to_str().unwrap();
    let output = run(&["check", "--data", data, "--dispatcher", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("FAIL  dispatcher"));
    assert!(line.is_some(), "{text}");
    let line = lines.next().unwrap_or_default().trim();
    assert!(line.starts_with("-> "), "{text}");
}
