//! How long a cached commit takes: `ensure`, the root, the first byte of its
//! archive and all of it. The number of rounds is the argument (200).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ntrace_source::{Cache, CommitId, Config, Repository, Root};
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn git(dir: &Path, args: &[&str]) -> Fallible<String> {
    let output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@t"])
        .args(args)
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let rounds = std::env::args().find_map(|word| word.parse().ok());
    let dir = tempfile::tempdir()?;
    let repo = dir.path().join("git/o/r");
    std::fs::create_dir_all(&repo)?;
    git(&repo, &["init", "-q"])?;
    for n in 0..100 {
        std::fs::write(repo.join(format!("file{n}")), vec![b'x'; 4000])?;
    }
    std::fs::write(repo.join("Makefile"), "test:\n\ttrue\n")?;
    git(&repo, &["add", "-A"])?;
    git(&repo, &["commit", "-q", "-m", "x"])?;
    let commit: CommitId = git(&repo, &["rev-parse", "HEAD"])?.parse()?;
    let source =
        format!("file://{}/git/{{owner}}/{{repo}}", dir.path().display());
    let cache = Cache::open(Config {
        directory: dir.path().join("cache"),
        source: source.parse()?,
        max_bytes: u64::MAX,
    })?;
    let name = Repository::new("o", "r")?;
    let soon = || Instant::now() + Duration::from_secs(60);
    let started = Instant::now();
    cache.ensure(&name, &commit, soon()).await?;
    println!("first fetch          {:8.2?}", started.elapsed());
    let mut times = vec![Vec::new(); 4];
    for _ in 0..rounds.unwrap_or(200) {
        let mut last = Instant::now();
        let mut lap = |times: &mut Vec<Duration>| {
            times.push(last.elapsed());
            last = Instant::now();
        };
        let tree = cache.ensure(&name, &commit, soon()).await?;
        lap(&mut times[0]);
        Root::read(&tree).await?;
        lap(&mut times[1]);
        let mut archive = tree.archive(soon())?;
        let mut all = vec![0; 512];
        archive.read_exact(&mut all).await?;
        lap(&mut times[2]);
        archive.read_to_end(&mut all).await?;
        lap(&mut times[3]);
    }
    let names = ["ensure", "read the root", "first byte", "rest of archive"];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!("{name:20} median {:8.2?}  p95 {:8.2?}", at(50), at(95));
    }
    Ok(())
}
