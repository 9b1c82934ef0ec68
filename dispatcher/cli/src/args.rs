//! What a person may type.
//!
//! Words become types here where that takes no dispatcher; the options of a
//! job are checked by the protocol's own rules in `push`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use ntrace_protocol::compare::{Format, TraceRef};
use ntrace_protocol::id::{ArtefactId, JobRef};
use ntrace_protocol::unit::parse_duration;
use ntrace_protocol::{JobId, JobState, Stream};

use crate::failure::STATUS_HELP;

mod words;

use words::{
    DIFF_HELP, EXPORT_HELP, FLAME_HELP, LOGS_HELP, PUSH_HELP, STOP_HELP,
    SUBMIT_HELP, SYSCALLS_HELP,
};

/// Runs commits in clean places and brings back what they said.
///
/// A dispatcher queues jobs; runners run each in a provably clean zone,
/// traced. This program pushes jobs, shows them, and reads their output.
#[derive(Debug, Parser)]
#[command(
    name = "ntrace",
    version,
    after_long_help = format!("{EXAMPLES}\n\n{STATUS_HELP}"),
    after_help = "Exit statuses and examples: ntrace --help",
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// Where the dispatcher listens, as HOST:PORT.
    #[arg(
        long,
        global = true,
        env = "NTRACE_DISPATCHER",
        help_heading = GLOBAL,
        default_value = "localhost:9181",
        value_name = "HOST:PORT"
    )]
    pub dispatcher: String,
    /// Write JSON to stdout: one document; for list and logs one object a
    /// line. An error is one JSON object on stderr.
    #[arg(
        long,
        global = true,
        env = "NTRACE_JSON",
        help_heading = GLOBAL
    )]
    pub json: bool,
    /// How long to try to connect again after a connection was lost.
    #[arg(
        long,
        global = true,
        env = "NTRACE_PATIENCE",
        help_heading = GLOBAL,
        default_value = "2m",
        value_name = "DURATION",
        value_parser = parse_duration
    )]
    pub patience: Duration,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where help shows what every command takes.
const GLOBAL: &str = "Global options";

const EXAMPLES: &str = "\
Examples:
  ntrace push -f                       this work tree's HEAD; follow its output
  ntrace push dscape nano 0f1650a9...  a commit of github.com/dscape/nano
  ntrace push --run 'npm run benchmark' --limit time=5m --wait
  ntrace submit -f -- uname -a         one command in a clean place
  ntrace logs -f 0192d3a4-5b6c         any prefix of 8 or more characters
  ntrace flame 0192d3a4-5b6c --open    where its processor time went
  ntrace diff 0192d3a4-5b6c            what changed since the commit before
  ntrace list --state failed --json | jq -r .id
  ntrace stop 0192d3a4-5b6c";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have a commit run.
    #[command(after_help = PUSH_HELP)]
    Push(PushArgs),
    /// Have one command run in a clean place.
    #[command(after_help = SUBMIT_HELP)]
    Submit(SubmitArgs),
    /// Show a job with all its runs.
    #[command(after_help = "Example: ntrace status 0192d3a4-5b6c")]
    Status {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
    },
    /// List jobs, newest first.
    #[command(after_help = "Example: ntrace list --state running --limit 5")]
    List(ListArgs),
    /// Show what a job wrote.
    #[command(after_help = LOGS_HELP)]
    Logs(LogsArgs),
    /// Wait until a job is final; exit 0 if it is done, 1 if not.
    #[command(after_help = "Example: ntrace wait 0192d3a4-5b6c --timeout 10m")]
    Wait {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
        /// Wait no longer than this; then exit 5.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Stop a job: TERM, grace, then KILL of everything in its run.
    #[command(after_help = STOP_HELP)]
    Stop {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
        /// How long it has between TERM and KILL; 10s unless said.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        grace: Option<Duration>,
        /// First see what it is doing: processes, stacks, open files.
        #[arg(long)]
        evidence: bool,
    },
    /// Forget a final job and all that it left.
    #[command(after_help = "Example: ntrace remove 0192d3a4-5b6c")]
    Remove {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
    },
    /// List or fetch the files that a job left behind.
    Artefacts(ArtefactsArgs),
    /// Draw where a job's processor time went, as a flame graph.
    #[command(after_help = FLAME_HELP)]
    Flame(FlameArgs),
    /// Show by function what changed since the commit before, or between any
    /// two traces.
    #[command(after_help = DIFF_HELP)]
    Diff(DiffArgs),
    /// Fetch a trace for another tool.
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
    /// Show which system calls a job made, and how often, where that was
    /// asked for.
    #[command(after_help = SYSCALLS_HELP)]
    Syscalls {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
        /// Only this repetition of the command; the first is 1.
        #[arg(long, value_name = "N")]
        repetition: Option<u32>,
    },
    /// Tell how it came to a job's state: what it waits or waited for, why
    /// it ran again, how it ended.
    #[command(after_help = "Example: ntrace why 0192d3a4-5b6c")]
    Why {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
    },
    /// Show each worker with its state, and why and since when it is so.
    Workers,
    /// Show the runners that are or were connected.
    Runners,
    /// Show the dispatcher's counters and latencies.
    Stats,
    /// Ask whether the dispatcher is there.
    Ping,
}

