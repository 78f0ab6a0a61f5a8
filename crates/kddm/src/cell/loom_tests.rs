//! The handshakes under every interleaving that loom finds.
//! `RUSTFLAGS="--cfg loom" cargo test -p kddm --lib loom --release`

use kddm_core::io::Access;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::slots::Slot;
use super::sync::{AtomicU64, Ordering, heavy_barrier};
use super::word::{BIASED, Forced, READY, Refusal, Taken, Word};

const ADDRESS: usize = 64;

/// The data are looked at without an atomic, as a hold does: it is not enough that the old value is
/// seen, every look must be ordered before the next store.
struct Model {
    word: Word,
    slot: Slot,
    data: UnsafeCell<u64>,
    told: AtomicU64,
}

// SAFETY: that nobody stores while another looks is what these tests test; loom panics if it is so.
unsafe impl Sync for Model {}

impl Model {
    fn new(access: Access, flags: u64) -> Arc<Model> {
        let model = Model { word: Word::free(), slot: Slot::free(), data: UnsafeCell::new(1), told: AtomicU64::new(0) };
        model.word.begin();
        model.word.grant(access);
        model.word.change(|word| word | READY | flags);
        Arc::new(model)
    }

    fn look(&self) {
        // SAFETY: loom watches it.
        self.data.with(|data| assert_eq!(unsafe { *data }, 1, "changed under a hold"));
    }

    fn store(&self, value: u64) {
        // SAFETY: loom watches it.
        self.data.with_mut(|data| unsafe { *data = value });
    }

    fn swept(&self) -> bool {
        heavy_barrier();
        self.slot.reads(ADDRESS)
    }

    fn tell_if(&self, tell: bool) {
        if tell {
            self.told.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// One read by slot, as `Table::try_read_at` does it. Under the hold the data must stay.
    fn read_by_slot(&self) {
        match self.word.read_by_slot(&self.slot, ADDRESS, || true) {
            Ok(true) => {
                self.look();
                self.tell_if(self.word.release_slot(&self.slot, ADDRESS));
            }
            Ok(false) => self.read_counted(),
            Err(Refusal::Withdrawn) => self.tell_if(true),
            Err(Refusal::Slow(_)) => {}
        }
    }

    fn read_counted(&self) {
        if self.word.count_reader(|| true, self.word.load()).is_ok() {
            self.look();
            self.tell_if(self.word.release_counted());
        }
    }
}

/// The driver revokes while a reader comes and goes: it either gets access back, and then changes
/// the data, or is told.
fn revoke_against(read: fn(&Model), flags: u64) {
    loom::model(move || {
        let model = Model::new(Access::Read, flags);
        let reader = {
            let model = Arc::clone(&model);
            thread::spawn(move || read(&model))
        };
        let taken = model.word.revoke(Access::None, || model.swept());
        if taken == Taken::Back {
            model.store(2);
        }
        reader.join().expect("the reader does not panic");
        if taken == Taken::Held {
            assert!(model.told.load(Ordering::Acquire) > 0, "a lost wake-up");
            assert_eq!(model.word.revoke(Access::None, || model.swept()), Taken::Back);
        }
    });
}

/// Somebody begins to wait for a change while another puts one: it is told, or he sees it.
#[test]
fn loom_watcher_against_a_put() {
    loom::model(|| {
        let model = Model::new(Access::Write, 0);
        let version = Arc::new(AtomicU64::new(1));
        let writer = {
            let (model, version) = (Arc::clone(&model), Arc::clone(&version));
            thread::spawn(move || {
                assert!(model.word.take_writer(Forced::No, || true, || false).is_ok());
                version.store(2, Ordering::Relaxed);
                model.tell_if(model.word.release_writer(true));
            })
        };
        model.word.set_watched(true);
        let seen = version.load(Ordering::Acquire);
        writer.join().expect("the writer does not panic");
        assert!(seen == 2 || model.told.load(Ordering::Acquire) > 0, "a lost wake-up");
    });
}

/// A writer follows a reader that was counted: the reader's look comes before the writer's store.
#[test]
fn loom_writer_after_a_counted_reader() {
    loom::model(|| {
        let model = Model::new(Access::Write, 0);
        let reader = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.read_counted())
        };
        if model.word.take_writer(Forced::No, || true, || false).is_ok() {
            model.store(2);
            model.store(1);
            assert!(!model.word.release_writer(true));
        }
        reader.join().expect("the reader does not panic");
    });
}

