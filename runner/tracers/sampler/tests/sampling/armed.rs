//! A sampler that is made ready before there is anything to sample.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ntrace_sampler::{FinishOptions, Program, SamplerError, arm};
use rustix::process::{Pid, Signal, kill_process};

use crate::seen::finish;
use crate::trouble::{exists, put, users};
use crate::zone::{Who, Zone, wait_until};

/// More than any step takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

/// Less than a sampler that does nothing will ever need.
const SHORT: Duration = Duration::from_millis(200);

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn what_runs_before_the_word_to_begin_is_not_seen() {
    for who in users() {
        let zone = Zone::new(who, |share| {
            put(share);
            std::fs::copy(share.join("split"), share.join("early")).unwrap();
        });
        let mut target = zone.target();
        target.hz = 997;
        let armed = arm(&target, LONG).unwrap();
        assert_eq!(zone.job(&["early", "25"], &[]).status["code"], 0);
        let running = armed.begin(LONG).unwrap();
        assert_eq!(zone.job(&["split", "25"], &[]).status["code"], 0);
        let seen = finish(running, FinishOptions::default());
        assert_eq!(seen.processes(), ["split"], "as {who:?}");
        assert!(seen.summary.samples > 50, "{:?}", seen.summary);
    }
}

#[test]
fn an_armed_sampler_that_dies_or_is_dropped_is_no_obstacle() {
    for who in users() {
        let zone = Zone::new(who, put);
        let target = zone.target();
        let armed = arm(&target, LONG).unwrap();
        send(armed.pid(), Signal::KILL);
        let begun = armed.begin(LONG);
        assert!(matches!(begun, Err(SamplerError::Died(_))), "{begun:?}");
        assert_eq!(zone.job(&["split", "1"], &[]).status["code"], 0);
        let armed = arm(&target, LONG).unwrap();
        let pid = armed.pid();
        drop(armed);
        wait_until("the sampler is gone", || !exists(pid));
        let socket = target.socket.as_ref().unwrap();
        assert!(!socket.exists(), "{}", socket.display());
        assert_eq!(zone.job(&["split", "1"], &[]).status["code"], 0);
    }
}

#[test]
fn a_sampler_that_hangs_is_given_up_at_the_deadline() {
    let zone = Zone::new(Who::Me, put);
    let mut target = zone.target();
    let armed = arm(&target, LONG).unwrap();
    let pid = armed.pid();
    send(pid, Signal::STOP);
    let begun = armed.begin(SHORT);
    assert!(matches!(begun, Err(SamplerError::Silent(_))), "{begun:?}");
    wait_until("the stopped sampler is gone", || !exists(pid));
    let dir = tempfile::tempdir().unwrap();
    target.program = Program::File(idle(dir.path()));
    let armed = arm(&target, SHORT);
    assert!(matches!(armed, Err(SamplerError::Silent(_))), "{armed:?}");
    assert_eq!(zone.job(&["split", "1"], &[]).status["code"], 0);
}

/// A program that never answers, and ends with its input.
fn idle(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("idle");
    std::fs::write(&path, "#!/bin/sh\nwhile read -r _; do :; done\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    path
}
