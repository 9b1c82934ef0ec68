//! A zone of its own for each test, as root or as an ordinary user, with a
//! directory of programs in it; and a check that nothing is left at the end.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ntrace_sampler::{Program, Target};
use serde_json::{Value, json};
use tempfile::TempDir;

const NONCE: &str = "0123456789abcdef0123456789abcdef";

/// A user id that nobody has.
const NOBODY_ELSE: u32 = 61_873;

/// Who runs zone and sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever runs the test.
    Me,
    /// A user without any right; only root can become it.
    Ordinary,
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether a program is installed.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// How a job went.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) output: String,
    pub(crate) status: Value,
}

impl Done {
    pub(crate) fn cpu_ms(&self) -> f64 {
        self.status["usage"]["cpu_ms"].as_f64().unwrap()
    }
}

pub(crate) struct Zone {
    dir: TempDir,
    id: String,
    who: Who,
}

impl Zone {
    /// A running zone; `fill` puts programs into the directory that the zone
    /// sees as `/opt/share`.
    pub(crate) fn new(who: Who, fill: impl FnOnce(&Path)) -> Zone {
        Zone::with(who, &[], fill)
    }

    /// One that also sees directories of this machine, each under a name of
    /// its own.
    pub(crate) fn with(
        who: Who,
        mounts: &[(&Path, &str)],
        fill: impl FnOnce(&Path),
    ) -> Zone {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        open(dir.path());
        for name in ["share", "state", "bin"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            open(&path);
        }
        let tools = beside("examples/zone-tools");
        let sampler = PathBuf::from(env!("CARGO_BIN_EXE_ntrace-sampler"));
        for (from, name) in [(tools, "tools"), (sampler, "sampler")] {
            fs::copy(from, dir.path().join("bin").join(name)).unwrap();
        }
        if who == Who::Ordinary {
            let state = dir.path().join("state");
            chown(state, Some(NOBODY_ELSE), Some(NOBODY_ELSE)).unwrap();
        }
        fill(&dir.path().join("share"));
        let mut zone = Zone { dir, id: String::new(), who };
        zone.boot(mounts);
        zone
    }

    fn boot(&mut self, mounts: &[(&Path, &str)]) {
        let share = self.dir.path().join("share");
        let own = [(&*share, "/opt/share")];
        let mounts: Vec<Value> = own
            .iter()
            .chain(mounts)
            .map(|(source, target)| {
                json!({
                    "type": "lofs",
                    "source": source,
                    "target": target,
                    "options": ["ro", "nodevices"],
                })
            })
            .collect();
        let payload = json!({
            "image_uuid": ntrace_standin::HOST_IMAGE,
            "alias": "worker0",
            "autoboot": false,
            "max_physical_memory": 1024,
            "max_lwps": 500,
            "quota": 2,
            "tmpfs": 256,
            "filesystems": mounts,
        });
        let said = self.run("vmadm", &["create"], &payload.to_string());
        let id = said.1.trim().rsplit(' ').next().unwrap().to_owned();
        assert_eq!(id.len(), 36, "{said:?}");
        self.id = id;
        let id = self.id.clone();
        let said = self.run("vmadm", &["start", &id], "");
        assert!(said.1.contains("Success"), "{said:?}");
    }

