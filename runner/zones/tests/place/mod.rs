//! A global zone of small programs in a temporary directory: a `vmadm` that
//! keeps one VM in plain files and can be told to fail, and a `zlogin` that
//! runs its argument in a shell, as the real one does.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ntrace_testbed::{Options, Sshd, needs_sshd};
use ntrace_zones::{
    Carrier, Driver, Inside, Local, Programs, SnapshotName, Ssh, SshOptions,
    UserName, Worker, WorkerUuid,
};
use tempfile::TempDir;
use tokio::time::Instant;

pub(crate) const U: &str = "c0ffee00-1111-4222-8333-444455556666";

/// `faults` holds one word a line; see where they are used.
const VMADM: &str = r#"#!/bin/sh
D=@D@
say() { echo "$*" >&2; }
fault() { grep -qx "$1" $D/faults 2>/dev/null; }
once() { fault "$1" && { grep -vx "$1" $D/faults >$D/f.$$; mv $D/f.$$ $D/faults; }; }
boot() {
    n=$(cat $D/boots); n=$((n + 1)); echo $n >$D/boots
    echo running >$D/state
}
show() {
    state=$(cat $D/state)
    printf '{"uuid":"@U@","state":"%s","brand":"joyent","max_lwps":%s,' \
        "$state" "$(cat $D/lwps)"
    [ $state = running ] &&
        printf '"boot_timestamp":"2026-01-01T00:00:00.%03dZ",' $(cat $D/boots)
    printf '"snapshots":['
    comma=
    for s in $(cat $D/snapshots); do
        printf '%s{"name":"%s","size":0.2}' "$comma" $s; comma=,
    done
    printf ']}\n'
}
echo "$*" >>$D/calls
[ -e $D/say ] && { cat $D/say >&2; exit $(cat $D/code); }
fault stdin=read && cat >/dev/null
[ "$1" = get ] && fault get=wait &&
    { until [ -e $D/go ]; do sleep 0.02; done; }
fault die && kill -KILL $$
fault refused && { say "connect ECONNREFUSED"; exit 1; }
case $1 in
get|start|stop|rollback-snapshot|update)
    [ "$2" = @U@ ] || { say "VM $2 not found"; exit 1; };;
esac
case $1 in
get) show;;
lookup) echo "[$(show)]";;
start)
    [ $(cat $D/state) = running ] && {
        say "Unable to start VM $2: VM $2 is already 'running'"; exit 0; }
    fault boot=fail && {
        say "Unable to start VM $2: first of 1 error: Command failed: \
zone '$2': call to zoneadmd failed"; exit 1; }
    boot; say "Successfully started VM $2";;
stop)
    fault halt=hang && sleep 60
    once halt=fail && { say "first of 1 error: Command failed: zone '$2': \
unable to destroy zone"; echo down >$D/state; exit 1; }
    s=$(cat $D/state)
    [ $s = stopped ] && { say "first of 1 error: VM $2 is already not \
'running' (currently: stopped)"; exit 1; }
    echo stopped >$D/state
    fault stop=linger && sleep 60
    fault stop=wait && { until [ -e $D/go ]; do sleep 0.02; done; }
    fault stop=timeout && { say "vminfod timeout exceeded"; exit 1; }
    say "Successfully completed stop for VM $2";;
rollback-snapshot)
    fault rollback=fail && { say "Command failed: cannot rollback to \
'zones/$2@vmsnap-$3': busy
"; echo stopped >$D/state; exit 1; }
    fault rollback=lie && exit 0
    fault rollback=wait && { until [ -e $D/go ]; do sleep 0.02; done; }
    keep=; for s in $(cat $D/snapshots); do
        [ $s = $3 ] && keep=1; [ "$keep" ] && echo $s; done >$D/s.$$
    if fault drop=late; then
        (until [ -e $D/go ]; do sleep 0.02; done; mv $D/s.$$ $D/snapshots) \
            </dev/null >/dev/null 2>&1 &
    else mv $D/s.$$ $D/snapshots; fi
    echo stopped >$D/state
    fault boot=late || boot
    say "Rolled back snapshot $3 for VM $2";;
update)
    fault update=lie || echo "$3" | sed s/max_lwps=// >$D/lwps
    say "Successfully updated VM $2";;
*) say "Invalid command: \"$1\"."; exit 2;;
esac
"#;

/// The last arguments are joined by blanks and read by a shell; the exit is
/// 0 for a command that died of a signal.
const ZLOGIN: &str = r#"#!/bin/sh
D=@D@
if grep -qx zlogin=refuse $D/faults 2>/dev/null ||
    [ $(cat $D/state) != running ]; then
    echo "zlogin: login allowed only to running zones ($2 is 'installed')." >&2
    exit 1
