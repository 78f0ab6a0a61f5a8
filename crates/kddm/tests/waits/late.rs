//! Tasks that come late, or never again, for what they were granted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use kddm::{Node, Set};

use crate::{LIMIT, two};

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// It is woken at the end of its limit, and does not even look at that. What comes for it afterwards is
/// taken back.
#[test]
fn a_task_forgotten_beyond_its_limit_keeps_nothing_from_others() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let here: Set<u64> = nodes[0].set("forgotten").open().wait().expect("the set opens");
    let short = nodes[1].set("forgotten").wait_limit(Duration::from_millis(50));
    let there: Set<u64> = short.open().wait().expect("the set opens");
    let held = here.grab(1).wait_for(LIMIT).expect("it is free");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut forgotten = there.grab(1);
    assert!(Pin::new(&mut forgotten).poll(&mut Context::from_waker(&waker)).is_pending());
    while !woken.0.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    held.put().wait_for(LIMIT).expect("it is put");
    here.grab(1).wait_for(LIMIT).expect("it was taken back").put().wait_for(LIMIT).expect("it is put");
    drop(forgotten);
}

/// An executor that needs 60 ms to come back to a task, and an object that is always wanted elsewhere.
#[test]
fn a_task_of_a_slow_executor_gets_a_contended_object() {
    let (_nodes, [here, there]) = two("slow");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let add = |count: &mut u64| {
                *count += 1;
                Ok(())
            };
            while !is_done.load(Ordering::Relaxed) {
                here.update(1, add).wait_for(LIMIT).expect("it comes back each time");
            }
        });
        let waker = Waker::from(Arc::new(Woken::default()));
        let mut task = there.grab(1);
        let granted = loop {
            match Pin::new(&mut task).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(granted) => break granted.map(drop),
                Poll::Pending => std::thread::park_timeout(Duration::from_millis(60)),
            }
        };
        is_done.store(true, Ordering::Relaxed);
        granted.expect("it gets there some time");
    });
}

/// The fetch has nothing to hold: whoever waits behind it makes the object.
#[test]
fn a_fetch_of_what_does_not_exist_keeps_nobody_waiting() {
    let (_nodes, sets) = two("fetched");
    for object in 0..300 {
        std::thread::scope(|scope| {
            scope.spawn(|| sets[1].fetch(object).wait_for(LIMIT).expect("it ends"));
            drop(sets[1].get(object).wait_for(LIMIT).expect("it is made"));
        });
    }
}
