//! A member vanishes with all it has: what others kept for it, what is lost, and that all go on.

use std::time::{Duration, Instant};

use kddm::{AccessError, Config, Error, Incident, Node, Set, SetError};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// It has to end in each of these tests, and for nobody who lives: long beside what a busy machine holds up a thread.
const LEASE: Duration = Duration::from_secs(3);

/// The same, where much is done that keeps all processors busy.
const LEASE_OF_MANY: Duration = Duration::from_secs(8);

/// Long enough for another node to be elected meanwhile on a busy machine.
const LEASE_TO_ELECT: Duration = Duration::from_secs(4);

/// Nodes that expel each other soon.
fn cluster(nodes: u16) -> Vec<Node> {
    cluster_with(nodes, LEASE)
}

fn cluster_with(nodes: u16, lease: Duration) -> Vec<Node> {
    let first = Node::join(Config::new().node_id(1).lease(lease)).wait_for(LIMIT).expect("the first node");
    let contact = first.address().clone();
    let join =
        |id| Node::join(Config::new().node_id(id).contact(contact.clone())).wait_for(LIMIT).expect("it is let in");
    let others: Vec<Node> = (2..=nodes).map(join).collect();
    std::iter::once(first).chain(others).collect()
}

fn open(node: &Node, name: &str, replicas: u8) -> Set<u64> {
    node.set(name).replicas(replicas).open().wait_for(LIMIT).expect("the set opens")
}

fn put(set: &Set<u64>, object: u64, value: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

/// It ends without a word, as if its process had been killed.
fn vanish(node: Node) {
    node.stop_within(Duration::ZERO);
}

/// A set of things that can be made anew: nobody meets an error, nothing old comes back, and it is told.
#[test]
fn what_is_lost_of_a_set_that_wants_it_so_has_never_existed() {
    let mut nodes = cluster(3);
    let (sender, told) = std::sync::mpsc::channel();
    let watch = move |incident: &Incident| _ = sender.send(incident.clone());
    nodes[0].on_incident(watch).expect("there is room");
    let cache = |node: &Node| -> Set<u64> {
        let builder = node.set("cache").replicas(0).on_loss(kddm::OnLoss::FirstTouch).first_touch(|_| 5);
        builder.open().wait_for(LIMIT).expect("the set opens")
    };
    let (there, here, second) = (cache(&nodes[2]), cache(&nodes[0]), cache(&nodes[1]));
    let bare = open(&nodes[2], "bare", 0);
    for object in 0..60 {
        put(&there, object, 70);
        put(&bare, object, 70);
    }
    drop((there, bare));
    vanish(nodes.remove(2));
    for object in 0..60 {
        match object % 3 {
            0 => assert_eq!(*here.get(object).wait_for(LIMIT).expect("made anew"), 5),
            1 => {
                let found = here.get_existing(object).wait_for(LIMIT).map(drop);
                assert!(matches!(found, Err(Error::Access(AccessError::NotFound))), "{found:?}");
            }
            _ => put(&here, object, 6),
        }
        let then = [5, 5, 6][object as usize % 3];
        assert_eq!(*second.get(object).wait_for(LIMIT).expect("it is there, or made"), then, "object {object}");
    }
    let bare = open(&nodes[0], "bare", 0);
    assert!(matches!(bare.get(1).wait_for(LIMIT).map(drop), Err(Error::Access(AccessError::Lost { .. }))));
    let is_told =
        |incident: Incident| matches!(incident, Incident::Accepted { set, objects } if set == "cache" && objects > 0);
    let begun = Instant::now();
    while !is_told(told.recv_timeout(LIMIT).expect("it is told")) {
        assert!(begun.elapsed() < LIMIT, "it is not told");
    }
    let accepted: u64 = nodes.iter().map(|node| node.statistics().losses_accepted).sum();
    assert!(accepted >= 40, "{accepted}");
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

/// What a watcher hears until all is whole.
fn until_whole(told: &std::sync::mpsc::Receiver<Incident>) -> Vec<Incident> {
    let mut heard = Vec::new();
    while heard.last() != Some(&Incident::Whole) {
        heard.push(told.recv_timeout(LIMIT).expect("something more happens"));
    }
    heard
}

/// Each home tells of what it is the home of; one with a panic keeps nobody else from hearing.
#[test]
fn whoever_watches_hears_of_what_is_lost_and_when_the_rest_is_whole() {
    let mut nodes = cluster(3);
    let (sender, told) = std::sync::mpsc::channel();
    nodes[0].on_incident(|_| panic!("a watcher")).expect("there is room");
    let watch = move |incident: &Incident| sender.send(incident.clone()).expect("the test listens");
    nodes[0].on_incident(watch).expect("there is room");
    let (safe, bare) = (open(&nodes[2], "safe", 2), open(&nodes[2], "bare", 0));
    let _named_here = (open(&nodes[0], "safe", 2), open(&nodes[0], "bare", 0));
    for object in 0..50 {
        put(&safe, object, 1);
        put(&bare, object, 1);
    }
    drop((safe, bare));
    vanish(nodes.remove(2));
    let heard = until_whole(&told);
    let lost = |incident: &Incident| match incident {
        Incident::Lost { set, objects, shards_in_doubt } => set == "bare" && *objects > 0 && *shards_in_doubt > 0,
        _ => false,
    };
    assert!(heard.iter().any(lost), "{heard:?}");
    let is_of_safe = |incident: &Incident| matches!(incident, Incident::Lost { set, .. } if set == "safe");
    assert!(!heard.iter().any(is_of_safe), "{heard:?}");
    let few = |incident: &Incident| matches!(incident, Incident::FewReplicas { set, .. } if set == "safe");
    assert!(heard.iter().any(few), "two nodes keep two copies, and three were wanted: {heard:?}");
    assert!(nodes[0].statistics().notifier_panics >= 2);
    let health = nodes[0].health();
    assert_eq!((health.lost_members, health.homes), (vec![3], 2));
}

#[test]
fn what_has_a_replica_survives_its_owner() {
    let mut nodes = cluster(4);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "safe", 1)).collect();
    for object in 0..200 {
        put(&sets[1], object, object + 1);
        if object % 3 == 0 {
            // A copy elsewhere, and one that has been a copy.
            assert_eq!(*sets[2].get(object).wait_for(LIMIT).expect("it is there"), object + 1);
            put(&sets[1], object, object + 1);
        }
    }
    drop(sets);
    vanish(nodes.remove(1));
    let before = Instant::now();
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "safe", 1)).collect();
    for object in 0..200 {
        let value = sets[(object % 3) as usize].get(object).wait_for(LIMIT).expect("it is not lost");
        assert_eq!(*value, object + 1);
    }
    assert!(before.elapsed() < LIMIT, "it took {:?}", before.elapsed());
    for object in 0..200 {
        put(&sets[2], object, object + 2);
        assert_eq!(*sets[0].get(object).wait_for(LIMIT).expect("it is there"), object + 2);
    }
    assert_eq!(nodes[0].statistics().faults, 0);
}

