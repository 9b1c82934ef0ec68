//! The ssh carrier over a real sshd: bytes, exits, lost and refused
//! connections.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use ntrace_testbed::{Login, Options, Sshd, needs_sshd};
use ntrace_zones::{
    Carrier, Command, CommandError, ConnectError, Exit, Output, Program, Ssh,
    SshOptions, Trouble, run_command,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

/// What is run in the place of vmadm: the words after the sub-command.
const DOOR: &str = r#"#!/bin/bash
cd "$(dirname "$0")" || exit 99
eval "set -- $SSH_ORIGINAL_COMMAND"
[ "$1" = /usr/sbin/vmadm ] || [ "$1" = /usr/sbin/zlogin ] || exit 98
shift 2
case $1 in
exit) exit "$2" ;;
die) kill -KILL $$ ;;
flood) head -c "$2" /dev/zero; head -c "$2" /dev/zero >&2; printf end
    printf end >&2 ;;
cat) exec cat ;;
say) printf '[%s]' "$@" ;;
tty) tty <&0 ;;
hold) echo up; echo x >>"up.$2"; until [ -e "go.$2" ]; do sleep 0.02; done
    echo x >>"done.$2" ;;
*) exit 97 ;;
esac
"#;

struct Bed {
    sshd: Sshd,
    dir: TempDir,
}

impl Bed {
    fn new(lines: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let door = dir.path().join("door");
        fs::write(&door, DOOR).unwrap();
        fs::set_permissions(&door, fs::Permissions::from_mode(0o755)).unwrap();
        let mut options = Options::forced(&format!("exec {}", door.display()));
        for line in lines {
            options = options.line(line);
        }
        Self { sshd: Sshd::start(options), dir }
    }

    fn options(&self) -> SshOptions {
        SshOptions {
            identity: Some(self.sshd.identity()),
            known_hosts: Some(self.sshd.known_hosts()),
            control_directory: Some(self.dir.path().join("control")),
            alive: Duration::from_secs(1),
        }
    }

    async fn try_connect(&self) -> Result<Ssh, ConnectError> {
        let address = self.sshd.address().parse().unwrap();
        Ssh::connect(&address, &self.options()).await
    }

