//! What the cache keeps, shares and gives up.

use std::fs;
use std::time::Duration;

use ntrace_source::{CommitId, OpenError, SourceError};
use tokio::time::Instant;

use crate::place::{Place, name, open, soon};

#[tokio::test]
async fn many_who_want_the_same_get_the_same() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    let commit = made.commit();
    let wanted = (0..20).map(|_| place.ensure(&commit));
    for tree in futures::future::join_all(wanted).await {
        assert_eq!(tree.unwrap().commit(), &commit);
    }
    let packs = fs::read_dir(place.mirror().join("objects/pack"))
        .unwrap()
        .filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|e| e == "pack")
        })
        .count();
    assert_eq!(packs, 1, "fetched once");

    let none: CommitId = "0123456789".repeat(4).parse().unwrap();
    let wanted = (0..20).map(|_| place.ensure(&none));
    for missing in futures::future::join_all(wanted).await {
        assert!(matches!(missing, Err(SourceError::NoCommit { .. })));
    }
}

#[tokio::test]
async fn who_has_more_time_does_not_share_anothers_lack_of_it() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a", "x");
    let commit = made.commit();
    let name = name("o", "r");
    let hurried = Instant::now() + Duration::from_millis(1);
    let (_, patient) = tokio::join!(
        place.cache.ensure(&name, &commit, hurried),
        place.cache.ensure(&name, &commit, soon()),
    );
    patient.unwrap();
}

#[tokio::test]
async fn many_fetches_do_not_leave_many_packs() {
    let place = Place::new();
    let made = place.repository("o", "r");
    let mut commits = Vec::new();
    for n in 0..50 {
        made.write("a", format!("{n}"));
        commits.push(made.commit());
        place.ensure(&commits[n]).await.unwrap();
    }
    let packs = || {
        fs::read_dir(place.mirror().join("objects/pack"))
            .unwrap()
            .filter(|entry| {
                let path = entry.as_ref().unwrap().path();
                path.extension().is_some_and(|e| e == "pack")
            })
            .count()
    };
    let deadline = soon();
    while packs() > 40 {
        assert!(Instant::now() < deadline, "{} packs", packs());
        tokio::task::yield_now().await;
    }
    fs::remove_dir_all(place.dir.path().join("git")).unwrap();
    for (n, commit) in commits.iter().enumerate() {
        let tree = place.ensure(commit).await.unwrap();
        let read = tree.read_file("a", 9).await.unwrap().unwrap();
        assert_eq!(read, format!("{n}").as_bytes());
    }
}

#[tokio::test]
async fn repositories_that_differ_in_case_are_two() {
    let place = Place::new();
    for repo in ["r", "R"] {
        let made = place.repository("o", repo);
        made.write("a", repo);
        let commit = made.commit();
        let name = name("o", repo);
        let tree = place.cache.ensure(&name, &commit, soon()).await.unwrap();
        let read = tree.read_file("a", 9).await.unwrap().unwrap();
        assert_eq!(read, repo.as_bytes());
    }
}

#[tokio::test]
async fn the_least_recently_used_mirror_goes_first_and_none_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { cache: open(dir.path(), 1).unwrap(), dir };
    let mut held = None;
    for repo in ["a", "b", "c"] {
        let made = place.repository("o", repo);
        made.write("f", repo);
        let commit = made.commit();
        let name = name("o", repo);
        let tree = place.cache.ensure(&name, &commit, soon()).await.unwrap();
        if repo == "b" {
            held = Some(tree);
        }
    }
    let mirrors = place.dir.path().join("cache/mirrors/o");
    // The background eviction may be at work, too: look until it is so.
    let deadline = soon();
    loop {
        let _ = place.cache.evict();
        let left: Vec<_> = fs::read_dir(&mirrors)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        if left == ["b.git"] {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::task::yield_now().await;
    }
    let tree = held.unwrap();
    assert_eq!(tree.read_file("f", 9).await.unwrap().unwrap(), b"b");
}

#[tokio::test]
async fn a_cache_belongs_to_one() {
    let place = Place::new();
    let second = open(place.dir.path(), 1);
    assert!(matches!(second, Err(OpenError::InUse { .. })));
}
