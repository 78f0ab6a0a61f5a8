//! What programs share.

use std::time::Duration;

use kddm::{AccessError, Error, Node, Pod, Raw, Set, SetError};

use crate::seat::{LIMIT, until};
use crate::{House, add_one, open};

/// A copy that is here is read, and an object that is here is written, without a word to the node but the
/// value that is put.
#[test]
fn hits_say_nothing() {
    let house = House::new();
    let program = house.program();
    let set: Set<Pod<u64>> = program.set("hits").open().wait().expect("the set opens");
    set.grab(1).wait().expect("granted").put().wait().expect("put");
    let before = program.statistics();
    for _ in 0..1_000 {
        drop(set.get(1).wait().expect("a hit"));
        assert_eq!(set.object(1).read().wait().expect("a hit"), 0);
        drop(set.grab(1).wait().expect("a hit"));
    }
    let after = program.statistics();
    assert_eq!((after.frames_sent, after.misses), (before.frames_sent, before.misses));
    assert_eq!(after.frames_received, before.frames_received);
    set.grab(1).wait().expect("a hit").put().wait().expect("put");
    assert_eq!(program.statistics().frames_sent, before.frames_sent + 1, "the value itself");
    house.check();
}

#[test]
fn what_one_puts_all_others_see() {
    let house = House::new();
    let programs = [house.program(), house.program()];
    let sets: Vec<Set<String>> = programs
        .iter()
        .chain(&house.nodes)
        .map(|node| node.set("text").open().wait().expect("the set opens"))
        .collect();
    for round in 0..20 {
        for (number, writer) in sets.iter().enumerate() {
            let mut text = writer.grab(7).wait_for(LIMIT).expect("the others give it back");
            *text = format!("round {round} of {number}");
            text.put().wait_for(LIMIT).expect("it is put");
            for reader in &sets {
                assert_eq!(*reader.get(7).wait_for(LIMIT).expect("a copy"), format!("round {round} of {number}"));
            }
        }
    }
    let versions: Vec<u64> = sets.iter().map(|set| set.get(7).wait().expect("a copy").version()).collect();
    assert_eq!(versions, [80; 4]);
    house.check();
}

#[test]
fn a_guard_that_is_dropped_discards_its_change() {
    let house = House::new();
    let program = house.program();
    let (here, there): (Set<u64>, Set<u64>) = (open(&program), open(&house.nodes[1]));
    *here.grab(1).wait().expect("granted") = 9;
    assert_eq!(here.discarded_changes(), 1);
    assert_eq!(*there.get(1).wait_for(LIMIT).expect("a copy"), 0);
    house.check();
}

/// Programs, threads of their node, and another node add to the same counters.
#[test]
fn no_increment_is_lost() {
    const TIMES: u64 = 150;
    const OBJECTS: u64 = 3;
    let house = House::new();
    let programs: Vec<Node> = (0..3).map(|_| house.program()).collect();
    std::thread::scope(|scope| {
        for node in programs.iter().chain(&house.nodes) {
            for _ in 0..2 {
                let set = open(node);
                scope.spawn(move || (0..TIMES).for_each(|turn| add_one(&set, turn % OBJECTS)));
            }
        }
    });
    for node in programs.iter().chain(&house.nodes) {
        let set = open(node);
        let sum: u64 = (0..OBJECTS).map(|object| *set.get(object).wait_for(LIMIT).expect("a copy")).sum();
        assert_eq!(sum, 5 * 2 * TIMES);
    }
    house.check();
}

/// A reader never sees a counter go back, and sees the last put once the writer says that it is complete.
#[test]
fn reads_are_never_older_than_the_last_put() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let house = House::new();
    let (writer, reader) = (house.program(), house.program());
    let (written, read): (Set<Pod<u64>>, Set<Pod<u64>>) = (
        writer.set("fresh").open().wait().expect("the set opens"),
        reader.set("fresh").open().wait().expect("the set opens"),
    );
    let complete = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=2_000 {
                let mut value = written.grab(1).wait_for(LIMIT).expect("the reader gives it back");
                value.0 = number;
                value.put().wait_for(LIMIT).expect("it is put");
                complete.store(number, Ordering::Release);
            }
        });
        loop {
            let at_least = complete.load(Ordering::Acquire);
            let seen = read.object(1).read().wait().expect("a copy");
            assert!(seen >= at_least, "{seen} after {at_least} was put");
            if seen == 2_000 {
                break;
            }
        }
    });
    house.check();
}

