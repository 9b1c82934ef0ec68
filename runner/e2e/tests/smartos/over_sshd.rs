//! The gate behind a real sshd: the driver gets all its work done through
//! it, and nobody else gets anything.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ntrace_e2e::programs::Programs;
use ntrace_e2e::{DEADLINE, eventually};
use ntrace_testbed::{Options, Sshd, needs_sshd};
use ntrace_zones::{
    Carrier, Collect, Directory, Driver, Ended, JobSpec, Kind, Signal,
    SnapshotName, Ssh, SshOptions, UserName, VmLimits, WorkerUuid,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::gate::{STRANGER, scripts};
use super::host::{Host, IMAGE};

/// A host with a worker, as the scripts make it, and sshd before its gate.
pub(super) struct Gated {
    pub(super) sshd: Sshd,
    pub(super) host: Host,
    pub(super) worker: String,
}

impl Gated {
    pub(super) fn new() -> Option<Self> {
        if !needs_sshd() {
            return None;
        }
        let host = Host::new();
        host.must("setup-gz", &[]);
        let made = host.must(
            "make-worker",
            &["--manifest", "manifests/worker-linux.json", "--image", IMAGE],
        );
        let built = Programs::built();
        let etc = host.path("gz/opt/custom/ntrace");
        let programs = format!(
            "vmadm {}\nzlogin {}\nenv NTRACE_ZONES={}\n",
            built.path("vmadm").display(),
            built.path("zlogin").display(),
            host.path("zones").display()
        );
        std::fs::write(etc.join("programs"), programs).unwrap();
        let forced = format!(
            "{}/ntrace-gate --key runner0 --etc {} --log {}",
            etc.display(),
            etc.display(),
            host.path("gate.log").display()
        );
        let sshd = Sshd::start(Options::forced(&forced));
        let worker = made.stdout.trim().to_owned();
        Some(Self { sshd, host, worker })
    }

    pub(super) async fn driver(&self) -> Driver {
        let options = SshOptions {
            identity: Some(self.sshd.identity()),
            known_hosts: Some(self.sshd.known_hosts()),
            ..SshOptions::default()
        };
        let address = self.sshd.address().parse().unwrap();
        let ssh = Ssh::connect(&address, &options).await.unwrap();
        Driver::new(Arc::new(Carrier::Ssh(ssh)))
    }

    pub(super) fn uuid(&self) -> WorkerUuid {
        self.worker.parse().unwrap()
    }

    /// Maps a program of the gate to another one.
    pub(super) fn program(&self, name: &str, file: &std::path::Path) {
        let list = self.host.path("gz/opt/custom/ntrace/programs");
        let lines = std::fs::read_to_string(&list).unwrap();
        let line = format!("{name} {}\n", file.display());
        std::fs::write(list, lines + &line).unwrap();
    }

    /// The ssh that a person or a thief would use.
    fn ssh(&self, options: &[&str], command: &[u8]) -> Output {
        self.ssh_command(options, command).output().unwrap()
    }

    fn ssh_command(&self, options: &[&str], command: &[u8]) -> Command {
        use std::os::unix::ffi::OsStrExt as _;
        let known =
            format!("UserKnownHostsFile={}", self.sshd.known_hosts().display());
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", &known])
            .args(["-p", &self.sshd.port().to_string(), "-i"])
            .arg(self.sshd.identity())
            .args(options)
            .arg(format!("{}@127.0.0.1", self.sshd.user()))
            .arg("--")
            .arg(std::ffi::OsStr::from_bytes(command))
            .stdin(Stdio::null());
        ssh
    }

    fn log(&self) -> Vec<String> {
        let text = self.host.read("gate.log");
        text.lines().map(str::to_owned).collect()
    }
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(super) async fn all(from: &mut mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(chunk) = from.recv().await {
        whole.extend_from_slice(&chunk);
    }
    whole
}

pub(super) fn job(script: &str) -> JobSpec {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let home = Directory::new("/home/job").unwrap();
    JobSpec::new("job".parse().unwrap(), home, argv, Vec::new()).unwrap()
}

#[tokio::test]
async fn the_driver_does_all_its_work_through_the_gate() {
    let Some(gated) = Gated::new() else { return };
    let driver = gated.driver().await;
    let uuid = gated.uuid();
    let clean: SnapshotName = "clean".parse().unwrap();
    let worker = driver.take(uuid, soon()).await.unwrap();
    worker.halt(soon()).await.unwrap();
    let done = worker.roll_back(&clean, soon()).await.unwrap();
    worker.ensure_booted(done.before.as_ref(), soon()).await.unwrap();
    let limits = VmLimits { max_lwps: Some(500), ..VmLimits::default() };
    worker.limit(limits, soon()).await.unwrap();
    let inside = worker.probe(soon()).await.unwrap();
    let mut run = inside.run(&job("echo 'a  b'; exit 3"), soon()).unwrap();
    assert_eq!(all(&mut run.stdout).await, b"a  b\n");
    assert!(matches!(run.ended().await.ended, Ended::Exit(3)));
    assert!(!inside.ps(soon()).await.unwrap().is_empty());
    assert_eq!(driver.vmadm().lookup(soon()).await.unwrap().len(), 1);

    let log = gated.log();
    assert!(log.len() >= 8, "{log:#?}");
    for line in &log {
        assert!(
            line.contains(" key=runner0 from=127.0.0.1 ")
                && line.contains(" allowed: "),
            "{line}"
        );
    }
    for call in ["stop", "rollback-snapshot", "update", "lookup", "get"] {
        let call = format!(" vmadm {call} ");
        assert!(log.iter().any(|line| line.contains(&call)), "{call}");
    }
}

/// Hides the zone's helper. Linux's su asks PAM, which this zone has not set
/// up; so setpriv stands in for SmartOS's su.
const ZLOGIN_WITHOUT_HELPER: &str = r#"#!/bin/sh
exec @REAL@ "$1" "$2" "$(printf '%s' "$3" | sed '
    s#/native/zone-job#/none#
    s#exec su "$user" -c#exec setpriv @WHO@ /bin/sh -c#')"
"#;

/// As on SmartOS: no helper in the zone, so all goes by the driver's shell
/// scripts, which the gate knows by heart.
#[tokio::test]
async fn a_zone_without_the_helper_is_driven_by_scripts_through_the_gate() {
    if !ntrace_e2e::is_root() {
        ntrace_e2e::skip("a zone of an ordinary user has no second user");
        return;
    }
    let Some(gated) = Gated::new() else { return };
    let real = Programs::built().path("zlogin");
    let zlogin = ZLOGIN_WITHOUT_HELPER
        .replace("@WHO@", "--reuid=1000 --regid=1000 --clear-groups")
        .replace("@REAL@", &real.display().to_string());
    gated.host.install("zlogin-without-helper", &zlogin);
    let file = gated.host.path("bin/zlogin-without-helper");
    gated.program("zlogin", &file);
    let driver = gated.driver().await;
    let worker = driver.take(gated.uuid(), soon()).await.unwrap();
    let inside = worker.probe(soon()).await.unwrap();
    assert!(matches!(inside.kind(), Kind::Shell { .. }), "{inside:?}");

    let user: UserName = "job".parse().unwrap();
    let dir = Directory::new("/home/job/work").unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("a'b.txt"), "in").unwrap();
    let tar = Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(files.path())
        .arg(".")
        .output()
        .unwrap();
    let tar = std::io::Cursor::new(tar.stdout);
    inside.unpack(&user, &dir, tar, soon()).await.unwrap();

    let script = "cat work/*; id -un; echo '!' >&2; exit 7";
    let mut run = inside.run(&job(script), soon()).unwrap();
    let out = all(&mut run.stdout).await;
    assert_eq!(out, b"injob\n");
    assert!(matches!(run.ended().await.ended, Ended::Exit(7)));

    let want = Collect {
        user: user.clone(),
        dir,
        globs: vec!["*.txt".to_owned()],
        max_bytes: 1 << 20,
        max_files: 10,
    };
    let mut collecting = inside.collect(&want, soon()).await.unwrap();
    let tar = all(&mut collecting.tar).await;
    assert!(tar.windows(7).any(|name| name == b"a'b.txt"));
    assert_eq!(collecting.ended().await.unwrap().files, 1);

    let mut run = inside.run(&job("echo up; sleep 600"), soon()).unwrap();
    assert_eq!(run.stdout.recv().await.unwrap(), "up\n");
    assert!(inside.ps(soon()).await.unwrap().len() > 1);
    inside.kill(&user, Signal::Kill, soon()).await.unwrap();
    let ended = run.ended().await.ended;
    assert!(matches!(&ended, Ended::Signal { name, .. } if name == "SIGKILL"));

    let log = gated.log();
    for name in ["probe", "run", "unpack", "list", "pack", "kill", "ps"] {
        let call = format!(" allowed: zlogin {} {name}", gated.worker);
        assert!(
            log.iter().any(|line| line.ends_with(&call)),
            "{name}: {log:?}"
        );
    }
}

#[tokio::test]
async fn a_vm_that_is_not_listed_is_refused_in_words() {
    let Some(gated) = Gated::new() else { return };
    gated.host.must("setup-gz", &["--forget", &gated.worker]);
    let driver = gated.driver().await;
    let uuid = gated.uuid();
    let error = driver.vmadm().get(uuid, soon()).await.unwrap_err();
    let mut story = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        story.push_str(&format!("{error}: "));
        cause = error.source();
    }
    assert!(story.contains("exit status 77"), "{story}");
    assert!(story.contains("this VM is not on the list"), "{story}");
    assert_eq!(driver.vmadm().lookup(soon()).await.unwrap(), []);
}