fi
[ "$1" = -Q ] && [ "$2" = @U@ ] || { echo "zlogin: zone unknown" >&2; exit 1; }
shift 2
@ENTER@ @SHELL@ -c "$*"
code=$?
[ $code -gt 128 ] && exit 0
exit $code
"#;

/// What sshd runs in the place of the words that it was asked for.
const DOOR: &str = r#"#!/bin/sh
cd @D@ || exit 99
[ "$PATH" ] || exit 99
case $SSH_ORIGINAL_COMMAND in
"/usr/sbin/vmadm "*) eval "exec ./vmadm ${SSH_ORIGINAL_COMMAND#* }" ;;
"/usr/sbin/zlogin "*) eval "exec ./zlogin ${SSH_ORIGINAL_COMMAND#* }" ;;
*) exit 98 ;;
esac
"#;

pub(crate) struct Place {
    pub(crate) driver: Driver,
    pub(crate) sshd: Option<Sshd>,
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with("/bin/sh", "")
    }

    /// A place whose zone has this shell, entered by these words.
    pub(crate) fn with(shell: &str, enter: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = [("state", "running"), ("boots", "1"), ("lwps", "100")];
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::write(dir.path().join("snapshots"), "newer clean older").unwrap();
        let write = |name: &str, text: &str| {
            let text = text
                .replace("@D@", &dir.path().display().to_string())
                .replace("@U@", U)
                .replace("@ENTER@", enter)
                .replace("@SHELL@", shell);
            program(dir.path(), name, &text)
        };
        let vmadm = write("vmadm", VMADM);
        let zlogin = write("zlogin", ZLOGIN);
        let local = Local::new(Programs::Files { vmadm, zlogin }).unwrap();
        let driver = Driver::new(Arc::new(Carrier::Local(local)));
        Self { driver, sshd: None, dir }
    }

    /// A place behind a real sshd; none where there is no sshd.
    pub(crate) fn over_ssh(lines: &[&str]) -> Option<Self> {
        if !needs_sshd() {
            return None;
        }
        let place = Self::new();
        let at = place.dir.path().display().to_string();
        let door = program(place.dir.path(), "door", &DOOR.replace("@D@", &at));
        let mut options = Options::forced(&format!("exec {}", door.display()));
        for line in lines {
            options = options.line(line);
        }
        let sshd = Sshd::start(options);
        let way = SshOptions {
            identity: Some(sshd.identity()),
            known_hosts: Some(sshd.known_hosts()),
            alive: Duration::from_secs(1),
            ..SshOptions::default()
        };
        let ssh = Ssh::new(sshd.address().parse().unwrap(), way).unwrap();
        let driver = Driver::new(Arc::new(Carrier::Ssh(ssh)));
        Some(Self { driver, sshd: Some(sshd), ..place })
    }

    /// Another driver of the same VMs, as another runner has.
    pub(crate) fn driver_here(&self) -> Driver {
        let at = |name: &str| self.dir.path().join(name);
        let (vmadm, zlogin) = (at("vmadm"), at("zlogin"));
        let local = Local::new(Programs::Files { vmadm, zlogin }).unwrap();
        Driver::new(Arc::new(Carrier::Local(local)))
    }

    pub(crate) fn sshd(&mut self) -> &mut Sshd {
        self.sshd.as_mut().unwrap()
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        match &**self.driver.vmadm().carrier() {
            Carrier::Ssh(ssh) => ssh.connections(),
            Carrier::Local(_) => 0,
        }
    }

    /// How often vmadm was called with a first word.
    pub(crate) fn calls(&self, word: &str) -> usize {
        let calls = fs::read_to_string(self.dir.path().join("calls"));
        let calls = calls.unwrap_or_default();
        calls.lines().filter(|line| line.starts_with(word)).count()
    }

    /// Waits until something is so.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&Self) -> bool,
    ) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}: not so");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn fault(&self, words: &[&str]) {
        fs::write(self.dir.path().join("faults"), words.join("\n")).unwrap();
    }

    pub(crate) fn set(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap();
        text.trim().to_owned()
    }

    pub(crate) async fn worker(&self) -> Worker {
        self.driver.take(uuid(), soon()).await.unwrap()
    }

    pub(crate) async fn inside(&self) -> Inside {
        self.worker().await.probe(soon()).await.unwrap()
    }
}

pub(crate) fn program(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub(crate) fn uuid() -> WorkerUuid {
    U.parse().unwrap()
}

pub(crate) fn clean() -> SnapshotName {
    "clean".parse().unwrap()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) fn after_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// The user who runs the tests.
pub(crate) fn me() -> UserName {
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
