//! Tasks that wait: a waker may do what it likes, and nothing is left behind of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use kddm::{AccessError, Error, Pending, Set, WriteGuard};

use crate::{LIMIT, two};

/// Half of the limit of a wait: an alarm that stays would stay for longer.
const ALARM: Duration = Duration::from_secs(5);

type Grabbed = Pending<WriteGuard<u64>>;

/// Says that it was woken, and does nothing else.
struct Says(Mutex<Sender<()>>);

impl Wake for Says {
    fn wake(self: Arc<Self>) {
        let _nobody_listens_any_more = self.0.lock().expect("nobody panics").send(());
    }
}

fn says() -> (Arc<Says>, Receiver<()>) {
    let (sender, receiver) = channel();
    (Arc::new(Says(Mutex::new(sender))), receiver)
}

fn poll<O: Unpin>(pending: &mut Pending<O>, waker: &Waker) -> Poll<Result<O, Error>> {
    Pin::new(pending).poll(&mut Context::from_waker(waker))
}

/// Drops a task, as an executor does that shuts down: the request of the task loses interest.
struct Drops {
    task: Mutex<Option<Grabbed>>,
    done: Sender<()>,
}

impl Wake for Drops {
    fn wake(self: Arc<Self>) {
        drop(self.task.lock().expect("nobody panics").take());
        let _nobody_listens_any_more = self.done.send(());
    }
}

#[test]
fn a_waker_may_drop_another_request_of_its_node() {
    let (nodes, [here, there]) = two("drops");
    let held = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
    let other = here.grab(2).wait_for(LIMIT).expect("nobody else has it");
    let mut first = there.grab(1);
    let (done, is_done) = channel();
    let task = Mutex::new(Some(there.grab(2)));
    let waker = Waker::from(Arc::new(Drops { task, done }));
    assert!(poll(&mut first, &waker).is_pending());
    held.put().wait().expect("it is put");
    if is_done.recv_timeout(LIMIT).is_err() {
        // The node hangs, and its end would hang as well.
        std::mem::forget((nodes, here, there, first, other));
        panic!("the waker has stopped its node");
    }
    assert!(poll(&mut first, &waker).is_ready());
    drop(other);
    drop(there.grab(2).wait_for(LIMIT).expect("the node goes on"));
}

/// As that of an executor which is gone.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the test has it panic");
    }
}

#[test]
fn a_waker_that_panics_keeps_nobody_else_asleep() {
    let (nodes, [here, there]) = two("panics");
    let echo = |request: &kddm::rpc::Request| Ok(request.body().to_vec());
    let _service = nodes[1].rpc().register("echo", echo).expect("the name is free");
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let when_told = move |request: &kddm::rpc::Request| {
        gate.lock().expect("no panic").recv_timeout(LIMIT).expect("the test says go");
        Ok(request.body().to_vec())
    };
    let _other = nodes[1].rpc().register("when told", when_told).expect("the name is free");
    let (panics, (says, woken)) = (Waker::from(Arc::new(Panics)), says());
    let says = Waker::from(says);
    let held = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
    // Whatever their order.
    let mut reads: Vec<_> = (0..3).map(|_| there.get(1)).collect();
    for (read, waker) in reads.iter_mut().zip([&panics, &says, &panics]) {
        assert!(poll(read, waker).is_pending());
    }
    held.put().wait_for(LIMIT).expect("it is put");
    woken.recv_timeout(LIMIT).expect("the second is woken");
    for read in &mut reads {
        assert!(matches!(poll(read, &says), Poll::Ready(Ok(_))), "all have it");
    }
    drop(reads);
    let mut first = nodes[0].rpc().call(2, "when told", b"first", LIMIT);
    assert!(poll(&mut first, &panics).is_pending());
    go.send(()).expect("the service waits");
    first.wait_for(LIMIT).expect("the answer is there, whoever is told of it");
    let mut second = nodes[0].rpc().call(2, "echo", b"second", LIMIT);
    if poll(&mut second, &says).is_pending() {
        woken.recv_timeout(LIMIT).expect("who reads for all goes on");
    }
    assert!(matches!(poll(&mut second, &says), Poll::Ready(Ok(answer)) if answer == b"second"));
}

