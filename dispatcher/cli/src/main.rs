//! The program `ntrace`: arguments in, exit status out.

use std::process::ExitCode;

use clap::Parser as _;
use ntrace_cli::Args;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    ntrace_cli::run(Args::parse()).await.into()
}