#[test]
fn loom_revoke_against_a_slot() {
    revoke_against(Model::read_by_slot, BIASED);
}

#[test]
fn loom_revoke_against_a_count() {
    revoke_against(Model::read_counted, 0);
}

/// A writer of the fast path ends the bias while a reader comes and goes.
#[test]
fn loom_unbias_against_a_slot() {
    loom::model(|| {
        let model = Model::new(Access::Write, BIASED);
        let reader = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.read_by_slot())
        };
        if model.word.take_writer(Forced::No, || true, || model.swept()).is_ok() {
            model.store(2);
            model.store(1);
            assert!(!model.word.release_writer(true));
        }
        reader.join().expect("the reader does not panic");
        assert_eq!(model.told.load(Ordering::Acquire), 0, "nobody waits");
    });
}

/// A queued writer against a reader by slot: served, or told when the reader has gone.
#[test]
fn loom_waiter_against_a_slot() {
    loom::model(|| {
        let model = Model::new(Access::Write, BIASED);
        let reader = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.read_by_slot())
        };
        model.word.set_waiters(true);
        let taken = model.word.take_writer(Forced::Yes, || true, || model.swept()).is_ok();
        if taken {
            model.store(2);
            model.store(1);
            model.word.release_writer(true);
        }
        reader.join().expect("the reader does not panic");
        if !taken {
            assert!(model.told.load(Ordering::Acquire) > 0, "a lost wake-up");
            assert!(model.word.take_writer(Forced::Yes, || true, || model.swept()).is_ok());
        }
    });
}

/// The driver revokes while a writer of the fast path ends the bias.
#[test]
fn loom_revoke_against_a_writer_that_ends_the_bias() {
    loom::model(|| {
        let model = Model::new(Access::Write, BIASED);
        let writer = {
            let model = Arc::clone(&model);
            thread::spawn(move || match model.word.take_writer(Forced::No, || true, || model.swept()) {
                Ok(()) => {
                    model.look();
                    model.tell_if(model.word.release_writer(false));
                }
                Err(Refusal::Withdrawn) => model.tell_if(true),
                Err(Refusal::Slow(_)) => {}
            })
        };
        let taken = model.word.revoke(Access::None, || model.swept());
        if taken == Taken::Back {
            model.store(2);
        }
        writer.join().expect("the writer does not panic");
        assert!(taken == Taken::Back || model.told.load(Ordering::Acquire) > 0, "a lost wake-up");
    });
}

struct Pair {
    word: Word,
    first: AtomicU64,
    second: AtomicU64,
}

impl Pair {
    fn new() -> Arc<Pair> {
        let pair = Pair { word: Word::free(), first: AtomicU64::new(1), second: AtomicU64::new(1) };
        pair.word.begin();
        pair.word.grant(Access::Write);
        pair.word.change(|word| word | READY);
        Arc::new(pair)
    }

    fn set(&self, value: u64) {
        self.word.before_stores();
        self.first.store(value, Ordering::Relaxed);
        self.second.store(value, Ordering::Relaxed);
    }

    fn read(&self) -> Option<(u64, u64)> {
        self.word.validated(|| true, || (self.first.load(Ordering::Relaxed), self.second.load(Ordering::Relaxed)))
    }
}

#[test]
fn loom_seqlock_against_publish() {
    loom::model(|| {
        let pair = Pair::new();
        let writer = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                if pair.word.take_writer(Forced::No, || true, || false).is_ok() {
                    pair.set(2);
                    pair.word.release_writer(true);
                }
            })
        };
        if let Some((first, second)) = pair.read() {
            assert_eq!(first, second, "torn");
        }
        writer.join().expect("the writer does not panic");
        assert_eq!(pair.read(), Some((2, 2)));
    });
}

#[test]
fn loom_seqlock_against_revocation_and_install() {
    loom::model(|| {
        let pair = Pair::new();
        let driver = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                assert_eq!(pair.word.revoke(Access::None, || false), Taken::Back);
                pair.set(2);
                pair.word.set_value(true);
                pair.word.grant(Access::Read);
            })
        };
        if let Some((first, second)) = pair.read() {
            assert_eq!(first, second, "torn");
        }
        driver.join().expect("the driver does not panic");
        assert_eq!(pair.read(), Some((2, 2)));
    });
}
