//! What unit tests wait for that other threads do in their own time.

use std::time::{Duration, Instant};

/// Between two looks: what is waited for needs the processor, too.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Waits until it is so: a test that waits for longer than that has failed.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::park_timeout(LOOK_AGAIN);
    }
}
