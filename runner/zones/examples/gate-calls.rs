//! Prints the file `gate-calls` for the gate of a global zone.

fn main() {
    print!("{}", ntrace_zones::gate_calls());
}
