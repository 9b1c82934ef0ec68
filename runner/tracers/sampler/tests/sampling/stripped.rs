//! Libraries of which the names were taken out, as distributions do it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::seen::sample;
use crate::zone::{Who, Zone, compile, installed, skip};

/// The identity of a library's build, by which its debug file is found.
fn id(name: &str) -> String {
    name.bytes()
        .chain([0x5a; 20])
        .take(20)
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[track_caller]
fn run(program: &str, args: &[&str], at: &Path) {
    let done = Command::new(program).args(args).current_dir(at).status();
    assert!(done.unwrap().success(), "{program} {args:?} failed");
}

fn library(name: &str, share: &Path) {
    let own = format!("-DOWN={name}");
    let id = format!("-Wl,--build-id=0x{}", id(name));
    let options = ["-O2", "-g", "-shared", "-fPIC", &own, &id];
    let source = include_str!("programs/stripped.c");
    compile(source, &share.join(format!("lib{name}.so")), &options);
}

/// As Debian does it: the names lie in a file of another package.
fn take_apart(name: &str, share: &Path) {
    let library = format!("lib{name}.so");
    let id = id(name);
    let (first, rest) = id.split_at(2);
    let dir = share.join("debug/.build-id").join(first);
    fs::create_dir_all(&dir).unwrap();
    let debug = dir.join(format!("{rest}.debug"));
    let debug = debug.to_str().unwrap();
    run("objcopy", &["--only-keep-debug", &library, debug], share);
    run("strip", &[&library], share);
}

/// As Fedora does it: a small table of names, compressed, in the library.
fn make_mini(name: &str, share: &Path) {
    let library = format!("lib{name}.so");
    run("objcopy", &["--only-keep-debug", "-g", &library, "mini"], share);
    run("strip", &[&library], share);
    run("xz", &["-f", "mini"], share);
    let section = ".gnu_debugdata=mini.xz";
    run("objcopy", &["--add-section", section, &library], share);
}

fn put(share: &Path) {
    for name in ["plain", "mini", "apart"] {
        library(name, share);
    }
    let libraries = ["plain", "mini", "apart"].map(|n| format!("-l{n}"));
    let path = format!("-L{}", share.display());
    let source = include_str!("programs/strippers.c");
    let to = share.join("strippers");
    fs::write(to.with_extension("c"), source).unwrap();
    let file = to.with_extension("c");
    let mut args = vec!["-O2", "-o", to.to_str().unwrap()];
    args.extend([file.to_str().unwrap(), &*path]);
    args.extend(libraries.iter().map(String::as_str));
    args.push("-Wl,-rpath,/opt/share");
    run("cc", &args, share);
    run("strip", &["libplain.so"], share);
    make_mini("mini", share);
    take_apart("apart", share);
}

#[test]
fn names_of_stripped_libraries_are_found_where_they_went() {
    if !installed("objcopy") || !installed("xz") {
        return skip("objcopy and xz are not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    put(dir.path());
    let debug = dir.path().join("debug");
    let mounts = [(dir.path(), "/opt/stripped"), (&*debug, "/usr/lib/debug")];
    let zone = Zone::with(Who::Me, &mounts, |_| {});
    let mut target = zone.target();
    target.hz = 997;
    let argv = ["/opt/stripped/strippers", "600"];
    let env = [("LD_LIBRARY_PATH", "/opt/stripped")];
    let (seen, _) = sample(&zone, &target, &argv, &env);
    // Each has a third of the time.
    for name in [
        "plain_exported",
        "mini_exported",
        "apart_exported",
        "[libplain.so]",
        "mini_hidden",
        "apart_hidden",
    ] {
        let found = seen.percent(name);
        eprintln!("{name}: {found:.1} %");
        assert!(found > 20.0, "{name}: {found:.1} %");
    }
    assert!(seen.percent("plain_hidden") == 0.0, "{}", seen.folded());
}
