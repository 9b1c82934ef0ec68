//! The program `ntrace`, for people.
//!
//! Asks a dispatcher and shows what it answers. It knows the wire only
//! through the client crate, and nothing of how a dispatcher works.
//! Invariants: results go to stdout and talk to stderr; nothing that another
//! program wrote reaches a terminal raw unless `--raw` asks for it; each exit
//! status has one meaning ([`Status`]).
//!
//! Reading order: [`args`] is what a person may type; [`failure`] how it may
//! end; `screen` where it is shown; `link` keeps the connection; then one
//! module for each kind of command.

pub mod args;
pub mod failure;
pub mod filter;
pub mod origin;
pub mod table;

mod artefacts;
mod file;
mod fleet;
mod git;
mod jobs;
mod link;
mod logs;
mod progress;
mod push;
mod screen;
mod show;
mod syscalls;
mod trace;
mod wait;

pub use args::Args;
pub use failure::{Failure, Status};

use args::Command;
use link::Link;
use ntrace_client::StopOptions;
use screen::Screen;

/// Runs a command to its end, and says on stderr what went wrong.
pub async fn run(args: Args) -> Status {
    let screen = Screen::new(args.json);
    let mut link = Link::new(args.dispatcher, args.patience);
    let outcome = dispatch(args.command, &mut link, &screen).await;
    outcome.unwrap_or_else(|failure| {
        screen.failure(&failure);
        failure.status()
    })
}

async fn dispatch(
    command: Command,
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    match command {
        Command::Push(args) => push::push(args, link, screen).await,
        Command::Submit(args) => push::submit(args, link, screen).await,
        Command::Status { id } => jobs::status(&id, link, screen).await,
        Command::List(args) => jobs::list(args, link, screen).await,
        Command::Logs(args) => logs::logs(args, link, screen).await,
        Command::Wait { id, timeout } => {
            wait::wait(&id, timeout, link, screen).await
        }
        Command::Stop { id, grace, evidence } => {
            let options = StopOptions { grace, evidence };
            jobs::stop(&id, options, link, screen).await
        }
        Command::Remove { id } => jobs::remove(&id, link, screen).await,
        Command::Artefacts(args) => artefacts::run(args, link, screen).await,
        Command::Flame(args) => trace::flame(args, link, screen).await,
        Command::Diff(args) => trace::diff(args, link, screen).await,
        Command::Export(args) => trace::export(args, link, screen).await,
        Command::Syscalls { id, repetition } => {
            syscalls::syscalls(&id, repetition, link, screen).await
        }
        Command::Why { id } => jobs::why(&id, link, screen).await,
        Command::Workers => fleet::workers(link, screen).await,
        Command::Runners => fleet::runners(link, screen).await,
        Command::Stats => fleet::stats(link, screen).await,
        Command::Ping => fleet::ping(link, screen).await,
    }
}
