//! The way to the dispatcher, and whether the clocks agree.
//!
//! Pings without a hello, so that a runner at work under the same name is
//! not disturbed.

use std::time::{Duration, SystemTime};

use ntrace_client::Dispatcher;
use ntrace_protocol::Timestamp;
use ntrace_protocol::runner::RunnerView;
use tokio::time::{Instant, timeout};

use super::chain;
use super::finding::{Finding, Need};

/// Clocks may differ by so much; more confuses who reads times.
const CLOCK: Duration = Duration::from_secs(5);

/// How the dispatcher answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nobody took the connection.
    None(String),
    /// The connection was taken, and nothing came back.
    Silent(Duration),
    /// It was taken and closed again.
    Closed,
    /// It came back, but not as a dispatcher answers.
    Strange(String),
    /// It is there.
    Alive(Alive),
}

/// A dispatcher that answers.
#[derive(Debug, Default)]
pub(super) struct Alive {
    pub(super) took: Duration,
    /// Its clock minus ours, in milliseconds, when it says its time.
    pub(super) ahead_ms: Option<i64>,
    /// Who is connected to it under our name.
    pub(super) namesake: Option<RunnerView>,
}

pub(super) async fn look(addr: &str, name: &str, late: Duration) -> Answer {
    let until = Instant::now() + late;
    let dispatcher = match timeout(late, Dispatcher::connect(addr)).await {
        Ok(Ok(dispatcher)) => dispatcher,
        Ok(Err(error)) => return Answer::None(chain(&error)),
        Err(_) => {
            let why = format!("no connection to {addr} within {late:?}");
            return Answer::None(why);
        }
    };
    let began = Instant::now();
    if let Err(error) = dispatcher.ping(until - began).await {
        return match error {
            ntrace_client::CallError::Late { .. } => Answer::Silent(late),
            ntrace_client::CallError::Closed { .. } => Answer::Closed,
            error => Answer::Strange(chain(&error)),
        };
    }
    let took = began.elapsed();
    let asked = timeout(until - Instant::now(), async {
        let ahead_ms = ahead(&dispatcher).await?;
        let all = dispatcher.runners().await?;
        let ours =
            |one: &RunnerView| one.connected && one.name.as_str() == name;
        let namesake = all.into_iter().find(ours);
        Ok(Alive { took, ahead_ms, namesake })
    });
    match asked.await {
        Ok(Ok(alive)) => Answer::Alive(alive),
        Ok(Err(error)) => {
            let error: ntrace_client::CallError = error;
            Answer::Strange(chain(&error))
        }
        Err(_) => Answer::Silent(late),
    }
}

/// How far its clock is ahead of ours, if it says its time.
async fn ahead(
    dispatcher: &Dispatcher,
) -> Result<Option<i64>, ntrace_client::CallError> {
    let now = || Timestamp::from_system(SystemTime::now()).0.cast_signed();
    let before = now();
    let stats = dispatcher.stats().await?;
    let middle = i64::midpoint(before, now());
    let told = stats.get("now").and_then(|now| now.as_str());
    let told = told.and_then(|text| text.parse::<Timestamp>().ok());
    Ok(told.map(|told| told.0.cast_signed() - middle))
}

pub(super) fn judge(
    addr: &str,
    answer: &Answer,
    is_at_work: bool,
) -> Vec<Finding> {
    let fail = |says: String, mend: String| {
        vec![Finding::fail(Need::Dispatcher, says, mend)]
    };
    match answer {
        Answer::None(why) => fail(why.clone(), start_it(addr)),
        Answer::Silent(late) => fail(
            format!(
                "{addr} takes the connection and does not answer within \
                 {late:?}: the dispatcher hangs, or the tunnel is half dead"
            ),
            "systemctl restart ntrace-tunnel   (or the dispatcher, where it \
             runs: systemctl restart ntrace-dispatcher)"
                .to_owned(),
        ),
        Answer::Closed => fail(
            format!(
                "{addr} takes the connection and closes it: a tunnel that \
                 finds no dispatcher at its other end"
            ),
            "systemctl start ntrace-dispatcher   (on the other side)"
                .to_owned(),
        ),
        Answer::Strange(why) => fail(
            format!("{addr} does not answer as a dispatcher does: {why}"),
            format!(
                "printf '[\"help\",[],1]\\n' | nc -N {}   (who is there)",
                nc(addr)
            ),
        ),
        Answer::Alive(alive) => {
            vec![name(addr, alive, is_at_work), clock(alive.ahead_ms)]
        }
    }
}

