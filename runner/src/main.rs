//! The program `ntrace-runner`; under other names, the embedded `vmadm`,
//! `zlogin` and `imgadm` of Linux.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use ntrace_runner::{Config, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // First, while there is one thread: the programs of the stand-in fork.
    if let Some(code) = ntrace_standin::multicall() {
        return code;
    }
    let config = Config::parse();
    let filter = EnvFilter::try_from_env("NTRACE_LOG");
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            // The first one drains, the second one ends at once.
            if token.is_cancelled() {
                std::process::exit(1);
            }
            token.cancel();
        }
    });
    run(config, stop).await
}
