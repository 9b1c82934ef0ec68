//! What is fetched, from where, and what is told when it is not to be had.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ntrace_source::{Cache, CommitId, Config, SourceError};
use tokio::time::Instant;

use crate::place::{Made, Place, name, soon, unpacked};

#[tokio::test]
async fn a_commit_is_fetched_once_and_then_needs_no_source() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "one");
    let first = made.commit();
    made.write("a", "two");
    let second = made.commit();
    for commit in [&second, &first] {
        place.ensure(commit).await.unwrap();
    }
    fs::remove_dir_all(place.dir.path().join("git")).unwrap();
    for (commit, text) in [(&second, "two"), (&first, "one")] {
        let tree = place.ensure(commit).await.unwrap();
        let read = tree.read_file("a", 10).await.unwrap().unwrap();
        assert_eq!(read, text.as_bytes());
        assert_eq!(unpacked(&tree).await[&b"a"[..]].1, text.as_bytes());
    }
}

#[tokio::test]
async fn the_parent_comes_along() {
    let place = Place::new();
    let made = place.repository("o", "r");
    for n in 0..5 {
        made.write("a", format!("{n}"));
        made.commit();
    }
    let head: CommitId = made.git(&["rev-parse", "HEAD"]).parse().unwrap();
    place.ensure(&head).await.unwrap();
    let log = |args: &[&str]| {
        let output = Command::new("git")
            .arg(format!("--git-dir={}", place.mirror().display()))
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let count = log(&["rev-list", "--count", head.as_str()]);
    assert_eq!(count.trim(), "2", "the commit and its parent, no more");
}

#[tokio::test]
async fn the_parents_are_told_and_no_message_forges_one() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "1");
    let first = made.commit();
    let forged = format!("x\n\nparent {}\n", "a".repeat(40));
    made.git(&["commit", "-q", "--allow-empty", "-m", &forged]);
    let second = made.git(&["rev-parse", "HEAD"]).trim().parse().unwrap();
    made.git(&["checkout", "-q", "-b", "side", first.as_str()]);
    made.git(&["commit", "-q", "--allow-empty", "-m", "side"]);
    let side: CommitId =
        made.git(&["rev-parse", "HEAD"]).trim().parse().unwrap();
    made.git(&["merge", "-q", "--no-ff", "-m", "both", "main"]);
    let merge: CommitId =
        made.git(&["rev-parse", "HEAD"]).trim().parse().unwrap();
    let parents = async |of: &CommitId, most| {
        place.ensure(of).await.unwrap().parents(most).await.unwrap()
    };
    assert_eq!(parents(&first, 16).await, []);
    assert_eq!(parents(&second, 16).await, vec![first.clone()]);
    assert_eq!(parents(&merge, 16).await, [side.clone(), second]);
    assert_eq!(parents(&merge, 1).await, [side]);
}

#[tokio::test]
async fn a_commit_that_no_branch_reaches_is_found_by_its_id() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "lost");
    let lost = made.commit();
    made.git(&["checkout", "-q", "--orphan", "other"]);
    made.write("a", "kept");
    made.commit();
    made.git(&["branch", "-q", "-D", "main"]);
    let tree = place.ensure(&lost).await.unwrap();
    let read = tree.read_file("a", 10).await.unwrap().unwrap();
    assert_eq!(read, b"lost");
}

#[tokio::test]
async fn a_commit_that_is_not_there_is_told_with_gits_words() {
    let place = Place::new();
    place.repository("o", "r").commit();
    let none: CommitId = "0123456789".repeat(4).parse().unwrap();
    let error = place.ensure(&none).await.unwrap_err();
    assert!(matches!(error, SourceError::NoCommit { .. }), "{error:?}");
    assert!(!error.is_worth_another_try());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("not our ref"), "{source}");
}

