//! Faults: each switch of the stand-in on a worker of its own, all at once,
//! while jobs flow. The others go on, each job is done once and in a clean
//! zone, and the operator sees which stage failed and why.

use std::time::{Duration, Instant};

use ntrace_client::RunnerControl;
use ntrace_e2e::{DEADLINE, Repo, Setup, Stage};
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{JobId, JobState, JobView, WorkerState};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What each job does: it fails where it finds what another left outside its
/// directory, and leaves the same.
const JOB: &str = "for place in /tmp /var/tmp /dev/shm; do
  if [ -e $place/ntplanted ]; then echo \"dirty: $place\"; exit 66; fi
  echo planted >$place/ntplanted || exit 67
done
sleep 0.05
echo clean
";

/// More jobs than this are not pushed, whatever happens.
const MOST_JOBS: usize = 400;

/// Where the operator finds the fault.
#[derive(Clone, Copy)]
enum Shows {
    /// Its reason begins with one of these and has all of those.
    Reason(&'static [&'static str], &'static [&'static str]),
    /// Nowhere: the runner copes at once.
    Nothing,
}

/// What brings the worker back.
#[derive(Clone, Copy, PartialEq)]
enum Cure {
    /// The fault passes.
    Itself,
    /// The fault is taken away; the worker finds out by itself.
    Mended,
    /// The fault is taken away from a defunct worker, and it is told.
    Told,
}

/// One switch.
struct Case {
    switch: &'static str,
    shows: Shows,
    cure: Cure,
}

const CASES: &[Case] = &[
    Case {
        switch: "halt=hang:12*1",
        shows: Shows::Reason(
            &["halting for "],
            &["`vmadm stop ", " -F` has not ended"],
        ),
        cure: Cure::Itself,
    },
    Case {
        switch: "halt=fail",
        shows: Shows::Reason(
            &["halting: "],
            &["vmadm stop", "unable to destroy zone"],
        ),
        cure: Cure::Told,
    },
    Case {
        switch: "rollback=hang:12*1",
        shows: Shows::Reason(
            &["rolling_back for "],
            &["`vmadm rollback-snapshot ", " clean` has not ended"],
        ),
        cure: Cure::Itself,
    },
    Case {
        switch: "rollback=fail",
        shows: Shows::Reason(
            &["rolling_back: "],
            &["vmadm rollback-snapshot", "storage refused", "cannot rollback"],
        ),
        cure: Cure::Told,
    },
    Case {
        switch: "boot=fail*2",
        shows: Shows::Reason(
            &["rolling_back: ", "booting: "],
            &["vmadm ", "call to zoneadmd failed"],
        ),
        cure: Cure::Itself,
    },
    Case {
        switch: "boot=slow:12*1",
        shows: Shows::Reason(&["probing for "], &["zlogin "]),
        cure: Cure::Itself,
    },
    Case {
        switch: "event=timeout*1",
        shows: Shows::Nothing,
        cure: Cure::Itself,
    },
    Case {
        switch: "kill=between*1",
        shows: Shows::Reason(
            &["rolling_back: "],
            &["vmadm rollback-snapshot", "signal 9"],
        ),
        cure: Cure::Itself,
    },
    Case {
        switch: "stuck=down*2",
        shows: Shows::Reason(&["halting: "], &["vmadm stop"]),
        cure: Cure::Itself,
    },
    Case {
        switch: "stuck=shutting_down*2",
        shows: Shows::Reason(&["halting: "], &["vmadm stop"]),
        cure: Cure::Itself,
    },
    Case {
        switch: "probe=fail",
        shows: Shows::Reason(&["probing for "], &["the last try: ", "zlogin "]),
        cure: Cure::Mended,
    },
    Case {
        switch: "probe=hang:7",
        shows: Shows::Reason(&["probing for "], &["`zlogin ", "not ended"]),
        cure: Cure::Mended,
    },
];

/// What is known of one faulty worker.
struct Watched<'a> {
    case: &'a Case,
    uuid: String,
    planted: Instant,
    /// What the operator saw of the fault, and when.
    seen: Option<(Duration, String)>,
    defunct: Option<Duration>,
    is_lifted: bool,
    back: Option<Duration>,
}