#[test]
fn the_first_value_is_made_in_the_program_and_comes_back_unput() {
    let house = House::new();
    let program = house.program();
    let made = |number: u64| move |object: u64| vec![number, object];
    let here: Set<Vec<u64>> = program.set("first").first_touch(made(1)).open().wait().expect("the set opens");
    let there: Set<Vec<u64>> = house.nodes[1].set("first").first_touch(made(2)).open().wait().expect("the set opens");
    assert_eq!(*here.get(5).wait().expect("made here"), [1, 5]);
    assert_eq!(*there.get(5).wait_for(LIMIT).expect("a copy"), [1, 5], "it was made once");
    drop(here.grab(6).wait().expect("made here"));
    assert_eq!(*there.get(6).wait_for(LIMIT).expect("a copy"), [1, 6]);
    assert!(matches!(here.get_existing(7).wait(), Err(Error::Access(AccessError::NotFound))));
    assert_eq!(*there.get(7).wait_for(LIMIT).expect("made there"), [2, 7]);
    assert_eq!(*here.get_existing(7).wait_for(LIMIT).expect("a copy"), [2, 7]);
    house.check();
}

/// Whoever was let in to make the first value, and has not made it, is in nobody's way.
#[test]
fn a_first_touch_that_is_not_made_goes_to_who_wants_it() {
    let house = House::new();
    let (first, second) = (house.program(), house.program());
    let (here, there) = (open(&first), open(&second));
    for object in 0..20 {
        here.acquire(object).wait_for(LIMIT).expect("it is here");
        assert_eq!(*there.get(object).wait_for(LIMIT).expect("made there"), 0);
        assert_eq!(*here.get(object).wait_for(LIMIT).expect("a copy"), 0);
    }
    assert_eq!(house.nodes[0].programs().len(), 2);
    house.check();
}

/// A copy that nobody holds does not make an object busy, a guard does: between programs, the node itself
/// and other nodes.
#[test]
fn try_grab_is_refused_by_guards_and_not_by_copies() {
    let house = House::new();
    let programs = [house.program(), house.program()];
    let sets: Vec<Set<u64>> = programs.iter().chain(&house.nodes).map(open).collect();
    for holder in 0..4 {
        for other in (0..4).filter(|other| *other != holder) {
            drop(sets[holder].get(1).wait_for(LIMIT).expect("a copy"));
            let granted = sets[other].try_grab(1).wait_for(LIMIT);
            drop(granted.unwrap_or_else(|error| panic!("{other} after {holder} has read: {error}")));
            let guard = sets[holder].get(1).wait_for(LIMIT).expect("a copy");
            let busy = sets[other].try_grab(1).wait_for(LIMIT);
            assert!(matches!(busy, Err(Error::Access(AccessError::Busy))), "{other} while {holder} reads: {busy:?}");
            drop(guard);
            let guard = sets[holder].grab(1).wait_for(LIMIT).expect("the only copy");
            let busy = sets[other].try_grab(1).wait_for(LIMIT);
            assert!(matches!(busy, Err(Error::Access(AccessError::Busy))), "{other} while {holder} writes: {busy:?}");
            drop(guard);
            let granted = sets[other].try_grab(1).wait_for(LIMIT);
            drop(granted.unwrap_or_else(|error| panic!("{other} after {holder} has written: {error}")));
        }
    }
    house.check();
}

#[test]
fn removed_objects_are_gone_everywhere() {
    let house = House::new();
    let programs = [house.program(), house.program()];
    let sets: Vec<Set<u64>> = programs.iter().chain(&house.nodes).map(open).collect();
    for remover in &sets {
        add_one(&sets[0], 1);
        sets.iter().for_each(|set| drop(set.get(1).wait_for(LIMIT).expect("a copy")));
        remover.remove(1).wait_for(LIMIT).expect("removed");
        for set in &sets {
            assert!(matches!(set.get_existing(1).wait_for(LIMIT), Err(Error::Access(AccessError::NotFound))));
        }
        add_one(remover, 2);
        let guard = remover.grab(2).wait_for(LIMIT).expect("the only copy");
        assert_eq!(*guard, 1, "a fresh life");
        guard.remove().wait_for(LIMIT).expect("removed");
    }
    house.check();
}

