//! How long to wait before the next try.

use std::time::Duration;

/// Growing pauses with jitter and a cap.
///
/// They start anew only after something has lasted; a peer that accepts and
/// drops us at once is still not hammered.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `least` to `most`.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The next pause: between half of it and all of it.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.most);
        pause
    }

    /// Something lasted this long; if that was longer than the longest
    /// pause, start anew.
    pub fn lasted(&mut self, duration: Duration) {
        if duration >= self.most {
            self.next = self.least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_anew_only_after_a_lasting_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 8 * second);
        for nominal in [1, 2, 4, 8, 8] {
            let pause = backoff.pause();
            let nominal = nominal * second;
            assert!(pause >= nominal / 2 && pause <= nominal, "{pause:?}");
        }
        backoff.lasted(second);
        assert!(backoff.pause() >= 4 * second);
        backoff.lasted(8 * second);
        assert!(backoff.pause() <= second);
    }
}
