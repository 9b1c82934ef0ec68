//! A tree of processes of several names, as a build has it.

use ntrace_profile::FrameKind;
use ntrace_sampler::How;

use crate::seen::{Seen, sample};
use crate::zone::{Who, Zone, installed, is_root, skip};

/// Two compilations and a process that works in the kernel. Of each, make
/// starts a shell that starts it.
const MAKEFILE: &str = "all: one two copy\n\
    one two:\n\
    \tsed s/work_/$@_/ /opt/share/many.c > $@.c && cc -O2 -c $@.c && :\n\
    copy:\n\
    \tdd if=/dev/zero of=/dev/null bs=256k count=20000 2>&1 && :\n";

/// Functions enough for a compiler to be busy with.
fn many() -> String {
    (0..40)
        .map(|n| {
            format!(
                "int work_{n}(int *a, int b) {{ int s = {n};\n\
                 for (int i = 0; i < b; i++) {{ s += a[i] * s ^ a[b - i];\n\
                 if (s % 7 == {n}) a[i] = s; }} return s; }}\n"
            )
        })
        .collect()
}

fn of_process(seen: &Seen, process: &str) -> u64 {
    seen.count(|frames| frames[0].0 == process)
}

#[test]
fn a_build_is_seen_by_the_names_of_its_programs() {
    if !installed("make") || !installed("cc") {
        return skip("make and cc are not installed");
    }
    if !is_root() {
        return skip("only root sees the kernel and short processes");
    }
    let zone = Zone::new(Who::Me, |share| {
        std::fs::write(share.join("Makefile"), MAKEFILE).unwrap();
        std::fs::write(share.join("many.c"), many()).unwrap();
    });
    let mut target = zone.target();
    target.hz = 997;
    let argv = ["sh", "-c", "make -f /opt/share/Makefile && :"];
    let (seen, _) = sample(&zone, &target, &argv, &[]);
    assert_eq!(seen.summary.how, Some(How::Group));
    let processes = seen.processes();
    eprintln!("{processes:?}, {:?}", seen.summary);
    // Both compilers are one.
    let (compiler, copier) =
        (of_process(&seen, "cc1"), of_process(&seen, "dd"));
    let all = seen.summary.samples;
    eprintln!("cc1 {compiler}, dd {copier} of {all}");
    assert!(compiler > 100 && copier > 20, "{processes:?}");
    let compiling = seen.count(|frames| {
        frames[0].0 == "cc1" && frames.iter().any(|one| one.0 == "main")
    });
    assert!(compiling * 10 > compiler * 5, "{compiling} of {compiler}");
    // Who carries the job is no part of it.
    for name in ["zone-job", "zlogin", "[unknown process]"] {
        assert_eq!(of_process(&seen, name), 0, "{}", seen.folded());
    }
    let in_kernel = seen.count(|frames| {
        frames[0].0 == "dd"
            && frames.iter().any(|one| one.1 == FrameKind::Kernel)
    });
    assert!(in_kernel * 10 > copier * 5, "{in_kernel} of {copier}");
    let secret = std::fs::read_to_string("/proc/kallsyms")
        .is_ok_and(|text| text.starts_with("0000000000000000 "));
    if secret {
        return skip("this kernel does not tell the names of its functions");
    }
    let named = seen.count(|frames| {
        frames[0].0 == "dd"
            && frames
                .iter()
                .any(|one| one.1 == FrameKind::Kernel && one.0.contains("read"))
    });
    assert!(named * 10 > in_kernel * 5, "{}", seen.folded());
}
