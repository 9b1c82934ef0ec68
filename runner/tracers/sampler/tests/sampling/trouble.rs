//! What may go wrong, and what a job may try.

use std::path::Path;

use ntrace_sampler::{FinishOptions, How, SamplerError, start};

use crate::seen::{FINISH, finish, sample};
use crate::stacks::Job;
use crate::zone::{Who, Zone, compile, is_root, skip, wait_until};

pub(crate) fn put(share: &Path) {
    let options = ["-O2", "-fomit-frame-pointer"];
    compile(include_str!("programs/split.c"), &share.join("split"), &options);
}

pub(crate) fn users() -> Vec<Who> {
    if is_root() { vec![Who::Me, Who::Ordinary] } else { vec![Who::Me] }
}

pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_job_does_not_notice_that_its_sampler_is_killed() {
    for who in users() {
        let zone = Zone::new(who, put);
        let mut target = zone.target();
        let running = start(&target).unwrap();
        let pid = running.pid() as i32;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let signal = rustix::process::Signal::KILL;
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = running.finish(FinishOptions::default(), FINISH);
        assert!(matches!(ended, Err(SamplerError::Died(_))), "{ended:?}");
        let done = zone.job(&["split", "1"], &[]);
        assert_eq!(done.status["code"], 0);
        // What it left behind is no obstacle to the next.
        target.hz = 997;
        let (seen, _) = sample(&zone, &target, &["split", "15"], &[]);
        assert!(seen.summary.samples > 0, "{:?}", seen.summary);
    }
}

#[test]
fn a_sampler_that_is_dropped_leaves_nothing() {
    for who in users() {
        let zone = Zone::new(who, put);
        let target = zone.target();
        let running = start(&target).unwrap();
        let pid = running.pid();
        let place = match running.how() {
            How::Group => target.group.clone().unwrap(),
            How::Inherit => target.socket.clone().unwrap(),
        };
        assert!(place.exists());
        drop(running);
        assert!(!place.exists(), "{}", place.display());
        wait_until("the sampler is gone", || !exists(pid));
    }
}

#[test]
fn the_end_of_the_zone_does_not_take_the_profile_with_it() {
    for who in users() {
        let zone = Zone::new(who, put);
        let mut target = zone.target();
        target.hz = 997;
        let mut running = start(&target).unwrap();
        let job = Job::start(&zone, &["sh", "-c", "echo; split 100000000"]);
        wait_until("there are samples", || {
            let window = running.window().unwrap();
            window.folded.iter().map(|(_, count)| count).sum::<u64>() > 200
        });
        zone.halt();
        drop(job);
        let seen = finish(running, FinishOptions::default());
        assert!(seen.summary.samples > 200);
        assert!(seen.percent("seventy") > 50.0, "{:?}", seen.summary);
    }
}

#[test]
fn a_program_without_a_name_keeps_the_names_of_its_functions() {
    for who in users() {
        let zone = Zone::new(who, |share| {
            put(share);
            let script = include_str!("programs/gone.sh");
            std::fs::write(share.join("gone.sh"), script).unwrap();
        });
        let mut target = zone.target();
        target.hz = 997;
        let argv = ["sh", "/opt/share/gone.sh", "50"];
        let (seen, _) = sample(&zone, &target, &argv, &[]);
        let found = seen.percent("seventy");
        eprintln!("unlinked, as {who:?}: seventy {found:.1} %");
        assert!(found > 40.0, "{:?}", seen.summary);
    }
}

#[test]
fn wild_files_of_a_job_do_no_harm() {
    for who in users() {
        let zone = Zone::new(who, |share| {
            put(share);
            let whole = std::fs::read(share.join("split")).unwrap();
            for (name, wild) in wild_copies(&whole) {
                let path = share.join(name);
                std::fs::write(&path, wild).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(&path, mode).unwrap();
            }
        });
        let mut target = zone.target();
        target.hz = 997;
        // Maps of every pid that could be: one without an end, noise, a
        // pipe that nobody writes to.
        let line = "for n in 2 3 4 5 6 7 8 9; do \
                    head -c 3000000 /dev/urandom > /tmp/perf-$n.map; done; \
                    mkfifo /tmp/perf-10.map; \
                    for w in headers tables strings; do \
                    /opt/share/$w 15 || exit 1; done; split 15";
        let (seen, _) = sample(&zone, &target, &["sh", "-c", line], &[]);
        eprintln!("wild files, as {who:?}: {:?}", seen.summary);
        assert!(seen.summary.samples > 100);
        assert!(seen.percent("seventy") > 10.0);
    }
}

