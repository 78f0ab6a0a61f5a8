//! Watches of whole sets.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kddm::{AccessError, Change, Error, MembershipError, Node, Position, RpcError, Seen, Set, SetError, WatchAll};

use crate::{LIMIT, two};

pub fn put(set: &Set<u64>, object: u64, value: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody keeps it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

pub fn seen(set: &Set<u64>, object: u64) -> Seen {
    set.get(object).wait_for(LIMIT).expect("a copy").seen()
}

pub fn watch(set: &Set<u64>) -> WatchAll {
    set.watch_all().wait_for(LIMIT).expect("all answer")
}

/// Takes changes until that one, or a newer one, of the object was told; what else there was.
#[track_caller]
pub fn until_heard(changes: &mut WatchAll, object: u64, newest: Seen) -> Vec<Change> {
    let mut heard = Vec::new();
    loop {
        let change = changes.receive().wait_for(LIMIT).unwrap_or_else(|error| panic!("{error} after {heard:?}"));
        if matches!(change, Change::Put { object: of, seen } if of == object && seen.version >= newest.version) {
            return heard;
        }
        heard.push(change);
    }
}

#[test]
fn puts_are_heard_wherever_they_are() {
    let (_nodes, [here, there]) = two("heard");
    put(&there, 1, 1);
    let mut changes = watch(&here);
    for round in 0..20 {
        for (object, writer) in [(1, &here), (1, &there), (2, &there), (3, &here)] {
            put(writer, object, round);
            let newest = seen(writer, object);
            let others = until_heard(&mut changes, object, newest);
            assert!(!others.iter().any(|other| matches!(other, Change::Skipped { .. })), "{others:?}");
        }
    }
    there.remove(2).wait_for(LIMIT).expect("it is removed");
    loop {
        match changes.receive().wait_for(LIMIT).expect("it is told") {
            Change::Removed { object: 2, tenure } => break assert!(tenure > 0),
            Change::Put { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    put(&here, 2, 7);
    until_heard(&mut changes, 2, seen(&here, 2));
    let idle = changes.receive().wait_for(Duration::from_millis(20));
    assert!(matches!(idle, Ok(Change::Put { .. }) | Err(Error::Rpc(RpcError::Idle { .. }))), "{idle:?}");
}

/// Writers everywhere, with and without replicas: in the end the newest version of each object was told.
#[test]
fn the_newest_version_of_each_object_is_heard_in_the_end() {
    for replicas in [0, 1] {
        let nodes = Node::local_cluster(3).expect("a cluster");
        let open = |node: &Node| -> Set<u64> {
            node.set("storm").replicas(replicas).open().wait_for(LIMIT).expect("the set opens")
        };
        let sets: Vec<Set<u64>> = nodes.iter().map(open).collect();
        (0..40).for_each(|object| put(&sets[object as usize % 3], object, 0));
        let mut watches: Vec<WatchAll> = sets[..2].iter().map(watch).collect();
        std::thread::scope(|scope| {
            for (number, set) in (0u64..).zip(&sets) {
                scope.spawn(move || {
                    for round in 0..400u64 {
                        put(set, (round * (7 + number) + number) % 40, round);
                    }
                });
            }
        });
        let newest: HashMap<u64, Seen> = (0..40).map(|object| (object, seen(&sets[2], object))).collect();
        for changes in &mut watches {
            let mut told: HashMap<u64, Seen> = HashMap::new();
            while newest.iter().any(|(object, seen)| told.get(object).is_none_or(|told| told.version < seen.version)) {
                match changes.receive().wait_for(LIMIT).expect("there is more") {
                    Change::Put { object, seen } => {
                        let known = told.entry(object).or_insert(seen);
                        *known = if seen.tenure >= known.tenure { seen } else { *known };
                        assert!(seen.version <= newest[&object].version, "{object}: {seen:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// It holds nobody up, and hears how much it has missed.
#[test]
fn a_slow_watcher_has_skipped_something() {
    let (_nodes, [here, there]) = two("slow");
    let mut changes = watch(&here);
    for object in 0..10_000 {
        put(&there, object, 1);
    }
    let (mut told, mut skipped) = (0, 0);
    while told + skipped < 10_000 {
        match changes.receive().wait_for(LIMIT).expect("there is more") {
            Change::Put { .. } => told += 1,
            Change::Skipped { count: Some(count) } => skipped += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(skipped > 0, "{told} were told");
    put(&there, 5, 2);
    until_heard(&mut changes, 5, seen(&there, 5));
}

#[test]
fn members_that_come_are_watched_and_those_that_go_are_missed() {
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("it begins");
    let join = || Node::join(crate::unhurried().contact(first.address().clone())).wait_for(LIMIT).expect("it joins");
    let open = |node: &Node| -> Set<u64> { node.set("members").open().wait_for(LIMIT).expect("the set opens") };
    let here = open(&first);
    let mut changes = watch(&here);
    for object in 1..4 {
        let other = join();
        let there = open(&other);
        put(&there, object, 1);
        until_heard(&mut changes, object, seen(&there, object));
        put(&there, object, 2);
        until_heard(&mut changes, object, seen(&there, object));
        drop(there);
        other.stop();
        let begin = Instant::now();
        loop {
            match changes.receive().wait_for(LIMIT).expect("it is told") {
                Change::Skipped { count: None } => break,
                _ => assert!(begin.elapsed() < LIMIT, "it is gone"),
            }
        }
    }
    put(&here, 9, 1);
    until_heard(&mut changes, 9, seen(&here, 9));
}

#[test]
fn a_watch_ends_with_its_set_or_node() {
    let (nodes, [here, there]) = two("ends");
    let open = |name: &str| -> Set<u64> { nodes[0].set(name).open().wait_for(LIMIT).expect("the set opens") };
    let (mut first, mut second) = (watch(&here), watch(&open("other")));
    drop((here, there));
    nodes[1].destroy_set("ends", LIMIT).wait_for(LIMIT).expect("it is destroyed");
    let ended = loop {
        match first.receive().wait_for(LIMIT) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::Set(SetError::Destroyed)), "{ended}");
    nodes[0].stop();
    let ended = loop {
        match second.receive().wait_for(LIMIT) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::Membership(MembershipError::Stopped)), "{ended}");
}

/// Whoever watches no more leaves nothing behind.
#[test]
fn a_watch_that_is_dropped_is_gone_everywhere() {
    let (nodes, [here, there]) = two("dropped");
    let open = || nodes.iter().map(|node| node.rpc().counts().open_streams).sum::<u64>();
    for round in 0..3 {
        let mut changes = watch(&here);
        put(&there, 1, round);
        until_heard(&mut changes, 1, seen(&there, 1));
        assert!(open() > 0);
        drop(changes);
        let begin = Instant::now();
        while open() > 0 {
            assert!(begin.elapsed() < LIMIT, "streams are left");
            std::thread::yield_now();
        }
        put(&there, 1, round);
    }
}

/// A kept position, as text and back.
fn kept(changes: &WatchAll) -> Position {
    changes.position().to_string().parse().expect("it is written to be read")
}

/// All that is told until nothing has come for a moment.
fn all(changes: &mut WatchAll) -> Vec<Change> {
    let mut told = Vec::new();
    loop {
        match changes.receive().wait_for(Duration::from_millis(300)) {
            Ok(change) => told.push(change),
            Err(Error::Rpc(RpcError::Idle { .. })) => return told,
            Err(error) => panic!("{error} after {told:?}"),
        }
    }
}

/// One change at a time, each by a watch of its own, at one node and another: each is seen once, and then there is no more.
#[test]
fn a_watch_that_takes_one_at_a_time_comes_to_the_end() {
    let (_nodes, [here, there]) = two("singly");
    let changes = watch(&here);
    let mut position = kept(&changes);
    drop(changes);
    for object in 0..5 {
        put(if object % 2 == 0 { &here } else { &there }, object, 1);
    }
    let mut told = Vec::new();
    while told.len() < 5 {
        let set = if told.len() % 2 == 0 { &there } else { &here };
        let mut changes = set.watch_from(None, &position).wait_for(LIMIT).expect("it goes on");
        match changes.receive().wait_for(LIMIT).expect("there is more") {
            Change::Put { object, .. } => told.push(object),
            other => panic!("{other:?} after {told:?}"),
        }
        position = kept(&changes);
    }
    told.sort_unstable();
    assert_eq!(told, [0, 1, 2, 3, 4]);
    let mut changes = here.watch_from(None, &position).wait_for(LIMIT).expect("it goes on");
    put(&there, 9, 1);
    let next = changes.receive().wait_for(LIMIT).expect("there is more");
    assert!(matches!(next, Change::Put { object: 9, .. }), "{next:?}");
}

/// What has changed meanwhile is told, the newest of each object, and nothing else: at the same node and at another one.
#[test]
fn a_watch_goes_on_where_another_one_had_come_to() {
    let (nodes, [here, there]) = two("resumed");
    (0..8).for_each(|object| put(if object < 4 { &here } else { &there }, object, 1));
    let mut changes = watch(&here);
    for round in 0..6 {
        let last = 100 + round;
        put(&there, last, 1);
        until_heard(&mut changes, last, seen(&there, last));
        all(&mut changes);
        let position = kept(&changes);
        drop(changes);
        for (object, writer) in [(0, &here), (5, &there), (5, &there), (6, &here), (200 + round, &there)] {
            put(writer, object, round);
        }
        let gone = if round == 0 { 1 } else { 200 + round - 1 };
        (if round % 2 == 0 { &there } else { &here }).remove(gone).wait_for(LIMIT).expect("it is removed");
        let again = if round % 2 == 0 { &there } else { &here };
        changes = again.watch_from(None, &position).wait_for(LIMIT).expect("it goes on");
        let told = all(&mut changes);
        let mut newest: HashMap<u64, Option<u64>> = HashMap::new();
        for change in &told {
            match change {
                Change::Put { object, seen } => _ = newest.insert(*object, Some(seen.version)),
                Change::Removed { object, .. } => _ = newest.insert(*object, None),
                other => panic!("{other:?} of {told:?}"),
            }
        }
        for object in [0, 5, 6, 200 + round] {
            assert_eq!(newest.get(&object), Some(&Some(seen(&here, object).version)), "{object} of {told:?}");
        }
        assert_eq!(newest.get(&gone), Some(&None), "{told:?}");
        // To be read makes nobody another owner, so nothing else was told.
        assert!([2, 3, 4, 7].iter().all(|object| !newest.contains_key(object)), "{told:?}");
    }
    drop(nodes);
}

/// One that is not known any more, or was never given out, is answered with all that there is.
#[test]
fn a_position_of_which_nothing_is_known_misses_nothing_silently() {
    let (_nodes, [here, there]) = two("unknown");
    (0..6).for_each(|object| put(if object < 3 { &here } else { &there }, object, 1));
    let changes = watch(&here);
    let good = changes.position().to_string();
    let (head, _) = good.rsplit_once(':').expect("the members stand last");
    let lives: Vec<&str> = good.rsplit(':').next().unwrap_or_default().split(',').collect();
    let (first, _) = lives[0].rsplit_once('.').expect("a life and a number");
    let ahead = format!("{head}:{first}.{},{}", u64::MAX, lives[1]);
    let another_life = good.replace(":1.", ":1.9");
    let another_set = good.replacen(|letter: char| letter.is_ascii_digit(), "7", 1);
    for position in [ahead, format!("{head}:"), another_life, another_set] {
        let position: Position = position.parse().expect("it is well-formed");
        let mut changes = there.watch_from(None, &position).wait_for(LIMIT).expect("it begins");
        let told = all(&mut changes);
        assert!(told.iter().any(|change| matches!(change, Change::Skipped { count: None })), "{position}: {told:?}");
        for object in 0..3 {
            let is_told = told.iter().any(|change| matches!(change, Change::Put { object: of, .. } if *of == object));
            assert!(is_told, "{object} at {position}: {told:?}");
        }
    }
}

#[test]
fn a_watch_of_one_object_hears_of_that_alone() {
    let (_nodes, [here, there]) = two("alone");
    let mut changes = here.watch_object(7).wait_for(LIMIT).expect("it begins, whether it exists or not");
    for round in 0..5 {
        (0..20).for_each(|object| put(&there, object, round));
        let others = until_heard(&mut changes, 7, seen(&there, 7));
        assert!(others.iter().all(|change| matches!(change, Change::Put { object: 7, .. })), "{others:?}");
        let position = kept(&changes);
        drop(changes);
        (0..20).for_each(|object| put(&here, object, round));
        there.remove(7).wait_for(LIMIT).expect("it is removed");
        changes = there.watch_from(Some(7), &position).wait_for(LIMIT).expect("it goes on");
        let told = all(&mut changes);
        assert!(matches!(told.last(), Some(Change::Removed { object: 7, .. })), "{told:?}");
        assert!(!told.iter().any(|change| matches!(change, Change::Skipped { .. })), "{told:?}");
    }
}

/// As where a member serves as many watchers as it may: it is said at once, and is over once there is one again.
#[test]
fn a_watch_for_which_no_stream_is_left_says_so() {
    let (nodes, [here, there]) = two("crowded");
    let taken = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&taken);
    let _service = nodes[1]
        .rpc()
        .register_stream_owned::<u64, u64>("keep", move |_, from, to| kept.lock().expect("no panic").push((from, to)))
        .expect("nobody else has registered it");
    let open = || nodes[0].rpc().open_stream::<u64, u64>(nodes[1].id(), "keep", LIMIT);
    let mut streams: Vec<_> = (0..256).map(|_| open().expect("so many may be open")).collect();
    let refused = here.watch_all().wait_for(LIMIT).err().expect("there is no stream for it");
    assert!(matches!(refused, Error::Access(AccessError::Overloaded { limit: 256, .. })), "{refused}");
    streams.truncate(200);
    taken.lock().expect("no panic").clear();
    let mut changes = loop {
        match here.watch_all().wait_for(LIMIT) {
            Ok(changes) => break changes,
            Err(Error::Access(AccessError::Overloaded { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    };
    put(&there, 1, 1);
    until_heard(&mut changes, 1, seen(&there, 1));
}

/// Whoever owns an object tells of it, also if nobody there has ever used it: as where a member has left it behind.
#[test]
fn what_a_member_has_handed_over_is_told_by_whoever_has_it_now() {
    const OBJECTS: u64 = 24;
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("it begins");
    let join = || Node::join(crate::unhurried().contact(first.address().clone())).wait_for(LIMIT).expect("it joins");
    let open = |node: &Node| -> Set<u64> { node.set("left").open().wait_for(LIMIT).expect("the set opens") };
    let second = join();
    let sets = [open(&first), open(&second)];
    let mut changes = watch(&sets[0]);
    let third = join();
    let there = open(&third);
    (0..OBJECTS).for_each(|object| put(&there, object, 1));
    drop(there);
    third.stop();
    // It was told by the member that has gone, and by whoever has it now.
    let (mut told, mut skipped) = (HashMap::new(), 0);
    while told.values().filter(|times| **times > 1).count() < OBJECTS as usize || skipped < 2 {
        match changes.receive().wait_for(LIMIT).expect("it is told") {
            Change::Put { object, .. } => *told.entry(object).or_insert(0) += 1,
            Change::Skipped { count: None } => skipped += 1,
            other => panic!("{other:?}"),
        }
    }
    let nobody_knows =
        format!("{}:", changes.position().to_string().rsplit_once(':').expect("the members stand last").0);
    let nobody_knows: Position = nobody_knows.parse().expect("it is well-formed");
    let mut everything = sets[1].watch_from(None, &nobody_knows).wait_for(LIMIT).expect("it begins");
    let mut later = watch(&sets[1]);
    (0..OBJECTS).for_each(|object| sets[object as usize % 2].remove(object).wait_for(LIMIT).expect("it is removed"));
    for watch in [&mut changes, &mut everything, &mut later] {
        let mut left: Vec<u64> = (0..OBJECTS).collect();
        while !left.is_empty() {
            match watch.receive().wait_for(LIMIT).unwrap_or_else(|error| panic!("{error}, {left:?} are left")) {
                Change::Removed { object, .. } => left.retain(|other| *other != object),
                Change::Put { .. } | Change::Skipped { count: None } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Whoever reads again what is told to have changed, and everything where something was skipped, knows in the end what there
/// is: while members join and leave, objects are made and removed, and the watch ends and goes on elsewhere.
#[test]
fn whoever_heeds_what_is_told_knows_what_there_is() {
    const OBJECTS: u64 = 24;
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("it begins");
    let join = || Node::join(crate::unhurried().contact(first.address().clone())).wait_for(LIMIT).expect("it joins");
    let open = |node: &Node| -> Set<u64> { node.set("heeded").open().wait_for(LIMIT).expect("the set opens") };
    let second = join();
    let sets = [open(&first), open(&second)];
    let read = |known: &mut HashMap<u64, Seen>, object: u64| match sets[0].get_existing(object).wait_for(LIMIT) {
        Ok(guard) => _ = known.insert(object, guard.seen()),
        Err(Error::Access(AccessError::NotFound)) => _ = known.remove(&object),
        Err(error) => panic!("{error}"),
    };
    let (mut changes, mut known) = (watch(&sets[0]), HashMap::new());
    for round in 0..8u64 {
        // The members stay in every other pair of rounds: then nothing may be missing, but for what a watch of before has
        // yet to hear of their change.
        let is_joined = round % 4 < 2;
        let is_settling = round % 4 == 2;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for step in 0..120u64 {
                    let object = (step * 7 + round) % OBJECTS;
                    let set = &sets[(step % 2) as usize];
                    if step % 3 == 2 {
                        set.remove(object).wait_for(LIMIT).expect("it is removed");
                    } else {
                        put(set, object, step);
                    }
                }
            });
            let visitor = is_joined.then(|| {
                scope.spawn(|| {
                    let third = join();
                    let set = open(&third);
                    for object in 0..OBJECTS {
                        put(&set, object, round);
                        if object % 2 == 0 {
                            set.remove(object).wait_for(LIMIT).expect("it is removed");
                        }
                    }
                    drop(set);
                    third.stop();
                })
            });
            if round % 2 == 1 {
                let position = kept(&changes);
                let next = sets[(round / 2 % 2) as usize].watch_from(None, &position);
                changes = next.wait_for(LIMIT).expect("it goes on");
            }
            // While others write. What one owner told before a marker of its own is here before that is.
            let mut heed = |change| match change {
                Change::Put { object, .. } | Change::Removed { object, .. } if object < OBJECTS => {
                    read(&mut known, object);
                }
                Change::Put { .. } | Change::Removed { .. } => {}
                other => {
                    assert!(is_joined || is_settling, "{other:?} while the members stay, round {round}");
                    (0..OBJECTS).for_each(|object| read(&mut known, object));
                }
            };
            let is_over = || writer.is_finished() && visitor.as_ref().is_none_or(|visitor| visitor.is_finished());
            while !is_over() {
                match changes.receive().wait_for(Duration::from_millis(20)) {
                    Ok(change) => heed(change),
                    Err(Error::Rpc(RpcError::Idle { .. })) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let mut markers: HashMap<u64, Seen> = HashMap::new();
            for (number, set) in (0u64..).zip(&sets) {
                let marker = OBJECTS + 2 * round + number;
                put(set, marker, 1);
                markers.insert(marker, seen(set, marker));
            }
            while !markers.is_empty() {
                let change = changes.receive().wait_for(LIMIT).expect("the markers are told");
                match change {
                    Change::Put { object, .. } => _ = markers.remove(&object),
                    Change::Skipped { .. } => markers.clear(),
                    _ => {}
                }
                heed(change);
            }
        });
        let mut truth = HashMap::new();
        (0..OBJECTS).for_each(|object| read(&mut truth, object));
        let states = |of: &HashMap<u64, Seen>| -> Vec<(u64, u64)> {
            let mut states: Vec<(u64, u64)> = of.iter().map(|(object, seen)| (*object, seen.version)).collect();
            states.sort_unstable();
            states
        };
        // That the visitor has gone, and with it what it had to tell, may be said behind what the others told.
        let begin = Instant::now();
        while is_joined && states(&known) != states(&truth) && begin.elapsed() < LIMIT {
            match changes.receive().wait_for(Duration::from_millis(100)) {
                Ok(Change::Skipped { .. }) => (0..OBJECTS).for_each(|object| read(&mut known, object)),
                Ok(_) | Err(Error::Rpc(RpcError::Idle { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(states(&known), states(&truth), "round {round}");
    }
}