/// Many in each shard: the first step that one of them needs in the new epoch takes all of them there.
#[test]
fn of_many_objects_whatever_is_wanted_comes_first_and_nothing_is_lost() {
    const OBJECTS: u64 = 4000;
    let mut nodes = cluster_with(3, LEASE_OF_MANY);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "many", 1)).collect();
    for (at, set) in sets.iter().enumerate() {
        for object in (0..OBJECTS).filter(|object| object % 3 == at as u64) {
            put(set, object, object + 1);
        }
    }
    drop(sets);
    let begun = Instant::now();
    while !nodes[0].recovery().is_whole {
        assert!(begun.elapsed() < LIMIT, "it was never whole: {:?}", nodes[0].recovery());
        std::thread::yield_now();
    }
    vanish(nodes.remove(1));
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "many", 1)).collect();
    for object in (0..OBJECTS).rev() {
        let value = sets[(object % 2) as usize].grab(object).wait_for(LIMIT).expect("it is not lost");
        assert_eq!(*value, object + 1);
    }
    for node in &nodes {
        assert_eq!((node.recovery().lost, node.members().len()), (0, 2), "no other member was taken for lost");
    }
}

/// Two nodes after a third one was lost. A third of 60 objects without replicas was owned by each, the object with number
/// n by node n mod 3.
fn two_of_three() -> (Vec<Node>, Vec<Set<u64>>) {
    let mut nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "single", 0)).collect();
    for object in 0..60 {
        put(&sets[(object % 3) as usize], object, object + 1);
    }
    drop(sets);
    vanish(nodes.remove(2));
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "single", 0)).collect();
    (nodes, sets)
}

