//! `scripts/quickstart.sh`, as a newcomer runs it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ntrace_e2e::programs::Programs;
use ntrace_e2e::{Who, eventually, is_root, leftovers, skip};
use tempfile::TempDir;

/// A quickstart may build what was not built yet.
const PATIENCE: Duration = Duration::from_secs(600);

/// A clone with the scripts and what they read, and the built programs where
/// the script looks for them. `cargo` is a stand-in that builds nothing: the
/// programs under test are those that were built with the test, and other
/// users cannot write to this target directory.
struct Clone {
    dir: TempDir,
    who: Who,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

impl Clone {
    fn new(who: Who) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("nq")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let at = |name: &str| dir.path().join(name);
        copy_tree(&root().join("scripts"), &at("scripts"));
        copy_tree(&root().join("manifests"), &at("manifests"));
        let programs = Programs::built().for_everybody(dir.path());
        fs::create_dir(at("target")).unwrap();
        std::os::unix::fs::symlink(programs.dir(), at("target/debug")).unwrap();
        fs::create_dir(at("tools")).unwrap();
        let cargo = "#!/bin/sh\n[ \"$1\" = build ]\n";
        fs::write(at("tools/cargo"), cargo).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(at("tools/cargo"), mode).unwrap();
        fs::create_dir(at("home")).unwrap();
        if let Who::Ordinary(id) = who {
            chown(at("home"), Some(id), Some(id)).unwrap();
        }
        Self { dir, who }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, words: &[&str]) -> Child {
        let path = format!(
            "{}:/usr/local/bin:/usr/bin:/bin",
            self.at("tools").display()
        );
        let mut command = Command::new(self.at("scripts/quickstart.sh"));
        command
            .arg("--dev")
            .args(words)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.at("home"))
            .env("NTRACE_QUICKSTART", self.at("home/qs"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Who::Ordinary(id) = self.who {
            command.uid(id).gid(id);
        }
        command.spawn().unwrap()
    }

    /// Nothing of it lives or lies about.
    fn is_clean(&self) {
        let home = self.at("home/qs");
        let began = std::time::Instant::now();
        loop {
            let left = leftovers::processes_of(&home);
            if left.is_empty() {
                break;
            }
            let patience = Duration::from_secs(60);
            assert!(began.elapsed() < patience, "still there: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let left: Vec<_> = fs::read_dir(&home)
            .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
        assert!(leftovers::mounts_of(&home).is_empty());
    }
}

/// Waits for its end; what it said, standard output first.
fn said(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn ends_well(child: Child) {
    let (code, out, errors) = said(child);
    assert_eq!(code, Some(0), "{out}\n{errors}");
    assert!(out.contains("checksum"), "the sample's output: {out}\n{errors}");
    assert!(errors.contains("done"), "the verdict: {errors}");
}

fn every_way(who: Who) {
    let clone = Clone::new(who);
    // Once, and again; then two at once.
    for _ in 0..2 {
        ends_well(clone.start(&[]));
        clone.is_clean();
    }
    let both = [clone.start(&[]), clone.start(&[])];
    both.into_iter().for_each(ends_well);
    clone.is_clean();
    // A repository of the user's own, and wrong words.
    let repo = clone.at("home/project");
    fs::create_dir(&repo).unwrap();
    fs::write(repo.join("Makefile"), "check:\n\t@echo by hand; exit 3\n")
        .unwrap();
    ntrace_e2e::git::git(&repo, ["init", "-q", "."], None::<&str>);
    ntrace_e2e::git::git(&repo, ["add", "-A"], None::<&str>);
    ntrace_e2e::git::git(&repo, ["commit", "-qm", "x"], None::<&str>);
    let path = repo.to_str().unwrap().to_owned();
    let (code, out, errors) = said(clone.start(&[&path]));
    assert_eq!(code, Some(1), "the job failed: {out}\n{errors}");
    assert!(out.contains("by hand"), "{out}\n{errors}");
    assert_eq!(said(clone.start(&["a", "b"])).0, Some(2));
    clone.is_clean();
    // One that was killed is cleared away by the next.
    let mut child = clone.start(&["--keep"]);
    let home = clone.at("home/qs");
    eventually("a job is pushed", PATIENCE, || {
        let runs = fs::read_dir(&home).ok()?.flatten();
        let mut pids = runs.map(|entry| entry.path().join("client.pid"));
        let is_ready = pids
            .any(|path| fs::read(path).is_ok_and(|pid| pid.ends_with(b"\n")));
        let has_ended = child.try_wait().unwrap().is_some();
        (is_ready || has_ended).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    ends_well(clone.start(&[]));
    clone.is_clean();
}

#[test]
fn it_works_as_the_present_user_again_and_again() {
    every_way(Who::Us);
}

#[test]
fn it_works_as_an_ordinary_user_again_and_again() {
    if !is_root() {
        return skip("the present user is an ordinary one already");
    }
    every_way(Who::NOBODY_ELSE);
}
