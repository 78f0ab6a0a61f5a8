//! Objects that leave by themselves, on real clusters: when, never too soon, whoever owns them, and what is behind them.

mod each;
mod idle;
mod linked;

use std::time::{Duration, Instant};

use kddm::linker::{Memory, WritePolicy};
use kddm::{AccessError, Change, Config, Cursor, Error, ExpiryInfo, Node, OnExpiry, Set};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Long beside what a busy machine holds up a thread between two steps of a test; short to be waited for.
const TIME: Duration = Duration::from_millis(400);

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(600);

/// The death of a node is to be seen soon, and on a busy machine that of nobody else.
const LEASE: Duration = Duration::from_secs(4);

fn cluster(nodes: usize) -> Vec<Node> {
    Node::local_cluster(nodes).expect("a cluster")
}

fn members(nodes: u16) -> Vec<Node> {
    let first = Node::join(Config::new().node_id(1).lease(LEASE)).wait_for(LIMIT).expect("the first node");
    let contact = first.address().clone();
    let join =
        |id| Node::join(Config::new().node_id(id).contact(contact.clone())).wait_for(LIMIT).expect("it is let in");
    let others: Vec<Node> = (2..=nodes).map(join).collect();
    std::iter::once(first).chain(others).collect()
}

fn attached(node: &Node, name: &str) -> Node {
    let socket = std::env::temp_dir().join(format!("kddm-expiry-{}-{name}.sock", std::process::id()));
    node.accept_programs(&socket).expect("programs may come");
    Node::attach(&socket).wait_for(LIMIT).expect("it is let in")
}

fn open(node: &Node, time: Duration, replicas: u8) -> Set<u64> {
    let builder = node.set("leaving").expire_after(time).replicas(replicas).wait_limit(LIMIT);
    builder.open().wait_for(LIMIT).expect("the set opens")
}

/// When that was begun: no put is older than that.
fn put(set: &Set<u64>, object: u64, value: u64) -> Instant {
    let begun = Instant::now();
    let change = move |has: &mut u64| {
        *has = value;
        Ok(())
    };
    set.update(object, change).wait_for(LIMIT).expect("it is put");
    begun
}

fn find(set: &Set<u64>, object: u64) -> Option<u64> {
    match set.get_existing(object).wait_for(LIMIT) {
        Ok(value) => Some(*value),
        Err(Error::Access(AccessError::NotFound)) => None,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

fn info(node: &Node) -> ExpiryInfo {
    node.expiries().into_iter().find(|set| set.set == "leaving").expect("it knows the set")
}

fn expired(nodes: &[Node]) -> u64 {
    nodes.iter().flat_map(Node::expiries).map(|set| set.expired).sum()
}

/// All objects of the set at all nodes.
fn is_empty(set: &Set<u64>) -> bool {
    set.len().wait_for(LIMIT).expect("it is counted") == 0
}

#[test]
fn what_is_not_put_again_leaves_in_time_and_not_before() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], TIME, 1));
    let mut changes = sets[1].watch_all().wait_for(LIMIT).expect("it is watched");
    let begun = Instant::now();
    (0..50).for_each(|object| _ = put(&sets[object as usize % 2], object, object + 1));
    let mut last = put(&sets[0], 100, 0);
    until("all but one have left", || {
        // Puts keep it, reads do not keep the others.
        last = put(&sets[1], 100, 7);
        let found = find(&sets[0], 100);
        assert!(found == Some(7) || last.elapsed() >= TIME, "it was just put");
        (0..50).filter(|object| find(&sets[0], *object).is_some()).count() == 0
    });
    assert!(begun.elapsed() >= TIME, "nothing left before its time");
    let mut removed: Vec<u64> = Vec::new();
    while removed.len() < 50 {
        match changes.receive().wait_for(LIMIT).expect("it goes on") {
            Change::Removed { object, .. } if object < 50 => removed.push(object),
            _ => {}
        }
    }
    removed.sort_unstable();
    assert_eq!(removed, (0..50).collect::<Vec<_>>(), "each left once, as whatever is removed");
    until("the last has left", || is_empty(&sets[1]));
    assert!(last.elapsed() >= TIME);
    assert!((0..50).all(|object| find(&sets[1], object).is_none()), "what is gone does not come back");
    until("it is counted", || expired(&nodes) >= 51);
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

