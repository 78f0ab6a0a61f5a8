//! What is looked at once more when an object is held that is to go: each look is one of its own here, with what came before.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::*;
use crate::cell::Marks;
use crate::eventually::eventually;
use crate::expiry::each::{Expire, Part, name_of, part_of};
use crate::expiry::rule::Expiry;
use crate::{Node, Set};

const LIMIT: Duration = Duration::from_secs(60);

const OBJECT: u64 = 7;

/// A set in which no thread looks, and what looks would know of it.
struct Kept {
    nodes: Vec<Node>,
    set: Set<u64>,
    of: Arc<Expiring>,
}

impl Kept {
    fn new(nodes: usize, each: bool) -> Kept {
        let nodes = Node::local_cluster(nodes).expect("a cluster");
        let builder = nodes[0].set("leaving").replicas(0).wait_limit(LIMIT);
        let builder = if each { builder.expires() } else { builder };
        let set: Set<u64> = builder.open().wait_for(LIMIT).expect("the set opens");
        let (expired, failed, watched, under_way, sweep, times) = Default::default();
        let rule = Expiry { after: None, idle: None, on_expiry: OnExpiry::Evict, each };
        let (id, name, write_policy) = (set.0.here.set, "leaving".into(), None);
        let of = Expiring { set: id, name, rule, write_policy, expired, failed, watched, under_way, sweep, times };
        let kept = Kept { nodes, set, of: Arc::new(of) };
        kept.put();
        kept
    }

    fn put(&self) {
        let change = |value: &mut u64| {
            *value += 1;
            Ok(())
        };
        self.set.update(OBJECT, change).wait_for(LIMIT).expect("it is put");
    }

    /// The last put, as a look has found it.
    fn last(&self) -> Put {
        let here = &self.set.0.here;
        let lane = here.lane(OBJECT);
        let mut state = lane.lock();
        let store = state.store(here.set);
        let version = store.version(store.find(OBJECT).expect("it is here"));
        let seen = state.core.inspect(here.set, ObjectId(OBJECT)).expect("the set is there");
        lane.finish(state);
        let Main::Owner { tenure, .. } = seen.main else { panic!("{seen:?}") };
        Put { version, tenure: tenure.0, is_unused: false, own: None }
    }

    /// It is asked for, and goes on when `meanwhile` has been done.
    fn goes(&self, put: Put, meanwhile: impl FnOnce()) {
        let here = &self.set.0.here;
        let lane = here.lane(OBJECT);
        let mut state = lane.lock();
        let op = ask(lane, &mut state, here.set, OBJECT, put);
        lane.finish(state);
        let going = Going::new(&self.of, OBJECT, put, op.expect("nobody holds it, or it is waited for"));
        meanwhile();
        going.begin(here);
        eventually(LIMIT, "it has gone, or not", || self.of.under_way.load(Ordering::Acquire) == 0);
    }

    fn is_there(&self) -> bool {
        let expired = self.of.expired.load(Ordering::Relaxed);
        match self.set.get_existing(OBJECT).wait_for(LIMIT).map(drop) {
            Ok(()) => expired == 0,
            Err(Error::Access(AccessError::NotFound)) if expired == 1 => false,
            other => panic!("{other:?}, and {expired} have gone"),
        }
    }

    fn mark(&self) {
        let store = self.set.0.here.lane(OBJECT).lock().store(self.set.0.here.set);
        let (looked, _) = store.look(0, 256, Marks::Yes);
        assert!(looked.iter().any(|looked| looked.object == OBJECT));
    }
}

#[test]
fn the_put_of_whoever_had_it_before_stays() {
    let kept = Kept::new(1, false);
    let put = kept.last();
    let mut holds = kept.set.grab(OBJECT).wait_for(LIMIT).expect("nobody has it");
    kept.goes(put, || {
        *holds = 100;
        holds.put().wait_for(LIMIT).expect("it is put");
    });
    assert!(kept.is_there());
    assert_eq!(*kept.set.get(OBJECT).wait_for(LIMIT).expect("it is there"), 100);
    kept.goes(kept.last(), || {});
    assert!(!kept.is_there(), "that one is over");
}

#[test]
fn what_was_made_anew_with_as_many_puts_stays() {
    let kept = Kept::new(1, false);
    let put = kept.last();
    kept.set.remove(OBJECT).wait_for(LIMIT).expect("it is removed");
    kept.put();
    assert_eq!(kept.last().version, put.version, "its version says nothing");
    kept.goes(put, || {});
    assert!(kept.is_there());
    kept.goes(kept.last(), || {});
    assert!(!kept.is_there(), "that one is over");
}

#[test]
fn what_nobody_used_and_has_moved_meanwhile_stays() {
    let kept = Kept::new(2, false);
    let there: Set<u64> = kept.nodes[1].set("leaving").open().wait_for(LIMIT).expect("the set opens");
    let put = Put { is_unused: true, ..kept.last() };
    kept.mark();
    for set in [&there, &kept.set] {
        set.acquire(OBJECT).wait_for(LIMIT).expect("it moves");
    }
    kept.mark();
    kept.goes(put, || {});
    assert!(kept.is_there());
    kept.goes(Put { is_unused: false, ..put }, || {});
    assert!(!kept.is_there(), "a put that is over is over wherever it is");
}

#[test]
fn what_is_used_just_then_stays() {
    let kept = Kept::new(1, false);
    let put = Put { is_unused: true, ..kept.last() };
    let read = || assert_eq!(*kept.set.get(OBJECT).wait_for(LIMIT).expect("it is there"), 1);
    kept.mark();
    read();
    kept.goes(put, || {});
    assert!(kept.is_there(), "it was read after the look");
    kept.mark();
    kept.mark();
    let mut waits = None;
    kept.goes(put, || {
        let waits = waits.insert(kept.set.grab(OBJECT));
        let polled = Pin::new(waits).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it is held, to be looked at");
    });
    let waits = waits.expect("it was asked for");
    assert_eq!(*waits.wait_for(LIMIT).expect("whoever waits has it"), 1, "it is no new one");
    assert!(kept.is_there());
    kept.mark();
    kept.mark();
    kept.goes(put, || {});
    assert!(!kept.is_there(), "nobody has used it");
}

#[test]
fn what_has_another_time_of_its_own_by_then_stays() {
    let kept = Kept::new(1, true);
    let times: Set<Part> = {
        let builder = kept.nodes[0].set(&name_of(kept.set.0.here.set)).wait_limit(LIMIT);
        builder.open_existing().wait_for(LIMIT).expect("it is there")
    };
    let give = |time| assert!(kept.set.expire(OBJECT, time).wait_for(LIMIT).expect("it has that time"));
    let own = || times.get(part_of(OBJECT)).wait_for(LIMIT).expect("it is there").own(OBJECT);
    give(Expire::Never);
    let first = own();
    kept.goes(kept.last(), || {});
    assert!(kept.is_there(), "it had none when it was looked at");
    give(Expire::After(LIMIT));
    kept.goes(Put { own: first, ..kept.last() }, || {});
    assert!(kept.is_there(), "it has a longer one now");
    kept.goes(Put { own: own(), ..kept.last() }, || {});
    assert!(!kept.is_there(), "that one is over");
}