#[test]
fn a_finished_wait_leaves_no_waker_behind() {
    let (_nodes, [here, there]) = two("leaves");
    let (waker, woken) = says();
    for turn in 0..200 {
        let set: &Set<u64> = if turn % 2 == 0 { &here } else { &there };
        let mut pending = set.grab(1);
        let guard = loop {
            match poll(&mut pending, &Waker::from(Arc::clone(&waker))) {
                Poll::Ready(guard) => break guard.expect("it comes"),
                Poll::Pending => woken.recv_timeout(LIMIT).expect("the answer wakes"),
            }
        };
        guard.put().wait().expect("it is put");
    }
    for _ in 0..10 {
        // Given up: that leaves nothing either.
        let guard = here.grab(2).wait_for(LIMIT).expect("nobody else has it");
        let mut pending = there.grab(2);
        assert!(poll(&mut pending, &Waker::from(Arc::clone(&waker))).is_pending());
        drop((pending, guard));
    }
    // The last one that was woken may have yet to be dropped by who woke it.
    let begin = Instant::now();
    while Arc::strong_count(&waker) > 1 {
        assert!(begin.elapsed() < ALARM, "{} wakers of waits that are over are kept", Arc::strong_count(&waker) - 1);
        std::thread::yield_now();
    }
}

#[test]
fn a_future_that_has_moved_to_another_task_ends_at_its_limit() {
    let (nodes, [here, _]) = two("moves");
    let limit = Duration::from_millis(100);
    let there: Set<u64> = nodes[1].set("moves").wait_limit(limit).open().wait().expect("the set opens");
    let _held = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
    let ((former, _), (latter, woken)) = (says(), says());
    let mut pending = there.grab(1);
    assert!(poll(&mut pending, &Waker::from(former)).is_pending());
    let waker = Waker::from(latter);
    let ended = loop {
        match poll(&mut pending, &waker) {
            Poll::Ready(result) => break result,
            Poll::Pending => woken.recv_timeout(LIMIT).expect("the task that has it now is woken"),
        }
    };
    let error = ended.expect_err("somebody holds it");
    assert!(matches!(error, Error::Access(AccessError::TimedOut { .. })), "{error:?}");
}

/// Two tasks of one thread may wait for each other's holds: the one that waits does not keep the other
/// from ending its hold. A thread that blocks would, and is told so.
#[test]
fn two_tasks_of_one_thread_contend_and_a_blocking_thread_is_told() {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    let (_nodes, [here, _]) = crate::two("contend");
    let held = here.grab(1).wait().expect("it is free");
    let error = here.grab(1).wait().map(drop).expect_err("this thread would wait for itself");
    assert!(error.to_string().contains("this thread"), "{error}");
    let mut second = here.grab(1);
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut second).poll(&mut context).is_pending(), "another task may end the hold");
    let asked_while_it_was_held = here.grab(1);
    drop(held);
    drop(asked_while_it_was_held.wait_for(crate::LIMIT).expect("the thread holds nothing any more"));
    let deadline = std::time::Instant::now() + crate::LIMIT;
    let guard = loop {
        match Pin::new(&mut second).poll(&mut context) {
            Poll::Ready(guard) => break guard.expect("the hold has ended"),
            Poll::Pending => assert!(std::time::Instant::now() < deadline, "it is granted"),
        }
    };
    assert_eq!(*guard, 0);
}

/// An answer that a task was woken for and does not take is in nobody's way for long, and is not lost.
#[test]
fn a_task_that_is_forgotten_stops_nobody_and_goes_on_when_it_is_polled() {
    let (_nodes, [here, there]) = two("forgotten");
    let holder = kddm::Holder::new("another one");
    for _ in 0..3 {
        let held = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
        let (waker, woken) = says();
        let waker = Waker::from(waker);
        let mut forgotten = there.grab(1);
        assert!(poll(&mut forgotten, &waker).is_pending());
        held.put().wait().expect("it is put");
        woken.recv_timeout(LIMIT).expect("it is granted");
        // Another node, and another holder of the same node, which does not know that nobody has it.
        drop(here.grab(1).wait_for(LIMIT).expect("it is taken back"));
        drop(there.by(&holder).grab(1).wait_for(LIMIT).expect("it was taken back"));
        let begin = Instant::now();
        let guard = loop {
            match poll(&mut forgotten, &waker) {
                Poll::Ready(guard) => break guard.expect("it comes"),
                Poll::Pending => assert!(begin.elapsed() < LIMIT, "it is asked for again"),
            }
        };
        guard.put().wait().expect("it is put");
    }
}

/// The same where the one in the way waits on the same node, to read or to write.
#[test]
fn a_forgotten_read_stops_no_writer_of_its_node() {
    let (_nodes, [here, _]) = two("forgotten reads");
    let held = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
    let mut forgotten: Vec<_> = (0..100).map(|_| here.get(1)).collect();
    let (waker, woken) = says();
    let waker = Waker::from(waker);
    for pending in &mut forgotten {
        assert!(Pin::new(pending).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    held.put().wait().expect("it is put");
    for _ in 0..forgotten.len() {
        woken.recv_timeout(LIMIT).expect("all are granted");
    }
    here.update(1, |value| {
        *value = 5;
        Ok(())
    })
    .wait_for(LIMIT)
    .expect("all are taken back");
    for pending in forgotten {
        assert_eq!(*pending.wait_for(LIMIT).expect("it is asked for again"), 5);
    }
}