#[test]
fn a_flush_gives_up_the_copy_of_the_program_and_of_its_node() {
    let house = House::new();
    let program = house.program();
    let (here, there) = (open(&program), open(&house.nodes[1]));
    add_one(&here, 1);
    here.flush(1, Some(2)).wait_for(LIMIT).expect("flushed");
    assert!(here.find(1).is_none());
    until("the other node has it", || there.find(1).is_some() || there.get(1).wait_for(LIMIT).is_ok());
    let nowhere = here.flush(1, Some(9)).wait_for(LIMIT);
    assert!(nowhere.is_err(), "there is no node 9");
    assert_eq!(*here.get(1).wait_for(LIMIT).expect("a copy"), 1);
    house.check();
}

/// Requests that nobody waits for block nobody, and guards of several threads of one program exclude
/// each other as on a node.
#[test]
fn what_is_asked_in_advance_is_here_and_blocks_nobody() {
    let house = House::new();
    let (first, second) = (house.program(), house.program());
    let (here, there) = (open(&first), open(&second));
    let unpolled = here.grab(1);
    until("it is here", || unpolled.is_ready());
    add_one(&there, 1);
    assert_eq!(*unpolled.wait_for(LIMIT).expect("asked again"), 1);
    here.acquire(2).wait_for(LIMIT).expect("it is here");
    let before = first.statistics().frames_sent;
    drop(here.grab(2).wait().expect("a hit"));
    assert_eq!(first.statistics().frames_sent, before);
    let guards = here.grab_many(&[3, 4, 5]).wait().expect("all of them");
    let waits = there.get(4);
    assert!(waits.wait_for(Duration::from_millis(20)).is_err(), "it is held");
    drop(guards);
    there.grab(4).cancel();
    assert_eq!(*here.get(4).wait_for(LIMIT).expect("a copy"), 0);
    house.check();
}

#[test]
fn sets_are_opened_compared_listed_and_destroyed_by_the_node() {
    let house = House::new();
    let program = house.program();
    assert!(program.sets().expect("none yet").is_empty());
    assert!(matches!(program.set_info("a/b"), Err(Error::Set(SetError::Unknown { .. }))));
    let set: Set<u64> = program.set("a/b").open().wait().expect("created");
    add_one(&set, 1);
    let differs = program.set::<String>("a/b").open().wait().expect_err("another type");
    assert!(matches!(&differs, Error::Set(SetError::SettingsDiffer { setting: "type", .. })), "{differs}");
    let differs = house.nodes[1].set::<Raw>("a/b").open().wait().expect_err("another codec");
    assert!(matches!(&differs, Error::Set(SetError::SettingsDiffer { setting: "codec", .. })), "{differs}");
    assert!(matches!(program.set::<u64>("none").open_existing().wait(), Err(Error::Set(SetError::Unknown { .. }))));
    assert!(matches!(program.set::<u64>("a//b").open().wait(), Err(Error::Set(SetError::BadName { .. }))));
    assert_eq!(program.sets().expect("listed")[0].name, "a/b");
    assert_eq!(program.set_info("a/b").expect("there").type_name, "u64");
    // The node itself may open it with its type while a program has some of it.
    let guard = set.grab(1).wait().expect("a hit");
    let here: Set<u64> = house.nodes[0].set("a/b").open().wait().expect("the type is the same");
    guard.put().wait().expect("put");
    assert_eq!(*here.get(1).wait_for(LIMIT).expect("a copy"), 1);
    program.destroy_set("a/b", LIMIT).wait().expect("destroyed");
    assert!(matches!(set.get(1).wait(), Err(Error::Set(SetError::Destroyed))));
    assert!(program.sets().expect("none left").is_empty());
    let again: Set<u64> = program.set("a/b").open().wait().expect("created anew");
    assert_eq!(*again.get(1).wait_for(LIMIT).expect("a fresh life"), 0);
}

