//! Which programs are in the middle of something with a set, and which of them wait for its thaw, in whichever lane.

use std::collections::HashMap;
use std::sync::Arc;

use kddm_core::id::{Mixer, SetId};
use parking_lot::Mutex;

/// What each program uses of a set, and waits for, where there is any of that. All lanes of a node have the same one. Locked
/// after a lane, and no other lock is waited for meanwhile.
///
/// Nobody can choose what its hash sees: programs are numbered by this node, and a set is one that the cluster has numbered and
/// the program has opened.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<Of, Counts, Mixer>>);

/// A program, and a set.
type Of = (u32, SetId);

#[derive(Default)]
struct Counts {
    /// Loans that it uses.
    used: usize,
    /// Wishes that wait for the thaw.
    aside: usize,
}

impl Uses {
    /// Whether a program uses anything of the set.
    pub fn are_there(&self, program: u32, set: SetId) -> bool {
        self.0.lock().get(&(program, set)).is_some_and(|counts| counts.used > 0)
    }

    /// It uses one loan more, until that is dropped; and whether something that it wants waits for the thaw.
    pub(super) fn begin(self: &Arc<Uses>, program: u32, set: SetId) -> (Use, bool) {
        let of = (program, set);
        let mut all = self.0.lock();
        let counts = all.entry(of).or_default();
        counts.used += 1;
        (Use { all: Arc::clone(self), of }, counts.aside > 0)
    }

    /// Something that it wants waits for the thaw, until that is dropped. `None` if it uses something by now: looked at and
    /// noted in one step, so that it cannot begin to between the two and leave this one waiting.
    pub fn step_aside(self: &Arc<Uses>, program: u32, set: SetId) -> Option<Aside> {
        let of = (program, set);
        let mut all = self.0.lock();
        let counts = all.entry(of).or_default();
        if counts.used > 0 {
            return None;
        }
        counts.aside += 1;
        Some(Aside { all: Arc::clone(self), of })
    }

    /// How much of what a program wants of the set waits for the thaw.
    #[cfg(test)]
    pub fn aside(&self, program: u32, set: SetId) -> usize {
        self.0.lock().get(&(program, set)).map_or(0, |counts| counts.aside)
    }

    fn end(&self, of: Of, which: impl FnOnce(&mut Counts) -> &mut usize) {
        let mut all = self.0.lock();
        let Some(counts) = all.get_mut(&of) else { return };
        *which(counts) -= 1;
        if (counts.used, counts.aside) == (0, 0) {
            all.remove(&of);
        }
    }
}

/// That a program uses one loan.
pub(super) struct Use {
    all: Arc<Uses>,
    of: Of,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.all.end(self.of, |counts| &mut counts.used);
    }
}

/// That something that a program wants waits for the thaw.
pub(crate) struct Aside {
    all: Arc<Uses>,
    of: Of,
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.all.end(self.of, |counts| &mut counts.aside);
    }
}

#[cfg(test)]
mod tests {
    use kddm_core::id::PlacementPolicy;

    use super::*;

    #[test]
    fn who_uses_something_does_not_step_aside_and_who_has_is_called_back() {
        let (uses, set) = (Arc::<Uses>::default(), SetId::new(PlacementPolicy::Hash, 20));
        let aside = uses.step_aside(1, set).expect("it uses nothing");
        assert!(!uses.are_there(1, set));
        let (of_another, is_told) = uses.begin(2, set);
        assert!(!is_told && uses.are_there(2, set) && !uses.are_there(1, set));
        let (first, is_told) = uses.begin(1, set);
        assert!(is_told && uses.are_there(1, set) && uses.step_aside(1, set).is_none());
        let (second, is_told) = uses.begin(1, set);
        assert!(is_told, "that waits still: the first use may be over before it is let in");
        drop((aside, first));
        assert!(uses.are_there(1, set));
        drop(second);
        assert!(!uses.begin(1, set).1, "nothing waits any more");
        drop(of_another);
        assert!(uses.0.lock().is_empty(), "nothing is left behind");
    }
}