#[test]
fn what_has_no_replica_is_said_to_be_lost() {
    let (_nodes, sets) = two_of_three();
    let (mut found, mut lost) = (0, 0);
    for object in 0..60 {
        match sets[0].get(object).wait_for(LIMIT) {
            Ok(value) => {
                assert_eq!(*value, object + 1);
                assert_ne!(object % 3, 2, "its only copy has gone");
                found += 1;
            }
            Err(Error::Access(AccessError::Lost { .. })) => lost += 1,
            Err(error) => panic!("object {object}: {error}"),
        }
    }
    assert_eq!((found, lost), (40, 20));
}

#[test]
fn what_is_lost_is_gone_once_that_is_accepted() {
    let (nodes, sets) = two_of_three();
    let look = |node: usize, object: u64| sets[node].get_existing(object).wait_for(LIMIT).map(|value| *value);
    let is_lost = |answer: Result<u64, Error>, object: u64| {
        matches!(answer, Err(Error::Access(AccessError::Lost { set, object: named }))
            if set == "single" && named == object)
    };
    let not_found = |answer: Result<u64, Error>| matches!(answer, Err(Error::Access(AccessError::NotFound)));
    let lost: Vec<u64> = (0..60).filter(|object| object % 3 == 2).collect();
    assert!(lost.iter().all(|object| is_lost(look(0, *object), *object)), "their only copy has gone");
    // What nobody ever named is in doubt, too, where the home was lost.
    assert!((1_000..1_200).any(|object| is_lost(look(1, object), object)));

    sets[0].accept_loss(2).wait_for(LIMIT).expect("it is lost");
    nodes[1].accept_loss("single", 5).wait_for(LIMIT).expect("it is lost");
    assert!(not_found(look(1, 2)) && not_found(look(0, 5)) && is_lost(look(1, 8), 8));
    assert_eq!(*sets[1].get(2).wait_for(LIMIT).expect("a first touch"), 0);
    for there in [1, 2, 5] {
        let answer = sets[1].accept_loss(there).wait_for(LIMIT);
        assert!(matches!(answer, Err(Error::Access(AccessError::NotLost { .. }))), "object {there}: {answer:?}");
    }

    let socket = std::env::temp_dir().join(format!("kddm-lost-{}.sock", std::process::id()));
    nodes[1].accept_programs(&socket).expect("the path is free");
    let program = Node::attach(&socket).wait_for(LIMIT).expect("it accepts programs");
    let attached = open(&program, "single", 0);
    assert!(is_lost(attached.get(8).wait_for(LIMIT).map(|value| *value), 8));
    attached.accept_loss(8).wait_for(LIMIT).expect("it is lost");
    assert_eq!(*attached.get(8).wait_for(LIMIT).expect("a first touch"), 0);
    let answer = attached.accept_loss(8).wait_for(LIMIT);
    assert!(matches!(answer, Err(Error::Access(AccessError::NotLost { .. }))), "{answer:?}");

    attached.accept_losses().wait_for(LIMIT).expect("most is still lost");
    for object in (0..60).chain(1_000..1_200) {
        let answer = look((object % 2) as usize, object);
        match object {
            2 | 8 => assert_eq!(answer.expect("it was made anew"), 0),
            _ if object >= 60 || object % 3 == 2 => assert!(not_found(answer), "object {object}"),
            _ => assert_eq!(answer.expect("it was never lost"), object + 1),
        }
    }
    for object in &lost {
        put(&sets[0], *object, 7);
        assert_eq!(look(1, *object).expect("it was made anew"), 7);
    }
    let again = sets[0].accept_losses().wait_for(LIMIT);
    assert!(matches!(again, Err(Error::Set(SetError::NothingLost { .. }))), "{again:?}");
    eventually("all is whole", || nodes.iter().all(|node| node.recovery().is_whole && node.recovery().lost == 0));
    assert_eq!(nodes.iter().map(|node| node.statistics().losses_accepted).sum::<u64>(), 4);
}

