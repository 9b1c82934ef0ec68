//! Running things inside a zone by its shell, with the shells of this
//! machine.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod place;

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use ntrace_zones::{
    Collect, Directory, Ended, Inside, InsideError, JobSpec, Kind, Lost, Run,
    Signal, UserName,
};
use place::{Place, after_ms, me, soon};
use tokio::sync::mpsc;

fn dir(path: &std::path::Path) -> Directory {
    Directory::new(path.to_str().unwrap()).unwrap()
}

fn spec(user: UserName, argv: &[&str], env: &[(&str, &str)]) -> JobSpec {
    JobSpec::new(
        user,
        Directory::new("/").unwrap(),
        argv.iter().map(|s| (*s).to_owned()).collect(),
        env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
    )
    .unwrap()
}

async fn all(mut from: mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(chunk) = from.recv().await {
        whole.extend_from_slice(&chunk);
    }
    whole
}

async fn finish(inside: &Inside, spec: &JobSpec) -> (Vec<u8>, Vec<u8>, Ended) {
    let Run { stdout, stderr, mut ending } = inside.run(spec, soon()).unwrap();
    let (out, err, outcome) =
        tokio::join!(all(stdout), all(stderr), ending.wait());
    (out, err, outcome.ended)
}

fn shells() -> Vec<&'static str> {
    ["/bin/sh", "/bin/bash", "/bin/dash", "/bin/ksh93"]
        .into_iter()
        .filter(|path| std::path::Path::new(path).exists())
        .collect()
}

#[tokio::test]
async fn words_variables_and_both_streams_arrive_as_they_are() {
    for shell in shells() {
        let place = Place::with(shell, "");
        let inside = place.inside().await;
        assert!(matches!(inside.kind(), Kind::Shell { .. }));
        let script = "printf '%s|' \"$@\"; printf '%s' \"$V\" >&2; exit 7";
        let hostile = "'; touch /tmp/x; $(id) `id` \\ \"\n\n*";
        let spec = spec(
            me(),
            &["/bin/sh", "-c", script, "name", hostile, "", "-n", "ö"],
            &[("V", "a\n'b'\n"), ("PATH", "/usr/bin:/bin")],
        );
        let (out, err, ended) = finish(&inside, &spec).await;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{hostile}||-n|ö|"),
            "{shell}"
        );
        assert_eq!(err, b"a\n'b'\n", "{shell}");
        assert!(matches!(ended, Ended::Exit(7)), "{shell}: {ended:?}");
    }
}

#[tokio::test]
async fn nothing_but_the_given_environment_is_seen() {
    let place = Place::new();
    let inside = place.inside().await;
    let spec = spec(me(), &["/usr/bin/env"], &[("A", "1")]);
    let (out, _, ended) = finish(&inside, &spec).await;
    assert_eq!(out, b"A=1\n");
    assert!(matches!(ended, Ended::Exit(0)), "{ended:?}");
}

#[tokio::test]
async fn each_exit_status_comes_back() {
    let place = Place::new();
    let inside = place.inside().await;
    for code in [0, 1, 2, 77, 126, 127, 128, 255] {
        let script = format!("exit {code}");
        let spec = spec(me(), &["/bin/sh", "-c", &script], &[]);
        let (_, _, ended) = finish(&inside, &spec).await;
        assert!(matches!(ended, Ended::Exit(c) if c == code), "{ended:?}");
    }
}

#[tokio::test]
async fn a_signal_is_told_by_name_and_leaves_stderr_clean() {
    for shell in shells() {
        let place = Place::with(shell, "");
        let inside = place.inside().await;
        for name in ["KILL", "TERM", "SEGV", "INT", "HUP"] {
            let script = format!("kill -{name} $$");
            let spec = spec(me(), &["/bin/sh", "-c", &script], &[]);
            let (_, err, ended) = finish(&inside, &spec).await;
            assert_eq!(String::from_utf8_lossy(&err), "", "{shell} {name}");
            let Ended::Signal { name: found, .. } = ended else {
                panic!("{shell} {name}: {ended:?}");
            };
            assert_eq!(found, format!("SIG{name}"));
        }
    }
}

