//! The cache against real repositories, made by real git.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ntrace_source::{
    Cache, CommitId, Config, Kind, OpenError, Overrides, Recipe, Repository,
    Root, SourceError, Tree,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

/// A directory of repositories and a cache that fills from it.
struct Place {
    dir: TempDir,
    cache: Cache,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), u64::MAX).unwrap();
        Self { dir, cache }
    }

    fn repository(&self, owner: &str, repo: &str) -> Made {
        let path = self.dir.path().join("git").join(owner).join(repo);
        fs::create_dir_all(&path).unwrap();
        let made = Made { path };
        made.git(&["init", "-q", "-b", "main"]);
        made
    }

    async fn ensure(&self, commit: &CommitId) -> Result<Tree, SourceError> {
        self.cache.ensure(&name("o", "r"), commit, soon()).await
    }

    fn mirror(&self) -> PathBuf {
        self.dir.path().join("cache/mirrors/o/r.git")
    }
}

fn open(dir: &Path, max_bytes: u64) -> Result<Cache, OpenError> {
    let source = format!("file://{}/git/{{owner}}/{{repo}}", dir.display());
    Cache::open(Config {
        directory: dir.join("cache"),
        source: source.parse().unwrap(),
        max_bytes,
    })
}

fn name(owner: &str, repo: &str) -> Repository {
    Repository::new(owner, repo).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A repository with a work tree.
struct Made {
    path: PathBuf,
}

impl Made {
    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(["-c", "safe.directory=*"])
            .args(["-c", "protocol.file.allow=always"])
            .args(args)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn commit(&self) -> CommitId {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }
}

/// Path, mode and bytes (a link's target) of everything in a tree's archive.
async fn unpacked(tree: &Tree) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let mut tar = Vec::new();
    let mut archive = tree.archive(soon()).unwrap();
    archive.read_to_end(&mut tar).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tar"), tar).unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let done = Command::new("tar")
        .args(["-xpf", "../tar"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(done.success());
    let mut all = BTreeMap::new();
    walk(&root, &root, &mut all);
    all
}

fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<Vec<u8>, (u32, Vec<u8>)>) {
    use std::os::unix::ffi::OsStrExt as _;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_dir() {
            walk(root, &path, all);
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap();
        let mode = meta.permissions().mode();
        all.insert(name.as_os_str().as_bytes().to_vec(), (mode, bytes));
    }
}

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
async fn attributes_neither_drop_nor_change_a_file() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a.txt", "dos\r\nunix\n$Id$ $Format:%H$\n");
    made.write("gone/b", "x");
    made.write("sub/c", "y\n");
    // Written behind git's back, so that the filter acts on no check-in.
    let commit = {
        made.git(&["add", "-A"]);
        made.write(
            ".gitattributes",
            "[attr]mine export-ignore\n* text eol=crlf ident \
             filter=evil export-subst working-tree-encoding=UTF-16\n\
             gone export-ignore\nsub mine\n*.txt export-ignore\n",
        );
        let raw = ["hash-object", "-w", "--no-filters", ".gitattributes"];
        let blob = made.git(&raw);
        let entry = format!("100644,{blob},.gitattributes");
        made.git(&["update-index", "--add", "--cacheinfo", &entry]);
        made.git(&["commit", "-q", "-m", "x"]);
        made.git(&["rev-parse", "HEAD"]).parse().unwrap()
    };
    let tree = place.ensure(&commit).await.unwrap();
    let all = unpacked(&tree).await;
    let text = |name: &str| String::from_utf8(all[name.as_bytes()].1.clone());
    assert_eq!(text("a.txt").unwrap(), "dos\r\nunix\n$Id$ $Format:%H$\n");
    assert_eq!(text("gone/b").unwrap(), "x");
    assert_eq!(text("sub/c").unwrap(), "y\n");
    assert!(all.contains_key(&b".gitattributes"[..]));
}

