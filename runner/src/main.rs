//! The program `ntrace-runner`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
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
    start()
}

#[tokio::main]
async fn start() -> ExitCode {
    let config = Config::parse();
    let filter = EnvFilter::try_from_env("NTRACE_LOG")
        .or_else(|_| EnvFilter::try_from_default_env())
        .unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
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
