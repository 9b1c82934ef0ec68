//! Programs in the languages that people push: where they burn is known, and
//! so is what people call the places.

use std::path::{Path, PathBuf};
use std::process::Command;

use ntrace_profile::FrameKind;

use crate::seen::{Seen, sample};
use crate::zone::{Who, Zone, compile_cpp, installed, skip};

/// Points by which a share may be off. The programs burn in long pieces, so
/// that chance has little part in it.
const POINTS: f64 = 3.0;

/// Samples a second.
const HZ: u32 = 997;

/// The shares that the three functions have of what they have together, and
/// the names as they are found in the profile.
#[track_caller]
fn is_split(seen: &Seen, what: &str, names: [&str; 3]) {
    let counts = names.map(|name| {
        seen.count(|frames| frames.iter().any(|(known, _)| *known == name))
    });
    let all: u64 = counts.iter().sum();
    assert!(all > 200, "{what}: {counts:?} {:?}", seen.names());
    for ((name, count), truth) in
        names.into_iter().zip(counts).zip([70.0, 20.0, 10.0])
    {
        let found = count as f64 * 100.0 / all as f64;
        eprintln!("{what}: {name} {found:.1} %, in truth {truth} %");
        assert!((found - truth).abs() <= POINTS, "{name}: {found:.1} %");
    }
    eprintln!("{what}: {:?}", seen.summary);
}

/// The zone of a test, and the sampler's order for it.
fn put_cpp(share: &Path) {
    let options = ["-O2", "-fomit-frame-pointer"];
    let source = include_str!("programs/split.cpp");
    compile_cpp(source, &share.join("split"), &options);
}

#[test]
fn cpp_without_frame_pointers_is_split_and_demangled() {
    if !installed("c++") {
        return skip("c++ is not installed");
    }
    let zone = Zone::new(Who::Me, put_cpp);
    let mut target = zone.target();
    target.hz = HZ;
    let (seen, _) = sample(&zone, &target, &["split", "40"], &[]);
    let names = [
        "app::Furnace<long>::run(int)",
        "app::(anonymous namespace)::Functor::operator()(int) const",
        "app::by_lambda(int)::{lambda(int)#1}::operator()(int) const",
    ];
    is_split(&seen, "C++", names);
    for (name, raw) in [
        (names[0], "_ZN3app7FurnaceIlE3runEi"),
        (names[1], "_ZNK3app12_GLOBAL__N_17FunctorclEi"),
        (names[2], "_ZZN3app9by_lambdaEiENKUliE_clEi"),
    ] {
        assert_eq!(seen.raw(name), [raw]);
    }
    let main = seen.percent("main");
    eprintln!("C++: main in {main:.1} %");
    assert!(main >= 95.0, "main is reached in {main:.1} % only");
    let over = "app::call<app::(anonymous namespace)::Functor>\
        (app::(anonymous namespace)::Functor const&)";
    assert!(seen.percent(over) > 10.0, "{:?}", seen.names());
}

/// A Python that can name its functions: where it is installed.
#[derive(Debug)]
struct Python {
    version: String,
    prefix: PathBuf,
}

/// Those of this machine, oldest first; each minor version once.
fn pythons() -> Vec<Python> {
    const ASKED: &str = "import sys; assert sys.version_info >= (3, 12); \
        print('%d.%d' % sys.version_info[:2], sys.base_prefix)";
    let mut programs: Vec<PathBuf> =
        ["python3", "python3.12", "python3.13", "python3.14"]
            .map(PathBuf::from)
            .into();
    let home = std::env::var_os("HOME").unwrap_or_default();
    let all = Path::new(&home).join(".pyenv/versions");
    let all = std::fs::read_dir(all).into_iter().flatten().flatten();
    programs.extend(all.map(|entry| entry.path().join("bin/python3")));
    let mut found: Vec<Python> = programs
        .iter()
        .filter_map(|program| {
            let out = Command::new(program).args(["-c", ASKED]).output();
            let said = out.ok().filter(|out| out.status.success())?.stdout;
            let said = String::from_utf8(said).ok()?;
            let (version, prefix) = said.trim().split_once(' ')?;
            let (version, prefix) = (version.to_owned(), prefix.into());
            Some(Python { version, prefix })
        })
        .collect();
    found.sort_by(|a, b| a.version.cmp(&b.version));
    found.dedup_by(|a, b| a.version == b.version);
    found
}