/// `host:port` as nc takes it.
pub(super) fn nc(addr: &str) -> String {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "9181"));
    format!("{} {port}", host.trim_matches(['[', ']']))
}

fn start_it(addr: &str) -> String {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "9181"));
    match host {
        "127.0.0.1" | "localhost" | "[::1]" => format!(
            "scripts/tunnel.sh to-dispatcher --port {port} USER@HOST   \
             (where the dispatcher runs elsewhere; here: ntrace-dispatcher)"
        ),
        _ => format!(
            "ntrace-dispatcher --listen localhost:{port}   (on {host}, and \
             a tunnel to it)"
        ),
    }
}

fn name(addr: &str, alive: &Alive, is_at_work: bool) -> Finding {
    let took = alive.took;
    match &alive.namesake {
        Some(other) if !is_at_work => {
            let from = other.peer.as_deref().unwrap_or("somewhere");
            let says = format!(
                "{addr} knows a runner {} that is connected from {from}, and \
                 none is at work here; no two may share a name",
                other.name
            );
            Finding::warn(
                Need::Dispatcher,
                says,
                "ntrace-runner --name ANOTHER   (if that one is not this one)",
            )
        }
        Some(_) => Finding::ok(
            Need::Dispatcher,
            format!("{addr} answers in {took:.1?}; our runner is connected"),
        ),
        None => Finding::ok(
            Need::Dispatcher,
            format!("{addr} answers in {took:.1?}"),
        ),
    }
}

fn clock(ahead_ms: Option<i64>) -> Finding {
    let Some(ahead) = ahead_ms else {
        let says = "the dispatcher does not say its time";
        return Finding::warn(Need::Clock, says, "date -u   (on both)");
    };
    let off = Duration::from_millis(ahead.unsigned_abs());
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let says = format!("the dispatcher's is {off:.1?} {side} ours");
    if off > CLOCK {
        let mend = "chronyc makestep   (or: systemctl restart \
                    systemd-timesyncd; SmartOS: svcadm restart ntp)";
        return Finding::warn(Need::Clock, says, mend);
    }
    Finding::ok(Need::Clock, says)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn states(answer: Answer, is_at_work: bool) -> Vec<Level> {
        let judged = judge("127.0.0.1:9181", &answer, is_at_work);
        judged.iter().map(|one| one.state).collect()
    }

    fn ahead(ms: i64) -> Answer {
        Answer::Alive(Alive { ahead_ms: Some(ms), ..Alive::default() })
    }

    #[test]
    fn a_dispatcher_that_is_not_there_fails_in_any_way() {
        let no = || "no".to_owned();
        assert_eq!(states(Answer::None(no()), false), [Level::Fail]);
        assert_eq!(states(Answer::Strange(no()), false), [Level::Fail]);
        assert_eq!(states(Answer::Closed, false), [Level::Fail]);
        let late = Duration::from_secs(1);
        assert_eq!(states(Answer::Silent(late), false), [Level::Fail]);
    }

    #[test]
    fn clocks_may_differ_by_seconds() {
        assert_eq!(states(ahead(0), false), [Level::Ok, Level::Ok]);
        assert_eq!(states(ahead(-4_900), false), [Level::Ok, Level::Ok]);
        assert_eq!(states(ahead(5_100), false), [Level::Ok, Level::Warn]);
        assert_eq!(states(ahead(-60_000), false), [Level::Ok, Level::Warn]);
        let alive = Answer::Alive(Alive::default());
        assert_eq!(states(alive, false), [Level::Ok, Level::Warn]);
    }

    #[test]
    fn a_name_is_ours_only_while_our_runner_is_at_work() {
        let at = Timestamp(0);
        let namesake = || RunnerView {
            name: "box".parse().unwrap(),
            version: "0".to_owned(),
            connected: true,
            since: at,
            seen: at,
            peer: Some("127.0.0.1:1".to_owned()),
            workers: 1,
            runs: vec![],
        };
        let alive = || {
            Answer::Alive(Alive {
                ahead_ms: Some(0),
                namesake: Some(namesake()),
                ..Alive::default()
            })
        };
        assert_eq!(states(alive(), true)[0], Level::Ok);
        assert_eq!(states(alive(), false)[0], Level::Warn);
    }

    #[test]
    fn the_way_out_depends_on_where_the_dispatcher_is() {
        assert!(start_it("127.0.0.1:7000").contains("tunnel.sh"));
        assert!(start_it("127.0.0.1:7000").contains("--port 7000"));
        assert!(start_it("far.example:9181").contains("on far.example"));
        assert_eq!(nc("[::1]:9181"), "::1 9181");
    }
}
