//! Waits for the next change of an object.

use std::time::Duration;

use kddm::{AccessError, Config, Error, MembershipError, Node, Seen, Set, SetError};

use crate::{LIMIT, two};

fn put(set: &Set<u64>, value: u64) {
    let mut guard = set.grab(1).wait_for(LIMIT).expect("nobody keeps it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

fn seen(set: &Set<u64>) -> Seen {
    set.get(1).wait_for(LIMIT).expect("a copy").seen()
}

#[test]
fn a_put_elsewhere_and_one_here_end_the_wait() {
    let (_nodes, [here, there]) = two("changes");
    put(&here, 1);
    for (writer, value) in [(&there, 2), (&here, 3), (&there, 4)] {
        let before = seen(&here);
        let waits = here.changed(1, before);
        assert!(!waits.is_ready(), "nobody has changed it yet");
        put(writer, value);
        let after = waits.wait_for(LIMIT).expect("it was changed");
        assert_eq!((after.puts_since(before), after), (Some(1), seen(&here)));
        assert_eq!(*here.get(1).wait_for(LIMIT).expect("a copy"), value);
        assert_eq!(here.changed(1, before).wait_for(LIMIT).expect("it is news still"), after);
    }
}

#[test]
fn a_thread_that_blocks_is_woken() {
    let (_nodes, [here, there]) = two("blocked");
    for writer in [&there, &here] {
        put(&here, 0);
        let before = seen(&here);
        std::thread::scope(|scope| {
            let waits: Vec<_> = (0..3).map(|_| scope.spawn(|| here.changed(1, before).wait_for(LIMIT))).collect();
            put(writer, 7);
            for wait in waits {
                let after = wait.join().expect("it returns").expect("it was changed");
                assert_eq!(after.puts_since(before), Some(1));
            }
        });
    }
}

/// Each of many changes is seen, or a later one, and the last one always; whoever writes where.
#[test]
fn no_change_is_missed() {
    const PUTS: u64 = 300;
    let (_nodes, [here, there]) = two("missed");
    put(&here, 0);
    std::thread::scope(|scope| {
        let watch = |set: Set<u64>| {
            move || {
                let mut before = seen(&set);
                while *set.get(1).wait_for(LIMIT).expect("a copy") < 2 * PUTS {
                    let after = set.changed(1, before).wait_for(LIMIT).expect("the last one has not been seen");
                    assert_ne!(after, before);
                    before = after;
                }
            }
        };
        scope.spawn(watch(here.clone()));
        scope.spawn(watch(here.clone()));
        scope.spawn(watch(there.clone()));
        for set in [here.clone(), there.clone()] {
            scope.spawn(move || {
                for _ in 0..PUTS {
                    let counted = set.update(1, |count| {
                        *count += 1;
                        Ok(())
                    });
                    counted.wait_for(LIMIT).expect("it is put");
                }
            });
        }
    });
}

/// A wait costs no message, and a change what it costs to take the copy back and to get it anew.
#[test]
fn a_wait_costs_no_message() {
    let (nodes, [here, there]) = two("cheap");
    put(&there, 1);
    let before = seen(&here);
    let messages = || nodes.iter().map(|node| node.statistics().messages()).sum::<u64>();
    let at_first = messages();
    let waits = here.changed(1, before);
    assert!(!waits.is_ready());
    assert_eq!(messages(), at_first);
    put(&there, 2);
    waits.wait_for(LIMIT).expect("it was changed");
    let cost = messages() - at_first;
    assert!(cost <= 6, "{cost} messages");
}

#[test]
fn a_wait_that_is_dropped_leaves_nothing_behind() {
    // Each lane has its share of what a node may have outstanding.
    for lanes in [1, 2, 5] {
        leaves_nothing_behind(crate::unhurried().lanes(lanes).outstanding_limit(4 * lanes));
    }
}

/// At a node of which each lane may have four waiting.
fn leaves_nothing_behind(config: Config) {
    let node = Node::join(config).wait_for(LIMIT).expect("it begins a cluster");
    let set: Set<u64> = node.set("dropped").open().wait_for(LIMIT).expect("the set opens");
    put(&set, 1);
    let before = seen(&set);
    for _ in 0..100 {
        set.changed(1, before).cancel();
        let unchanged = set.changed(1, before).wait_for(Duration::from_millis(1)).expect_err("nobody writes");
        assert!(matches!(unchanged, Error::Access(AccessError::Unchanged { limit_ms: 1 })), "{unchanged}");
    }
    let kept: Vec<_> = (0..4).map(|_| set.changed(1, before)).collect();
    let one_more = set.changed(1, before).wait_for(LIMIT).expect_err("that is the limit");
    assert!(matches!(one_more, Error::Access(AccessError::Overloaded { outstanding: 4, limit: 4 })), "{one_more}");
    put(&set, 2);
    for wait in kept {
        assert_eq!(wait.wait_for(LIMIT).expect("it was changed").puts_since(before), Some(1));
    }
}

#[test]
fn a_wait_ends_with_its_object_its_set_and_its_node() {
    let (nodes, [here, there]) = two("ends");
    put(&there, 1);
    let waits = here.changed(1, seen(&here));
    there.remove(1).wait_for(LIMIT).expect("it is removed");
    let error = waits.wait_for(LIMIT).expect_err("it does not exist any more");
    assert!(matches!(error, Error::Access(AccessError::NotFound)), "{error}");

    put(&there, 2);
    let waits = here.changed(1, seen(&here));
    nodes[1].destroy_set("ends", Duration::ZERO).wait_for(LIMIT).expect("it is destroyed");
    let error = waits.wait_for(LIMIT).expect_err("its set is no more");
    assert!(matches!(error, Error::Set(SetError::Destroyed)), "{error}");

    let other: Set<u64> = nodes[0].set("other").open().wait_for(LIMIT).expect("the set opens");
    put(&other, 1);
    let before = seen(&other);
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| other.changed(1, before).wait_for(LIMIT));
        let waits = other.changed(1, before);
        nodes[0].stop();
        for ended in [waits.wait_for(LIMIT), blocked.join().expect("it returns")] {
            let error = ended.expect_err("its node is no more");
            let expected =
                matches!(error, Error::Membership(MembershipError::Stopped | MembershipError::NotSharing { .. }));
            assert!(expected, "{error}");
        }
    });
}

