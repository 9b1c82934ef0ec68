//! How long the stages of a reset and a first command take, with the Linux
//! stand-in. Looks for its programs as the tests do; the number of rounds is
//! the argument (100).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ntrace_zones::{
    Carrier, Directory, Driver, JobSpec, Local, Programs, WorkerUuid,
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
        measure(&programs, state.path(), &uuid, rounds.unwrap_or(100)).await;
    vmadm(&programs, state.path(), &["delete", &uuid], "")?;
    measured
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

async fn measure(
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
    let driver = Driver::new(Arc::new(Carrier::Local(local)));
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
    let mut times = vec![Vec::new(); 4];
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
    let names = ["roll back and boot", "ensure booted", "probe", "run true"];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!("{name:20} median {:8.2?}  p95 {:8.2?}", at(50), at(95));
    }
    worker.halt(soon()).await?;
    Ok(())
}
