//! `vmadm`, `zlogin` and the helper inside zones, for the tests of this
//! crate: which of them it is, argument 0 says.

fn main() -> std::process::ExitCode {
    ntrace_standin::run_as("vmadm")
}
