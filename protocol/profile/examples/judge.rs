//! Judges again what `scripts/bench/diff-truth` kept: `judge DIR` compares
//! each push of DIR/base and DIR/new with each other one.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use ntrace_profile::diff::{Level, diff};
use ntrace_profile::{Profile, pprof};

/// The profiles of each push below a directory, in order.
fn pushes(dir: &Path) -> Result<Vec<Vec<Profile>>, Box<dyn Error>> {
    let mut all = Vec::new();
    let mut dirs = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    dirs.sort();
    for dir in dirs {
        let mut runs = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            runs.push(pprof::read(&std::fs::read(entry?.path())?)?);
        }
        all.push(runs);
    }
    Ok(all)
}

fn tell<'a>(
    what: &str,
    pairs: impl Iterator<Item = (&'a Vec<Profile>, &'a Vec<Profile>)>,
) {
    let (mut count, mut called) = (0, 0);
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut totals = Vec::new();
    for (base, new) in pairs {
        count += 1;
        let (base, new): (Vec<_>, Vec<_>) =
            (base.iter().collect(), new.iter().collect());
        let found = diff(&base, &new);
        called += usize::from(found.level > Level::NoDifference);
        totals.push(found.total.relative.unwrap_or(0.0) * 100.0);
        for (at, row) in found.rows.iter().enumerate() {
            if row.own.level > Level::NoDifference {
                let place = if at == 0 { "first " } else { "" };
                *names
                    .entry(format!("{place}{}", row.function))
                    .or_default() += 1;
            } else if row.inclusive.level > Level::NoDifference {
                let name = format!("callees of {}", row.function);
                *names.entry(name).or_default() += 1;
            }
        }
    }
    totals.sort_by(f64::total_cmp);
    let (low, high) = (totals.first(), totals.last());
    println!(
        "{what}: {called} of {count} called; all CPU by {:+.1} to {:+.1} %",
        low.unwrap_or(&0.0),
        high.unwrap_or(&0.0)
    );
    for (name, times) in names {
        println!("    {times} times {name}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: judge DIR")?;
    let base = pushes(&Path::new(&dir).join("base"))?;
    let new = pushes(&Path::new(&dir).join("new"))?;
    for (what, side) in [("base to base", &base), ("new to new", &new)] {
        let pairs = side.iter().enumerate().flat_map(|(at, one)| {
            side[at + 1..].iter().map(move |other| (one, other))
        });
        tell(what, pairs);
    }
    let pairs = base.iter().flat_map(|b| new.iter().map(move |n| (b, n)));
    tell("base to new", pairs);
    Ok(())
}
