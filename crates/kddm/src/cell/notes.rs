//! Who holds what, where a thread's own slots have no room for it, or where it is not a thread that
//! holds. Notes protect nothing: a hold that is noted here is in the access word. They say who is in
//! whose way.

use std::sync::{Arc, OnceLock};

use super::slots::{Slot, Use};
use super::sync::of_this_run;
use crate::sync::Mutex;

/// Slots of one page: what a look for a free one costs at most, a few times.
#[cfg(not(loom))]
const SLOTS_PER_PAGE: usize = 64;

/// Full pages that are looked at before there is one more.
#[cfg(not(loom))]
const PAGES_TRIED: usize = 2;

/// The notes of one holder. They are found by everybody who asks who holds an object.
pub(crate) struct Notes {
    /// How the holder is called.
    owner: Arc<str>,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    mine: Vec<&'static Page>,
    /// The page where a free slot was found last.
    at: usize,
}

/// Never freed: a guard may outlive its holder, and clears its note in any case. Used again once it is
/// empty.
struct Page {
    slots: Vec<Slot>,
    /// `None`: nobody's.
    owner: Mutex<Option<Arc<str>>>,
    next: OnceLock<&'static Page>,
}

of_this_run!(fn first() -> OnceLock<&'static Page>);

fn pages() -> impl Iterator<Item = &'static Page> {
    std::iter::successors(first().get().copied(), |page| page.next.get().copied())
}

impl Notes {
    /// No notes, no memory.
    pub fn of(owner: Arc<str>) -> Notes {
        Notes { owner, pages: Mutex::default() }
    }

    /// How the holder is called.
    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// How it holds that cell: the strongest use.
    pub(super) fn use_of(&self, address: usize) -> Option<Use> {
        let pages = self.pages.lock();
        let uses = pages.mine.iter().flat_map(|page| &page.slots).filter_map(|slot| slot.use_of(address));
        uses.max_by_key(|by| *by == Use::Write)
    }

    /// Whether it holds a cell of which `inside` says yes.
    pub(super) fn holds_any(&self, inside: impl Fn(usize) -> bool) -> bool {
        self.pages.lock().mine.iter().flat_map(|page| &page.slots).any(|slot| slot.holds(&inside))
    }
}

#[cfg(not(loom))]
impl Notes {
    /// Notes a hold. Under the lock up to the end: threads of one holder must not take the same slot.
    pub(super) fn enter(&self, address: usize, by: Use) -> Option<&'static Slot> {
        let mut pages = self.pages.lock();
        let slot = self.free_among(&mut pages)?;
        slot.enter(address, by);
        Some(slot)
    }

    /// A free slot, for the notes of one thread.
    #[cold]
    pub(super) fn free_slot(&self) -> Option<&'static Slot> {
        self.free_among(&mut self.pages.lock())
    }

    fn free_among(&self, pages: &mut Pages) -> Option<&'static Slot> {
        let count = pages.mine.len();
        for step in 0..count.min(PAGES_TRIED) {
            let at = (pages.at + step) % count;
            if let Some(slot) = pages.mine[at].slots.iter().find(|slot| slot.is_free()) {
                pages.at = at;
                return Some(slot);
            }
        }
        // The next look goes on where this one ended, so that it finds what has become free.
        let page = pages_for(&self.owner);
        pages.mine.push(page);
        pages.at = count;
        page.slots.first()
    }
}

/// Under loom every slot is the model's own.
#[cfg(loom)]
impl Notes {
    pub(super) fn enter(&self, _address: usize, _by: Use) -> Option<&'static Slot> {
        None
    }

    pub(super) fn free_slot(&self) -> Option<&'static Slot> {
        None
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        for page in &self.pages.get_mut().mine {
            *page.owner.lock() = None;
        }
    }
}

/// A page that nobody has, with no note of a former owner in it, or a new one.
#[cfg(not(loom))]
fn pages_for(owner: &Arc<str>) -> &'static Page {
    let unused = pages().find(|page| {
        let mut has = page.owner.lock();
        let is_unused = has.is_none() && page.slots.iter().all(Slot::is_free);
        if is_unused {
            *has = Some(Arc::clone(owner));
        }
        is_unused
    });
    unused.unwrap_or_else(|| {
        let slots = (0..SLOTS_PER_PAGE).map(|_| Slot::free()).collect();
        let owner = Mutex::new(Some(Arc::clone(owner)));
        let page: &'static Page = Box::leak(Box::new(Page { slots, owner, next: OnceLock::new() }));
        let mut end = first();
        while end.set(page).is_err() {
            end = &end.get().expect("it was set just now").next;
        }
        page
    })
}

/// Who holds that cell according to the notes.
pub(super) fn holders(address: usize, found: &mut Vec<(Arc<str>, Use)>) {
    for page in pages() {
        for by in page.slots.iter().filter_map(|slot| slot.use_of(address)) {
            let owner = page.owner.lock().clone();
            found.push((owner.unwrap_or_else(|| "a holder that is gone".into()), by));
        }
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use std::sync::Arc;

    use super::super::slots::Use;
    use super::Notes;

    /// Each thread finds its own note, whatever the others of the same holder note meanwhile.
    #[test]
    fn threads_of_one_holder_share_no_slot() {
        const THREADS: usize = 3;
        let run = || {
            let notes = Arc::new(Notes::of("a holder".into()));
            let work = |number: usize| {
                let notes = Arc::clone(&notes);
                move || {
                    let (first, second) = (64 * (2 * number + 1), 64 * (2 * number + 2));
                    let slot = notes.enter(first, Use::Write).expect("there is always one more");
                    notes.enter(second, Use::Counted).expect("there is always one more");
                    assert_eq!(notes.use_of(first), Some(Use::Write));
                    slot.clear();
                    assert_eq!((notes.use_of(first), notes.use_of(second)), (None, Some(Use::Counted)));
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|number| shuttle::thread::spawn(work(number))).collect();
            threads.into_iter().for_each(|thread| thread.join().expect("it finds its notes"));
        };
        shuttle::check_random(run, 300);
        shuttle::check_pct(run, 300, 3);
    }
}