/// What a job may be given.
#[derive(Debug, clap::Args)]
pub struct JobArgs {
    /// A variable of the job's environment; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// A limit: time, setup_time, silence (durations), memory, output, disk,
    /// artefacts (sizes), cpus, pids (numbers); may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub limit: Vec<(String, String)>,
    /// A word to find the job by; may be repeated.
    #[arg(long, value_name = "WORD")]
    pub label: Vec<String>,
    /// What to trace; the repository's own wish if not given.
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub trace: Option<TraceArg>,
    /// Samples a second of the trace, 1 to 5000.
    #[arg(long, value_name = "N")]
    pub hz: Option<u32>,
    /// How often the traced command runs, 1 to 50, for comparisons.
    #[arg(long, value_name = "N")]
    pub repeat: Option<u32>,
    /// Count system calls.
    #[arg(long)]
    pub syscalls: bool,
    /// A tracer in place of the runner's choice.
    #[arg(long, value_enum, value_name = "TRACER")]
    pub tracer: Option<TracerArg>,
    /// From -1000 to 1000; higher goes first.
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub priority: Option<i64>,
    /// How often it may run again when its runner or place was lost.
    #[arg(long, value_name = "N")]
    pub retry: Option<u32>,
    /// Your own id for the job; the same again makes no second job.
    #[arg(long, value_name = "UUID")]
    pub id: Option<JobId>,
    /// Follow its output until it ends.
    #[arg(long, short, conflicts_with = "wait")]
    pub follow: bool,
    /// Wait until it ends.
    #[arg(long)]
    pub wait: bool,
    /// With --follow: what the job writes reaches the terminal unchanged.
    #[arg(long, requires = "follow")]
    pub raw: bool,
}

/// The kinds of trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceArg {
    /// Where processor time goes.
    Cpu,
    /// Nothing.
    None,
}

/// The tracers that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TracerArg {
    /// The built-in sampler of Linux.
    Sample,
    /// DTrace, on SmartOS.
    Dtrace,
    /// Linux's perf.
    Perf,
}

/// The arguments of `flame`.
#[derive(Debug, clap::Args)]
pub struct FlameArgs {
    /// A job or 8 or more characters of its id, a run, or OWNER/REPO@COMMIT.
    #[arg(value_name = "ID")]
    pub trace: TraceRef,
    /// How it is drawn, and where it goes.
    #[command(flatten)]
    pub look: LookArgs,
    /// Show it in the browser.
    #[arg(long)]
    pub open: bool,
}

/// The arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The new side: a job, a run, or OWNER/REPO@COMMIT (all its done runs).
    #[arg(value_name = "A")]
    pub trace: TraceRef,
    /// What to compare it with.
    #[arg(value_name = "B")]
    pub base: Option<TraceRef>,
    /// How many functions to show.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=500)
    )]
    pub top: Option<u32>,
    /// Also draw the new side; red is more, blue is less.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Also draw the base, which shows what is gone.
    #[arg(long, value_name = "FILE")]
    pub svg_base: Option<PathBuf>,
    /// Write over existing files.
    #[arg(long)]
    pub force: bool,
}

/// The arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A job or 8 or more characters of its id, a run, or OWNER/REPO@COMMIT.
    #[arg(value_name = "ID")]
    pub trace: TraceRef,
    /// As what: pprof, folded, speedscope, firefox, svg, diff-svg,
    /// diff-svg-base.
    #[arg(long)]
    pub format: Format,
    /// What a difference is to, if not the commit before.
    #[arg(long, value_name = "ID")]
    pub base: Option<TraceRef>,
    /// How it is drawn, and where it goes.
    #[command(flatten)]
    pub look: LookArgs,
}

/// How a document is made, and where it goes.
#[derive(Debug, clap::Args)]
pub struct LookArgs {
    /// Only this repetition of the command; the first is 1.
    #[arg(long, value_name = "N")]
    pub repetition: Option<u32>,
    /// The root of a graph is at the top.
    #[arg(long)]
    pub icicle: bool,
    /// The widest stand first, not in the order of names.
    #[arg(long)]
    pub by_width: bool,
    /// Where to write it; `-` is stdout. Without this it is a file here whose
    /// name begins with `ntrace-` and the job.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over an existing file.
    #[arg(long)]
    pub force: bool,
}