/// Of each put that is done its writer, or another node, finds the value, as long as its time is not over, whoever has it go
/// at that moment.
#[test]
fn no_put_is_lost_to_an_end_that_is_just_coming() {
    const SHORT: Duration = Duration::from_millis(40);
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], SHORT, 0));
    let (mut gone, mut there, mut looked) = (0, 0, 0);
    for round in 1..=200_u64 {
        let (writer, reader) = (&sets[round as usize % 2], &sets[(round / 2) as usize % 2]);
        let begun = put(writer, 7, round);
        // From well before the end to well after it: what a look is late by is within.
        let moment = SHORT / 2 + Duration::from_micros(round * 7_919 % 60_000);
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        let found = writer.update(7, move |value| Ok(std::mem::replace(value, 1_000_000 + round)));
        match found.wait_for(LIMIT).expect("it is put") {
            0 => gone += 1,
            value => {
                assert_eq!(value, round, "an older one came back");
                there += 1;
            }
        }
        let found = find(reader, 7);
        if begun.elapsed() < SHORT {
            assert_eq!(found, Some(1_000_000 + round), "round {round}: a put is lost");
            looked += 1;
        }
    }
    assert!(gone > 0 && there > 0 && looked > 0, "gone {gone}, there {there}, looked in time {looked}");
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn what_moves_without_a_put_leaves_all_the_same() {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, TIME, 0)).collect();
    let begun = put(&sets[0], 1, 7);
    put(&sets[0], 2, 7);
    let found = find(&sets[1], 1); // it has a copy, and counts from then on
    sets[1].acquire(1).wait_for(LIMIT).expect("it moves");
    sets[2].acquire(2).wait_for(LIMIT).expect("it moves");
    let is_in_time = begun.elapsed() < TIME;
    assert!(!is_in_time || found == Some(7));
    until("both have left", || is_empty(&sets[0]));
    assert!(begun.elapsed() >= TIME);
    assert!(!is_in_time || expired(&nodes[..1]) == 0, "the new owners have had them go");
}

/// Nobody of those that are left has opened the set.
#[test]
fn what_a_lost_owner_leaves_behind_leaves_too() {
    let mut nodes = members(3);
    let set = open(&nodes[2], TIME, 2);
    (0..20).for_each(|object| _ = put(&set, object, 7));
    drop(set);
    nodes.remove(2).stop_within(Duration::ZERO);
    until("they have left", || {
        let left = nodes[0].objects_of("leaving", Cursor::default(), 100);
        expired(&nodes) > 0 && left.is_ok_and(|left| left.objects.is_empty())
    });
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn what_stands_behind_the_set_keeps_it_unless_it_is_to_be_removed() {
    let open = |store: &Memory, policy: WritePolicy, to: OnExpiry| -> (Vec<Node>, Set<String>) {
        let nodes = cluster(2);
        let open = |node: &Node| -> Set<String> {
            let builder = node.set("leaving").linker("memory", store.clone()).write_policy(policy);
            builder.expire_after(TIME).on_expiry(to).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
        };
        let sets = [open(&nodes[0]), open(&nodes[1])];
        (nodes, sets[1].clone())
    };
    let never = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 1 << 20 };
    for (policy, to) in [
        (WritePolicy::Through, OnExpiry::Evict),
        (WritePolicy::Through, OnExpiry::Remove),
        (never, OnExpiry::Evict),
        (never, OnExpiry::Remove),
    ] {
        let store = Memory::default();
        let (nodes, set) = open(&store, policy, to);
        let begun = Instant::now();
        for object in 0..20 {
            let kept = |text: &mut String| {
                *text = "kept".into();
                Ok(())
            };
            set.update(object, kept).wait_for(LIMIT).expect("it is put");
        }
        until("all have left", || set.len().wait_for(LIMIT).expect("it is counted") == 0);
        assert!(begun.elapsed() >= TIME);
        until("it is counted", || expired(&nodes) == 20);
        for object in 0..20 {
            let found = set.get_existing(object).wait_for(LIMIT).map(|text| text.clone());
            match to {
                OnExpiry::Evict => assert_eq!(found.expect("it is kept"), "kept", "{policy:?}"),
                OnExpiry::Remove => assert!(matches!(found, Err(Error::Access(AccessError::NotFound))), "{found:?}"),
            }
        }
    }
}

