use ntrace_protocol::trace::{Profile, Tracer};

use super::*;

const LOCK: (&str, &str) = ("package-lock.json", "{}");

fn recipe(files: &[(&str, &str)]) -> Result<Recipe, RecipeError> {
    Recipe::of(&Root::with(files), &Overrides::default())
}

#[track_caller]
fn check(files: &[(&str, &str)], setup: Option<&str>, run: &str) -> Recipe {
    let recipe = recipe(files).unwrap();
    assert_eq!(
        (recipe.setup.as_deref(), recipe.run.as_str()),
        (setup, run),
        "{}",
        recipe.origin
    );
    recipe
}

#[track_caller]
fn refused(files: &[(&str, &str)], part: &str) {
    let error = recipe(files).unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

fn package(scripts: &str, more: &str) -> String {
    format!("{{\"scripts\":{{{scripts}}}{more}}}")
}

#[test]
fn npm_scripts_are_taken_in_their_order() {
    let needs = ",\"devDependencies\":{\"a\":\"1\"}";
    let all = package(
        "\"test\":\"t\",\"benchmarks\":\"bs\",\"benchmark\":\"b\"",
        needs,
    );
    check(&[("package.json", &all), LOCK], Some("npm ci"), "npm run benchmark");
    let two = package("\"test\":\"t\",\"benchmarks\":\"bs\"", needs);
    check(&[("package.json", &two)], Some("npm install"), "npm run benchmarks");
    let one = package("\"test\":\"t\"", needs);
    check(&[("package.json", &one)], Some("npm install"), "npm test");
}

#[test]
fn nothing_is_installed_where_nothing_is_needed() {
    let bare = package("\"test\":\"node t.js\"", ",\"dependencies\":{}");
    check(&[("package.json", &bare)], None, "npm test");
    check(&[("package.json", &bare), LOCK], None, "npm test");
    let hook = package("\"test\":\"t\",\"postinstall\":\"x\"", "");
    check(&[("package.json", &hook)], Some("npm install"), "npm test");
    let spaces = package("\"test\":\"t\"", ",\"workspaces\":[\"a\"]");
    check(&[("package.json", &spaces)], Some("npm install"), "npm test");
}

#[test]
fn a_lock_of_another_manager_is_named() {
    let text = package("\"test\":\"t\"", ",\"dependencies\":{\"a\":\"1\"}");
    let recipe = check(
        &[("package.json", &text), ("yarn.lock", "")],
        Some("npm install"),
        "npm test",
    );
    assert!(recipe.origin.contains("yarn.lock"), "{}", recipe.origin);
    check(
        &[("package.json", &text), ("npm-shrinkwrap.json", "{}")],
        Some("npm ci"),
        "npm test",
    );
}

#[test]
fn the_placeholder_of_npm_init_is_no_test() {
    let text =
        package(r#""test":"echo \"Error: no test specified\" && exit 1""#, "");
    refused(&[("package.json", &text)], "package.json has no script");
    check(
        &[("package.json", &text), ("Makefile", "test: a\n")],
        None,
        "make test",
    );
}

#[test]
fn a_bad_package_is_named_with_its_line() {
    refused(&[("package.json", "{\n\n,}")], "package.json: not JSON");
    refused(&[("package.json", "{\n\n,}")], "line 3");
    refused(&[("package.json", "[]")], "not a JSON object");
    // Odd types are no scripts, not a crash.
    let odd = "{\"scripts\":[1],\"dependencies\":7}";
    refused(&[("package.json", odd)], "nothing to run");
}

#[test]
fn cargo_go_and_make_come_in_this_order() {
    let make = ("Makefile", "check:\n\ttrue\ntest:\n\ttrue\n");
    let go = ("go.mod", "module x\n");
    let cargo = ("Cargo.toml", "");
    check(&[make, go, cargo], Some("cargo fetch"), "cargo test");
    check(
        &[cargo, ("Cargo.lock", "")],
        Some("cargo fetch --locked"),
        "cargo test",
    );
    check(&[make, go], Some("go mod download"), "go test ./...");
    check(&[make], None, "make test");
    check(&[make, ("GNUmakefile", "bench: a\n")], None, "make bench");
}

#[test]
fn nothing_says_what_to_add() {
    for part in [".ntrace.toml", "package.json", "Makefile", "nothing to run"] {
        refused(&[("README", "x")], part);
        refused(&[], part);
    }
}

#[test]
fn the_file_of_the_contract_is_read() {
    let text = r#"
# .ntrace.toml, all optional
[job]
setup = "npm ci"
run = "npm run benchmark"
timeout = "30m"
setup_timeout = "5m"
silence = "90s"
artefacts = ["coverage/**"]
[job.env]
NODE_ENV = "test"
[trace]
profile = "cpu"
hz = 99
repeat = 8
syscalls = true
tracer = "sample"
"#;
    let recipe =
        check(&[(".ntrace.toml", text)], Some("npm ci"), "npm run benchmark");
    assert_eq!(recipe.timeout, Some(Duration::from_secs(1800)));
    assert_eq!(recipe.setup_timeout, Some(Duration::from_secs(300)));
    assert_eq!(recipe.silence, Some(Duration::from_secs(90)));
    assert_eq!(recipe.artefacts, ["coverage/**"]);
    assert_eq!(recipe.env["NODE_ENV"], "test");
    assert_eq!(recipe.trace.profile, Some(Profile::Cpu));
    assert_eq!(recipe.trace.hz, Some(99));
    assert_eq!(recipe.trace.repeat, Some(8));
    assert_eq!(recipe.trace.syscalls, Some(true));
    assert_eq!(recipe.trace.tracer, Some(Tracer::Sample));
    assert_eq!(recipe.origin, ".ntrace.toml");
}

#[test]
fn each_part_of_the_file_falls_through_by_itself() {
    let package = package("\"test\":\"t\"", ",\"dependencies\":{\"a\":\"1\"}");
    let package = ("package.json", package.as_str());
    let only_trace = (".ntrace.toml", "[trace]\nprofile = \"none\"\n");
    let recipe = check(&[package, only_trace], Some("npm install"), "npm test");
    assert_eq!(recipe.trace.profile, Some(Profile::None));
    let only_run = (".ntrace.toml", "[job]\nrun = \"node x\"\n");
    check(&[package, only_run], Some("npm install"), "node x");
    let no_setup = (".ntrace.toml", "[job]\nsetup = \"\"\n");
    check(&[package, no_setup], None, "npm test");
    check(&[package, (".ntrace.toml", "")], Some("npm install"), "npm test");
}

#[test]
fn a_bad_file_is_refused_with_the_line() {
    for (text, line) in [
        ("[job]\nrunn = \"x\"\n", "line 2"),
        ("[jobs]\n", "line 1"),
        ("[job]\nrun = 7\n", "line 2"),
        ("[job]\nrun = \"\"\n", "line 2"),
        ("[job]\n\ntimeout = \"soon\"\n", "line 3"),
        ("[job]\ntimeout = \"0s\"\n", "line 2"),
        ("[job]\nartefacts = [\n\"/etc\"]\n", "line 3"),
        ("[job]\nartefacts = [\"a/../../b\"]\n", "line 2"),
        ("[job.env]\nA = \"1\"\n\"A=B\" = \"2\"\n", "line 3"),
        ("[trace]\nhz = 0\n", "line 2"),
        ("[trace]\nhz = 1000000\n", "line 2"),
        ("[trace]\nprofile = \"all\"\n", "line 2"),
        ("[trace]\nhz = 9\nrepeat = 0\n", "line 3"),
        ("[trace]\nrepeat = 51\n", "line 2"),
        ("[trace]\n\ntracer = \"strace\"\n", "line 3"),
        ("[trace]\nsyscalls = 1\n", "line 2"),
        ("[job\n", "line 1"),
        ("\n\n= \n", "line 3"),
    ] {
        refused(&[(".ntrace.toml", text)], ".ntrace.toml: ");
        refused(&[(".ntrace.toml", text)], line);
    }
}

#[test]
fn a_push_overrides_run_and_set_up() {
    let package = package("\"test\":\"t\"", ",\"dependencies\":{\"a\":\"1\"}");
    let root = Root::with(&[("package.json", &package)]);
    let of = |run: Option<&str>, setup: Option<&str>| {
        let overrides = Overrides {
            run: run.map(str::to_owned),
            setup: setup.map(str::to_owned),
        };
        Recipe::of(&root, &overrides)
    };
    let recipe = of(Some("node x"), None).unwrap();
    assert_eq!(recipe.run, "node x");
    assert_eq!(recipe.setup.as_deref(), Some("npm install"));
    assert!(recipe.origin.starts_with("run: the push; set-up: "));
    let recipe = of(Some("node x"), Some("")).unwrap();
    assert_eq!(recipe.setup, None);
    assert_eq!(recipe.origin, "the push");
    let recipe = of(None, Some("true")).unwrap();
    assert_eq!(recipe.setup.as_deref(), Some("true"));
    assert!(of(Some(" "), None).is_err());
    assert!(of(Some("a\0"), None).is_err());
}

#[test]
fn a_full_override_needs_no_good_package() {
    let root = Root::with(&[("package.json", "{")]);
    let overrides =
        Overrides { run: Some("make".to_owned()), setup: Some(String::new()) };
    assert_eq!(Recipe::of(&root, &overrides).unwrap().run, "make");
}

#[test]
fn text_that_is_no_utf8_is_told_with_its_line() {
    let mut root = Root::with(&[(".ntrace.toml", "")]);
    root.texts.insert(file::NAME, b"[job]\n\xff".to_vec());
    let error = Recipe::of(&root, &Overrides::default()).unwrap_err();
    assert_eq!(error.to_string(), ".ntrace.toml: line 2 is not UTF-8");
}
