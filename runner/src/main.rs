//! The program `ntrace-runner`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use ntrace_runner::check::{CheckArgs, check};
use ntrace_runner::cli::{Cli, Command};
use ntrace_runner::{Config, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Under the name vmadm, zlogin or imgadm this is that program; asked
    // before anything else, while there is one thread.
    if let Some(code) = ntrace_standin::multicall() {
        return code;
    }
    if let Some(code) = ntrace_sampler::multicall() {
        return code;
    }
    start()
}

#[tokio::main]
async fn start() -> ExitCode {
    let cli = Cli::from_env();
    match cli.command {
        None => {
            log("info");
            agent(cli.config).await
        }
        Some(Command::Check(args)) => {
            log("error");
            tell(&cli.config, &args).await
        }
    }
}

fn log(default: &str) {
    let filter = EnvFilter::try_from_env("NTRACE_LOG")
        .or_else(|_| EnvFilter::try_from_default_env())
        .unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
}

/// Prints what is missing; nothing else goes to stdout.
async fn tell(config: &Config, args: &CheckArgs) -> ExitCode {
    let findings = check(config, args).await;
    let text = match args.json {
        true => format!("{:#}\n", findings.to_json()),
        false => findings.to_string(),
    };
    // Whoever closed our stdout does not want to read it.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    match findings.all_well() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn agent(config: Config) -> ExitCode {
    let stop = CancellationToken::new();
    if let Err(error) = on_signals(stop.clone()) {
        error!(%error, "cannot listen to signals");
        return ExitCode::FAILURE;
    }
    match run(config, stop).await {
        Ok(()) => {
            info!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The first TERM or INT drains, the second one ends at once.
fn on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}
