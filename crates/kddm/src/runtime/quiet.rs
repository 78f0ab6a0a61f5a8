//! A lock under which nobody is woken. A waker runs code of whoever waits, which may want the same lock at once, for instance to
//! freeze a set; so what a thread wants woken while it has such a lock waits beside the thread until it has given up the last one.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::runtime::turn::ToWake;
use crate::sync::thread_local;

/// What one thread waits with.
struct Kept {
    /// How many such locks it has.
    locks: usize,
    to_wake: ToWake,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::new(Kept { locks: 0, to_wake: ToWake::default() });
}

/// Keeps those back, if this thread has such a lock; else they are woken now.
pub(crate) fn keep(to_wake: ToWake) -> Option<ToWake> {
    let mut to_wake = Some(to_wake);
    // A thread that is about to end keeps nobody back: it has no place for that any more.
    let _is_ending = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.locks > 0
            && let Some(more) = to_wake.take()
        {
            kept.to_wake.append(more);
        }
    });
    to_wake
}

/// This thread has one such lock, and keeps back whom it wakes: not if it is about to end and has no place for that any more.
struct Has {
    is_counted: bool,
}

impl Has {
    fn new() -> Has {
        Has { is_counted: KEPT.try_with(|kept| kept.borrow_mut().locks += 1).is_ok() }
    }

    /// Whom to wake when this is given up now, if it is the last one.
    fn due(&self) -> Option<ToWake> {
        if !self.is_counted {
            return None;
        }
        let give_up = |kept: &RefCell<Kept>| {
            let mut kept = kept.borrow_mut();
            kept.locks -= 1;
            (kept.locks == 0).then(|| std::mem::take(&mut kept.to_wake))
        };
        KEPT.try_with(give_up).ok().flatten()
    }
}

impl Drop for Has {
    fn drop(&mut self) {
        // Outside of what it was kept in: whoever is woken may take the lock again.
        drop(self.due());
    }
}

/// See the module.
pub(crate) struct QuietMutex<T>(Mutex<T>);

impl<T> QuietMutex<T> {
    pub fn new(inside: T) -> QuietMutex<T> {
        QuietMutex(Mutex::new(inside))
    }

    pub fn lock(&self) -> QuietGuard<'_, T> {
        let guard = self.0.lock();
        QuietGuard { guard, has: Has::new() }
    }
}

/// Such a lock, taken.
pub(crate) struct QuietGuard<'a, T> {
    // In this order: the lock is given up first.
    guard: MutexGuard<'a, T>,
    has: Has,
}

impl<T> QuietGuard<'_, T> {
    /// Gives up the lock until there is news, at most until `deadline`: false. Who has kept somebody asleep wakes him instead,
    /// and looks again.
    pub fn wait_until(&mut self, news: &Condvar, deadline: Instant) -> bool {
        let keeps = |kept: &RefCell<Kept>| {
            let kept = kept.borrow();
            kept.locks == 1 && !kept.to_wake.is_empty()
        };
        if !KEPT.try_with(keeps).unwrap_or(false) {
            return !news.wait_until(&mut self.guard, deadline).timed_out();
        }
        MutexGuard::unlocked(&mut self.guard, || drop(std::mem::replace(&mut self.has, Has { is_counted: false })));
        self.has = Has::new();
        true
    }
}

impl<T> Deref for QuietGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for QuietGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::{Config, Node};

    /// Whoever waits wants the lock as soon as he is woken.
    struct Wants {
        lock: QuietMutex<()>,
        woken: AtomicUsize,
    }

    impl Wake for Wants {
        fn wake(self: Arc<Self>) {
            assert!(self.lock.0.try_lock().is_some(), "the lock has been given up");
            drop(self.lock.lock());
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn woken_at(wants: &Arc<Wants>) -> ToWake {
        let mut to_wake = ToWake::default();
        to_wake.add(Some(Waker::from(Arc::clone(wants))));
        to_wake
    }

    #[test]
    fn who_is_to_be_woken_under_the_lock_is_woken_when_it_has_been_given_up() {
        let wants = Arc::new(Wants { lock: QuietMutex::new(()), woken: AtomicUsize::new(0) });
        let other = QuietMutex::new(());
        let woken = || wants.woken.load(Ordering::Relaxed);
        drop(woken_at(&wants));
        assert_eq!(woken(), 1, "nothing is locked");
        let lock = wants.lock.lock();
        let inner = other.lock();
        drop(woken_at(&wants));
        drop(inner);
        drop(woken_at(&wants));
        assert_eq!(woken(), 1);
        drop(lock);
        assert_eq!(woken(), 3);
    }

    #[test]
    fn who_waits_for_news_keeps_nobody_asleep() {
        let wants = Arc::new(Wants { lock: QuietMutex::new(()), woken: AtomicUsize::new(0) });
        let news = Condvar::new();
        let mut lock = wants.lock.lock();
        drop(woken_at(&wants));
        assert!(lock.wait_until(&news, Instant::now()), "there may be news by that");
        assert_eq!(wants.woken.load(Ordering::Relaxed), 1);
        assert!(!lock.wait_until(&news, Instant::now()));
        drop(woken_at(&wants));
        assert_eq!(wants.woken.load(Ordering::Relaxed), 1, "it is locked again");
        drop(lock);
        assert_eq!(wants.woken.load(Ordering::Relaxed), 2);
    }

    std::thread_local! {
        /// Made before what this module keeps, so that it goes after it.
        static LAST: RefCell<Option<Node>> = const { RefCell::new(None) };
    }

    #[test]
    fn a_node_may_end_with_its_thread() {
        let run = || {
            LAST.with(|last| assert!(last.borrow().is_none()));
            let node = Node::join(Config::new()).wait().expect("a node");
            assert!(node.frozen_sets().is_empty());
            LAST.set(Some(node));
        };
        std::thread::spawn(run).join().expect("it ends in peace");
    }
}