#[tokio::test]
async fn links_modes_and_odd_names_are_kept() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("run.sh", "#!/bin/sh\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(made.path.join("run.sh"), mode).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", made.path.join("package.json"))
        .unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff -n\n\x1b");
    fs::write(made.path.join(odd), "odd").unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    made.write(&long, "long");
    let tree = place.ensure(&made.commit()).await.unwrap();
    let all = unpacked(&tree).await;
    assert_eq!(all[&b"run.sh"[..]].0 & 0o7777, 0o755);
    assert_eq!(all[&b"package.json"[..]].1, b"/etc/passwd");
    assert_eq!(all[&b"\xff -n\n\x1b"[..]].1, b"odd");
    assert_eq!(all[long.as_bytes()].1, b"long");
    let kinds: BTreeMap<_, _> = tree
        .list_root()
        .await
        .unwrap()
        .into_iter()
        .map(|entry| (entry.name, entry.kind))
        .collect();
    assert_eq!(kinds[&b"run.sh"[..]], Kind::Executable);
    assert_eq!(kinds[&b"package.json"[..]], Kind::Link);
    assert_eq!(kinds[&b"\xff -n\n\x1b"[..]], Kind::File);
    // A link is no file, so it is no recipe.
    assert_eq!(tree.read_file("package.json", 99).await.unwrap(), None);
    let root = Root::read(&tree).await.unwrap();
    assert!(Recipe::of(&root, &Overrides::default()).is_err());
}

#[tokio::test]
async fn odd_paths_are_no_files_and_do_no_harm() {
    let place = Place::new();
    let made = place.repository("o", "r");
    made.write("a/b", "x");
    made.write("-x", "y");
    let tree = place.ensure(&made.commit()).await.unwrap();
    for path in
        ["", "/a", "../x", "a", "a/", "a/../a/b", "*", ":/a", "--help", "z"]
    {
        assert_eq!(tree.read_file(path, 99).await.unwrap(), None, "{path}");
    }
    let read = |path: &'static str| tree.read_file(path, 99);
    assert_eq!(read("a/b").await.unwrap().unwrap(), b"x");
    assert_eq!(read("-x").await.unwrap().unwrap(), b"y");
    assert!(tree.read_file("a/b", 0).await.is_err());
    // None of that made the mirror look damaged.
    fs::remove_dir_all(place.dir.path().join("git")).unwrap();
    place.ensure(tree.commit()).await.unwrap();
}

#[tokio::test]
async fn an_empty_tree_is_an_empty_archive() {
    let place = Place::new();
    let made = place.repository("o", "r");
    let tree = place.ensure(&made.commit()).await.unwrap();
    assert_eq!(tree.list_root().await.unwrap(), []);
    assert_eq!(unpacked(&tree).await, BTreeMap::new());
}

#[tokio::test]
async fn a_submodule_is_an_empty_directory_and_is_not_fetched() {
    let place = Place::new();
    let inner = place.repository("o", "inner");
    inner.write("a", "x");
    inner.commit();
    let made = place.repository("o", "r");
    let url = inner.path.display().to_string();
    made.git(&["submodule", "--quiet", "add", &url, "sub"]);
    let tree = place.ensure(&made.commit()).await.unwrap();
    let all = unpacked(&tree).await;
    assert_eq!(
        all.keys().map(Vec::as_slice).collect::<Vec<_>>(),
        [&b".gitmodules"[..], &b"sub"[..]]
    );
}

#[tokio::test]
async fn a_large_file_streams_whole() {
    let place = Place::new();
    let made = place.repository("o", "r");
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..20 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    made.write("big", &noise);
    let tree = place.ensure(&made.commit()).await.unwrap();
    assert!(unpacked(&tree).await[&b"big"[..]].1 == noise);
    assert!(tree.read_file("big", 1 << 20).await.is_err());
    // Reading too little is no damage.
    fs::remove_dir_all(place.dir.path().join("git")).unwrap();
    place.ensure(tree.commit()).await.unwrap();
}

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