#[tokio::test]
async fn a_job_has_no_stdin() {
    let place = Place::new();
    let inside = place.inside().await;
    let spec = spec(me(), &["/bin/cat"], &[]);
    let (out, _, ended) = finish(&inside, &spec).await;
    assert_eq!(out, b"");
    assert!(matches!(ended, Ended::Exit(0)), "{ended:?}");
}

#[tokio::test]
async fn what_cannot_be_run_is_an_error_or_a_status() {
    let place = Place::new();
    let inside = place.inside().await;
    let nobody: UserName = "no-such-user-here".parse().unwrap();
    let (_, _, ended) = finish(&inside, &spec(nobody, &["true"], &[])).await;
    assert!(matches!(ended, Ended::Error { .. }), "{ended:?}");

    let (_, err, ended) =
        finish(&inside, &spec(me(), &["/no/such/program"], &[])).await;
    assert!(matches!(ended, Ended::Exit(127)), "{ended:?}");
    assert!(!err.is_empty());

    let error = inside.run(&spec(me(), &["A=b"], &[]), soon()).unwrap_err();
    assert!(matches!(error, InsideError::Unfit { .. }));
}

#[tokio::test]
async fn a_job_cannot_learn_the_nonce_or_forge_the_record() {
    let place = Place::new();
    let inside = place.inside().await;
    // All that a job can see of its ancestors without being root, plus a
    // record with a guessed nonce.
    let script = "printf '\\036ntrace-status %032d {\"code\":0}\\n' 7 >&2; \
                  tr '\\0' '\\n' </proc/$PPID/cmdline; ps -e -o args=; \
                  exit 5";
    let spec =
        spec(me(), &["/bin/sh", "-c", script], &[("PATH", "/usr/bin:/bin")]);
    let (out, err, ended) = finish(&inside, &spec).await;
    assert!(matches!(ended, Ended::Exit(5)), "{ended:?}");
    let forged = format!("\u{1e}ntrace-status {:032} {{\"code\":0}}\n", 7);
    assert_eq!(err, forged.as_bytes());
    let seen = String::from_utf8_lossy(&out);
    // The constant script is visible; 32 hex digits in a row are not.
    assert!(seen.contains("ntrace-status %s"), "{seen}");
}

#[tokio::test]
async fn a_zone_halted_under_the_job_is_no_success() {
    let place = Place::new();
    let inside = place.inside().await;
    // Kills the root shell that would write the record: zlogin exits 0.
    let script = "kill -KILL $(ps -o ppid= -p $(ps -o ppid= -p $$)) $PPID";
    let spec =
        spec(me(), &["/bin/sh", "-c", script], &[("PATH", "/usr/bin:/bin")]);
    let (_, _, ended) = finish(&inside, &spec).await;
    assert!(matches!(ended, Ended::NoMarker(Lost::Silent(_))), "{ended:?}");
}

