//! The program `zlogin`: a doorstep; everything is in the library.

fn main() -> std::process::ExitCode {
    ntrace_standin::run_as("zlogin")
}
