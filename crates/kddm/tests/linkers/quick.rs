//! Linkers that are quick are asked by whoever wants an object, on his own thread.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ThreadId;
use std::time::Duration;

use kddm::linker::{Linker, LinkerError, Stamp, WritePolicy, Written};
use kddm::{AccessError, Error, Node, Set};

use crate::{LIMIT, cluster, counts, is_not_found, linker_error};

type Read = dyn Fn(u64) -> Result<Option<u64>, LinkerError> + Send + Sync;

/// Reads by that, and says on which thread.
struct Reads(Box<Read>, Mutex<Sender<ThreadId>>);

impl Linker<u64> for Reads {
    fn first_touch(&self, object: u64) -> Result<Option<u64>, LinkerError> {
        self.1.lock().expect("nobody panics here").send(std::thread::current().id()).expect("the test listens");
        (self.0)(object)
    }
}

fn quick(
    node: &Node,
    read: impl Fn(u64) -> Result<Option<u64>, LinkerError> + Send + Sync + 'static,
) -> (Set<u64>, Receiver<ThreadId>) {
    let (sender, threads) = channel();
    let builder = node.set("quick").linker("reads", Reads(Box::new(read), Mutex::new(sender))).quick_linker();
    let set = builder.replicas(0).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens");
    (set, threads)
}

#[test]
fn whoever_wants_an_object_reads_it_himself() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| quick(&nodes[at], |object| Ok((object < 1000).then_some(object + 1))));
    for object in 0..100 {
        let (set, threads) = &sets[(object % 2) as usize];
        assert_eq!(*set.get(object).wait_for(LIMIT).expect("it is there"), object + 1);
        assert_eq!(threads.try_iter().collect::<Vec<_>>(), [std::thread::current().id()], "object {object}");
    }
    // Of one that is at home here it is known before anybody waits.
    let ready = (100..200).filter(|object| sets[0].0.grab(*object).is_ready()).count();
    assert!((1..100).contains(&ready), "{ready}");
    assert!(is_not_found(&sets[1].0.get_existing(5000).wait_for(LIMIT)));
    assert!(nodes[0].linkers()[0].is_quick && counts(&nodes[0]).reads >= 50);
}

#[test]
fn what_goes_wrong_there_is_told_and_the_thread_may_wait_again() {
    let nodes = cluster(1);
    let elsewhere: Set<u64> = nodes[0].set("other").open().wait_for(LIMIT).expect("the set opens");
    let other = elsewhere.clone();
    let (set, _threads) = quick(&nodes[0], move |object| match object {
        0 => Err(LinkerError::Store { kind: "reads", reason: "the test wants it so".into() }),
        1 => panic!("the test has it panic"),
        _ => match other.grab(1).wait_for(LIMIT) {
            Err(Error::Access(AccessError::WouldBlock)) => Ok(Some(7)),
            told => panic!("{:?}", told.map(drop)),
        },
    });
    // Held by another one, so that the linker would have to wait for it.
    let held = std::thread::scope(|scope| {
        scope.spawn(|| elsewhere.grab(1).wait_for(LIMIT).expect("it is free")).join().expect("it ends")
    });
    assert!(matches!(linker_error(set.get(0).wait_for(LIMIT)), LinkerError::Store { .. }));
    assert!(matches!(linker_error(set.get(1).wait_for(LIMIT)), LinkerError::Panicked { object: 1, .. }));
    assert_eq!(*set.get(2).wait_for(LIMIT).expect("it is read"), 7);
    drop(held);
    drop(elsewhere.grab(1).wait_for(LIMIT).expect("this thread may wait"));
    assert_eq!(counts(&nodes[0]).errors, 2);
}

#[test]
fn none_is_read_behind_the_end_of_the_node() {
    let node = cluster(1).remove(0);
    let (begins, began) = channel();
    let (go, gate) = channel::<()>();
    let (gate, begins) = (Mutex::new(gate), Mutex::new(begins));
    let (set, threads) = quick(&node, move |object| {
        if object == 0 {
            begins.lock().expect("nobody panics here").send(()).expect("the test listens");
            gate.lock().expect("nobody panics here").recv().expect("the test says go");
        }
        Ok(Some(object))
    });
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| set.get(0).wait_for(LIMIT).map(|guard| *guard));
        began.recv_timeout(LIMIT).expect("it reads");
        let stops = scope.spawn(|| node.clone().stop());
        let is_open = |object: &u64| set.get(*object).wait_for(LIMIT).is_ok();
        let read = (1..1000).take_while(is_open).count();
        go.send(()).expect("it waits for that");
        // What it has read it has, unless the node has gone meanwhile.
        assert!(matches!(reader.join().expect("no panic"), Ok(0) | Err(Error::Membership(_) | Error::Access(_))));
        stops.join().expect("it stops");
        assert!(threads.try_iter().count() > read);
    });
    assert!(set.get(5000).wait_for(LIMIT).is_err());
    assert!(threads.try_recv().is_err(), "it was not asked");
}

/// A write may take long: it is none of the thread's that reads.
#[test]
fn what_waits_to_be_written_is_written_by_a_thread_of_the_linker() {
    /// Keeps what is written last, and says which threads write and read.
    struct Keeps(Mutex<u64>, Mutex<Sender<(&'static str, ThreadId)>>);
    impl Keeps {
        fn say(&self, what: &'static str) {
            let said = self.1.lock().expect("nobody panics here").send((what, std::thread::current().id()));
            said.expect("the test listens");
        }
    }
    impl Linker<u64> for Keeps {
        fn first_touch(&self, _: u64) -> Result<Option<u64>, LinkerError> {
            self.say("read");
            Ok(Some(*self.0.lock().expect("nobody panics here")))
        }
        fn write_back(&self, _: u64, _: Stamp, value: &u64) -> Result<Written, LinkerError> {
            self.say("write");
            *self.0.lock().expect("nobody panics here") = *value;
            Ok(Written::Kept)
        }
    }
    let node = cluster(1).remove(0);
    let (sender, said) = channel();
    let long = WritePolicy::Behind { lag: Duration::from_secs(3_000), bytes: 1 << 20 };
    let builder = node.set("quick").linker("keeps", Keeps(Mutex::new(0), Mutex::new(sender))).quick_linker();
    let set: Set<u64> = builder.write_policy(long).replicas(0).open().wait_for(LIMIT).expect("the set opens");
    set.update(7, |value| {
        *value = 5;
        Ok(())
    })
    .wait_for(LIMIT)
    .expect("it is put");
    set.evict(7).wait_for(LIMIT).expect("it leaves");
    assert_eq!(*set.get(7).wait_for(LIMIT).expect("it is read again"), 5);
    let me = std::thread::current().id();
    let all: Vec<_> = said.try_iter().collect();
    assert_eq!(all.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["read", "write", "read"]);
    assert!(all[1].1 != me && all[2].1 == me, "{all:?}");
}