#[tokio::test]
async fn a_deadline_ends_the_conversation() {
    let place = Place::new();
    let inside = place.inside().await;
    let spec = spec(me(), &["/bin/sleep", "30"], &[]);
    let mut run = inside.run(&spec, after_ms(300)).unwrap();
    let outcome = run.ended().await;
    assert!(matches!(outcome.ended, Ended::NoMarker(Lost::Deadline)));
    assert!(outcome.elapsed < Duration::from_secs(20));
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipes_does_not_hold_the_run() {
    let place = Place::new();
    let inside = place.inside().await;
    let script = "sleep 20 & echo $!; exit 3";
    let spec =
        spec(me(), &["/bin/sh", "-c", script], &[("PATH", "/usr/bin:/bin")]);
    let (out, _, ended) = finish(&inside, &spec).await;
    assert!(matches!(ended, Ended::Exit(3)), "{ended:?}");
    let pid = String::from_utf8(out).unwrap();
    let killed =
        std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    assert!(killed.success(), "the daemon was still there");
}

#[tokio::test]
async fn a_gibibyte_flows_in_constant_memory() {
    let place = Place::new();
    let inside = place.inside().await;
    let bytes: u64 = 1 << 30;
    let count = bytes.to_string();
    let spec = spec(me(), &["/usr/bin/head", "-c", &count, "/dev/zero"], &[]);
    let mut run = inside.run(&spec, soon() + Duration::from_secs(120)).unwrap();
    let (mut seen, mut most) = (0, 0);
    while let Some(chunk) = run.stdout.recv().await {
        assert!(chunk.len() <= 64 << 10);
        seen += chunk.len() as u64;
        if seen % (64 << 20) < chunk.len() as u64 {
            most = most.max(resident());
        }
    }
    assert_eq!(seen, bytes);
    assert!(matches!(run.ended().await.ended, Ended::Exit(0)));
    assert!(most < 200 << 20, "{most} bytes were resident");
}

#[tokio::test]
async fn an_unread_stream_stops_the_job_and_not_the_memory() {
    let place = Place::new();
    let inside = place.inside().await;
    let spec = spec(me(), &["/bin/cat", "/dev/zero"], &[]);
    let before = resident();
    let mut run = inside.run(&spec, after_ms(700)).unwrap();
    let outcome = run.ended().await;
    assert!(matches!(outcome.ended, Ended::NoMarker(Lost::Deadline)));
    assert!(resident() < before + (100 << 20));
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        names.push(*name);
    }
    let output = std::process::Command::new("tar")
        .arg("-cf")
        .arg("-")
        .arg("-C")
        .arg(dir.path())
        .args(names)
        .output()
        .unwrap();
    output.stdout
}

#[tokio::test]
async fn of_two_that_take_a_zone_for_theirs_the_first_gets_it() {
    let place = Place::new();
    let inside = place.inside().await;
    let work = dir(&place.dir.path().join("home/work"));
    let tar = || std::io::Cursor::new(tar_of(&[("a", b"one")]));
    let first = inside.unpack_first(&me(), &work, tar(), soon()).await;
    first.unwrap();
    let second = inside.unpack_first(&me(), &work, tar(), soon()).await;
    let why = second.unwrap_err().to_string();
    assert!(why.contains("somebody was here first"), "{why}");
    inside.unpack(&me(), &work, tar(), soon()).await.unwrap();
}

#[tokio::test]
async fn files_go_in_and_come_out() {
    let place = Place::new();
    let inside = place.inside().await;
    let work = place.dir.path().join("home/work ' $(id)");
    let big = vec![7_u8; 3 << 20];
    let tar =
        tar_of(&[("a/b.log", b"one"), ("a/c.txt", b"two"), ("big", &big)]);
    inside
        .unpack(&me(), &dir(&work), std::io::Cursor::new(tar), soon())
        .await
        .unwrap();
    assert_eq!(std::fs::read(work.join("a/b.log")).unwrap(), b"one");
    assert_eq!(std::fs::read(work.join("big")).unwrap(), big);

    std::os::unix::fs::symlink("/etc/passwd", work.join("a/l.log")).unwrap();
    let want = Collect {
        user: me(),
        dir: dir(&work),
        globs: vec!["**/*.log".to_owned(), "big".to_owned()],
        max_bytes: 1 << 30,
        max_files: 100,
    };
    let mut collecting = inside.collect(&want, soon()).await.unwrap();
    let mut tar = Vec::new();
    while let Some(chunk) = collecting.tar.recv().await {
        tar.extend_from_slice(&chunk);
    }
    assert_eq!(collecting.ended().await.unwrap().files, 2);
    let out = tempfile::tempdir().unwrap();
    unpack_here(&tar, out.path());
    assert_eq!(std::fs::read(out.path().join("a/b.log")).unwrap(), b"one");
    assert_eq!(std::fs::read(out.path().join("big")).unwrap(), big);
    assert!(!out.path().join("a/l.log").exists());
    assert!(!out.path().join("a/c.txt").exists());

    // More than the limit is an error, not half of a file.
    let want = Collect { max_bytes: 1 << 20, ..want };
    let mut collecting = inside.collect(&want, soon()).await.unwrap();
    let mut came = 0;
    while let Some(chunk) = collecting.tar.recv().await {
        came += chunk.len();
    }
    assert!(came < 2 << 20, "{came}");
    let error = collecting.ended().await.unwrap_err();
    assert!(error.to_string().contains("larger"), "{error}");
}

