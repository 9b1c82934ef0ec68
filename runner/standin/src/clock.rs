//! Times as they stand in files and answers: RFC 3339, UTC, milliseconds.
//!
//! Must not know zones. Sleeping is here as well, for the few loops that
//! poll something that cannot be waited for.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// `2026-01-02T03:04:05.678Z`.
pub(crate) fn iso(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days as i64);
    let (hour, rest) = (rest / 3_600_000, rest % 3_600_000);
    let (minute, rest) = (rest / 60_000, rest % 60_000);
    let (second, milli) = (rest / 1000, rest % 1000);
    format!(
        "{year:04}-{month:02}-{day:02}T\
         {hour:02}:{minute:02}:{second:02}.{milli:03}Z"
    )
}

/// Days since 1970 to a date of the Gregorian calendar (the usual method of
/// counting from March of year 0 in eras of 400 years).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year =
        (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// A moment after which a wait is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The moment `after` from now.
    pub(crate) fn after(after: Duration) -> Deadline {
        Deadline(Instant::now() + after)
    }

    /// What is left, none once it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now())
    }

    /// Asks again and again until it is so; false once the time is over.
    pub(crate) fn wait_until(
        self,
        pause: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> bool {
        loop {
            if is_so() {
                return true;
            }
            if self.left().is_none() {
                return false;
            }
            std::thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc_with_milliseconds() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(iso(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
    }
}