#[test]
fn what_is_frozen_stays_until_it_is_thawed() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], TIME, 1));
    let frozen = sets[1].freeze().wait_for(LIMIT);
    drop(frozen);
    let begun = put(&sets[0], 1, 7);
    let freeze = sets[1].freeze().wait_for(LIMIT).expect("it is frozen");
    if begun.elapsed() < TIME {
        until("its time has been over for long", || begun.elapsed() > 3 * TIME);
        assert_eq!(find(&sets[1], 1), Some(7));
    }
    freeze.check().expect("nobody has written");
    freeze.thaw().wait_for(LIMIT).expect("it is thawed");
    until("it has left", || is_empty(&sets[0]));
}

#[test]
fn programs_open_such_sets_and_their_node_has_objects_leave() {
    let node = cluster(1).remove(0);
    let program = attached(&node, "after");
    let set = open(&program, TIME, 0);
    let begun = put(&set, 1, 7);
    assert!(info(&node).after == Some(TIME) && program.expiries().is_empty());
    until("it has left", || {
        _ = find(&set, 1);
        is_empty(&set)
    });
    assert!(begun.elapsed() >= TIME);
    assert_eq!(program.set_info("leaving").expect("it is there").expire_after, Some(TIME));
    let short = program.set::<u64>("short").expire_after(Duration::from_millis(1)).open().wait_for(LIMIT);
    let short = short.expect_err("it is too short").to_string();
    assert!(short.contains("this program: ") && short.contains("at least 20 ms") && !short.contains("node"), "{short}");
}

#[test]
fn what_cannot_be_and_what_differs_is_said() {
    let nodes = cluster(2);
    let refused =
        |builder: kddm::SetBuilder<u64>| builder.open().wait_for(LIMIT).expect_err("it cannot be").to_string();
    let zero = refused(nodes[0].set("leaving").expire_after(Duration::ZERO));
    assert!(zero.contains("at least 20 ms"), "{zero}");
    let long = refused(nodes[0].set("leaving").expire_after(Duration::MAX));
    assert!(long.contains("at most 366 days"), "{long}");
    let nothing = refused(nodes[0].set("leaving").on_expiry(OnExpiry::Remove));
    assert!(nothing.contains("expire_after"), "{nothing}");
    let set = open(&nodes[0], LONG, 1);
    put(&set, 1, 1);
    let another = refused(nodes[1].set("leaving").expire_after(TIME));
    assert!(another.contains("expire_after") && another.contains("600s") && another.contains("400ms"), "{another}");
    until("its owner says when it leaves", || {
        let detail = nodes[1].object_of("leaving", 1).expect("it is there");
        detail.at_owner.and_then(|at| at.leaves_in).is_some_and(|left| left <= LONG && left > LONG / 2)
    });
    let other = refused(nodes[1].set("leaving").on_expiry(OnExpiry::Remove));
    assert!(other.contains("on_expiry"), "{other}");
    // Whoever says nothing of it has what the set has.
    let there: Set<u64> = nodes[1].set("leaving").open().wait_for(LIMIT).expect("it opens");
    assert_eq!((find(&there, 1), info(&nodes[1]).after), (Some(1), Some(LONG)));
    let plain: Set<u64> = nodes[0].set("staying").open().wait_for(LIMIT).expect("it opens");
    put(&plain, 1, 1);
    let stays = refused(nodes[1].set("staying").expire_after(TIME));
    assert!(stays.contains("none"), "{stays}");
    assert_eq!(nodes[0].set_info("staying").expect("it is there").expire_after, None);
    nodes[0].destroy_set("leaving", LIMIT).wait_for(LIMIT).expect("it is destroyed");
    assert!(nodes.iter().all(|node| node.expiries().is_empty()), "nothing is left of it");
}