#[test]
fn a_lost_link_leaves_no_dtrace_behind() {
    let Some(gated) = Gated::new() else { return };
    let done = gated.host.path("dtrace-ended");
    let dtrace = format!(
        "#!/bin/sh\ntrap 'echo \"$*\" >{}; exit 0' TERM\necho ntrace ready\n\
         while :; do sleep 0.05; done\n",
        done.display()
    );
    gated.host.install("dtrace", &dtrace);
    let etc = gated.host.path("gz/opt/custom/ntrace");
    gated.program("dtrace", &gated.host.path("bin/dtrace"));

    let call = format!("/usr/sbin/dtrace -s ntrace_cpu.d {}", gated.worker);
    let mut ssh = gated.ssh_command(&["-T"], call.as_bytes());
    let mut child = ssh
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ntrace ready\n");
    assert!(!done.exists());
    gated.sshd.cut();
    let with = eventually("dtrace ends", DEADLINE, || {
        std::fs::read_to_string(&done).ok().filter(|text| !text.is_empty())
    });
    let script = etc.join("dtrace/ntrace_cpu.d").display().to_string();
    assert_eq!(with, format!("-s {script} {}\n", gated.worker));
    assert!(!child.wait().unwrap().success());
}

#[test]
fn sshd_hands_hostile_commands_to_the_gate_and_to_nothing_else() {
    let Some(gated) = Gated::new() else { return };
    let w = &gated.worker;
    let canary = gated.host.path("canary").display().to_string();
    let refused = [
        "id".to_owned(),
        format!("touch {canary}"),
        format!("vmadm get {w}; touch {canary}"),
        format!("vmadm get {w}\ntouch {canary}"),
        format!("vmadm get $(touch {canary})"),
        format!("vmadm get `touch {canary}`"),
        format!("vmadm get {w} >{canary}"),
        format!("vmadm get {STRANGER}"),
        format!("vmadm delete {w}"),
        format!("zlogin -Q {w} 'touch /tmp/x'"),
        "internal-sftp".to_owned(),
        "\u{1b}[2J\u{202e}".to_owned(),
        "x".repeat(60_000),
    ];
    for command in &refused {
        let output = gated.ssh(&["-T"], command.as_bytes());
        assert_eq!(output.status.code(), Some(77), "{command} {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("ntrace-gate: refused: "), "{said}");
    }
    assert_eq!(
        gated.log().iter().filter(|l| l.contains(" refused: ")).count(),
        refused.len()
    );
    // No subsystem, no terminal.
    let output = gated.ssh(&["-T", "-s"], b"sftp");
    assert!(!output.status.success(), "{output:?}");
    let output = gated.ssh(&["-tt"], b"id");
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    // No way out into the network: `restrict`.
    let target = format!("127.0.0.1:{}", gated.sshd.port());
    let output = gated.ssh(&["-T", "-W", &target], b"");
    assert!(!output.status.success(), "{output:?}");
    assert!(!gated.host.path("canary").exists());
    // And it still works for whom it is meant.
    let good = gated.ssh(&["-T"], format!("vmadm get {w}").as_bytes());
    assert!(good.status.success(), "{good:?}");
    let vm: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(vm["uuid"], w.as_str());
}

#[test]
fn the_line_that_is_installed_is_one_that_sshd_takes() {
    let Some(gated) = Gated::new() else { return };
    // The line of setup-gz, with the gate where this test has it.
    let key = gated.sshd.identity().with_extension("pub").display().to_string();
    gated.host.must("setup-gz", &["--key", &key, "--from", "127.0.0.0/8"]);
    let line = gated.host.read("gz/root/.ssh/authorized_keys");
    let gate = gated.host.path("gz/opt/custom/ntrace").display().to_string();
    let log = gated.host.path("gate.log").display().to_string();
    let here = line.replace(
        "/opt/custom/ntrace/ntrace-gate --key",
        &format!("{gate}/ntrace-gate --etc {gate} --log {log} --key"),
    );
    assert_ne!(here, line);
    std::fs::write(gated.sshd.path().join("authorized_keys"), &here).unwrap();
    let output = gated.ssh(&["-T"], b"ntrace-gate status");
    assert!(output.status.success(), "{output:?} {}", gated.sshd.log());
    let said: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["workers"][0], gated.worker.as_str());
    // From elsewhere the key is no key.
    let elsewhere = here.replace("127.0.0.0/8", "192.0.2.1");
    std::fs::write(gated.sshd.path().join("authorized_keys"), elsewhere)
        .unwrap();
    let output = gated.ssh(&["-T"], b"ntrace-gate status");
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    assert!(scripts().join("setup-gz").exists());
}
