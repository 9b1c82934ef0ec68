//! Real projects give what the same commands give by hand.

use std::path::Path;
use std::process::{Command, Stdio};

use ntrace_e2e::zones::Zones;
use ntrace_e2e::{Repo, Setup, Stage, skip};
use ntrace_protocol::{Exit, JobState};
use serde_json::{Value, json};

fn has(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        skip(&format!("there is no {tool} here"));
    }
    has
}

/// What a command gives by hand, in a fresh clone.
fn by_hand(repo: &Path, commit: &str, command: &str) -> (Option<i32>, String) {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let clone = Command::new("git")
        .args(["-c", "safe.directory=*", "clone", "-q", "--no-checkout"])
        .args([repo, &tree])
        .status()
        .unwrap();
    assert!(clone.success());
    ntrace_e2e::git::git(&tree, ["checkout", "-q"], Some(commit));
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(&tree)
        .env("CI", "true")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

/// Lines that do not tell times or places.
fn steady(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.contains("finished in")).collect()
}

async fn same_as_by_hand(
    stage: &Stage,
    repo: &Repo,
    commit: &str,
    command: &str,
) -> Option<i32> {
    let id = stage.push(repo, commit, Value::Null).await;
    let job = stage.finished(id).await;
    let output = stage.output(id).await;
    let (status, text) = by_hand(repo.bare(), commit, command);
    let found = match &job.exit {
        Some(Exit::Code { code }) => Some(i32::from(*code)),
        _ => None,
    };
    assert_eq!(
        found,
        status,
        "{job:?}\n{}\n{}",
        output.text(),
        output.errors()
    );
    let both = output.text();
    for line in steady(&text) {
        assert!(
            both.contains(line),
            "by hand it says {line:?}; the job said\n{both}"
        );
    }
    status
}

#[tokio::test]
async fn a_project_in_c_with_a_makefile() {
    if !has("make") || !has("cc") {
        return;
    }
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("gnu", "adder");
    repo.write(
        "Makefile",
        "CFLAGS = -O2 -Wall\nall: test-add\ntest-add: add.o test.o\n\t\
         $(CC) -o $@ add.o test.o\n.PHONY: check clean\ncheck: test-add\n\t\
         ./test-add\nclean:\n\trm -f *.o test-add\n",
    )
    .write("add.c", "int add(int a, int b) { return a + b; }\n")
    .write(
        "test.c",
        "#include <stdio.h>\nint add(int, int);\nint main(void) {\n  \
         printf(\"2 + 2 = %d\\n\", add(2, 2));\n  return add(2, 2) != 4;\n}\n",
    );
    let good = repo.commit();
    let status = same_as_by_hand(&stage, &repo, &good, "make check").await;
    assert_eq!(status, Some(0));
    repo.write("add.c", "int add(int a, int b) { return a - b; }\n");
    let bad = repo.commit();
    let status = same_as_by_hand(&stage, &repo, &bad, "make check").await;
    assert_eq!(status, Some(2), "make says that a recipe failed");
}

#[tokio::test]
async fn a_node_package_with_a_dependency_and_tests() {
    if !has("node") || !has("npm") {
        return;
    }
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("dscape", "shout");
    repo.write(
        "package.json",
        r#"{"name":"shout","version":"1.0.0","license":"MIT",
"scripts":{"test":"node test.js"},"dependencies":{"loud":"file:./loud"}}"#,
    )
    .write("loud/package.json", r#"{"name":"loud","version":"2.0.0"}"#)
    .write("loud/index.js", "module.exports = (s) => s.toUpperCase() + '!';\n")
    .write(
        "test.js",
        "const assert = require('assert');\nconst loud = require('loud');\n\
         assert.strictEqual(loud('hello'), 'HELLO!');\n\
         console.log('ok', loud('node'), process.env.NTRACE === undefined \
         ? '' : '');\n",
    )
    .write(".gitignore", "node_modules\n");
    let locked = Command::new("npm")
        .args(["install", "--package-lock-only", "--offline", "--no-audit"])
        .current_dir(repo.work())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(locked.status.success(), "{locked:?}");
    let good = repo.commit();
    let hand = "npm ci --offline >&2 && npm test";
    let status = same_as_by_hand(&stage, &repo, &good, hand).await;
    assert_eq!(status, Some(0));
    repo.write("loud/index.js", "module.exports = (s) => s;\n");
    let bad = repo.commit();
    assert_eq!(same_as_by_hand(&stage, &repo, &bad, hand).await, Some(1));
}

