//! Stacks of processes that wait, sleep or loop.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use ntrace_sampler::{ProcessStacks, stacks_of};

use crate::zone::{Who, Zone, compile, is_root, wait_until};

/// Time for stacks, on a machine that does other things as well.
const WITHIN: Duration = Duration::from_secs(30);

/// A job that does not end by itself; it ends with this value.
pub(crate) struct Job {
    child: Child,
}

impl Job {
    /// Starts one and waits for its first line.
    pub(crate) fn start(zone: &Zone, argv: &[&str]) -> Job {
        let args = [zone.id(), "/native/zone-job", "run"];
        let mut child = zone
            .command("zlogin", &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(Zone::request(argv, &[]).as_bytes()).unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the job did not begin");
        Job { child }
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(share: &std::path::Path) {
    let options = ["-O2", "-fomit-frame-pointer"];
    compile(include_str!("programs/stuck.c"), &share.join("stuck"), &options);
}

/// The stacks of the stuck program, once they are as wanted.
fn stuck(
    zone: &Zone,
    wanted: impl Fn(&ProcessStacks) -> bool,
) -> ProcessStacks {
    let target = zone.target();
    let mut found = None;
    wait_until("the stacks say where it is stuck", || {
        let all = stacks_of(&target, &[], WITHIN).unwrap();
        found = all.into_iter().find(|one| one.comm == "stuck");
        found.as_ref().is_some_and(&wanted)
    });
    found.unwrap()
}

fn has(one: &ProcessStacks, functions: &[&str]) -> bool {
    one.threads.iter().any(|thread| {
        let mut rest = thread.frames.iter();
        functions.iter().all(|name| rest.any(|frame| frame == name))
    })
}

fn each_way_to_be_stuck(who: Who) {
    let zone = Zone::new(who, put);
    let mut job = Job::start(&zone, &["stuck", "deadlock"]);
    let found = stuck(&zone, |one| {
        has(one, &["take_second", "deadlock", "main"])
            && has(one, &["take_first", "other"])
            && one.threads.iter().all(|thread| thread.state == "S")
    });
    eprintln!("{who:?}: {found:#?}");
    assert_eq!(found.threads.len(), 2);
    assert!(found.threads.iter().all(|thread| thread.refused.is_none()));
    assert!(job.runs(), "it was only looked at");
    // By its pid in the zone, nothing else.
    let again = stacks_of(&zone.target(), &[found.pid], WITHIN).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].pid, found.pid);
    drop(job);
    zone.run("zlogin", &[zone.id(), "kill -9 -1"], "");

    let job = Job::start(&zone, &["stuck", "sleep"]);
    stuck(&zone, |one| has(one, &["asleep_for_ever", "main"]));
    drop(job);
    zone.run("zlogin", &[zone.id(), "kill -9 -1"], "");

    let mut job = Job::start(&zone, &["stuck", "loop"]);
    let found = stuck(&zone, |one| has(one, &["endless_loop", "main"]));
    assert_eq!(found.threads[0].state, "R");
    assert!(job.runs());
}

#[test]
fn stacks_name_the_place_where_a_job_is_stuck() {
    each_way_to_be_stuck(Who::Me);
}

#[test]
fn an_ordinary_user_sees_where_its_job_is_stuck() {
    if !is_root() {
        return crate::zone::skip("an ordinary user runs the tests already");
    }
    each_way_to_be_stuck(Who::Ordinary);
}
