//! Whoever waits for a change reads the connections itself.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::task::{Context, Waker};
use std::time::Duration;

use kddm::{Change, Error, Node, RpcError, Seen, Set};

use crate::whole_sets::{put, seen, until_heard, watch};
use crate::{LIMIT, two};

/// Of an object its first touch may be told, and its put behind that.
#[track_caller]
fn is_nothing_missed(heard: &[Change]) {
    assert!(heard.iter().all(|change| matches!(change, Change::Put { .. })), "{heard:?}");
}

/// And so do others that wait for something else: each has its own, whoever reads.
#[test]
fn who_waits_for_a_change_hears_it_beside_those_who_wait_for_answers() {
    let (nodes, [here, there]) = two("beside");
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let late = nodes[1].rpc().register_blocking("late", move |_| {
        released.lock().expect("no panic").recv()?;
        Ok(Vec::new())
    });
    let _late = late.expect("nobody else has registered it");
    // Gone first, so that no handler is waited for where this fails.
    let release = release;
    let mut changes = watch(&here);
    let rpc = nodes[0].rpc();
    for round in 0..60 {
        std::thread::scope(|scope| {
            let call =
                || scope.spawn(|| rpc.call(nodes[1].id(), "late", &[], LIMIT).wait().map(|_| ()).expect("it answers"));
            let before = (round % 2 == 0).then(call);
            let heard = scope.spawn(|| until_heard(&mut changes, round, Seen { tenure: 0, version: 0 }));
            let call = before.unwrap_or_else(call);
            // The answer comes before the change, or behind it.
            if round % 4 < 2 {
                put(&there, round, round);
                is_nothing_missed(&heard.join().expect("it hears it"));
                release.send(()).expect("somebody waits");
                call.join().expect("and the other one its answer");
            } else {
                release.send(()).expect("somebody waits");
                call.join().expect("it has its answer");
                put(&there, round, round);
                is_nothing_missed(&heard.join().expect("and the other one hears it"));
            }
        });
    }
}

/// A wait that is given up, or comes to its limit while it reads, takes nothing along.
#[test]
fn a_change_is_there_for_the_next_who_waits() {
    let (_nodes, [here, there]) = two("given_up");
    // Its first touch may be told, and its put behind that: here each put is to be one change.
    put(&there, 1, 0);
    let mut changes = watch(&here);
    for round in 0..20 {
        let mut context = Context::from_waker(Waker::noop());
        let mut given_up = Box::pin(changes.receive());
        assert!(given_up.as_mut().poll(&mut context).is_pending());
        let early = (round % 2 == 0).then(|| put(&there, 1, round));
        drop(given_up);
        early.unwrap_or_else(|| put(&there, 1, round));
        let change = changes.receive().wait_for(LIMIT).expect("it was told");
        assert!(matches!(change, Change::Put { object: 1, .. }), "{change:?}");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| (10..500).for_each(|object| put(&there, object, 1)));
        let mut left: BTreeSet<u64> = (10..500).collect();
        while !left.is_empty() {
            match changes.receive().wait_for(Duration::from_micros(50)) {
                Ok(Change::Put { object, .. }) => _ = left.remove(&object),
                Err(Error::Rpc(RpcError::Idle { .. })) => {}
                other => panic!("{other:?}, {left:?} are left"),
            }
        }
    });
}

/// The member from whom something is awaited goes while a thread reads its connection: that is told, and the watch goes on.
#[test]
fn a_member_may_go_while_whoever_waits_reads_its_connection() {
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("it begins");
    let open = |node: &Node| -> Set<u64> { node.set("going").open().wait_for(LIMIT).expect("the set opens") };
    let here = open(&first);
    let other = Node::join(crate::unhurried().contact(first.address().clone())).wait_for(LIMIT).expect("it joins");
    let there = open(&other);
    let mut changes = watch(&here);
    put(&there, 1, 1);
    until_heard(&mut changes, 1, seen(&there, 1));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            loop {
                match changes.receive().wait_for(LIMIT).expect("the end of the member is told") {
                    Change::Skipped { count: None } => return,
                    other => assert!(matches!(other, Change::Put { object: 1, .. }), "{other:?}"),
                }
            }
        });
        drop(there);
        other.stop();
        waits.join().expect("it was told");
    });
    put(&here, 2, 1);
    until_heard(&mut changes, 2, seen(&here, 2));
}
