//! The program `ntrace-sampler`, for hosts that do not carry it inside.

fn main() -> std::process::ExitCode {
    ntrace_sampler::run()
}