#[tokio::test]
async fn a_tree_or_a_tag_is_no_commit() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    made.commit();
    made.git(&["tag", "-a", "-m", "x", "t"]);
    for what in ["HEAD^{tree}", "t", "HEAD:a"] {
        let id: CommitId = made.git(&["rev-parse", what]).parse().unwrap();
        for _ in 0..2 {
            let error = place.ensure(&id).await.unwrap_err();
            assert!(
                matches!(error, SourceError::NoCommit { .. }),
                "{what}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_not_to_be_had() {
    let place = Place::new();
    let id: CommitId = "0123456789".repeat(4).parse().unwrap();
    let error = place.ensure(&id).await.unwrap_err();
    assert!(matches!(error, SourceError::NoRepository { .. }), "{error:?}");
}

#[tokio::test]
async fn a_source_that_is_not_reached_is_worth_another_try() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was just free, on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let source =
        format!("http://joe:secret@127.0.0.1:{port}/{{owner}}/{{repo}}");
    let cache = Cache::open(Config {
        directory: dir.path().to_owned(),
        source: source.parse().unwrap(),
        max_bytes: u64::MAX,
    })
    .unwrap();
    let id: CommitId = "0123456789".repeat(4).parse().unwrap();
    let error = cache.ensure(&name("o", "r"), &id, soon()).await.unwrap_err();
    assert!(error.is_worth_another_try(), "{error:?}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_source_that_never_answers_ends_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let source = format!("git://127.0.0.1:{port}/{{owner}}/{{repo}}");
    let cache = Cache::open(Config {
        directory: dir.path().to_owned(),
        source: source.parse().unwrap(),
        max_bytes: u64::MAX,
    })
    .unwrap();
    let id: CommitId = "0123456789".repeat(4).parse().unwrap();
    let started = Instant::now();
    let deadline = started + Duration::from_millis(500);
    let name = name("o", "r");
    let error = cache.ensure(&name, &id, deadline).await.unwrap_err();
    assert!(error.is_worth_another_try(), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_repository_of_sha256_is_taken() {
    let place = Place::new();
    let path = place.dir.path().join("git/o/r");
    fs::create_dir_all(&path).unwrap();
    let made = Made { path };
    made.git(&["init", "-q", "--object-format=sha256"]);
    made.write("a", "x");
    let commit = made.commit();
    assert_eq!(commit.as_str().len(), 64);
    let tree = place.ensure(&commit).await.unwrap();
    assert_eq!(unpacked(&tree).await[&b"a"[..]].1, b"x");
}

/// Serves the files below a directory to whoever asks, as a web server that
/// knows nothing of git.
async fn serve(root: PathBuf) -> u16 {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let root = root.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut request = String::new();
                stream.read_line(&mut request).await.unwrap();
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    if stream.read_line(&mut line).await.unwrap() == 0 {
                        return;
                    }
                }
                let path = request.split(' ').nth(1).unwrap();
                let path = path.split('?').next().unwrap();
                let (status, body) = match fs::read(root.join(&path[1..])) {
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_ids_is_asked_for_all() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "1");
    let first = made.commit();
    made.write("a", "2");
    let second = made.commit();
    made.git(&["update-server-info"]);
    let served = place.dir.path().join("git");
    fs::rename(made.path.join(".git"), served.join("o/bare")).unwrap();
    let port = serve(served).await;
    let source = format!("http://127.0.0.1:{port}/{{owner}}/{{repo}}");
    let cache = Cache::open(Config {
        directory: place.dir.path().join("other"),
        source: source.parse().unwrap(),
        max_bytes: u64::MAX,
    })
    .unwrap();
    for (commit, text) in [(&second, "2"), (&first, "1")] {
        let tree =
            cache.ensure(&name("o", "bare"), commit, soon()).await.unwrap();
        assert_eq!(unpacked(&tree).await[&b"a"[..]].1, text.as_bytes());
    }
    let none: CommitId = "0123456789".repeat(4).parse().unwrap();
    let error =
        cache.ensure(&name("o", "bare"), &none, soon()).await.unwrap_err();
    assert!(matches!(error, SourceError::NoCommit { .. }), "{error:?}");
    let error =
        cache.ensure(&name("o", "none"), &none, soon()).await.unwrap_err();
    assert!(matches!(error, SourceError::NoRepository { .. }), "{error:?}");
}