fn unpack_here(tar: &[u8], dir: &std::path::Path) {
    use std::io::Write as _;
    let mut child = std::process::Command::new("tar")
        .arg("-xf")
        .arg("-")
        .arg("-C")
        .arg(dir)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_broken_tar_is_told_with_tars_own_words() {
    let place = Place::new();
    let inside = place.inside().await;
    let work = place.dir.path().join("work");
    let error = inside
        .unpack(&me(), &dir(&work), &b"no tar at all"[..], soon())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tar"), "{error}");
}

#[tokio::test]
async fn a_source_that_breaks_is_not_a_whole_tree() {
    let place = Place::new();
    let inside = place.inside().await;
    let work = place.dir.path().join("work");
    let whole = tar_of(&[("a", b"one")]);
    let broken = std::io::Cursor::new(whole[..512].to_vec());
    let broken = tokio::io::AsyncReadExt::chain(broken, Fails);
    let error = inside
        .unpack(&me(), &dir(&work), Box::pin(broken), soon())
        .await
        .unwrap_err();
    assert!(
        matches!(error, InsideError::Lost { source: Lost::Source(_), .. }),
        "{error:?}"
    );
}

struct Fails;

impl tokio::io::AsyncRead for Fails {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("the source broke")))
    }
}

#[tokio::test]
async fn processes_are_listed() {
    let place = Place::new();
    let inside = place.inside().await;
    let all = inside.ps(soon()).await.unwrap();
    let own = u64::from(std::process::id());
    assert!(all.iter().any(|one| one.pid == own), "{} found", all.len());
}

#[tokio::test]
async fn roots_own_processes_are_never_signalled() {
    let place = Place::new();
    let inside = place.inside().await;
    // The zone's root is whoever runs this test.
    let error = inside.kill(&me(), Signal::Kill, soon()).await.unwrap_err();
    assert!(error.to_string().contains("will not signal"), "{error}");
}

/// Somebody on this machine whom root can become; None for others than root.
fn somebody() -> Option<UserName> {
    if me().as_str() != "root" {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields.get(2)?.parse().ok()?;
        let shell = fields.get(6)?;
        let can = (1000..60000).contains(&uid) && shell.ends_with("sh");
        can.then(|| fields[0].parse().ok()).flatten()
    })
}