/// The arguments of `push`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Whose repository.
    #[arg(requires_all = ["repo", "commit"])]
    pub owner: Option<String>,
    /// Which repository.
    pub repo: Option<String>,
    /// Which commit: all its 40 (or 64) hex digits.
    pub commit: Option<String>,
    /// A shell command in place of the repository's own.
    #[arg(long, value_name = "COMMAND")]
    pub run: Option<String>,
    /// A shell command in place of the repository's set-up; empty for none.
    #[arg(long, value_name = "COMMAND")]
    pub setup: Option<String>,
    /// What any job may be given.
    #[command(flatten)]
    pub job: JobArgs,
}

/// The arguments of `submit`.
#[derive(Debug, clap::Args)]
pub struct SubmitArgs {
    /// A commit whose tree the command finds.
    #[arg(long, value_name = "OWNER/REPO@COMMIT")]
    pub source: Option<String>,
    /// What any job may be given.
    #[command(flatten)]
    pub job: JobArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// The arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only jobs in this state: queued, leased, preparing, running,
    /// collecting, done, failed, stopped.
    #[arg(long)]
    pub state: Option<JobState>,
    /// Only jobs of this repository: OWNER/REPO, or REPO.
    #[arg(long)]
    pub repo: Option<String>,
    /// Only jobs with this label.
    #[arg(long, value_name = "WORD")]
    pub label: Option<String>,
    /// Go on behind this job.
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// At most so many.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub limit: u64,
    /// All of them, however many.
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// The arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The job: its id, or 8 or more characters of its beginning.
    pub id: JobRef,
    /// Go on until the job ends; a lost connection is made again.
    #[arg(long, short)]
    pub follow: bool,
    /// Begin at this record; the first is 0.
    #[arg(long, value_name = "N")]
    pub from: Option<u64>,
    /// Only this stream; may be repeated.
    #[arg(long, value_name = "STREAM", value_enum)]
    pub stream: Vec<StreamArg>,
    /// Begin each record's line with the time at which the runner had it.
    #[arg(long, short)]
    pub timestamps: bool,
    /// What the job wrote reaches the terminal unchanged.
    #[arg(long)]
    pub raw: bool,
}

/// The streams that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StreamArg {
    /// The job's standard output.
    Stdout,
    /// The job's standard error.
    Stderr,
    /// What the runner has to say.
    Events,
}

impl From<StreamArg> for Stream {
    fn from(arg: StreamArg) -> Self {
        match arg {
            StreamArg::Stdout => Self::Stdout,
            StreamArg::Stderr => Self::Stderr,
            StreamArg::Events => Self::Events,
        }
    }
}

/// The arguments of `artefacts`.
#[derive(Debug, clap::Args)]
pub struct ArtefactsArgs {
    /// List or get.
    #[command(subcommand)]
    pub command: ArtefactsCommand,
}

/// The commands of `artefacts`.
#[derive(Debug, Subcommand)]
pub enum ArtefactsCommand {
    /// List the files that a job left behind.
    #[command(after_help = "Example: ntrace artefacts list 0192d3a4-5b6c")]
    List {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
    },
    /// Fetch one file; its hash is checked.
    #[command(
        group = ArgGroup::new("which").required(true),
        after_help = "Examples:\n  ntrace artefacts get 0192d3a4-5b6c \
                      flamegraph.svg -o f.svg\n  ntrace artefacts get \
                      0192d3a4-5b6c cpu.pb.gz -o - | gunzip"
    )]
    Get {
        /// The job: its id, or 8 or more characters of its beginning.
        id: JobRef,
        /// The file's name as `list` shows it. Of several runs' files of one
        /// name it is the last run's.
        #[arg(group = "which")]
        name: Option<String>,
        /// The artefact's own id in place of a name.
        #[arg(long, group = "which", value_name = "UUID")]
        artefact: Option<ArtefactId>,
        /// Where to write it; `-` is stdout. An existing file is refused.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Write over an existing file.
        #[arg(long)]
        force: bool,
    },
}

/// Parses `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("it takes NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_put_together_rightly() {
        Args::command().debug_assert();
    }

    #[test]
    fn owner_alone_is_not_enough() {
        for bad in [
            &["ntrace", "push", "a"][..],
            &["ntrace", "push", "a", "b"],
            &["ntrace", "submit", "echo"],
            &["ntrace", "push", "-f", "--wait"],
            &["ntrace", "status", "short"],
            &["ntrace", "list", "--state", "lost"],
            &["ntrace", "push", "--env", "=x"],
        ] {
            assert!(Args::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_command_has_a_help_and_the_statuses_are_in_it() {
        let mut command = Args::command();
        let help = command.render_long_help().to_string();
        assert!(help.contains("Exit status:"), "{help}");
        for sub in command.get_subcommands_mut() {
            let name = sub.get_name().to_owned();
            assert!(sub.get_about().is_some(), "{name}");
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{name} {arg:?}");
            }
        }
    }
}
