//! Whoever would wait for itself is told so: threads with many holds, and holders that are no threads.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kddm::{AccessError, Error, Holder, Pod, Set, WriteGuard, together};

use crate::{LIMIT, two};

const SHORT: Duration = Duration::from_millis(50);

/// More than a thread's own slots have room for, and more than one page of further notes.
const MANY: u64 = 200;

fn is_own(error: &Error) -> bool {
    matches!(error, Error::Access(AccessError::HeldByThisThread { .. }))
}

fn all(set: &Set<u64>) -> Vec<WriteGuard<u64>> {
    (0..MANY).map(|object| set.grab(object).wait_for(LIMIT).expect("it is free")).collect()
}

#[test]
fn a_thread_knows_all_that_it_holds() {
    let (_nodes, [here, _]) = two("many");
    let mut guards = all(&here);
    let readers: Vec<_> = (MANY..2 * MANY).map(|object| here.get(object).wait_for(LIMIT).expect("free")).collect();
    for object in 0..MANY {
        let error = here.grab(object).wait_for(LIMIT).map(drop).expect_err("this thread holds it");
        assert!(is_own(&error), "{object}: {error:?}");
        let error = here.snapshot(object).wait_for(LIMIT).map(drop).expect_err("its value is being changed");
        assert!(is_own(&error), "{object}: {error:?}");
        drop(here.get(MANY + object).wait_for(LIMIT).expect("it may read what it reads"));
        let error = here.grab(MANY + object).wait_for(LIMIT).map(drop).expect_err("this thread reads it");
        assert!(is_own(&error), "{object}: {error:?}");
    }
    // In the middle of all: what is over is not held any more.
    guards.swap_remove(100).put().wait().expect("it is put");
    drop(here.grab(100).wait_for(LIMIT).expect("it was put"));
    drop((guards, readers));
    drop(all(&here));
}

#[test]
fn a_guard_that_ends_in_another_thread_leaves_nothing_behind_in_the_first() {
    let (_nodes, [here, there]) = two("elsewhere");
    for set in [&here, &there] {
        // By the fast path, and by the lane when the objects come from the other node.
        for _ in 0..2 {
            let guards = all(set);
            std::thread::scope(|threads| {
                threads.spawn(|| guards.into_iter().for_each(|guard| guard.put().wait().expect("it is put")));
            });
        }
    }
}

#[test]
fn what_a_thread_holds_counts_when_it_waits_and_not_when_it_asks() {
    let (_nodes, [here, _]) = two("asked");
    let held = here.grab(1).wait_for(LIMIT).expect("it is free");
    let (get, grab, both) = (here.get(1), here.grab(1), here.grab_many(&[1, 2]));
    drop(held);
    assert_eq!(*get.wait_for(LIMIT).expect("its hold has ended"), 0);
    drop(grab.wait_for(LIMIT).expect("its hold has ended"));
    drop(both.wait_for(LIMIT).expect("its hold has ended"));
    let asked = here.get(3);
    let _held = here.grab(1).wait_for(LIMIT).expect("it is free");
    let late = here.grab(1);
    drop(asked.wait_for(LIMIT).expect("it is another one"));
    std::thread::scope(|threads| {
        // The thread that waits is another one: it is not told that it holds what it does not hold.
        let waits = threads.spawn(|| late.wait_for(SHORT).map(drop).expect_err("it is held"));
        let error = waits.join().expect("no panic");
        assert!(matches!(error, Error::Access(AccessError::TimedOut { .. })), "{error:?}");
    });
}

#[test]
fn what_a_thread_may_not_wait_for_is_not_asked_for() {
    let (nodes, [here, there]) = two("unsent");
    here.update(1, |_| Ok(())).wait_for(LIMIT).expect("it is free");
    let copy = there.get(1).wait_for(LIMIT).expect("it is free");
    let before = nodes[1].statistics().misses;
    for _ in 0..100 {
        assert!(is_own(&there.grab(1).wait_for(LIMIT).map(drop).expect_err("this thread reads it")));
        assert!(is_own(&there.update(1, |_| Ok(())).wait_for(LIMIT).expect_err("this thread reads it")));
        assert!(is_own(&there.grab_many(&[1]).wait_for(LIMIT).map(drop).expect_err("this thread reads it")));
        // It would have taken the copy away, and this would wait for the hold of its own thread.
        assert_eq!(*there.get(1).wait_for(LIMIT).expect("it reads it"), 0);
    }
    assert_eq!(nodes[1].statistics().misses, before, "something was asked for");
    drop(copy);
    drop(there.grab(1).wait_for(LIMIT).expect("its hold has ended"));
}

