//! Converts a profile by hand: `convert FROM TO < in > out`.
//!
//! FROM: pprof, folded, dtrace, perf, cpuprofile.
//! TO: pprof, folded, svg, icicle, speedscope, firefox.

use std::io::{self, Read as _, Write as _};

use ntrace_profile::svg::{self, Growth, Options};
use ntrace_profile::{Header, Profile, export, folded, import, pprof};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &words[..] else {
        return Err("usage: convert FROM TO < in > out".into());
    };
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let header = Header { hz: 199, ..Header::default() };
    let profile: Profile = match from.as_str() {
        "pprof" => pprof::read(&bytes)?,
        "folded" => folded::read(&bytes, header)?,
        "dtrace" => import::dtrace(&bytes, header, ""),
        "perf" => import::perf_script(&bytes, header, ""),
        "cpuprofile" => import::cpuprofile(&bytes, header, "node", "")?,
        other => return Err(format!("cannot read {other:?}").into()),
    };
    let icicle = Options { growth: Growth::Icicle, ..Options::default() };
    let out = match to.as_str() {
        "pprof" => pprof::write(&profile),
        "folded" => folded::write(&profile).into_bytes(),
        "svg" => svg::flame(&[&profile], &Options::default()).into_bytes(),
        "icicle" => svg::flame(&[&profile], &icicle).into_bytes(),
        "speedscope" => export::speedscope(&profile, "ntrace").into_bytes(),
        "firefox" => export::firefox(&profile, "ntrace").into_bytes(),
        other => return Err(format!("cannot write {other:?}").into()),
    };
    io::stdout().write_all(&out)?;
    Ok(())
}