    async fn connect(&self) -> Carrier {
        Carrier::Ssh(self.try_connect().await.unwrap())
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn command(words: &[&str]) -> Command {
    let words = std::iter::once("get").chain(words.iter().copied());
    Command::new(Program::Vmadm, words)
}

async fn run(
    carrier: &Carrier,
    words: &[&str],
    input: &[u8],
) -> Result<Output, CommandError> {
    let input = Bytes::copy_from_slice(input);
    run_command(carrier, &command(words), input, soon()).await
}

async fn until(path: &Path) {
    let deadline = soon();
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} is not there", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection error with its story.
fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn words_arrive_as_they_were_and_exits_come_back() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    let strange = ["say", "a b", "", "$HOME `id` *", "it's\n\"!\\", "-x;ls"];
    let output = run(&carrier, &strange, b"").await.unwrap();
    let wanted: String = strange.iter().map(|w| format!("[{w}]")).collect();
    assert_eq!(output.stdout.text(), wanted);
    for code in [0, 1, 7, 127, 254, 255] {
        let output = run(&carrier, &["exit", &code.to_string()], b"").await;
        assert_eq!(output.unwrap().exit, Exit::Code(code));
    }
    let output = run(&carrier, &["die"], b"").await.unwrap();
    assert_eq!(output.exit, Exit::Unknown, "a signal is no lost connection");
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let output = run(&carrier, &["cat"], &bytes).await.unwrap();
    assert!(output.stdout.bytes == bytes, "stdin and stdout are 8-bit clean");
    let output = run(&carrier, &["tty"], b"").await.unwrap();
    assert_eq!(output.stdout.text(), "not a tty\n");
}

/// The exit status overtakes the last output on its way.
#[tokio::test]
async fn the_last_bytes_of_both_streams_are_never_lost() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    for round in 0..24 {
        let size = [10, 70_000, 600_000][round % 3];
        let words = ["flood", &size.to_string()];
        let output = run(&carrier, &words, b"").await.unwrap();
        // A busy machine's shell may say a word of its own on stderr.
        for stream in [&output.stdout, &output.stderr] {
            let zeros = stream.bytes.iter().filter(|byte| **byte == 0).count();
            let all = zeros as u64 + stream.cut;
            if stream.cut == 0 {
                assert_eq!(all, size as u64, "round {round}");
                assert!(stream.bytes.ends_with(b"end"), "round {round}");
            } else {
                assert!(all >= size as u64, "round {round}: {all}");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_host_key_is_refused_with_the_words_what_to_do() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    fs::write(bed.sshd.known_hosts(), "").unwrap();
    let error = bed.try_connect().await.unwrap_err();
    assert!(error.is_lasting(), "{error}");
    let text = error.to_string();
    assert!(
        matches!(
            error,
            ConnectError::Failed { trouble: Trouble::UnknownHostKey, .. }
        ),
        "{text}"
    );
    let scan = format!("ssh-keyscan -p {} 127.0.0.1 >>", bed.sshd.port());
    assert!(text.contains(&scan), "{text}");
    assert_eq!(fs::read_to_string(bed.sshd.known_hosts()).unwrap(), "");
}

#[tokio::test]
async fn a_changed_host_key_is_refused_with_the_words_what_to_do() {
    if !needs_sshd() {
        return;
    }
    let mut bed = Bed::new(&[]);
    bed.sshd.change_host_key();
    bed.sshd.restart();
    let error = bed.try_connect().await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            ConnectError::Failed { trouble: Trouble::ChangedHostKey, .. }
        ),
        "{text}"
    );
    let remove = format!("ssh-keygen -R '[127.0.0.1]:{}'", bed.sshd.port());
    assert!(text.contains(&remove), "{text}");
}

#[tokio::test]
async fn a_key_that_is_not_let_in_is_lasting_and_nobody_there_is_not() {
    if !needs_sshd() {
        return;
    }
    let mut bed = Bed::new(&[]);
    bed.sshd.set_login(Login::Denied);
    let error = bed.try_connect().await.unwrap_err();
    assert!(error.is_lasting(), "{error}");
    assert!(error.to_string().contains("authorized_keys"), "{error}");
    bed.sshd.stop();
    let error = bed.try_connect().await.unwrap_err();
    assert!(!error.is_lasting(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_is_told_and_made_anew() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    let held = run(&carrier, &["hold", "a"], b"");
    let cut = async {
        until(&bed.file("up.a")).await;
        bed.sshd.cut();
    };
    let (held, ()) = tokio::join!(held, cut);
    let text = story(&held.unwrap_err());
    assert!(text.contains("lost the connection to the global zone"), "{text}");
    let output = run(&carrier, &["exit", "3"], b"").await.unwrap();
    assert_eq!(output.exit, Exit::Code(3));
    // What was run goes on, as vmadm does.
    assert!(!bed.file("done.a").exists());
    fs::write(bed.file("go.a"), "").unwrap();
    until(&bed.file("done.a")).await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    let held = run(&carrier, &["hold", "a"], b"");
    let freeze = async {
        until(&bed.file("up.a")).await;
        bed.sshd.freeze();
    };
    let (held, ()) = tokio::join!(held, freeze);
    bed.sshd.thaw();
    let text = story(&held.unwrap_err());
    assert!(text.contains("not responding"), "{text}");
    fs::write(bed.file("go.a"), "").unwrap();
    until(&bed.file("done.a")).await;
}

#[tokio::test]
async fn an_sshd_that_restarts_disturbs_nobody() {
    if !needs_sshd() {
        return;
    }
    let mut bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    let words = ["hold", "a"];
    let held = run(&carrier, &words, b"");
    let file = bed.file("up.a");
    let go = bed.file("go.a");
    let restart = async {
        until(&file).await;
        bed.sshd.restart();
        fs::write(&go, "").unwrap();
    };
    let (held, ()) = tokio::join!(held, restart);
    assert_eq!(held.unwrap().exit, Exit::Code(0));
}

#[tokio::test]
async fn a_server_that_comes_up_late_is_waited_for() {
    if !needs_sshd() {
        return;
    }
    let mut bed = Bed::new(&[]);
    bed.sshd.stop();
    let address = bed.sshd.address().parse().unwrap();
    let carrier = Carrier::Ssh(Ssh::new(address, bed.options()).unwrap());
    let output = run(&carrier, &["exit", "0"], b"");
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bed.sshd.restart();
    };
    let (output, ()) = tokio::join!(output, late);
    assert_eq!(output.unwrap().exit, Exit::Code(0));
}

/// Holds `n` sessions at once; gives how many connections they took.
async fn hold_many(bed: &Bed, ssh: Ssh, n: usize) -> usize {
    let carrier = Arc::new(Carrier::Ssh(ssh));
    let held = join_all((0..n).map(|i| {
        let carrier = Arc::clone(&carrier);
        async move { run(&carrier, &["hold", &i.to_string()], b"").await }
    }));
    let watch = async {
        for i in 0..n {
            until(&bed.file(&format!("up.{i}"))).await;
        }
        let Carrier::Ssh(ssh) = &*carrier else { unreachable!() };
        let connections = ssh.connections();
        for i in 0..n {
            fs::write(bed.file(&format!("go.{i}")), "").unwrap();
        }
        connections
    };
    let (held, connections) = tokio::join!(held, watch);
    for output in held {
        assert_eq!(output.unwrap().exit, Exit::Code(0));
    }
    connections
}

#[tokio::test]
async fn few_sessions_share_one_connection_and_many_make_few_more() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&["MaxSessions 10", "MaxStartups 3:100:3"]);
    let ssh = bed.try_connect().await.unwrap();
    assert_eq!(hold_many(&bed, ssh, 6).await, 1);
    let bed = Bed::new(&["MaxSessions 10", "MaxStartups 3:100:3"]);
    let ssh = bed.try_connect().await.unwrap();
    assert_eq!(hold_many(&bed, ssh, 20).await, 3);
}

