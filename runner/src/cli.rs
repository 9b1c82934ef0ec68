//! The command line: the runner itself, or a question about it.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::check::CheckArgs;
use crate::config::{Config, EXAMPLES};

/// The ntrace runner: keeps workers clean, asks the dispatcher for work,
/// runs jobs in the workers, and reports.
///
/// Every flag has an environment variable. TERM and INT: no new work is
/// taken, jobs may finish, then it ends with 0; a second one ends it at
/// once.
#[derive(Clone, Debug, Parser)]
#[command(name = "ntrace-runner", version, after_long_help = EXAMPLES)]
pub struct Cli {
    /// The runner's flags; they may stand before or behind a command.
    #[command(flatten)]
    pub config: Config,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say what is missing here, and the command that mends it
    ///
    /// Takes the flags and the environment of the runner that it is about;
    /// that one may be at work meanwhile. Exit status: 0 all is well, 1
    /// something fails, 2 wrong usage.
    Check(CheckArgs),
}

impl Cli {
    /// Reads this process's command line; says what is wrong with it and
    /// ends with 2.
    #[must_use]
    pub fn from_env() -> Self {
        Self::try_from_args(std::env::args_os())
            .unwrap_or_else(|error| error.exit())
    }

    fn try_from_args<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let command = Self::command().mut_args(|arg| arg.global(true));
        let mut matches = command.try_get_matches_from(args)?;
        Self::from_arg_matches_mut(&mut matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, String> {
        let args = std::iter::once("ntrace-runner").chain(args.iter().copied());
        Cli::try_from_args(args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_command_it_is_the_runner() {
        let cli = parse(&["--name", "box"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.config.runner_name().as_str(), "box");
    }

    #[test]
    fn flags_stand_before_or_behind_check() {
        for args in [
            &["--name", "box", "check", "--dispatcher", "h:1"][..],
            &["check", "--name", "box", "--dispatcher", "h:1"],
            &["--name", "box", "--dispatcher", "h:1", "check"],
        ] {
            let cli = parse(args).unwrap();
            assert_eq!(cli.config.runner_name().as_str(), "box", "{args:?}");
            assert_eq!(cli.config.dispatcher, "h:1", "{args:?}");
            assert!(matches!(cli.command, Some(Command::Check(_))));
        }
    }

    #[test]
    fn wrong_usage_of_check_is_told() {
        for (args, says) in [
            (&["check", "--patience", "0s"][..], "longer"),
            (&["check", "--repository", "nano"], "OWNER/REPO"),
            (&["check", "--repository=-x/y"], "repository"),
            (&["--json"], "--json"),
            (&["chekc"], "chekc"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(says), "{args:?}: {error}");
        }
    }
}
