//! The manifests of the services, and the method that they run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use ntrace_e2e::{DEADLINE, eventually};
use tempfile::TempDir;

use super::gate::{repository, scripts, shells};

const SERVICES: [&str; 3] = ["runner", "dispatcher", "tunnel"];

fn manifest(service: &str) -> PathBuf {
    scripts().join(format!("smf/ntrace-{service}.xml"))
}

/// The value of an attribute in the first element that begins so.
fn attribute(text: &str, element: &str, name: &str) -> String {
    let (_, rest) = text.split_once(element).unwrap();
    let (inside, _) = rest.split_once('>').unwrap();
    let (_, rest) = inside.split_once(&format!("{name}=\"")).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

#[test]
fn the_manifests_are_valid_by_the_dtd() {
    if !Path::new("/usr/bin/xmllint").exists() {
        ntrace_e2e::skip("xmllint is not installed");
        return;
    }
    let dtd = repository().join("runner/e2e/tests/smartos/service_bundle.dtd");
    let valid = |file: &Path| {
        Command::new("/usr/bin/xmllint")
            .args(["--noout", "--nonet", "--dtdvalid"])
            .arg(&dtd)
            .arg(file)
            .output()
            .unwrap()
    };
    for service in SERVICES {
        let output = valid(&manifest(service));
        assert!(output.status.success(), "{service}: {output:?}");
    }
    // And the check can fail: elements in another order are not valid.
    let text = fs::read_to_string(manifest("runner")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.xml");
    for (from, to) in [
        ("<single_instance/>", ""),
        ("enabled=\"false\"", ""),
        ("restart_on=\"none\"", "restart_on=\"never\""),
        ("</service>", "<single_instance/></service>"),
    ] {
        fs::write(&bad, text.replace(from, to)).unwrap();
        let is_valid = valid(&bad).status.success();
        // One of them is optional.
        assert_eq!(is_valid, from == "<single_instance/>", "{from}");
    }
}

#[test]
fn the_manifests_keep_to_what_smf_and_we_promise() {
    for service in SERVICES {
        let text = fs::read_to_string(manifest(service)).unwrap();
        let name = attribute(&text, "<service ", "name");
        assert_eq!(name, format!("application/ntrace-{service}"));
        for (element, attr, wanted) in [
            ("<create_default_instance", "enabled", "false"),
            ("<method_credential", "user", "ntrace"),
            ("<method_credential", "group", "ntrace"),
            ("<method_context", "working_directory", "/var/ntrace"),
            ("<propval name=\"duration\"", "value", "child"),
        ] {
            assert_eq!(attribute(&text, element, attr), wanted, "{service}");
        }
        // An ordinary user's privileges at most.
        let privileges = attribute(&text, "<method_credential", "privileges");
        let mut parts = privileges.split(',');
        assert_eq!(parts.next(), Some("basic"));
        assert!(parts.all(|part| part.starts_with('!')), "{privileges}");
        for action in ["start", "stop"] {
            let exec =
                format!("/opt/ntrace/lib/ntrace-method {action} {service}");
            assert!(text.contains(&exec), "{service} {action}");
        }
    }
    // The stop method waits for longer than the runner drains.
    let text = fs::read_to_string(manifest("runner")).unwrap();
    let drain = attribute(&text, "<propval name=\"drain\"", "value");
    let drain = drain.strip_suffix('m').unwrap().parse::<u64>().unwrap() * 60;
    let (_, stop) = text.split_once("ntrace-method stop").unwrap();
    let limit = attribute(stop, "runner", "timeout_seconds");
    assert!(limit.parse::<u64>().unwrap() > drain);
}

/// An installed /opt/ntrace in a directory, with a fake svcprop.
struct Installed {
    dir: TempDir,
    shell: Vec<&'static str>,
}

impl Installed {
    fn new(shell: &[&'static str], properties: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["bin", "lib", "tools"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let this = Self { dir, shell: shell.to_vec() };
        let method = scripts().join("smf/ntrace-method");
        fs::copy(method, this.path("lib/ntrace-method")).unwrap();
        fs::write(this.path("properties"), properties).unwrap();
        this.program(
            "tools/svcprop",
            "#!/bin/sh\n[ \"$3\" = svc:/x:default ] || exit 1\n\
             case $2 in config) cat \"$PROPERTIES\" ;;\n\
             restarter/start_pid) cat \"$PROPERTIES.pid\" ;; esac\n",
        );
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        fs::write(self.path(name), script).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(name), mode).unwrap();
    }

    fn method(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.shell[0]);
        let path = format!("{}:/usr/bin:/bin", self.path("tools").display());
        command
            .args(&self.shell[1..])
            .arg(self.path("lib/ntrace-method"))
            .args(args)
            .env_clear()
            .env("PATH", path)
            .env("SMF_FMRI", "svc:/x:default")
            .env("PROPERTIES", self.path("properties"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.method(args).output().unwrap()
    }
}

#[test]
fn properties_become_the_programs_environment_byte_for_byte() {
    let properties = "\
config/dispatcher astring 127.0.0.1:9181
config/source astring https://git.example/{owner}/{repo}.git\\?a\\&b
config/name astring a\\ b\\ \\$\\(id\\)\\`id\\`\\'\\\"\\\\
config/worker astring \"\"
config/Bad-Name astring x
config/path_x astring *
general/enabled boolean true
";
    for shell in shells() {
        let place = Installed::new(&shell, properties);
        place.program(
            "bin/ntrace-runner",
            "#!/bin/sh\necho \"pid $$\"; env | grep ^NTRACE_ | sort\n",
        );
        let output = place.run(&["start", "runner"]);
        assert!(output.status.success(), "{shell:?} {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "NTRACE_DISPATCHER=127.0.0.1:9181",
                "NTRACE_NAME=a b $(id)`id`'\"\\",
                "NTRACE_PATH_X=*",
                "NTRACE_SOURCE=https://git.example/{owner}/{repo}.git?a&b",
            ],
            "{shell:?}"
        );
    }
}

#[test]
fn the_tunnel_gets_its_words() {
    let properties = "config/arguments astring \
                      to-dispatcher\\ --port\\ 9181\\ me@host\\ *\n";
    for shell in shells() {
        let place = Installed::new(&shell, properties);
        place.program("bin/tunnel.sh", "#!/bin/sh\nprintf '<%s>' \"$@\"\n");
        let output = place.run(&["start", "tunnel"]);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "<to-dispatcher><--port><9181><me@host><*>",
            "{shell:?}"
        );
    }
}

/// Ends a child that a failed test would leave.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stop_signals_the_program_alone_and_waits_for_its_end() {
    for shell in shells() {
        let place = Installed::new(&shell, "");
        // It ends at the second sign only, and says that it drained.
        place.program(
            "bin/ntrace-runner",
            "#!/bin/sh\ntrap 'echo draining >>\"$PROPERTIES.log\"; \
             while [ ! -e \"$PROPERTIES.go\" ]; do sleep 0.02; done; \
             echo drained >>\"$PROPERTIES.log\"; exit 0' TERM\n\
             echo up >>\"$PROPERTIES.log\"\n\
             while :; do sleep 0.02; done\n",
        );
        let log = || {
            fs::read_to_string(place.path("properties.log")).unwrap_or_default()
        };
        let mut program =
            Reaped(place.method(&["start", "runner"]).spawn().unwrap());
        let pid = program.0.id();
        fs::write(place.path("properties.pid"), format!("{pid}\n")).unwrap();
        eventually("up", DEADLINE, || log().contains("up").then_some(()));
        let mut stop =
            Reaped(place.method(&["stop", "runner"]).spawn().unwrap());
        eventually("told", DEADLINE, || {
            log().contains("draining").then_some(())
        });
        // It waits for as long as the program drains.
        assert!(stop.0.try_wait().unwrap().is_none(), "{shell:?}");
        fs::write(place.path("properties.go"), "").unwrap();
        assert!(program.0.wait().unwrap().success());
        assert!(stop.0.wait().unwrap().success());
        assert!(log().ends_with("drained\n"));
    }
}

#[test]
fn what_cannot_start_is_told_in_smfs_own_statuses() {
    for shell in shells() {
        let place = Installed::new(&shell, "config/arguments astring \"\"\n");
        for (args, code) in [
            (&["start", "runner"][..], 96),
            (&["start", "tunnel"], 96),
            (&["start", "../../bin/sh"], 95),
            (&["restart", "runner"], 95),
            (&["start"], 95),
            (&[], 95),
        ] {
            let output = place.run(args);
            assert_eq!(output.status.code(), Some(code), "{shell:?} {args:?}");
            assert!(output.stderr.starts_with(b"ntrace-method: "));
        }
        // Nothing runs: nothing to stop.
        assert!(place.run(&["stop", "runner"]).status.success());
        fs::write(place.path("properties.pid"), "99999999\n").unwrap();
        assert!(place.run(&["stop", "runner"]).status.success());
    }
}
