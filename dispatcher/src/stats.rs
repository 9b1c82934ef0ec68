//! Counters and latencies, for `stats`.
//!
//! A histogram has four buckets for each doubling of the time, so a
//! percentile is at most a fifth too high; it never grows.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ntrace_protocol::command::DISPATCHER;
use serde_json::{Value, json};

/// From 1 microsecond to more than a day.
const BUCKETS: usize = 4 * 40;

/// Times of one kind.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts a time.
    pub(crate) fn add(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn view(&self) -> Option<Value> {
        let counts = self.buckets.each_ref();
        let counts = counts.map(|bucket| bucket.load(Ordering::Relaxed));
        let count: u64 = counts.iter().sum();
        if count == 0 {
            return None;
        }
        let percentile = |percent: u64| {
            let wanted = (count * percent).div_ceil(100);
            let mut seen = 0;
            let at = counts.iter().position(|n| {
                seen += n;
                seen >= wanted
            });
            ceiling(at.unwrap_or(BUCKETS - 1))
        };
        Some(json!({
            "count": count,
            "mean_us": self.sum_us.load(Ordering::Relaxed) / count,
            "p50_us": percentile(50),
            "p90_us": percentile(90),
            "p99_us": percentile(99),
        }))
    }
}

/// The bucket of a time in microseconds.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let log = us.ilog2();
    let quarter = if log >= 2 { us >> (log - 2) } else { us << (2 - log) } & 3;
    (log as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The longest time of a bucket, in microseconds.
fn ceiling(bucket: usize) -> u64 {
    let (log, quarter) = (bucket / 4, bucket as u64 % 4);
    ((5 + quarter) << log) / 4
}

/// All that is counted.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    commands: BTreeMap<&'static str, Histogram>,
    /// From the push to the lease.
    pub(crate) queue_wait: Histogram,
    /// Final states by name.
    ended: Mutex<BTreeMap<String, u64>>,
    /// Jobs that were newly queued.
    pub(crate) pushed: AtomicU64,
    /// Leases that were given.
    pub(crate) leased: AtomicU64,
    /// Runs that were lost.
    pub(crate) lost: AtomicU64,
    /// Commands that were refused.
    pub(crate) refused: AtomicU64,
    /// Reports that were kept or known.
    pub(crate) reports: AtomicU64,
    /// Connections since the start.
    pub(crate) connections: AtomicU64,
}

impl Stats {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let commands = DISPATCHER.iter().map(|c| c.name);
        let commands = commands.map(|name| (name, Histogram::default()));
        Self { commands: commands.collect(), ..Self::default() }
    }

    /// Counts a command that was answered.
    pub(crate) fn answered(&self, name: &str, began: Instant, is_ok: bool) {
        if !is_ok {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(histogram) = self.commands.get(name) {
            histogram.add(began.elapsed());
        }
    }

    /// Counts a job that became final.
    pub(crate) fn ended(&self, state: &str) {
        if let Ok(mut ended) = self.ended.lock() {
            *ended.entry(state.to_owned()).or_default() += 1;
        }
    }

    /// What was counted.
    pub(crate) fn view(&self) -> serde_json::Map<String, Value> {
        let count = |n: &AtomicU64| json!(n.load(Ordering::Relaxed));
        let commands: serde_json::Map<_, _> = self
            .commands
            .iter()
            .filter_map(|(name, h)| Some(((*name).to_owned(), h.view()?)))
            .collect();
        let ended = self.ended.lock().map(|e| json!(*e)).unwrap_or_default();
        let view = json!({
            "pushed": count(&self.pushed),
            "leased": count(&self.leased),
            "lost_runs": count(&self.lost),
            "ended": ended,
            "refused": count(&self.refused),
            "reports": count(&self.reports),
            "connections": count(&self.connections),
            "queue_wait": self.queue_wait.view(),
            "commands": commands,
        });
        match view {
            Value::Object(map) => map,
            _ => serde_json::Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_a_quarter_too_high() {
        for us in [1, 2, 3, 4, 5, 7, 8, 99, 1000, 123_456, 1 << 30] {
            let high = ceiling(bucket(us));
            assert!(high >= us, "{us} {high}");
            assert!(us < 4 || high <= us + us / 4 + 1, "{us} {high}");
        }
    }

    #[test]
    fn what_was_not_called_is_not_shown() {
        let stats = Stats::new();
        stats.answered("push", Instant::now(), true);
        stats.answered("nonsense", Instant::now(), false);
        let view = stats.view();
        assert_eq!(view["commands"]["push"]["count"], 1);
        assert_eq!(view["commands"].as_object().unwrap().len(), 1);
        assert_eq!(view["refused"], 1);
    }
}