#[tokio::test]
async fn the_job_is_another_user_than_the_zones_root() {
    let Some(user) = somebody() else {
        eprintln!("skipped: needs root and an ordinary user");
        return;
    };
    for shell in shells() {
        let place = Place::with(shell, "");
        let inside = place.inside().await;
        let run = |script: &str| {
            let path = [("PATH", "/usr/bin:/bin")];
            spec(user.clone(), &["/bin/sh", "-c", script], &path)
        };
        let script = "id -un; umask; ulimit -c; exit 9";
        let (out, err, ended) = finish(&inside, &run(script)).await;
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, format!("{user}\n0022\n0\n"), "{shell}");
        assert_eq!(String::from_utf8(err).unwrap(), "", "{shell}");
        assert!(matches!(ended, Ended::Exit(9)), "{shell}: {ended:?}");
        let (_, _, ended) = finish(&inside, &run("kill -KILL $$")).await;
        assert!(
            matches!(&ended, Ended::Signal { name, .. } if name == "SIGKILL"),
            "{shell}: {ended:?}"
        );
        // The one that knows the nonce is out of the job's reach.
        let script = "cat /proc/$PPID/environ /proc/$PPID/fd/3 && exit 1; \
                      kill -0 $PPID && exit 2; exit 0";
        let (_, _, ended) = finish(&inside, &run(script)).await;
        assert!(matches!(ended, Ended::Exit(0)), "{shell}: {ended:?}");
        // Files are the user's own.
        let work = std::env::temp_dir()
            .join(format!("ntrace-{}-{user}", std::process::id()));
        let tar = tar_of(&[("a", b"one")]);
        let tar = std::io::Cursor::new(tar);
        inside.unpack(&user, &dir(&work), tar, soon()).await.unwrap();
        let made = std::os::unix::fs::MetadataExt::uid(
            &std::fs::metadata(work.join("a")).unwrap(),
        );
        std::fs::remove_dir_all(&work).unwrap();
        assert!(made >= 1000, "{shell}: {made}");
    }
}

/// A zone of its own process ids, made by util-linux; None where that is not
/// to be had.
struct OwnPids {
    init: std::process::Child,
    pid: String,
}

impl OwnPids {
    fn new() -> Option<Self> {
        let user = std::process::Command::new("id")
            .args(["-u", "nobody"])
            .output()
            .ok()?;
        if !user.status.success() || me().as_str() != "root" {
            return None;
        }
        let mut init = std::process::Command::new("unshare")
            .args(["-p", "-f", "-m", "--mount-proc", "--kill-child"])
            .args(["/bin/sh", "-c", "echo up; exec sleep 100"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .ok()?;
        let mut up = [0; 3];
        let read = init.stdout.as_mut()?.read_exact(&mut up);
        let children = std::fs::read_to_string(format!(
            "/proc/{0}/task/{0}/children",
            init.id()
        ));
        match (read, children) {
            (Ok(()), Ok(text)) => {
                Some(Self { init, pid: text.trim().to_owned() })
            }
            _ => {
                let _ = init.kill();
                let _ = init.wait();
                None
            }
        }
    }
}

impl Drop for OwnPids {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

#[tokio::test]
async fn a_kill_ends_all_of_the_users_processes_and_no_others() {
    let Some(zone) = OwnPids::new() else {
        eprintln!("skipped: needs root and a pid namespace of its own");
        return;
    };
    let enter = format!("nsenter -t {} -p -m", zone.pid);
    let place = Place::with("/bin/sh", &enter);
    let inside = place.inside().await;
    let start = |user: &str| {
        std::process::Command::new("nsenter")
            .args(["-t", &zone.pid, "-p", "-m", "setpriv"])
            .args([format!("--reuid={user}"), "--clear-groups".to_owned()])
            .args(["setsid", "sleep", "98"])
            .spawn()
            .unwrap()
    };
    let mut jobs: Vec<_> = (0..5).map(|_| start("nobody")).collect();
    let mut other = start("daemon");
    let deadline = soon();
    let sleepers = loop {
        let all = inside.ps(deadline).await.unwrap();
        let count = all
            .iter()
            .filter(|one| format!("{:?}", one.argv).contains("sleep 98"))
            .count();
        if count >= 6 || tokio::time::Instant::now() > deadline {
            break count;
        }
    };
    assert_eq!(sleepers, 6);
    let nobody: UserName = "nobody".parse().unwrap();
    inside.kill(&nobody, Signal::Kill, soon()).await.unwrap();
    for job in &mut jobs {
        assert!(!job.wait().unwrap().success());
    }
    assert!(other.try_wait().unwrap().is_none(), "another user's was hit");
    let _ = other.kill();
    let _ = other.wait();
}
