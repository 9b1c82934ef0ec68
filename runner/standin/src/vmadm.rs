//! The program `vmadm`: commands, texts and exit statuses of the original.
//!
//! Messages go to stderr, data to stdout. This module reads the command
//! line; the commands are in the modules below it, and none of them prints:
//! each gives a `Done` or a `Failure`.

mod change;
mod events;
mod list;
mod nics;
pub(crate) mod payload;
mod power;
mod snapshots;
mod view;

use std::io::Write;

use crate::faults::{Fault, Faults};
use crate::halt;
use crate::names::{ZoneId, has_shape_of_uuid};
use crate::place::Place;
use crate::sys;
use crate::zone::{Zone, ZoneError};

/// A command that did what it was to do.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// For stdout, as it is.
    pub data: String,
    /// For stderr, a line of its own.
    pub message: Option<String>,
}

impl Done {
    fn message(text: impl Into<String>) -> Done {
        Done { data: String::new(), message: Some(text.into()) }
    }

    fn data(text: impl Into<String>) -> Done {
        Done { data: text.into(), message: None }
    }
}

/// A command that did not.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit 1, with this text on stderr.
    Error(String),
    /// Exit 2: the text, if any, then the usage.
    Usage(Option<String>),
    /// The text on stderr, then the end by SIGABRT, as where the original
    /// catches nothing.
    Crash(String),
}

impl Failure {
    fn new(text: impl Into<String>) -> Failure {
        Failure::Error(text.into())
    }
}

pub(crate) type Outcome = Result<Done, Failure>;

const COMMANDS: &str = "\
console <uuid>
create [-f <filename>]
create-snapshot <uuid> <snapname>
delete <uuid>
delete-snapshot <uuid> <snapname>
events [-fjr] [uuid]
gc
get <uuid>
info <uuid> [type,...]
kill [-s SIGNAL|-SIGNAL] <uuid>
list [-p] [-H] [-o field,...] [-s field,...] [field=value ...]
lookup [-j|-1] [-o field,...] [field=value ...]
reboot <uuid> [-F]
rollback-snapshot <uuid> <snapname>
start <uuid>
stop <uuid> [-F] [-t timeout]
sysrq <uuid> <nmi|screenshot>
update <uuid> [-f <filename>]
 -or- update <uuid> property=value [property=value ...]
validate create [-f <filename>]
validate update <brand> [-f <filename>]
";

fn usage() -> String {
    let mut text = "Usage: vmadm <command> [options]\n\n".to_owned();
    text.push_str(COMMANDS);
    text.push_str(
        "\nFor more detailed information on the use of this command,type \
         'man vmadm'.",
    );
    text
}