impl Watched<'_> {
    /// Takes in what `workers` shows of it now.
    async fn look(
        &mut self,
        stage: &Stage,
        control: &RunnerControl,
        view: &WorkerView,
    ) {
        let after = self.planted.elapsed();
        if self.seen.is_none() && self.case.is_shown_by(view) {
            let reason = view.reason.as_deref().unwrap_or("no reason");
            self.seen = Some((after, format!("{}: {reason}", view.state)));
        }
        if view.state == WorkerState::Defunct && self.defunct.is_none() {
            self.defunct = Some(after);
        }
        if self.may_be_lifted() {
            stage.zones.faults(&self.uuid, "");
            self.is_lifted = true;
            if self.case.cure == Cure::Told {
                control.clean(&self.uuid).await.unwrap();
            }
        }
        let clean = [WorkerState::Available, WorkerState::Running];
        let is_well = clean.contains(&view.state) && view.reason.is_none();
        if self.back.is_none() && is_well && self.is_over(stage) {
            self.back = Some(after);
        }
    }

    fn may_be_lifted(&self) -> bool {
        let is_due = match self.case.cure {
            Cure::Itself => false,
            Cure::Mended => self.seen.is_some(),
            Cure::Told => self.seen.is_some() && self.defunct.is_some(),
        };
        is_due && !self.is_lifted
    }

    /// Whether the fault was met and is gone.
    fn is_over(&self, stage: &Stage) -> bool {
        let is_hidden = matches!(self.case.shows, Shows::Nothing);
        let file = stage.zones.dir(&self.uuid).join("faults");
        let left = std::fs::read_to_string(file).unwrap_or_default();
        left.trim().is_empty() && (is_hidden || self.seen.is_some())
    }
}

impl Case {
    fn is_shown_by(&self, view: &WorkerView) -> bool {
        match self.shows {
            Shows::Reason(starts, words) => {
                view.reason.as_deref().is_some_and(|reason| {
                    starts.iter().any(|start| reason.starts_with(start))
                        && words.iter().all(|word| reason.contains(word))
                })
            }
            Shows::Nothing => false,
        }
    }
}

/// Jobs that flow: a few wait at any time, and each is followed to its end.
struct Flow<'a> {
    stage: &'a Stage,
    repo: Repo,
    commit: String,
    options: Value,
    pushed: Vec<JobId>,
    running: JoinSet<JobView>,
    ended: Vec<JobView>,
}

impl<'a> Flow<'a> {
    fn new(stage: &'a Stage, options: Value) -> Self {
        let repo = stage.repos.make("acme", "faults");
        repo.program("job.sh", JOB);
        repo.write(".ntrace.toml", "[job]\nrun = \"sh ./job.sh\"\n");
        let commit = repo.commit();
        let (pushed, ended) = (Vec::new(), Vec::new());
        let running = JoinSet::new();
        Self { stage, repo, commit, options, pushed, running, ended }
    }

    /// Pushes until so many are under way.
    async fn fill(&mut self, many: usize) {
        while let Some(job) = self.running.try_join_next() {
            self.ended.push(job.unwrap());
        }
        while self.running.len() < many && self.pushed.len() < MOST_JOBS {
            let options = self.options.clone();
            let id = self.stage.push(&self.repo, &self.commit, options).await;
            self.pushed.push(id);
            let client = self.stage.client().await;
            self.running.spawn(async move {
                let id = id.to_string();
                let view = client.wait(&id, Some(2 * DEADLINE)).await;
                view.unwrap_or_else(|error| panic!("{id}: {error}"))
            });
        }
    }

    /// Waits for all; none is lost, doubled, or was in a dirty zone.
    async fn balance(mut self) -> Vec<JobView> {
        while let Some(job) = self.running.join_next().await {
            self.ended.push(job.unwrap());
        }
        assert_eq!(self.ended.len(), self.pushed.len());
        for job in &self.ended {
            assert_eq!(job.state, JobState::Done, "{job:#?}");
            let done = job.runs.iter().filter(|run| run.state == "done");
            assert_eq!(done.count(), 1, "{job:#?}");
            let last = job.runs.last().unwrap();
            assert_eq!(last.state, "done", "{job:#?}");
            let output = self.stage.output(job.id).await;
            assert_eq!(output.text(), "clean\n", "{job:#?}");
        }
        self.ended
    }
}

/// How many of these jobs were done by this worker.
fn done_by(jobs: &[JobView], uuid: &str) -> usize {
    let runs = jobs.iter().flat_map(|job| &job.runs);
    let by = |worker: Option<_>| {
        worker
            .is_some_and(|w: ntrace_protocol::WorkerUuid| w.to_string() == uuid)
    };
    runs.filter(|run| run.state == "done" && by(run.worker)).count()
}