/// The interpreter's library without its debug information, of which there
/// are tens of megabytes that would be read for nothing here.
fn strip_python(python: &Python, share: &Path) {
    let name = format!("libpython{}.so.1.0", python.version);
    let library = python.prefix.join("lib").join(&name);
    if library.is_file() {
        let to = share.join(&name);
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "-o"]).arg(to).arg(library);
        assert!(strip.status().unwrap().success(), "{python:?}");
    }
}

/// Samples a script that burns, and says who of its functions was seen.
fn python(python: &Python, more: &[&str]) -> Seen {
    let mounts = [(&*python.prefix, "/opt/python")];
    let zone = Zone::with(Who::Me, &mounts, |share| {
        let source = include_str!("programs/split.py");
        std::fs::write(share.join("split.py"), source).unwrap();
        strip_python(python, share);
    });
    let mut target = zone.target();
    target.hz = HZ;
    target.checkout = "/opt/share".into();
    let program = "/opt/python/bin/python3";
    let argv = [&[program, "/opt/share/split.py", "60"], more].concat();
    let env =
        [("PYTHONPERFSUPPORT", "1"), ("LD_LIBRARY_PATH", "/opt/python/lib")];
    let (seen, _) = sample(&zone, &target, &argv, &env);
    let what = format!("Python {} {more:?}", python.version);
    let names = ["seventy split.py", "twenty split.py", "Work.ten split.py"];
    is_split(&seen, &what, names);
    assert_eq!(seen.raw(names[2]), ["py::Work.ten:/opt/share/split.py"]);
    let named = seen.percent_where(|frames| {
        frames.iter().any(|(_, kind)| *kind == FrameKind::Interpreted)
    });
    let rooted = seen.percent_where(|frames| {
        let mut rest = frames.iter();
        let wanted = [
            "Py_RunMain",
            "<module> split.py",
            "main split.py",
            "rounds split.py",
            "burn split.py",
        ];
        wanted.iter().all(|name| rest.any(|frame| frame.0 == *name))
    });
    eprintln!("{what}: Python in {named:.1} %, from main in {rooted:.1} %");
    assert!(named >= 85.0, "{named:.1} %: {:?}", seen.names());
    assert!(rooted >= 85.0, "{rooted:.1} %: {:?}", seen.folded());
    seen
}

#[test]
fn python_is_split_with_its_names() {
    let all = pythons();
    if let [oldest, .., _] = &*all {
        python(oldest, &[]);
    }
    match all.last() {
        Some(newest) => drop(python(newest, &["fork"])),
        None => skip("no Python from 3.12 on is installed"),
    }
}

/// What a job sets so that a JVM tells names.
const JAVA: (&str, &str) = (
    "JAVA_TOOL_OPTIONS",
    "-XX:+UnlockDiagnosticVMOptions -XX:+PreserveFramePointer \
     -XX:+DumpPerfMapAtExit",
);

#[test]
fn java_is_split_with_the_names_it_tells_at_its_end() {
    if !installed("java") || !installed("javac") {
        return skip("java and javac are not installed");
    }
    let zone = Zone::new(Who::Me, |share| {
        let path = share.join("Split.java");
        let source = include_str!("programs/Split.java");
        std::fs::write(&path, source).unwrap();
        let mut javac = Command::new("javac");
        let done = javac.arg("-d").arg(share).arg(path).status().unwrap();
        assert!(done.success(), "javac failed");
    });
    let mut target = zone.target();
    target.hz = HZ;
    let argv = ["java", "-XX:+UseSerialGC", "-cp", "/opt/share", "Split", "45"];
    let (seen, _) = sample(&zone, &target, &argv, &[JAVA]);
    let names = [
        "Split$Seventy.run(int)",
        "Split$Twenty.run(int)",
        "Split$Ten.run(int)",
    ];
    is_split(&seen, "Java", names);
    assert_eq!(seen.raw(names[0]), ["long Split$Seventy.run(int)"]);
    let split = seen.count(|frames| {
        frames.iter().any(|frame| frame.0.starts_with("Split"))
    });
    let rooted = seen.count(|frames| {
        let of = |name: &str| frames.iter().position(|one| one.0 == name);
        let inner = frames.iter().position(|one| one.0.starts_with("Split"));
        of("JavaMain").is_some_and(|outer| inner > Some(outer))
    });
    eprintln!("Java: {split} samples in Java, {rooted} of them from the start");
    assert!(rooted as f64 >= split as f64 * 0.9, "{}", seen.folded());
}
