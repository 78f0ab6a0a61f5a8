//! Places for those of whom there may be so many at one time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are now. Clones count the same ones.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub(crate) struct Place(Places);

impl Places {
    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// One more; whether it is one too many is for the caller to say.
    pub fn take(&self) -> Place {
        self.0.fetch_add(1, Ordering::AcqRel);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_until_it_is_dropped() {
        let places = Places::default();
        let (first, second) = (places.take(), places.clone().take());
        assert_eq!(places.taken(), 2);
        drop(first);
        assert_eq!(places.taken(), 1);
        drop(second);
        assert_eq!(places.taken(), 0);
    }
}
