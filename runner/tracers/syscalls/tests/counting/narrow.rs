//! 32-bit calls, which have other numbers, and x32, which marks them.

use std::path::Path;
use std::process::Command;

use ntrace_syscalls::Abi;

use crate::group::{Group, made, of, skip};

/// A 64-bit program that makes calls of all three kinds.
const ALL_KINDS: &str = r#"
int main(void) {
    long done;
    for (int i = 0; i < 1000; i++)
        __asm__ volatile("int $0x80" : "=a"(done) : "a"(20)
            : "memory", "r8", "r9", "r10", "r11");
    for (int i = 0; i < 500; i++)
        __asm__ volatile("syscall" : "=a"(done) : "a"(39)
            : "rcx", "r11", "memory");
    for (int i = 0; i < 300; i++)
        __asm__ volatile("syscall" : "=a"(done) : "a"(0x40000000 | 39)
            : "rcx", "r11", "memory");
    for (int i = 0; i < 200; i++)
        __asm__ volatile("syscall" : "=a"(done) : "a"(99999)
            : "rcx", "r11", "memory");
    return 0;
}
"#;

/// A 32-bit program: getpid 400 times, a write to nowhere 50 times.
const NARROW: &str = r#"
void _start(void) {
    int done;
    for (int i = 0; i < 400; i++)
        __asm__ volatile("int $0x80" : "=a"(done) : "a"(20) : "memory");
    for (int i = 0; i < 50; i++)
        __asm__ volatile("int $0x80" : "=a"(done)
            : "a"(4), "b"(-1), "c"(0), "d"(0) : "memory");
    __asm__ volatile("int $0x80" : : "a"(1), "b"(0));
}
"#;

/// Builds and tries a program; says why not if it cannot.
fn build(dir: &Path, source: &str, flags: &[&str]) -> Option<String> {
    let (from, to) = (dir.join("a.c"), dir.join("a"));
    std::fs::write(&from, source).unwrap();
    let built = Command::new("cc")
        .args(["-O1", "-fno-pie", "-no-pie", "-o"])
        .args([&to, &from])
        .args(flags)
        .output();
    match built {
        Ok(built) if built.status.success() => {}
        Ok(_) => return skip("cc builds no such program here"),
        Err(_) => return skip("cc is not installed"),
    }
    match Command::new(&to).status() {
        Ok(status) if status.success() => to.to_str().map(str::to_owned),
        _ => skip("this kernel runs no 32-bit calls"),
    }
}

#[test]
fn calls_of_other_tables_never_have_this_tables_names() {
    let Some(group) = Group::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = build(dir.path(), ALL_KINDS, &[]) else { return };
    let counts = group.count(&[&program]);
    assert_eq!(of(&counts, Abi::Narrow, "getpid"), (1000, 0));
    assert_eq!(made(&counts, "writev"), 0, "it has the number 20 as well");
    assert_eq!(made(&counts, "getpid"), 500);
    assert_eq!(of(&counts, Abi::X32, "all of x32").0, 300);
    assert_eq!(made(&counts, "others"), 200);
}

#[test]
fn a_32_bit_program_is_counted_by_its_own_table() {
    let Some(group) = Group::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-m32", "-nostdlib", "-static", "-ffreestanding"];
    let Some(program) = build(dir.path(), NARROW, &flags) else { return };
    let counts = group.count(&[&program]);
    assert_eq!(of(&counts, Abi::Narrow, "getpid"), (400, 0));
    assert_eq!(of(&counts, Abi::Narrow, "write"), (50, 50));
    assert_eq!(of(&counts, Abi::Narrow, "exit"), (1, 0));
    assert_eq!(made(&counts, "writev"), 0);
}