#[tokio::test]
async fn each_fault_is_named_and_passes_while_the_others_go_on() {
    let setup = Setup::workers(1 + CASES.len());
    let stage = Stage::start(setup.runner_args(&["--tracer", "none"])).await;
    stage.all_available().await;
    let control = stage.control().await;
    let mut flow = Flow::new(&stage, Value::Null);
    flow.fill(stage.workers.len()).await;
    let mut watched: Vec<Watched<'_>> = Vec::new();
    for (case, uuid) in CASES.iter().zip(&stage.workers[1..]) {
        stage.zones.faults(uuid, &format!("{}\n", case.switch));
        watched.push(Watched {
            case,
            uuid: uuid.clone(),
            planted: Instant::now(),
            seen: None,
            defunct: None,
            is_lifted: false,
            back: None,
        });
    }
    let began = Instant::now();
    while watched.iter().any(|worker| worker.back.is_none()) {
        // Enough that each fault is met; those that are back need no more.
        let away = watched.iter().filter(|worker| worker.back.is_none());
        flow.fill(1 + away.count()).await;
        let views = control.workers().await.unwrap();
        for worker in &mut watched {
            let mut views = views.iter();
            let view = views.find(|v| v.uuid.to_string() == worker.uuid);
            worker.look(&stage, &control, view.unwrap()).await;
        }
        let left: Vec<_> =
            watched.iter().filter(|w| w.back.is_none()).collect();
        let names: Vec<_> = left
            .iter()
            .map(|w| (w.case.switch, w.seen.is_some(), w.defunct.is_some()))
            .collect();
        assert!(
            began.elapsed() < 2 * DEADLINE,
            "not back (switch, seen, defunct): {names:?}\n{views:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let jobs = flow.balance().await;
    tell(&watched);
    let well = &stage.workers[0];
    let served = done_by(&jobs, well);
    eprintln!("{} jobs, {served} of them by the well worker", jobs.len());
    assert!(served >= 2, "the well worker did {served} of {}", jobs.len());
    let view = stage.worker(well).await.unwrap();
    assert_eq!(view.resets.failed, 0, "{view:?}");
}

/// Says what the operator saw of each, and how long it took.
fn tell(watched: &[Watched<'_>]) {
    let seconds = |at: &Duration| format!("{:.1} s", at.as_secs_f64());
    for worker in watched {
        let switch = worker.case.switch;
        let back = worker.back.as_ref().map_or("never".into(), seconds);
        let defunct = worker.defunct.as_ref().map(seconds);
        let defunct = defunct.map_or(String::new(), |d| {
            format!(", defunct after {d} and then mended")
        });
        eprintln!("{switch}: back after {back}{defunct}");
        match &worker.seen {
            Some((at, what)) => {
                eprintln!("    seen after {}: {what}", seconds(at));
            }
            None => eprintln!("    nothing is seen"),
        }
    }
}

#[tokio::test]
async fn vminfod_away_for_a_while_loses_no_job() {
    let setup = Setup::workers(2).runner_args(&["--tracer", "none"]);
    let stage = Stage::start(setup).await;
    stage.all_available().await;
    let control = stage.control().await;
    let switches = stage.zones.root.join("faults");
    // Jobs may be given back more than once meanwhile.
    let mut flow = Flow::new(&stage, json!({"retry": 10}));
    std::fs::write(&switches, "vminfod=down\n").unwrap();
    let began = Instant::now();
    flow.fill(3).await;
    let words = ["vmadm ", "the global zone is not ready", "ECONNREFUSED"];
    let seen = ntrace_e2e::until("both workers say why", async || {
        let views = control.workers().await.unwrap();
        let told = |view: &WorkerView| {
            let reason = view.reason.as_deref().unwrap_or_default();
            reason.starts_with("halting: ")
                && words.iter().all(|word| reason.contains(word))
        };
        views.iter().all(told).then(|| views[0].reason.clone().unwrap())
    })
    .await;
    eprintln!("vminfod=down, after {:.1?}: {seen}", began.elapsed());
    std::fs::remove_file(&switches).unwrap();
    let began = Instant::now();
    for uuid in &stage.workers {
        // It may have been given up just before.
        let view = stage.worker(uuid).await.unwrap();
        if view.state == WorkerState::Defunct {
            control.clean(uuid).await.unwrap();
        }
    }
    flow.balance().await;
    stage.all_available().await;
    eprintln!("vminfod is back: all well after {:.1?}", began.elapsed());
}