/// All that shared objects was lost, with the names of the sets.
#[test]
fn names_that_are_lost_are_gone_once_that_is_accepted() {
    let first = Node::join(Config::new().node_id(1).lease(LEASE_TO_ELECT)).wait_for(LIMIT).expect("the first node");
    let contact = first.address().clone();
    let witness = |id| Node::join(Config::new().node_id(id).contact(contact.clone()).witness()).wait_for(LIMIT);
    let witnesses = [witness(2).expect("it is let in"), witness(3).expect("it is let in")];
    let votes = |node: &Node| node.voting().votes;
    eventually("three vote", || first.voting().voters == [1, 2, 3] && witnesses.iter().all(votes));
    put(&open(&first, "names", 1), 1, 7);
    let refused = first.accept_losses("kddm.sets").wait_for(LIMIT);
    assert!(matches!(refused, Err(Error::Set(SetError::NothingLost { .. }))), "{refused:?}");
    let refused = first.set::<u64>("kddm.sets").open().wait_for(LIMIT).map(|_| ());
    assert!(matches!(refused, Err(Error::Set(SetError::BadName { .. }))), "{refused:?}");
    vanish(first);
    eventually("it is expelled", || witnesses.iter().all(|node| node.members().len() == 2));

    let contact = witnesses[0].address().clone();
    let last = Node::join(Config::new().node_id(4).contact(contact)).wait_for(LIMIT).expect("it is let in");
    let lost = match last.set::<u64>("names").open().wait_for(LIMIT).map(|_| ()) {
        Err(Error::Access(AccessError::Lost { set, object })) if set == "kddm.sets" => object,
        other => panic!("{other:?}"),
    };
    last.accept_loss("kddm.sets", lost).wait_for(LIMIT).expect("it is lost");
    let answer = last.accept_loss("kddm.sets", lost).wait_for(LIMIT);
    assert!(matches!(answer, Err(Error::Access(AccessError::NotLost { .. }))), "{answer:?}");
    last.accept_losses("kddm.sets").wait_for(LIMIT).expect("all others are, too");
    let names = open(&last, "names", 1);
    let found = names.get_existing(1).wait_for(LIMIT).map(|value| *value);
    assert!(matches!(found, Err(Error::Access(AccessError::NotFound))), "{found:?}");
    put(&names, 1, 8);
    assert_eq!(last.set_info("names").expect("it exists").name, "names");
}

#[test]
fn a_set_that_is_younger_than_a_loss_has_lost_nothing() {
    let mut nodes = cluster(3);
    let older = open(&nodes[0], "older", 0);
    put(&older, 1, 1);
    vanish(nodes.remove(2));
    let is_lost = |answer| matches!(answer, Err(Error::Access(AccessError::Lost { .. })));
    let look = |set: &Set<u64>, object| set.get_existing(object).wait_for(LIMIT).map(|value| *value);
    eventually("it is expelled", || nodes.iter().all(|node| node.members().len() == 2));
    assert!((0..200).any(|object| is_lost(look(&older, object))), "the lost home answered for some of the older set");
    let younger = open(&nodes[1], "younger", 0);
    // Half of them have their home at a node that has never opened the set.
    for object in 0..200 {
        assert_eq!(*younger.get(object).wait_for(LIMIT).expect("it is as if no member had been lost"), 0);
    }
    // And so it is for who comes later, as a home.
    let contact = nodes[0].address().clone();
    nodes.push(Node::join(Config::new().node_id(4).contact(contact)).wait_for(LIMIT).expect("it is let in"));
    let there = open(&nodes[2], "younger", 0);
    for object in 200..400 {
        assert_eq!(*there.get(object).wait_for(LIMIT).expect("it is as if no member had been lost"), 0);
    }
}

