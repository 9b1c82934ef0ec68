//! `syscalls`: which system calls a job made, by count.

use ntrace_protocol::id::JobRef;
use ntrace_protocol::runner::ArtefactView;
use ntrace_protocol::syscalls::SyscallCounts;
use ntrace_protocol::trace::TraceFile;
use ntrace_protocol::{Code, WireError};

use crate::artefacts;
use crate::failure::{Failure, Status};
use crate::link::Link;
use crate::screen::Screen;
use crate::show::trace as show;

/// Bytes of one file at most: all tables of calls together are far shorter.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) async fn syscalls(
    id: &JobRef,
    repetition: Option<u32>,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let id = id.to_string();
    let found = link.ask(screen, async |d| d.artefacts(&id).await).await?;
    let files = pick(&found, repetition);
    if files.is_empty() {
        let job = link.ask(screen, async |d| d.status(&id).await).await?;
        let traces = job.runs.iter().rev().filter_map(|r| r.trace.as_ref());
        let said = traces.filter_map(|trace| trace.syscalls.as_ref()).next();
        let text = match said {
            Some(summary) => summary.sentence(),
            None => "the job's system calls were not counted; `--syscalls` \
                     of push and submit asks for it"
                .to_owned(),
        };
        return Err(Failure::Refused(WireError::new(Code::Enoent, text)));
    }
    let mut counts = SyscallCounts::default();
    for view in files {
        let bytes = artefacts::content(view, MAX_BYTES, link, screen).await?;
        counts.add(&read(&bytes)?);
    }
    if screen.json {
        screen.json(&counts)?;
    } else {
        screen.table(&show::syscalls(&counts), true, 0, |_| None)?;
        screen.say(&show::syscalls_footing(&counts));
    }
    Ok(Status::Ok)
}

/// The files of the last run that has any, of one repetition or of all.
fn pick(found: &[ArtefactView], repetition: Option<u32>) -> Vec<&ArtefactView> {
    let of = |view: &&ArtefactView| {
        let of = TraceFile::Syscalls.repetition(&view.name);
        of.is_some_and(|n| repetition.is_none_or(|wanted| n == wanted))
    };
    let Some(last) = found.iter().rfind(of) else { return Vec::new() };
    let files = found.iter().filter(of);
    files.filter(|view| view.run_id == last.run_id).collect()
}

fn read(bytes: &[u8]) -> Result<SyscallCounts, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::Damaged(format!("the file of counts makes no sense: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_run_is_shown_whole_or_by_repetition() {
        let of = |run: u32, name: &str| -> ArtefactView {
            let run = format!("0192d3a4-5b6c-7d8e-9f00-00000000000{run}");
            serde_json::from_value(json!({
                "id": "0192d3a4-5b6c-7d8e-9f00-0000000000aa", "run_id": run,
                "name": name, "bytes": 1, "sha256": "",
            }))
            .unwrap()
        };
        let all = [
            of(1, "trace/syscalls.json"),
            of(2, "trace/syscalls.json"),
            of(2, "trace/2/syscalls.json"),
            of(2, "trace/cpu.pb.gz"),
        ];
        let names = |repetition| -> Vec<&str> {
            pick(&all, repetition).iter().map(|v| v.name.as_str()).collect()
        };
        let both = ["trace/syscalls.json", "trace/2/syscalls.json"];
        assert_eq!(names(None), both);
        assert_eq!(names(Some(2)), both[1..]);
        assert!(names(Some(3)).is_empty());
    }
}
