//! Which programs are in the middle of something with a set, in whichever lane.

use std::collections::HashMap;
use std::sync::Arc;

use kddm_core::id::SetId;
use parking_lot::Mutex;

/// How many loans each program uses of a set, where there are any. All lanes of a node have the same one.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<(u32, SetId), usize>>);

impl Uses {
    /// Whether a program uses anything of the set.
    pub fn are_there(&self, session: u32, set: SetId) -> bool {
        self.0.lock().contains_key(&(session, set))
    }

    /// It uses one loan more, until that is dropped.
    pub(super) fn begin(self: &Arc<Uses>, session: u32, set: SetId) -> Use {
        let of = (session, set);
        *self.0.lock().entry(of).or_default() += 1;
        Use { all: Arc::clone(self), of }
    }
}

/// That a program uses one loan.
pub(super) struct Use {
    all: Arc<Uses>,
    of: (u32, SetId),
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.of);
            }
        }
    }
}
