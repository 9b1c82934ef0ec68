//! The systemd units are what systemd takes, and the installer puts them in
//! place, twice if need be, and takes them away.

use std::fs;
use std::path::Path;
use std::process::Command;

use ntrace_e2e::programs::Programs;
use ntrace_e2e::skip;

use crate::script::scripts;

const UNITS: [&str; 3] = ["dispatcher", "runner", "tunnel"];

/// Copies units, with programs that are there, and has systemd read them.
fn verify(folder: &str, user: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let built = Programs::built();
    let bin = built.dir().to_str().unwrap();
    let mut units = Vec::new();
    for name in UNITS {
        let unit = format!("ntrace-{name}.service");
        let text =
            fs::read_to_string(scripts("systemd").join(folder).join(&unit));
        let tunnel = fs::canonicalize(scripts("tunnel.sh")).unwrap();
        let tunnel = tunnel.to_str().unwrap();
        let text = text
            .unwrap()
            .replace("/usr/local/libexec/ntrace/tunnel.sh", tunnel)
            .replace("%h/.local/libexec/ntrace/tunnel.sh", tunnel)
            .replace("/usr/local/bin", bin)
            .replace("%h/.local/bin", bin);
        let path = dir.path().join(unit);
        fs::write(&path, text).unwrap();
        units.push(path);
    }
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(user)
        .args(&units)
        .env("XDG_RUNTIME_DIR", dir.path())
        .output();
    let Ok(output) = output else {
        skip("systemd-analyze is not here to verify the units");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // What is ignored is a warning, with the unit's name.
    assert!(!said.contains("ntrace-"), "{said}");
}

#[test]
fn systemd_takes_the_units_of_the_system() {
    verify("", &[]);
}

#[test]
fn systemd_takes_the_units_of_a_user() {
    verify("user", &["--user"]);
}

fn install(root: &Path, args: &[&str]) -> String {
    let output = Command::new("sh")
        .arg(scripts("systemd/install.sh"))
        .arg("--root")
        .arg(root)
        .arg("--from")
        .arg(Programs::built().dir())
        .args(args)
        .env("HOME", "/home/u")
        .env_remove("XDG_CONFIG_HOME")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, into);
            } else {
                let path = path.strip_prefix(root).unwrap();
                into.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

#[test]
fn the_installer_may_run_twice_and_takes_back_what_it_put() {
    for (more, units, bin, libexec) in [
        (&[][..], "etc/systemd/system", "usr/local/bin", "usr/local/libexec"),
        (
            &["--user"],
            "home/u/.config/systemd/user",
            "home/u/.local/bin",
            "home/u/.local/libexec",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut args = more.to_vec();
        args.extend(UNITS);
        install(root.path(), &args);
        let found = files(root.path());
        let mut expected: Vec<_> = UNITS
            .iter()
            .map(|name| format!("{units}/ntrace-{name}.service"))
            .collect();
        for name in
            ["ntrace", "ntrace-dispatcher", "ntrace-runner", "vmadm", "zlogin"]
        {
            expected.push(format!("{bin}/{name}"));
        }
        expected.push(format!("{libexec}/ntrace/tunnel.sh"));
        expected.sort();
        assert_eq!(found, expected);
        install(root.path(), &args);
        assert_eq!(files(root.path()), expected);
        args.push("--remove");
        install(root.path(), &args);
        assert_eq!(files(root.path()), [""; 0]);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let said = install(root.path(), &["--dry-run", "runner"]);
    assert!(said.contains("install -m 0644"), "{said}");
    assert_eq!(files(root.path()), [""; 0]);
}
