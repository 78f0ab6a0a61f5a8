//! The clock of the node's deadlines, and that of a program which is attached to it. Both are the monotonic clock of
//! one host, but in another time namespace, which a container may have, it began at another time: the node's deadline
//! can be hours away there, or long over.

use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::cell::Lease;

/// What names the time namespace of a process: two are the same if this is.
const NAMESPACE: &str = "/proc/self/ns/time";

/// What a process says of its clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// What it shows.
    pub now_ns: u64,
    /// Of which time namespace it is; none where that cannot be known.
    namespace: Option<(u64, u64)>,
}

impl Clock {
    /// That of this process.
    pub fn here() -> Clock {
        let namespace = std::fs::metadata(NAMESPACE).ok().map(|file| (file.dev(), file.ino()));
        Clock { now_ns: Lease::now_ns(), namespace }
    }
}

/// How a deadline of the node is read on this program's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reading {
    /// What is added: at most what this clock is ahead of the node's.
    ahead_ns: i128,
}

impl Reading {
    /// From what this program's clock showed before it asked, and the node's when it answered. Where they are not
    /// known to be the same clock deadlines come earlier by as long as the answer took, and a tick of the clock.
    pub fn between(asked: Clock, answered: Clock) -> Reading {
        if asked.namespace.is_some() && asked.namespace == answered.namespace {
            return Reading::default();
        }
        let ahead_ns = i128::from(asked.now_ns) - i128::from(answered.now_ns) - i128::from(Lease::tick_ns());
        Reading { ahead_ns }
    }

    /// The same deadline on this program's clock. What is no time stays as it is.
    pub fn here_ns(self, until_ns: u64) -> u64 {
        if matches!(until_ns, Lease::ENDED | Lease::NOT_NEEDED) {
            return until_ns;
        }
        let here_ns = i128::from(until_ns) + self.ahead_ns;
        here_ns.clamp(i128::from(Lease::ENDED) + 1, i128::from(Lease::NOT_NEEDED) - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: u64 = 3_600_000_000_000;

    fn clock(now_ns: u64, namespace: u64) -> Clock {
        Clock { now_ns, namespace: Some((4, namespace)) }
    }

    #[test]
    fn a_deadline_of_another_time_namespace_is_never_later_than_it_is_there() {
        let tick_ns = Lease::tick_ns();
        for ahead_ns in [0, 5, HOUR_NS] {
            for there_is_ahead in [true, false] {
                // It is asked at 10 hours by the clock here, and answered a second later.
                let (here, later) = (10 * HOUR_NS, 10 * HOUR_NS + 1_000_000_000);
                let there = if there_is_ahead { later + ahead_ns } else { later - ahead_ns };
                let reading = Reading::between(clock(here, 1), clock(there, 2));
                let until_ns = there + 500;
                assert_eq!(reading.here_ns(until_ns), here + 500 - tick_ns, "{ahead_ns} {there_is_ahead}");
                assert!(reading.here_ns(until_ns) <= later + 500);
            }
        }
    }

    #[test]
    fn the_same_clock_needs_no_reading_and_an_unknown_one_does() {
        let (asked, answered) = (clock(HOUR_NS, 1), clock(HOUR_NS + 7, 1));
        assert_eq!(Reading::between(asked, answered).here_ns(HOUR_NS + 9), HOUR_NS + 9);
        let unknown = |clock: Clock| Clock { namespace: None, ..clock };
        assert!(Reading::between(unknown(asked), unknown(answered)).here_ns(HOUR_NS + 9) < HOUR_NS + 9);
        assert_eq!(Reading::between(Clock::here(), Clock::here()), Reading::default());
    }

    #[test]
    fn what_is_no_time_stays_and_no_time_becomes_what_is_none() {
        let reading = Reading::between(clock(1, 1), clock(HOUR_NS, 2));
        assert_eq!(
            (reading.here_ns(Lease::ENDED), reading.here_ns(Lease::NOT_NEEDED)),
            (Lease::ENDED, Lease::NOT_NEEDED)
        );
        assert_eq!(reading.here_ns(5), Lease::ENDED + 1);
        assert_eq!(Reading::between(clock(u64::MAX, 1), clock(0, 2)).here_ns(u64::MAX - 1), Lease::NOT_NEEDED - 1);
    }
}
