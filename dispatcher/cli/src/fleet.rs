//! `workers`, `runners`, `stats`, `ping`.

use std::time::{Duration, Instant};

use ntrace_protocol::text::escape;
use serde::Serialize;
use serde_json::json;

use crate::failure::{Failure, Status};
use crate::jobs::now;
use crate::link::Link;
use crate::screen::{Screen, Style};
use crate::show;
use crate::table::Table;

/// How long a dispatcher has for a ping.
const PING: Duration = Duration::from_secs(10);

pub(crate) async fn workers(
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let workers = link.ask(screen, async |d| d.workers().await).await?;
    let table = show::workers(&workers, now());
    let none = "no worker is enrolled at any runner that is connected";
    print(screen, &workers, &table, none, show::worker_style)
}

pub(crate) async fn runners(
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let runners = link.ask(screen, async |d| d.runners().await).await?;
    let table = show::runners(&runners, now());
    let style = |state: &str| match state {
        "connected" => Some(Style::Good),
        "away" => Some(Style::Bad),
        _ => None,
    };
    print(screen, &runners, &table, "no runner was ever connected", style)
}

pub(crate) async fn stats(
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let stats = link.ask(screen, async |d| d.stats().await).await?;
    let table = show::stats(&stats);
    print(screen, &stats, &table, "there are no counters", |_| None)
}

pub(crate) async fn ping(
    link: &mut Link,
    screen: &Screen,
) -> Result<Status, Failure> {
    let dispatcher = link.dispatcher().await?;
    let begun = Instant::now();
    dispatcher.ping(PING).await?;
    let took = begun.elapsed();
    if screen.json {
        let ms = took.as_secs_f64() * 1000.0;
        screen.json(&json!({"dispatcher": link.addr(), "ms": ms}))?;
    } else {
        let addr = escape(link.addr());
        screen.line(&format!("{addr} answered in {took:.1?}"))?;
    }
    Ok(Status::Ok)
}

/// One document for a program; a table, or a word about its absence, for
/// people.
fn print(
    screen: &Screen,
    value: &impl Serialize,
    table: &Table,
    none: &str,
    style: impl Fn(&str) -> Option<Style>,
) -> Result<Status, Failure> {
    if screen.json {
        screen.json(value)?;
    } else if table.is_empty() {
        screen.say(none);
    } else {
        screen.table(table, true, 1, style)?;
    }
    Ok(Status::Ok)
}