    /// A command of the zone's owner.
    pub(crate) fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("bin/tools"));
        command
            .arg0(name)
            .args(args)
            .env("NTRACE_ZONES", self.dir.path().join("state"))
            .env("HOME", self.dir.path())
            .current_dir("/");
        if self.who == Who::Ordinary {
            command.uid(NOBODY_ELSE).gid(NOBODY_ELSE);
        }
        command
    }

    /// Runs one; gives its standard output and error.
    pub(crate) fn run(
        &self,
        name: &str,
        args: &[&str],
        input: &str,
    ) -> (String, String) {
        let mut child = self
            .command(name, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text =
            |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (text(output.stdout), text(output.stderr))
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn get(&self) -> Value {
        let said = self.run("vmadm", &["get", &self.id], "");
        serde_json::from_str(&said.0).unwrap()
    }

    /// The zone for the sampler, which is run by the zone's owner.
    pub(crate) fn target(&self) -> Target {
        let mut target = Target::from_vm(&self.get()).unwrap();
        let sampler = self.dir.path().join("bin/sampler");
        target.program = Program::File(match self.who {
            Who::Me => sampler,
            Who::Ordinary => {
                let path = self.dir.path().join("bin/sampler-of-user");
                let text = format!(
                    "#!/bin/sh\nexec setpriv --reuid={NOBODY_ELSE} \
                     --regid={NOBODY_ELSE} --clear-groups {}\n",
                    sampler.display()
                );
                fs::write(&path, text).unwrap();
                open(&path);
                path
            }
        });
        target
    }

    /// A request for a job's program.
    pub(crate) fn request(argv: &[&str], env: &[(&str, &str)]) -> String {
        let mut all = json!({
            "PATH": "/opt/share:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/home/job",
        });
        for (name, value) in env {
            all[*name] = json!(value);
        }
        let request = json!({
            "nonce": NONCE,
            "user": "job",
            "cwd": "/home/job",
            "argv": argv,
            "env": all,
            "env_clear": true,
        });
        format!("{request}\n")
    }

    /// Runs a job to its end.
    pub(crate) fn job(&self, argv: &[&str], env: &[(&str, &str)]) -> Done {
        let args = [self.id.as_str(), "/native/zone-job", "run"];
        let said = self.run("zlogin", &args, &Zone::request(argv, env));
        let marker = format!("\u{1e}ntrace-status {NONCE} ");
        let (errors, status) = said
            .1
            .rsplit_once(&marker)
            .unwrap_or_else(|| panic!("no status: {said:?}"));
        let status: Value = serde_json::from_str(status).unwrap();
        if status["code"] != 0 {
            eprintln!("the job said: {errors}");
        }
        Done { output: said.0, status }
    }

    pub(crate) fn halt(&self) {
        self.run("vmadm", &["stop", &self.id, "-F"], "");
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        let trace = self.get()["ntrace"]["trace"].clone();
        let said = self.run("vmadm", &["delete", &self.id], "");
        if std::thread::panicking() {
            return;
        }
        assert!(said.1.contains("Success"), "{said:?}");
        if let Some(group) = trace["group"].as_str() {
            wait_until("the cgroup is gone", || !Path::new(group).exists());
        }
        let trash = self.dir.path().join("state/trash");
        wait_until("the trash is emptied", || {
            self.run("vmadm", &["gc"], "");
            let left = fs::read_dir(&trash).into_iter().flatten().flatten();
            left.into_iter().all(|entry| entry.file_name() == ".lock")
        });
    }
}

/// Something that was built with this test.
pub(crate) fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // target/PROFILE/deps/sampling-0123
    let path = own.parent().unwrap().parent().unwrap().join(name);
    assert!(path.is_file(), "{} is not built", path.display());
    path
}

fn open(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Compiles a C program.
pub(crate) fn compile(source: &str, to: &Path, options: &[&str]) {
    build("cc", "c", source, to, options);
}

/// Compiles a C++ program.
pub(crate) fn compile_cpp(source: &str, to: &Path, options: &[&str]) {
    build("c++", "cpp", source, to, options);
}

fn build(
    compiler: &str,
    ending: &str,
    source: &str,
    to: &Path,
    options: &[&str],
) {
    let path = to.with_extension(ending);
    fs::write(&path, source).unwrap();
    let done = Command::new(compiler)
        .args(["-w", "-o"])
        .arg(to)
        .args(options)
        .arg(&path)
        .args(["-lpthread"])
        .status()
        .unwrap();
    assert!(done.success(), "{compiler} failed");
    open(to);
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
