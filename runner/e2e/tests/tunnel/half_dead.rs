//! A tunnel whose packets vanish: both ends of it stand, and both sides
//! notice by their beats alone.

use std::time::Instant;

use ntrace_e2e::{Setup, Stage};
use ntrace_protocol::JobId;
use ntrace_testbed::{Options, Sshd};

use crate::far::Far;
use crate::links::{books_balance, both_are, push};
use crate::tunnel::{Plan, Tunnel, needs_autossh, port};

/// Beats are a third of it.
const LEASE: &str = "6s";

/// A stage whose tunnel leads through a far place.
struct Broken {
    tunnel: Tunnel,
    stage: Stage,
    far: Far,
    _sshd: Sshd,
    jobs: Vec<(String, JobId)>,
}

impl Broken {
    async fn make(direction: &str, alive: u32) -> Option<Self> {
        if !needs_autossh() {
            return None;
        }
        let far = Far::make()?;
        let listen = format!("ListenAddress {}", far.ours);
        // The server's signs of life are as far apart as ssh's.
        let every = format!("ClientAliveInterval {alive}");
        let sshd = Sshd::start(Options::free().line(&listen).line(&every));
        let relay = far.relay(sshd.port());
        let near = port();
        let setup =
            Setup::workers(2).via(near).dispatcher_args(&["--lease", LEASE]);
        let stage = Stage::start(setup).await;
        let plan = Plan {
            direction,
            near,
            far: stage.dispatcher_port(),
            alive,
            more: &[],
            at: Some((&far.theirs, relay)),
        };
        let tunnel = Tunnel::start(&sshd, &plan);
        both_are(&stage, true).await;
        Some(Self { tunnel, stage, far, _sshd: sshd, jobs: Vec::new() })
    }

    /// Runs jobs, drops packets while they run and more are pushed, and
    /// waits until both sides have noticed.
    async fn break_it(&mut self) {
        let Self { stage, jobs, far, .. } = self;
        let running = push(stage, jobs, "running").await;
        stage.says(running, "running 5\n").await;
        far.drop_packets();
        let began = Instant::now();
        for name in ["one", "two", "three"] {
            push(stage, jobs, name).await;
        }
        both_are(stage, false).await;
        // For people: a beat is a third of the lease, so 2 s here.
        let beats = began.elapsed().as_secs_f64() / 2.0;
        eprintln!("both sides noticed within {beats:.1} beats");
    }

    async fn mend_it(mut self) {
        self.far.carry_packets();
        both_are(&self.stage, true).await;
        push(&self.stage, &mut self.jobs, "after").await;
        let runs = books_balance(&self.stage, &self.jobs).await;
        eprintln!("{} jobs in {runs} runs", self.jobs.len());
    }
}

/// ssh itself would notice after hours; so what is noticed is noticed by
/// the beats, while the same ssh still stands.
#[tokio::test]
async fn beats_alone_show_a_half_dead_tunnel_to_both_sides() {
    let Some(mut broken) = Broken::make("to-dispatcher", 3600).await else {
        return;
    };
    let ssh = broken.tunnel.ssh(None);
    broken.break_it().await;
    assert_eq!(broken.tunnel.ssh(None), ssh, "ssh has noticed first");
    broken.mend_it().await;
}

#[tokio::test]
async fn a_half_dead_tunnel_from_the_laptop_is_made_again() {
    let Some(mut broken) = Broken::make("to-runner", 1).await else {
        return;
    };
    let ssh = broken.tunnel.ssh(None);
    broken.break_it().await;
    // Three signs of life are missing on each side of it.
    broken.tunnel.ssh(Some(ssh));
    broken.mend_it().await;
}
