//! Stops of jobs that are just being leased: the store knows the lease, and
//! we have not heard of it yet.

use ntrace_protocol::{JobId, StopOrder};

/// How many are remembered. Past this the oldest are forgotten here, and
/// told when their runner comes back.
const MOST: usize = 1024;

/// Stops that wait for their job's lease, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct EarlyStops(Vec<(JobId, StopOrder)>);

impl EarlyStops {
    /// Remembers one; one that is known is added to.
    pub(crate) fn add(&mut self, job: JobId, order: StopOrder) {
        if let Some((_, known)) = self.0.iter_mut().find(|s| s.0 == job) {
            *known = known.then(order);
            return;
        }
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push((job, order));
    }

    /// The stop of a job whose lease is heard of now.
    pub(crate) fn take(&mut self, job: JobId) -> Option<StopOrder> {
        let at = self.0.iter().position(|stop| stop.0 == job)?;
        Some(self.0.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u64) -> JobId {
        JobId::generate(n, 0)
    }

    fn order(grace_ms: u64) -> StopOrder {
        StopOrder { grace_ms, evidence: false }
    }

    #[test]
    fn stops_of_one_job_are_one_and_taken_once() {
        let mut stops = EarlyStops::default();
        stops.add(job(1), StopOrder { evidence: true, ..order(9) });
        stops.add(job(2), order(1));
        stops.add(job(1), order(3));
        let both = StopOrder { evidence: true, ..order(3) };
        assert_eq!(stops.take(job(1)), Some(both));
        assert_eq!(stops.take(job(1)), None);
        assert_eq!(stops.take(job(2)), Some(order(1)));
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let mut stops = EarlyStops::default();
        for n in 0..=MOST as u64 {
            stops.add(job(n), order(n));
        }
        assert_eq!(stops.take(job(0)), None);
        assert_eq!(stops.take(job(1)), Some(order(1)));
        assert_eq!(stops.0.len(), MOST - 1);
    }
}