#[test]
fn a_value_that_is_read_by_handle_is_awaited_like_any_other() {
    let nodes = kddm::Node::local_cluster(2).expect("two nodes");
    let [here, there]: [Set<Pod<u64>>; 2] =
        [0, 1].map(|at: usize| nodes[at].set("handles").open().wait().expect("the set opens"));
    let held = here.grab(1).wait_for(LIMIT).expect("it is free");
    let object = there.object(1);
    // It is asked for, and the thread goes on: it would wait for its own hold.
    let mut value = object.read();
    assert!(Pin::new(&mut value).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(held);
    assert_eq!(value.wait_for(LIMIT).expect("the hold has ended"), 0);
    assert_eq!(object.try_read(), Some(0), "the handle knows where it is now");
}

#[test]
fn a_holder_is_told_of_what_it_holds_in_any_thread_or_task() {
    let (_nodes, [here, there]) = two("holder");
    for set in [&here, &there] {
        let (one, other) = (Holder::new("checkout 17"), Holder::new("checkout 18"));
        let guard = set.by(&one).grab(1).wait_for(LIMIT).expect("it is free");
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let error = set.by(&one).get(1).wait_for(LIMIT).map(drop).expect_err("it would wait for itself");
                let wanted = "holder checkout 17 already holds object 1 (write)";
                assert!(error.to_string().starts_with(wanted), "{error}");
                let mut task = set.by(&one.clone()).grab(1);
                let polled = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
                let Poll::Ready(Err(Error::Access(error))) = polled else { panic!("a task is told too") };
                assert!(matches!(error, AccessError::HeldByThisHolder { object: 1, hold: "write", .. }), "{error:?}");
                let error = set.by(&other).get(1).wait_for(SHORT).map(drop).expect_err("another one holds it");
                assert!(matches!(error, Error::Access(AccessError::TimedOut { .. })), "{error:?}");
            });
        });
        // The thread itself holds nothing: another one may end the hold.
        let error = set.grab(1).wait_for(SHORT).map(drop).expect_err("a holder holds it");
        assert!(matches!(error, Error::Access(AccessError::TimedOut { .. })), "{error:?}");
        let error = set.by(&one).try_grab(1).wait_for(LIMIT).map(drop).expect_err("it is held");
        assert!(matches!(error, Error::Access(AccessError::Busy)), "{error:?}");
        guard.put().wait().expect("it is put");
        drop(set.by(&one).get_existing(1).wait_for(LIMIT).expect("it was put"));
        drop(set.by(&one).grab_existing(1).wait_for(LIMIT).expect("its read has ended"));
    }
}

#[test]
fn a_holder_reads_twice_and_takes_many_together() {
    let (_nodes, [here, _]) = two("together");
    let holder = Holder::new("batch");
    let by = here.by(&holder);
    let first = by.get(1).wait_for(LIMIT).expect("it is free");
    let (second, mut third) = together((by.to_get(1), by.to_grab(2))).wait_for(LIMIT).expect("reads go together");
    *third += 5;
    third.put().wait().expect("it is put");
    let error = together([by.to_grab(1), by.to_grab(2)]).wait_for(LIMIT).map(drop).expect_err("it reads one");
    assert!(matches!(error, Error::Access(AccessError::HeldByThisHolder { object: 1, hold: "read", .. })), "{error:?}");
    assert_eq!(*by.snapshot(2).wait_for(LIMIT).expect("nobody writes it"), 5);
    let error = by.update(1, |_| Ok(())).wait_for(LIMIT).expect_err("it reads it");
    assert!(matches!(error, Error::Access(AccessError::HeldByThisHolder { .. })), "{error:?}");
    drop((first, second));
    drop(by.grab_many(&[1, 2]).wait_for(LIMIT).expect("all have ended"));
    assert_eq!(by.get_many(&[2, 1]).wait_for(LIMIT).expect("all have ended").len(), 2);
    let doubled = by.update(2, |value| {
        *value *= 2;
        Ok(*value)
    });
    assert_eq!(doubled.wait_for(LIMIT).expect("it is free"), 10);
    by.remove(2).wait_for(LIMIT).expect("nobody holds it");
}

#[test]
fn a_guard_may_outlive_its_holder() {
    let (_nodes, [here, _]) = two("outlives");
    let first = Holder::new("gone");
    let guards: Vec<_> = (0..MANY).map(|object| here.by(&first).grab(object).wait_for(LIMIT).expect("free")).collect();
    drop(first);
    let second = Holder::new("alive");
    drop(here.by(&second).grab(MANY).wait_for(LIMIT).expect("it is free"));
    let error = here.by(&second).grab(0).wait_for(SHORT).map(drop).expect_err("somebody else holds it");
    assert!(matches!(error, Error::Access(AccessError::TimedOut { .. })), "{error:?}");
    drop(guards);
    drop(here.by(&second).grab(0).wait_for(LIMIT).expect("the hold has ended"));
}
