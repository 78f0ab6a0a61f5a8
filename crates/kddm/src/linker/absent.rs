//! Objects of which it is known for a while that nothing stands behind them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How many are remembered by one set on one node.
const REMEMBERED: usize = 4096;

/// For how long: what others write to the store, past the cluster, is seen after that.
pub(super) const FOR: Duration = Duration::from_secs(1);

/// Answers of the store, each with the tenure under which it was asked. As long as this node has that tenure, nobody else
/// can have made the object: so an answer is as good as a new one, but for what is written past the cluster.
#[derive(Default)]
pub(super) struct Absent {
    until: HashMap<u64, (u64, Instant)>,
    /// In the order in which they are forgotten.
    order: VecDeque<(u64, Instant)>,
}

impl Absent {
    pub fn note(&mut self, object: u64, tenure: u64, now: Instant) {
        let until = now + FOR;
        self.until.insert(object, (tenure, until));
        self.order.push_back((object, until));
        while let Some((oldest, at)) = self.order.front().copied()
            && (at <= now || self.order.len() > REMEMBERED)
        {
            self.order.pop_front();
            // Unless it was noted again meanwhile.
            if self.until.get(&oldest).is_some_and(|(_, until)| *until == at) {
                self.until.remove(&oldest);
            }
        }
    }

    pub fn knows(&self, object: u64, tenure: u64, now: Instant) -> bool {
        self.until.get(&object).is_some_and(|(of, until)| *of == tenure && *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_for_its_tenure_and_its_time() {
        let (mut absent, now) = (Absent::default(), Instant::now());
        absent.note(7, 3, now);
        assert!(absent.knows(7, 3, now + FOR / 2));
        assert!(!absent.knows(7, 4, now), "somebody else may have made it meanwhile");
        assert!(!absent.knows(8, 3, now));
        assert!(!absent.knows(7, 3, now + FOR), "others may write to the store too");
        absent.note(7, 3, now + FOR / 2);
        absent.note(8, 3, now + FOR);
        assert!(absent.knows(7, 3, now + FOR), "it was asked again meanwhile");
    }

    #[test]
    fn no_more_are_remembered_than_the_limit() {
        let (mut absent, now) = (Absent::default(), Instant::now());
        (0..REMEMBERED as u64 + 10).for_each(|object| absent.note(object, 1, now));
        assert_eq!((absent.until.len(), absent.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!absent.knows(9, 1, now) && absent.knows(10, 1, now), "the oldest are forgotten");
    }
}