/// Programs that run, but whose headers for others lie.
fn wild_copies(whole: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let word = |at: usize| {
        u64::from_le_bytes(*whole[at..].first_chunk().unwrap()) as usize
    };
    let (sections, size, count) = (word(40), 64, usize::from(whole[60]));
    // The table of section headers is elsewhere.
    let mut headers = whole.to_vec();
    headers[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    // Every section claims another place and a huge length.
    let mut tables = whole.to_vec();
    let mut strings = whole.to_vec();
    for index in 0..count {
        let at = sections + index * size;
        tables[at + 32..at + 40].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        for (n, byte) in strings[at..at + size].iter_mut().enumerate() {
            *byte = byte.wrapping_mul(31).wrapping_add(n as u8);
        }
    }
    [("headers", headers), ("tables", tables), ("strings", strings)]
}

#[test]
fn one_sampler_sees_all_runs_and_the_job_holds_nothing_of_it() {
    for who in users() {
        let zone = Zone::new(who, put);
        let mut target = zone.target();
        target.hz = 997;
        target.group = None;
        let running = start(&target).unwrap();
        assert_eq!(running.how(), How::Inherit);
        let mut counts = Vec::new();
        for _ in 0..3 {
            let line = "exec 2>&1; ls -l /proc/self/fd; env; split 25";
            let done = zone.job(&["sh", "-c", line], &[]);
            assert!(!done.output.contains("perf_event"), "{}", done.output);
            assert!(!done.output.contains("socket"), "{}", done.output);
            assert!(!done.output.contains("NTRACE"), "{}", done.output);
            counts.push(done.cpu_ms());
        }
        let seen = finish(running, FinishOptions::default());
        let cpu: f64 = counts.iter().sum();
        let sampled = seen.summary.samples as f64 * 1000.0 / 997.0;
        eprintln!("three runs as {who:?}: {sampled:.0} of {cpu:.0} ms");
        assert!(sampled > cpu * 0.7, "{:?}", seen.summary);
    }
}

#[test]
fn others_of_the_machine_never_appear() {
    if !is_root() {
        return skip("only root could see others");
    }
    let zone = Zone::new(Who::Me, put);
    let neighbour = Zone::new(Who::Me, |share| {
        put(share);
        std::fs::copy(share.join("split"), share.join("neighbour")).unwrap();
    });
    let mut target = zone.target();
    target.hz = 997;
    let line = "echo; exec neighbour 100000000";
    let job = Job::start(&neighbour, &["sh", "-c", line]);
    // And one of the host, outside of any zone.
    let mut outsider = std::process::Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .spawn()
        .unwrap();
    let (seen, _) = sample(&zone, &target, &["split", "50"], &[]);
    outsider.kill().unwrap();
    outsider.wait().unwrap();
    drop(job);
    neighbour.halt();
    assert_eq!(seen.processes(), ["split"]);
    assert!(seen.summary.samples > 100);
}

#[test]
fn what_cannot_be_sampled_is_refused_with_a_reason() {
    let zone = Zone::new(Who::Me, put);
    let mut target = zone.target();
    target.group = None;
    target.socket = Some("/no/such/directory/tracer".into());
    let why = start(&target).unwrap_err().to_string();
    assert!(why.contains("/no/such/directory/tracer"), "{why}");
    target.socket = None;
    let why = start(&target).unwrap_err().to_string();
    assert!(why.contains("no way"), "{why}");
    target.init = i32::MAX;
    target.socket = zone.target().socket;
    let why = start(&target).unwrap_err().to_string();
    assert!(why.contains("process"), "{why}");
    target.program = ntrace_sampler::Program::File("/no/such".into());
    assert!(matches!(start(&target), Err(SamplerError::Spawn(_))));
    target.program = ntrace_sampler::Program::File("/bin/false".into());
    assert!(matches!(start(&target), Err(SamplerError::Died(_))));
}