/// The manifest of a worker that has the Rust toolchain of this machine.
fn with_rust() -> Option<Value> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let Ok(output) = output else {
        skip("there is no rustc here");
        return None;
    };
    let sysroot = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    if !Path::new(&sysroot).join("bin/cargo").is_file() {
        skip("cargo does not lie beside rustc");
        return None;
    }
    let mut manifest = Zones::manifest();
    if !sysroot.starts_with("/usr") {
        manifest["filesystems"] = json!([{
            "type": "lofs", "source": sysroot, "target": "/opt/rust",
            "options": ["ro", "nodevices"],
        }]);
    }
    Some(manifest)
}

#[tokio::test]
async fn a_rust_crate_with_tests() {
    let Some(manifest) = with_rust() else { return };
    if !has("cc") {
        return;
    }
    let stage = Stage::start(Setup::workers(1).manifest(manifest)).await;
    let repo = stage.repos.make("rust", "adder");
    repo.write(
        "Cargo.toml",
        "[package]\nname = \"adder\"\nversion = \"0.1.0\"\nedition = \
         \"2021\"\n",
    )
    .write(
        "Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"adder\"\nversion = \"0.1.0\"\n",
    )
    .write(
        "src/lib.rs",
        "pub fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n\n#[test]\nfn \
         two_and_two() {\n    assert_eq!(add(2, 2), 4);\n}\n",
    );
    let good = repo.commit();
    let hand = "cargo test --offline";
    let status = same_as_by_hand(&stage, &repo, &good, hand).await;
    assert_eq!(status, Some(0));
    repo.write(
        "src/lib.rs",
        "#[test]\nfn two_and_two() {\n    assert_eq!(2 + 2, 5);\n}\n",
    );
    let id = stage.push(&repo, &repo.commit(), Value::Null).await;
    let job = stage.finished(id).await;
    assert_eq!(job.exit, Some(Exit::Code { code: 101 }), "{job:?}");
    assert!(stage.output(id).await.text().contains("two_and_two ... FAILED"));
}

/// Repositories given by whoever runs the tests: below the directory
/// `NTRACE_E2E_REPOS`, `{owner}/{repo}.git`, with a file `list` whose lines
/// are `owner repo commit command`; the command by hand must give the same
/// status as the job does. A command after `=` is also what the push asks
/// for; without it the job runs what the tree's recipe says.
#[tokio::test]
async fn given_repositories_give_what_they_give_by_hand() {
    let Some(root) = std::env::var_os("NTRACE_E2E_REPOS") else {
        return skip("NTRACE_E2E_REPOS names no directory of repositories");
    };
    let root = Path::new(&root).canonicalize().unwrap();
    let list = std::fs::read_to_string(root.join("list")).unwrap();
    let template = format!("file://{}/{{owner}}/{{repo}}.git", root.display());
    let manifest = with_rust().unwrap_or_else(Zones::manifest);
    let setup = Setup::workers(1)
        .manifest(manifest)
        .runner_args(&["--source", &template]);
    let stage = Stage::start(setup).await;
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let [owner, repo, commit, command] =
            line.splitn(4, ' ').collect::<Vec<_>>()[..]
        else {
            panic!("not owner repo commit command: {line}");
        };
        let (command, options) = match command.strip_prefix('=') {
            Some(run) => (run, json!({ "run": run })),
            None => (command, json!({})),
        };
        let args = [json!(owner), json!(repo), json!(commit), options];
        let id = stage.ask("push", &args).await.unwrap()[0].clone();
        let id = id.as_str().unwrap().parse().unwrap();
        let job = stage.finished(id).await;
        let bare = root.join(owner).join(format!("{repo}.git"));
        let (status, _) = by_hand(&bare, commit, command);
        let found = match &job.exit {
            Some(Exit::Code { code }) => Some(i32::from(*code)),
            _ => None,
        };
        let output = stage.output(id).await;
        assert_eq!(
            found,
            status,
            "{line}\n{job:?}\n{}\n{}",
            output.text(),
            output.errors()
        );
        assert_eq!(job.state == JobState::Done, status == Some(0));
    }
}