#[test]
fn the_node_is_seen_through_its_program() {
    let house = House::new();
    let program = house.program();
    assert_eq!((program.id(), program.address()), (house.nodes[0].id(), house.nodes[0].address()));
    assert_eq!(program.members(), house.nodes[0].members());
    assert_eq!(program.epoch(), house.nodes[0].epoch());
    program.wait_for_members(2, LIMIT).expect("both are here");
    assert!(program.wait_for_members(3, Duration::from_millis(10)).is_err());
    for refused in [
        program.start_sharing(LIMIT).wait(),
        program.stop_sharing(LIMIT).wait(),
        program.accept_programs(crate::socket()),
    ] {
        let text = refused.expect_err("that is the node's business").to_string();
        assert!(text.contains("attached to a daemon"), "{text}");
    }
    let [info] = &house.nodes[0].programs()[..] else { panic!("one program") };
    assert_eq!((info.pid, info.lent), (std::process::id(), 0));
    let set = open(&program);
    add_one(&set, 1);
    drop(set.get(2).wait().expect("made here"));
    let info = &house.nodes[0].programs()[0];
    assert_eq!((info.lent, info.lent_to_write, info.waiting), (2, 2, 0));
    let tenure = set.grab(1).wait().expect("a hit").tenure();
    assert!(tenure > 0, "a fencing token");
}

/// Thousands of objects are lent, and all come back.
#[test]
fn many_objects_are_lent_and_come_back() {
    const OBJECTS: u64 = 10_000;
    let house = House::new();
    let program = house.program();
    let (here, there) = (open(&program), open(&house.nodes[1]));
    for object in 0..OBJECTS {
        *there.grab(object).wait_for(LIMIT).expect("granted") = object;
    }
    for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(1_000) {
        for fetched in here.prefetch(chunk.iter().copied()) {
            fetched.wait_for(LIMIT).expect("a copy");
        }
    }
    let before = program.statistics().frames_sent;
    (0..OBJECTS).for_each(|object| drop(here.get(object).wait().expect("a hit")));
    assert_eq!(program.statistics().frames_sent, before);
    assert_eq!(house.nodes[0].programs()[0].lent as u64, OBJECTS);
    (0..OBJECTS).for_each(|object| add_one(&there, object));
    assert_eq!(house.nodes[0].programs()[0].lent, 0);
    assert_eq!(here.local_count(), 0);
    house.check();
}

/// Values far larger than a socket's buffer, both ways, also while many are on their way.
#[test]
fn large_values_come_and_go() {
    let house = House::new();
    let program = house.program();
    let here: Set<Raw> = program.set("large").open().wait().expect("the set opens");
    let there: Set<Raw> = house.nodes[1].set("large").open().wait().expect("the set opens");
    for (at, size) in (0u64..).zip([0, 1, 65_536, 3_000_000, 9_000_000, 5_000_000, 5_000_000]) {
        let mut value = here.grab(at).wait_for(LIMIT).expect("granted");
        value.0 = vec![at as u8; size];
        value.put().wait_for(LIMIT).expect("put");
        assert_eq!(there.get(at).wait_for(LIMIT).expect("a copy").0.len(), size);
        drop(there.grab(at).wait_for(LIMIT).expect("granted"));
    }
    let all: Vec<_> = (0..7).map(|at| here.get(at)).collect();
    for (at, got) in (0u8..).zip(all) {
        assert!(got.wait_for(LIMIT).expect("a copy").0.iter().all(|byte| *byte == at));
    }
    let mut value = here.grab(0).wait_for(LIMIT).expect("granted");
    value.0 = vec![0; 17 << 20];
    assert!(matches!(value.put().wait(), Err(Error::Access(AccessError::TooLarge { .. }))));
    house.check();
}

/// More at once than are greeted at one time: the others wait at the socket.
#[test]
fn many_programs_attach_at_once() {
    let house = House::new();
    let socket = &house.socket;
    std::thread::scope(|scope| {
        let attach = || Node::attach(socket).wait().map(drop);
        let programs: Vec<_> = (0..150).map(|_| scope.spawn(attach)).collect();
        for program in programs {
            program.join().expect("no panic").expect("it is let in");
        }
    });
}

/// Questions whose answers take long keep nobody from asking another, nor from being let in.
#[test]
fn many_that_wait_for_members_are_in_nobodys_way() {
    let house = House::new();
    let program = house.program();
    let _first = open(&program);
    std::thread::scope(|scope| {
        for _ in 0..80 {
            scope.spawn(|| program.wait_for_members(5, Duration::from_secs(1)).expect_err("there are two"));
        }
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let _set: Set<u64> = program.set(name).open().wait().expect("it is answered");
            Node::attach(&house.socket).wait().expect("it is let in");
        }
    });
}
