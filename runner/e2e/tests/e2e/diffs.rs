//! Differences between commits, on profiles of the real sampler.

use ntrace_client::Export;
use ntrace_e2e::{Repo, Setup, Stage, is_root, skip};
use ntrace_protocol::compare::{Format, Level};
use ntrace_protocol::{JobId, JobState};
use serde_json::Value;

/// Two functions; one is given its work by the commit.
const WORK: &str = r#"
static volatile unsigned long sink;
__attribute__((noinline)) static void steady(unsigned long n) {
    for (unsigned long i = 0; i < n; i++) sink += i * 7;
}
__attribute__((noinline)) static void grows(unsigned long n) {
    for (unsigned long i = 0; i < n; i++) sink += i * 5;
}
int main(void) {
    for (int i = 0; i < 40; i++) { steady(300000); grows(WORK); }
    return 0;
}
"#;

async fn pushed(stage: &Stage, repo: &Repo, commit: &str) -> JobId {
    let id = stage.push(repo, commit, Value::Null).await;
    let job = stage.finished(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let trace = job.runs[0].trace.clone().expect("a run tells of its trace");
    assert_eq!(trace.profiles, 8, "{trace:?}");
    id
}

#[tokio::test]
async fn a_planted_change_is_named_and_the_same_commit_is_not_called() {
    if !crate::traces::has("cc") {
        return;
    }
    if !is_root() {
        return skip("an ordinary user's short processes are not sampled");
    }
    let stage = Stage::start(Setup::workers(1)).await;
    let repo = stage.repos.make("o", "r");
    let commit = |work: &str| {
        let recipe = format!(
            "[job]\nsetup = \"cc -O2 -DWORK={work} a.c -o prog\"\n\
             run = \"./prog\"\n[trace]\nrepeat = 8\nhz = 1999\n"
        );
        repo.write("a.c", WORK).write(".ntrace.toml", recipe).commit()
    };
    let (base, new) = (commit("300000"), commit("900000"));
    let first = pushed(&stage, &repo, &base).await;
    let again = pushed(&stage, &repo, &base).await;
    let slow = pushed(&stage, &repo, &new).await;
    let client = stage.client().await;
    let diff = client.diff(&again.to_string(), None, None).await.unwrap();
    assert_eq!(diff.base.side.runs[0].job, first, "{}", diff.base.why);
    assert!(diff.base.why.contains("the same commit"), "{}", diff.base.why);
    for row in &diff.rows {
        let level = row.own.level.max(row.inclusive.level);
        assert_eq!(level, Level::None, "{diff:?}");
    }
    let diff = client.diff(&slow.to_string(), None, None).await.unwrap();
    assert_eq!(diff.base.side.runs[0].job, again, "{}", diff.base.why);
    assert!(diff.base.why.contains("of the parent commit"));
    assert_eq!(diff.rows[0].name, "grows", "{diff:?}");
    assert_eq!(diff.rows[0].own.level, Level::Changed, "{diff:?}");
    let steady = diff.rows.iter().find(|row| row.name == "steady");
    assert_eq!(steady.unwrap().own.level, Level::None, "{diff:?}");
    // Both pictures are of the same two sides.
    for format in [Format::DiffSvg, Format::DiffSvgBase] {
        let export = Export {
            trace: slow.to_string(),
            format,
            base: None,
            repetition: None,
            icicle: false,
            by_width: false,
        };
        let (document, svg, _) =
            client.export(&export, 0, 500_000).await.unwrap();
        let base = document.base.expect("a difference has two sides");
        assert_eq!(base.side.runs[0].job, again);
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("grows"), "{format}: {svg}");
    }
}
