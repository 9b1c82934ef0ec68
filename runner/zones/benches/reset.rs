//! How long the stages of a reset and a first command take, with the Linux
//! stand-in: as local processes, and through a real sshd on loopback, with
//! the ratio of the two. Looks for its programs as the tests do; the number
//! of rounds is the argument (100).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ntrace_testbed::{Options, Sshd, needs_sshd};
use ntrace_zones::{
    Carrier, Directory, Driver, JobSpec, Local, Programs, Ssh, SshOptions,
    WorkerUuid,
};
use tokio::time::Instant;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const MANIFEST: &str = r#"{"alias":"measured","brand":"joyent",
"image_uuid":"6e747261-6365-4000-8000-000000000001","autoboot":false,
"max_physical_memory":512,"max_lwps":300,"quota":2,"tmpfs":64}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let rounds = std::env::args().find_map(|word| word.parse().ok());
    let beside = std::env::current_exe()?;
    let programs = std::env::var_os("NTRACE_TEST_PROGRAMS")
        .map(PathBuf::from)
        .or_else(|| Some(beside.parent()?.parent()?.to_owned()))
        .filter(|dir| dir.join("vmadm").exists());
    let Some(programs) = programs else {
        println!("no stand-in here: cargo build -p ntrace-standin");
        return Ok(());
    };
    let state = tempfile::tempdir()?;
    let uuid = vmadm(&programs, state.path(), &["create"], MANIFEST)?;
    let measured =
        both(&programs, state.path(), &uuid, rounds.unwrap_or(100)).await;
    vmadm(&programs, state.path(), &["delete", &uuid], "")?;
    measured
}

/// Measures both ways and prints them side by side.
async fn both(
    programs: &Path,
    state: &Path,
    uuid: &str,
    rounds: usize,
) -> Fallible<()> {
    vmadm(programs, state, &["create-snapshot", uuid, "clean"], "")?;
    let local = Local::new(Programs::Files {
        vmadm: programs.join("vmadm"),
        zlogin: programs.join("zlogin"),
    })?
    .with_env("NTRACE_ZONES", state);
    let here = measure(Carrier::Local(local), uuid, rounds).await?;
    let there = if needs_sshd() {
        // The forced command of a trusted caller: no gate in the way.
        let line = format!(
            "export NTRACE_ZONES={}; eval \"exec {}/${{SSH_ORIGINAL_COMMAND#\
             /usr/sbin/}}\"",
            state.display(),
            programs.display()
        );
        let sshd = Sshd::start(Options::forced(&line));
        let options = SshOptions {
            identity: Some(sshd.identity()),
            known_hosts: Some(sshd.known_hosts()),
            ..SshOptions::default()
        };
        let ssh = Ssh::connect(&sshd.address().parse()?, &options).await?;
        Some(measure(Carrier::Ssh(ssh), uuid, rounds).await?)
    } else {
        None
    };
    let names = ["roll back and boot", "ensure booted", "probe", "run true"];
    for (at, name) in names.iter().enumerate() {
        let [median, late] = here[at];
        print!("{name:20} local {median:8.2?} (p95 {late:8.2?})");
        if let Some(there) = &there {
            let [over, late] = there[at];
            let ratio = over.as_secs_f64() / median.as_secs_f64();
            print!("  ssh {over:8.2?} (p95 {late:8.2?})  x {ratio:.2}");
        }
        println!();
    }
    Ok(())
}

fn vmadm(
    programs: &Path,
    state: &Path,
    args: &[&str],
    input: &str,
) -> Fallible<String> {
    let mut child = std::process::Command::new(programs.join("vmadm"))
        .env("NTRACE_ZONES", state)
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let said = String::from_utf8(child.wait_with_output()?.stderr)?;
    Ok(said.split_whitespace().last().unwrap_or_default().to_owned())
}

/// The median and the 95th percentile of each stage.
async fn measure(
    carrier: Carrier,
    uuid: &str,
    rounds: usize,
) -> Fallible<[[Duration; 2]; 4]> {
    let driver = Driver::new(Arc::new(carrier));
    let uuid: WorkerUuid = uuid.parse()?;
    let clean = "clean".parse()?;
    let job = JobSpec::new(
        "job".parse()?,
        Directory::new("/")?,
        vec!["/bin/true".to_owned()],
        Vec::new(),
    )?;
    let soon = || Instant::now() + Duration::from_secs(60);
    let worker = driver.take(uuid, soon()).await.ok_or("not to be had")?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        let mut last = Instant::now();
        let mut lap = |times: &mut Vec<Duration>| {
            times.push(last.elapsed());
            last = Instant::now();
        };
        let done = worker.roll_back(&clean, soon()).await?;
        lap(&mut times[0]);
        worker.ensure_booted(done.before.as_ref(), soon()).await?;
        lap(&mut times[1]);
        let inside = worker.probe(soon()).await?;
        lap(&mut times[2]);
        inside.run(&job, soon())?.ended().await;
        lap(&mut times[3]);
    }
    worker.halt(soon()).await?;
    let of = |mut times: Vec<Duration>| {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        [at(50), at(95)]
    };
    let [a, b, c, d] = times;
    Ok([of(a), of(b), of(c), of(d)])
}