#[tokio::test]
async fn a_server_that_gives_few_sessions_is_believed() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&["MaxSessions 2"]);
    let ssh = bed.try_connect().await.unwrap();
    assert_eq!(hold_many(&bed, ssh, 6).await, 3);
}

#[tokio::test]
async fn more_callers_than_sessions_wait_for_their_turn() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&["MaxSessions 1"]);
    let carrier = Arc::new(bed.connect().await);
    // Eight connections of one session each, and twelve callers.
    let all = join_all((0..12).map(|_| {
        let carrier = Arc::clone(&carrier);
        async move { run(&carrier, &["flood", "1000"], b"").await }
    }));
    for output in all.await {
        assert_eq!(output.unwrap().exit, Exit::Code(0));
    }
}

#[tokio::test]
async fn a_change_that_is_given_up_goes_on_and_gets_no_second_beside_it() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    let change = |words: &[&str]| {
        let words = std::iter::once("stop").chain(words.iter().copied());
        Command::new(Program::Vmadm, words)
    };
    // The second word is where the VM's uuid stands.
    let hold = change(&["hold", "a"]);
    let short = async {
        until(&bed.file("up.a")).await;
    };
    let given_up = async {
        tokio::select! {
            output = run_command(&carrier, &hold, Bytes::new(), soon()) => {
                panic!("{output:?}")
            }
            () = short => {}
        }
    };
    given_up.await;
    let again = run_command(&carrier, &hold, Bytes::new(), soon()).await;
    let text = story(&again.unwrap_err());
    assert!(text.contains("still runs in the global zone"), "{text}");
    let up = fs::read_to_string(bed.file("up.a")).unwrap();
    assert_eq!(up.lines().count(), 1);
    // Another VM, and a look at this one, are nobody's hindrance.
    let other = change(&["exit", "0"]);
    run_command(&carrier, &other, Bytes::new(), soon()).await.unwrap();
    fs::write(bed.file("go.a"), "").unwrap();
    until(&bed.file("done.a")).await;
    let deadline = soon();
    while let Err(error) =
        run_command(&carrier, &hold, Bytes::new(), soon()).await
    {
        assert!(Instant::now() < deadline, "{}", story(&error));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_master_ends_with_its_owner_and_leaves_nothing() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    run(&carrier, &["exit", "0"], b"").await.unwrap();
    let control = bed.file("control");
    assert!(fs::read_dir(&control).unwrap().count() > 0);
    drop(carrier);
    let deadline = soon();
    while !bed.sshd.sessions().is_empty() {
        assert!(Instant::now() < deadline, "the master stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fs::read_dir(&control).unwrap().count(), 0);
}

#[tokio::test]
async fn a_conversation_that_is_given_up_closes_its_pipes() {
    if !needs_sshd() {
        return;
    }
    let bed = Bed::new(&[]);
    let carrier = bed.connect().await;
    let zlogin = Command::new(Program::Zlogin, ["-Q", "cat"]);
    let mut process = carrier.spawn(&zlogin).await.unwrap();
    // The program runs: it ends by itself only when its stdin does.
    let mut kept = process.stdout;
    process.handle.kill();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(
        Duration::from_secs(60),
        kept.read_to_end(&mut rest),
    );
    read.await.unwrap().unwrap();
}
