//! Waiting: polls with a deadline that say what they waited for.

use std::time::{Duration, Instant};

/// How long anything may take that normally takes a moment. It is long, so
/// that a busy machine does not fail a test; nothing waits that long unless
/// it is broken.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until a look finds something, on this thread.
///
/// # Panics
/// It found nothing before the deadline.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until an asynchronous look finds something.
///
/// # Panics
/// It found nothing before the deadline.
pub async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