/// A new epoch ends the removal that the first one waits for; whoever waits behind him goes on.
#[test]
fn who_waits_behind_what_a_loss_has_cut_short_goes_on() {
    let mut nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes[..2].iter().map(|node| open(node, "queue", 0)).collect();
    put(&sets[1], 1, 7);
    let held = sets[1].grab(1).wait_for(LIMIT).expect("it is here");
    let (removal, get) = (sets[0].remove(1), sets[0].get(1));
    vanish(nodes.remove(2));
    match removal.wait_for(LIMIT) {
        Err(Error::Access(AccessError::CutShort)) => {}
        other => panic!("{other:?}"),
    }
    // Until its owner is in that epoch, too, the removal may be done all the same.
    let until = Instant::now() + LIMIT;
    while nodes[1].epoch() < nodes[0].epoch() {
        assert!(Instant::now() < until, "node 2 does not hear of it");
        std::thread::yield_now();
    }
    drop(held);
    assert_eq!(*get.wait_for(LIMIT).expect("it is asked for again"), 7);
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

/// Three nodes decide together: without the one that led them the others go on, with what it had and without it.
#[test]
fn the_loss_of_the_node_that_decides_is_one_like_any_other() {
    let mut nodes = cluster_with(3, LEASE_TO_ELECT);
    eventually("three vote", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]));
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "safe", 1)).collect();
    for object in 0..100 {
        put(&sets[(object % 3) as usize], object, object + 1);
    }
    let before = nodes[1].voting();
    assert_eq!(before.leader, Some(1));
    assert!(nodes[0].lease().remaining.is_some(), "one of three needs a lease");
    drop(sets);
    let epoch = nodes[1].epoch();
    vanish(nodes.remove(0));
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "safe", 1)).collect();
    for object in 0..100 {
        let value = sets[(object % 2) as usize].get(object).wait_for(LIMIT).expect("it is not lost");
        assert_eq!(*value, object + 1);
        drop(value);
        put(&sets[0], object, object + 2);
    }
    let after = nodes[0].voting();
    assert!(after.term > before.term && after.leader != Some(1), "{after:?}");
    eventually("it was expelled", || nodes.iter().all(|node| node.epoch() > epoch));
    // Members come and go as before.
    let contact = nodes[1].address().clone();
    let third = Node::join(Config::new().node_id(1).contact(contact)).wait_for(LIMIT).expect("it is let in");
    assert_eq!(*open(&third, "safe", 1).get(7).wait_for(LIMIT).expect("it is there"), 9);
    eventually("three vote again", || third.voting().voters == [1, 2, 3]);
    third.stop();
    eventually("it has left", || nodes.iter().all(|node| node.members().len() == 2));
}

/// One of three is too few to decide: it uses nothing any more, and says so.
#[test]
fn a_node_without_a_majority_fences_itself() {
    let mut nodes = cluster_with(3, LEASE_TO_ELECT);
    eventually("three vote", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]));
    let set = open(&nodes[2], "safe", 2);
    put(&set, 1, 1);
    vanish(nodes.remove(0));
    vanish(nodes.remove(0));
    assert!(nodes[0].wait_until_fenced(), "it stops by itself");
    assert_eq!(nodes[0].lease().remaining, Some(Duration::ZERO));
    match set.get(1).wait_for(LIMIT) {
        Err(Error::Access(AccessError::Fenced)) => {}
        other => panic!("{other:?}"),
    }
}

/// The same if it is the one that leads.
#[test]
fn a_leader_without_a_majority_fences_itself() {
    let mut nodes = cluster_with(3, LEASE_TO_ELECT);
    eventually("three vote", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]));
    let set = open(&nodes[0], "safe", 2);
    put(&set, 1, 1);
    assert_eq!(nodes[0].voting().leader, Some(1));
    vanish(nodes.remove(1));
    vanish(nodes.remove(1));
    assert!(nodes[0].wait_until_fenced(), "it stops by itself");
    assert!(matches!(set.get(1).wait_for(LIMIT), Err(Error::Access(AccessError::Fenced))));
}

/// With a witness two nodes that share are enough for one of them to fail.
#[test]
fn a_witness_makes_three_of_two() {
    let first =
        Node::join(Config::new().node_id(1).lease(LEASE_TO_ELECT).zone("a")).wait_for(LIMIT).expect("the first");
    let contact = first.address().clone();
    let second = Config::new().node_id(2).contact(contact.clone()).zone("b");
    let second = Node::join(second).wait_for(LIMIT).expect("it is let in");
    let witness = Config::new().node_id(3).contact(contact).witness();
    let witness = Node::join(witness).wait_for(LIMIT).expect("it is let in");
    eventually("three vote", || second.voting().voters == [1, 2, 3] && witness.voting().votes);
    assert!(witness.start_sharing(LIMIT).wait_for(LIMIT).is_err(), "a witness shares nothing");
    let set = open(&second, "safe", 1);
    put(&set, 1, 5);
    vanish(first);
    assert_eq!(*set.get(1).wait_for(LIMIT).expect("it is here"), 5);
    put(&set, 2, 6);
    eventually("the first is expelled", || second.members().len() == 2);
    witness.stop();
    eventually("it has left", || second.members().len() == 1);
    assert_eq!(second.voting().voters, [2]);
}