/// One that was removed and made again has as many puts, and is another one all the same.
#[test]
fn an_object_that_was_made_again_is_news() {
    let (_nodes, [here, there]) = two("again");
    for maker in [&here, &there] {
        put(maker, 1);
        let before = seen(&here);
        maker.remove(1).wait_for(LIMIT).expect("it is removed");
        put(maker, 2);
        let after = seen(&here);
        assert_eq!((before.version, before != after), (after.version, true));
        assert_eq!(here.changed(1, before).wait_for(LIMIT).expect("it is another one"), after);
        maker.remove(1).wait_for(LIMIT).expect("it is removed");
    }
}

/// What a thread holds would keep the change away for which it waits.
#[test]
fn whoever_holds_the_object_does_not_wait_for_its_change() {
    let (_nodes, [here, _]) = two("own");
    put(&here, 1);
    let guard = here.get(1).wait_for(LIMIT).expect("a copy");
    let error = here.changed(1, guard.seen()).wait_for(LIMIT).expect_err("it would wait for itself");
    assert!(matches!(error, Error::Access(AccessError::HeldByThisThread { object: 1, .. })), "{error}");
}

/// Programs and the node that lends to them wait for each other's changes.
#[test]
fn programs_wait_for_changes() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let socket = std::env::temp_dir().join(format!("kddm-changes-{}.sock", std::process::id()));
    nodes[0].accept_programs(&socket).expect("programs may come");
    let programs: Vec<Node> = (0..2).map(|_| Node::attach(&socket).wait_for(LIMIT).expect("it is let in")).collect();
    let open =
        |node: &Node| -> Set<u64> { node.set("lent").replicas(0).open().wait_for(LIMIT).expect("the set opens") };
    let all: Vec<Set<u64>> = nodes.iter().chain(&programs).map(open).collect();
    put(&all[0], 0);
    for (number, writer) in all.iter().enumerate().cycle().take(12) {
        let waits: Vec<_> = all.iter().map(|set| set.changed(1, seen(set))).collect();
        put(writer, number as u64);
        for (set, wait) in all.iter().zip(waits) {
            wait.wait_for(LIMIT).expect("it was changed");
            assert_eq!(*set.get(1).wait_for(LIMIT).expect("a copy"), number as u64);
        }
    }
    let waits = all[2].changed(1, seen(&all[2]));
    nodes[0].stop();
    waits.wait_for(LIMIT).expect_err("its daemon is gone");
}
