//! What comes out of a tree is what was committed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ntrace_source::{Kind, Overrides, Recipe, Root};

use crate::place::{Place, unpacked};

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
