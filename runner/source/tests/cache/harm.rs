//! Damage, locks and foreign hands: nothing runs, and the next one mends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use crate::place::{Place, name, soon, unpacked};

#[tokio::test]
async fn a_mirror_of_garbage_is_set_aside_and_made_anew() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    let commit = made.commit();
    place.ensure(&commit).await.unwrap();
    let pack = place.mirror().join("objects/pack");
    for entry in fs::read_dir(&pack).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(path, "garbage").unwrap();
    }
    let tree = place.ensure(&commit).await.unwrap();
    assert_eq!(tree.read_file("a", 9).await.unwrap().unwrap(), b"x");
    let aside = place.dir.path().join("cache/mirrors/o/r.git.damaged");
    assert!(aside.exists());
}

#[tokio::test]
async fn a_mirror_that_is_no_repository_is_made_anew() {
    let place = Place::new();
    let made = place.repository("o", "r");
    let first = made.commit();
    let mirror = place.mirror();
    fs::create_dir_all(mirror.parent().unwrap()).unwrap();
    fs::create_dir_all(mirror.join("objects/pack")).unwrap();
    fs::write(mirror.join("packed-refs"), "garbage\n\0").unwrap();
    fs::write(mirror.join("shallow"), "garbage").unwrap();
    place.ensure(&first).await.unwrap();
}

#[tokio::test]
async fn damage_found_late_breaks_the_stream_and_is_mended_by_the_next() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    let commit = made.commit();
    let tree = place.ensure(&commit).await.unwrap();
    // The commit and its tree stay; the blob is lost.
    let mirror = format!("--git-dir={}", place.mirror().display());
    let git = |args: &[&str], stdin: Option<&[u8]>| {
        use std::io::Write as _;
        let mut child = Command::new("git")
            .arg(&mirror)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.unwrap_or_default()).unwrap();
        drop(pipe);
        child.wait_with_output().unwrap().stdout
    };
    let blob = git(&["rev-parse", &format!("{commit}:a")], None);
    let blob = String::from_utf8(blob).unwrap().trim().to_owned();
    let pack = place.mirror().join("objects/pack");
    let held: Vec<_> = fs::read_dir(&pack)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "pack"))
        .collect();
    let packed = fs::read(&held[0]).unwrap();
    fs::remove_dir_all(&pack).unwrap();
    fs::create_dir(&pack).unwrap();
    git(&["unpack-objects", "-q"], Some(&packed));
    let (dir, file) = blob.split_at(2);
    fs::remove_file(place.mirror().join("objects").join(dir).join(file))
        .unwrap();

    let mut archive = tree.archive(soon()).unwrap();
    let error = archive.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("git archive"), "{error}");
    let tree = place.ensure(&commit).await.unwrap();
    assert_eq!(unpacked(&tree).await[&b"a"[..]].1, b"x");
}

#[tokio::test]
async fn locks_of_a_killed_git_do_not_stop_the_next() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "1");
    let first = made.commit();
    place.ensure(&first).await.unwrap();
    made.write("a", "2");
    let second = made.commit();
    let mirror = place.mirror();
    for lock in [
        "shallow.lock",
        "HEAD.lock",
        "config.lock",
        "packed-refs.lock",
        &format!("refs/ntrace/{second}.lock"),
    ] {
        fs::write(mirror.join(lock), "").unwrap();
    }
    fs::write(mirror.join("objects/pack/tmp_pack_x"), "half").unwrap();
    place.ensure(&second).await.unwrap();
    assert!(!mirror.join("objects/pack/tmp_pack_x").exists());
}

#[tokio::test]
async fn hooks_and_configuration_of_the_source_do_not_run() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    let commit = made.commit();
    let sign = place.dir.path().join("sign");
    let evil = place.dir.path().join("evil");
    let text = format!("#!/bin/sh\ntouch {}\nexit 1\n", sign.display());
    fs::write(&evil, &text).unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&evil, mode.clone()).unwrap();
    let evil_path = evil.to_str().unwrap();
    for key in [
        "uploadpack.packObjectsHook",
        "core.fsmonitor",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "filter.evil.smudge",
        "core.pager",
    ] {
        made.git(&["config", key, evil_path]);
    }
    for hook in ["post-checkout", "reference-transaction", "pre-receive"] {
        let path = made.path.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, mode.clone()).unwrap();
    }
    let tree = place.ensure(&commit).await.unwrap();
    unpacked(&tree).await;
    assert!(!sign.exists());
}

#[tokio::test]
async fn a_repository_of_another_owner_is_read() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    let commit = made.commit();
    let done = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(&made.path)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if !done.success() {
        eprintln!("skipped: only root can give a repository away");
        return;
    }
    place.ensure(&commit).await.unwrap();
}

#[tokio::test]
async fn a_fetch_killed_at_any_moment_leaves_a_mirror_that_works() {
    let place = Place::new();
    let made = place.repository("o", "r");
    let mut killed = 0;
    for n in 0..25_u64 {
        for file in 0..20 {
            made.write(&format!("{file}"), format!("{n} {file}"));
        }
        let commit = made.commit();
        let deadline = Instant::now() + Duration::from_millis(1 + n);
        let name = name("o", "r");
        if place.cache.ensure(&name, &commit, deadline).await.is_err() {
            killed += 1;
        }
        let tree = place.ensure(&commit).await.unwrap();
        let all = unpacked(&tree).await;
        assert_eq!(all.len(), 20);
        assert_eq!(all[&b"7"[..]].1, format!("{n} 7").as_bytes());
    }
    assert!(killed > 0, "nothing was killed");
}