/// Runs the program; gives its exit status.
pub(crate) fn main(args: &[String]) -> u8 {
    let (stdout, stderr, code) = match run(args) {
        Ok(done) => (done.data, done.message, 0),
        Err(Failure::Error(text)) => (String::new(), Some(text), 1),
        Err(Failure::Crash(text)) => {
            let _ = writeln!(std::io::stderr(), "{text}");
            crash()
        }
        Err(Failure::Usage(text)) => {
            let text =
                text.map_or(usage(), |text| format!("{text}\n{}", usage()));
            (String::new(), Some(text), 2)
        }
    };
    // A reader that left is no failure: so it is with the original.
    let _ = std::io::stdout().write_all(stdout.as_bytes());
    if let Some(text) = stderr {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    code
}

/// Ends this process as an uncaught error ends the original.
fn crash() -> ! {
    // A core image would tell nobody anything.
    let _ = sys::set_limit(libc::RLIMIT_CORE, 0);
    std::process::abort()
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The word that was typed for the command.
    pub word: &'a str,
    /// All after it.
    pub args: &'a [String],
    /// Where zones are.
    pub place: Place,
}

fn run(args: &[String]) -> Outcome {
    let Some((word, rest)) = args.split_first() else {
        return Err(Failure::Usage(None));
    };
    if matches!(word.as_str(), "-h" | "-?" | "help" | "--help") {
        return Ok(Done::data(format!("{}\n", usage())));
    }
    let place = Place::open().map_err(|error| {
        Failure::new(format!("cannot open the place for zones: {error}"))
    })?;
    let call = Call { word, args: rest, place };
    let down =
        word != "gc" && Faults::of_place(&call.place).take(Fault::VminfodDown);
    if down {
        return Err(without_vminfod(&call));
    }
    match word.as_str() {
        "list" => list::list(&call),
        "lookup" => list::lookup(&call),
        "get" | "json" => list::get(&call),
        "info" => list::info(&call),
        "create" => change::create(&call),
        "validate" => change::validate(&call),
        "update" => change::update(&call),
        "delete" | "destroy" => change::delete(&call),
        "start" | "boot" => power::start(&call),
        "stop" | "halt" => power::stop(&call),
        "reboot" => power::reboot(&call),
        "kill" => power::kill(&call),
        "sysrq" => power::sysrq(&call),
        "console" => power::console(&call),
        "events" => events::run(&call),
        "create-snapshot" => snapshots::create(&call),
        "rollback-snapshot" => snapshots::rollback(&call),
        "delete-snapshot" => snapshots::delete(&call),
        "gc" => {
            let done = halt::collect_garbage(&call.place);
            done.map_err(|error| Failure::new(error.to_string()))?;
            Ok(Done::default())
        }
        other => Err(Failure::Usage(Some(format!(
            "Invalid command: \"{}\".",
            printable(other)
        )))),
    }
}

/// What a command says, or does not, while the service of states is down.
fn without_vminfod(call: &Call<'_>) -> Failure {
    let uuid = call.args.iter().find(|arg| !arg.starts_with('-'));
    let uuid = printable(uuid.map_or("", String::as_str));
    let why = "connect ECONNREFUSED";
    let crashes = match call.word {
        "stop" | "halt" => !call.has_flag("-F"),
        "create-snapshot" | "delete-snapshot" | "update" | "delete"
        | "destroy" => true,
        _ => false,
    };
    match call.word {
        _ if crashes => Failure::Crash(format!("Error: {why}")),
        "start" | "boot" => {
            Failure::Error(format!("Unable to start VM {uuid}: {why}"))
        }
        "info" => Failure::Error(format!(
            "Unable to get VM info for VM {uuid}: {why}"
        )),
        _ => Failure::new(why),
    }
}

/// A caller's text without what could command a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(200)
        .collect()
}

impl Call<'_> {
    /// The uuid that the command is about, checked for its shape only.
    fn uuid(&self) -> Result<&str, Failure> {
        let first = self.args.iter().find(|arg| !arg.starts_with('-'));
        let word = if self.word == "halt" { "stop" } else { self.word };
        match first {
            Some(uuid) if has_shape_of_uuid(uuid) => Ok(uuid),
            _ => Err(Failure::Usage(Some(format!(
                "Invalid or missing UUID for {word}"
            )))),
        }
    }

    /// The zone of that uuid, if it exists.
    fn zone(&self, uuid: &str) -> Option<Zone> {
        let id = ZoneId::parse(uuid).ok()?;
        Zone::find(&self.place, &id).ok()
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.args.iter().any(|arg| arg == flag)
    }
}

/// A zone as `vmadm get` shows it.
pub(crate) fn object_of(
    zone: &Zone,
) -> Result<serde_json::Map<String, serde_json::Value>, ZoneError> {
    view::View::of(zone).map(|view| view.object)
}

/// Applies the fault that makes a change look like a time-out.
fn timed_out(zone: &Zone, what: &str) -> Result<(), Failure> {
    if Faults::of(zone).take(Fault::EventTimeout) {
        return Err(Failure::new(format!(
            "first of 1 error: vminfod watchForChanges \"VM.js {what} ({})\" \
             timeout exceeded",
            zone.id
        )));
    }
    Ok(())
}
