//! Counts the system calls of a cgroup until its standard input ends, then
//! prints them: `count DIRECTORY`.

use std::io::Read as _;
use std::process::ExitCode;

use ntrace_syscalls::{Counter, Target};

fn main() -> ExitCode {
    let Some(group) = std::env::args_os().nth(1) else {
        eprintln!("usage: count DIRECTORY");
        return ExitCode::from(2);
    };
    let counter = Counter::start(&Target { group: group.into(), init: None });
    let counter = match counter {
        Ok(counter) => counter,
        Err(error) => {
            eprintln!("count: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("counting");
    // Its end is all that matters.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    match counter.finish() {
        Ok(counts) => {
            for call in &counts.calls {
                println!("{:>10} {:>8} {}", call.count, call.errors, call.name);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("count: {error}");
            ExitCode::FAILURE
        }
    }
}
