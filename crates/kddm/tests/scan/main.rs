//! Which objects a set has: everything that is there is found once, whatever goes on meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kddm::{AccessError, Config, Cursor, Error, Found, HeldAs, Node, ObjectState, Set, SetError};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// The death of a node is to be seen soon, and on a busy machine that of nobody else.
const LEASE: Duration = Duration::from_secs(3);

fn open(node: &Node, name: &str, replicas: u8) -> Set<u64> {
    node.set(name).replicas(replicas).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

fn put(set: &Set<u64>, object: u64, value: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

/// Numbers that are spread over all shards, and far apart.
fn spread(at: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn cluster(nodes: u16, lease: Duration) -> Vec<Node> {
    let first = Node::join(Config::new().node_id(1).lease(lease)).wait_for(LIMIT).expect("the first node");
    let mut all = vec![first];
    for id in 2..=nodes {
        all.push(join(&all[0], id));
    }
    all
}

fn join(first: &Node, id: u16) -> Node {
    let config = Config::new().node_id(id).contact(first.address().clone());
    Node::join(config).wait_for(LIMIT).expect("it is let in")
}

fn attached(node: &Node, name: &str) -> Node {
    let socket = std::env::temp_dir().join(format!("kddm-scan-{}-{name}.sock", std::process::id()));
    node.accept_programs(&socket).expect("programs may come");
    Node::attach(&socket).wait_for(LIMIT).expect("it is let in")
}

/// What a scan finds, of which no object comes twice.
#[track_caller]
fn all_of(scan: impl Iterator<Item = Result<Found, Error>>) -> BTreeMap<u64, Found> {
    let mut all = BTreeMap::new();
    for found in scan {
        let found = found.expect("it goes on");
        assert!(all.insert(found.id, found).is_none(), "object {} is found twice", found.id);
    }
    all
}

fn ids(set: &Set<u64>) -> BTreeSet<u64> {
    all_of(set.scan()).into_keys().collect()
}

#[test]
fn each_object_is_found_once_by_nodes_and_programs() {
    const OBJECTS: u64 = 5_000;
    let nodes = Node::local_cluster(3).expect("nodes");
    let program = attached(&nodes[2], "once");
    let all: Vec<Set<u64>> = nodes.iter().chain([&program]).map(|node| open(node, "all", 1)).collect();
    for set in &all {
        assert_eq!((ids(set).len(), set.len().wait_for(LIMIT).expect("counted")), (0, 0), "nothing is there");
    }
    for object in 0..OBJECTS {
        put(&all[object as usize % 4], spread(object), object);
    }
    for object in (0..OBJECTS).step_by(10) {
        all[1].remove(spread(object)).wait_for(LIMIT).expect("it is removed");
    }
    all[0].get_existing(spread(0)).wait_for(LIMIT).map(drop).expect_err("it is not made by that");
    let wanted: BTreeSet<u64> = (0..OBJECTS).filter(|object| object % 10 != 0).map(spread).collect();
    for set in &all {
        assert_eq!(ids(set), wanted);
        assert_eq!(set.len().wait_for(LIMIT).expect("counted"), wanted.len() as u64);
    }
    let found = all_of(all[3].scan());
    assert!(found.values().all(|found| found.state == ObjectState::Owned), "no news is under way any more");
    let homes: HashSet<u16> = found.values().map(|found| found.home).collect();
    assert_eq!(homes.len(), 3);
    let values: BTreeMap<u64, u64> =
        all[3].scan_values().map(|found| found.map(|(id, value)| (id, *value))).collect::<Result<_, _>>().expect("all");
    assert_eq!(values, (0..OBJECTS).filter(|object| object % 10 != 0).map(|object| (spread(object), object)).collect());
    // Objects of a set that is gone are not there, and whoever goes on hears of it.
    let mut scan = all[0].scan();
    scan.next().expect("there are many").expect("it goes on");
    nodes[1].destroy_set("all", LIMIT).wait_for(LIMIT).expect("destroyed");
    let error = scan.find_map(Result::err).expect("it cannot go on");
    assert!(matches!(error, Error::Set(SetError::Destroyed)), "{error}");
}

/// In pages of many objects of one shard, and from where another scan has come to.
#[test]
fn a_scan_goes_on_elsewhere_from_its_cursor() {
    const OBJECTS: u64 = 10_000;
    let nodes = Node::local_cluster(2).expect("nodes");
    // All in one shard: it is by the upper bits of the id.
    let embedded = |node: &Node| -> Set<u64> {
        let builder = node.set("embedded").replicas(0).placement(kddm::PlacedBy::Embedded);
        builder.wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
    };
    let (here, there) = (embedded(&nodes[0]), embedded(&nodes[1]));
    let first = 2 << 48;
    for object in 0..OBJECTS {
        put(&here, first + object, object);
    }
    assert_eq!(there.len().wait_for(LIMIT).expect("counted"), OBJECTS);
    let mut all = Vec::new();
    let mut cursor = Cursor::default();
    let mut scans = 0;
    // Each scan says a few thousand, and another one goes on.
    loop {
        let mut scan = if scans % 2 == 0 { here.scan_from(cursor) } else { there.scan_from(cursor) };
        all.extend(scan.by_ref().take(2_999).map(|found| found.expect("it goes on").id));
        scans += 1;
        let Some(next) = scan.cursor() else { break };
        cursor = next.to_string().parse().expect("it reads what it writes");
        if scan.next().is_none() {
            break;
        }
    }
    assert_eq!(all, (first..first + OBJECTS).collect::<Vec<_>>());
    assert!(scans >= 4);
    // As pages, for those who poll.
    let (mut next, mut count, mut pages) = (Some(Cursor::default()), 0, 0);
    while let Some(cursor) = next {
        let page = there.scan_page(cursor).wait_for(LIMIT).expect("a page");
        assert!(page.found.len() <= 4096);
        (next, count, pages) = (page.next, count + page.found.len() as u64, pages + 1);
    }
    assert!(count == OBJECTS && pages >= 3, "{count} in {pages}");
}

/// Objects move from owner to owner, others come and go, and nodes join and leave so that homes move, while scans go on.
#[test]
fn what_exists_all_the_time_is_found_whatever_moves() {
    const STABLE: u64 = 3_000;
    let nodes = cluster(3, LIMIT);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "moving", 1)).collect();
    for object in 0..STABLE {
        put(&sets[object as usize % 3], spread(object), object);
    }
    let (is_over, scans) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (at, set) in sets.iter().enumerate() {
            threads.push(scope.spawn({
                let is_over = &is_over;
                move || {
                    let mut round = at as u64;
                    while !is_over.load(Ordering::Relaxed) {
                        round += 1;
                        put(set, spread(round * 7 % STABLE), round);
                        let own = spread(STABLE + round % 50 * 3 + at as u64);
                        put(set, own, round);
                        set.remove(own).wait_for(LIMIT).expect("it is removed");
                    }
                }
            }));
        }
        for set in &sets[..2] {
            threads.push(scope.spawn({
                let (is_over, scans) = (&is_over, &scans);
                move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let found = all_of(set.scan());
                        let missing: Vec<u64> = (0..STABLE).filter(|at| !found.contains_key(&spread(*at))).collect();
                        assert!(missing.is_empty(), "{} are missing: {missing:.100?}", missing.len());
                        let count = set.len().wait_for(LIMIT).expect("counted");
                        assert!((STABLE..STABLE + 200).contains(&count), "{count}");
                        scans.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        let has_scanned = |more: u64| {
            let (wanted, deadline) = (scans.load(Ordering::Relaxed) + more, Instant::now() + LIMIT);
            while scans.load(Ordering::Relaxed) < wanted && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        };
        for id in 4..7 {
            has_scanned(1);
            let joined = join(&nodes[0], id);
            has_scanned(1);
            joined.stop();
        }
        has_scanned(1);
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("all is found"));
    });
    assert!(scans.load(Ordering::Relaxed) >= 7);
}

/// A member vanishes in the middle of a scan: it goes on from where it was, and nothing that has a replica is missing.
#[test]
fn a_scan_goes_on_when_a_member_is_lost() {
    const OBJECTS: u64 = 2_000;
    let mut nodes = cluster(3, LEASE);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "lost", 1)).collect();
    for object in 0..OBJECTS {
        put(&sets[object as usize % 3], spread(object), object);
    }
    let mut scan = sets[0].scan();
    let mut all: Vec<u64> =
        scan.by_ref().take(OBJECTS as usize / 2).map(|found| found.expect("it goes on").id).collect();
    let here = sets[0].clone();
    drop(sets);
    nodes.remove(2).stop_within(Duration::ZERO);
    all.extend(scan.map(|found| found.expect("it goes on").id));
    let found: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(found.len(), all.len(), "each once");
    assert_eq!(found, (0..OBJECTS).map(spread).collect());
    assert_eq!(here.len().wait_for(LIMIT).expect("counted"), OBJECTS);
}

/// Where nothing is kept twice, what cannot be known is said, until somebody accepts it.
#[test]
fn what_is_lost_is_not_passed_over() {
    const OBJECTS: u64 = 600;
    let mut nodes = cluster(3, LEASE);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "bare", 0)).collect();
    for object in 0..OBJECTS {
        put(&sets[object as usize % 3], spread(object), object);
    }
    let here = sets[0].clone();
    drop(sets);
    nodes.remove(2).stop_within(Duration::ZERO);
    let (mut found, mut errors) = (BTreeMap::new(), Vec::new());
    for next in here.scan() {
        match next {
            Ok(object) => _ = found.insert(object.id, object.state),
            Err(error) => errors.push(error),
        }
    }
    let [Error::Set(SetError::InDoubt { name, shards })] = &errors[..] else { panic!("another end: {errors:?}") };
    assert!(name == "bare" && *shards > 100, "a third of the homes is gone: {shards}");
    // Of what was made a moment ago the home may not have heard yet that it is done.
    let is_there = |at| matches!(found.get(&spread(at)), Some(ObjectState::Owned | ObjectState::New));
    let missing: Vec<u64> = (0..OBJECTS).filter(|at| at % 3 != 2 && !is_there(*at)).collect();
    assert!(missing.is_empty(), "their owners are left: {missing:.100?}");
    let lost = found.values().filter(|state| **state == ObjectState::Lost).count();
    assert!(lost > 50, "what the homes know is named: {lost}");
    assert!(matches!(here.len().wait_for(LIMIT), Err(Error::Set(SetError::InDoubt { .. }))));
    here.accept_losses().wait_for(LIMIT).expect("accepted");
    let left: BTreeSet<u64> = (0..OBJECTS).filter(|at| at % 3 != 2).map(spread).collect();
    let deadline = Instant::now() + LIMIT;
    while here.len().wait_for(LIMIT).ok() != Some(left.len() as u64) {
        assert!(Instant::now() < deadline, "what is accepted goes, a few objects at a time");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let all = all_of(here.scan());
    assert_eq!(all.keys().copied().collect::<BTreeSet<u64>>(), left);
    assert!(all.values().all(|found| found.state == ObjectState::Owned), "that moment is over: {all:.1000?}");
}

#[test]
fn what_is_here_is_told_without_a_message() {
    let nodes = Node::local_cluster(3).expect("nodes");
    let program = attached(&nodes[1], "local");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "local", 1)).collect();
    let lent = open(&program, "local", 1);
    for object in 0..300 {
        put(&sets[0], object, object);
    }
    for object in 0..100 {
        drop(sets[1].get(object).wait_for(LIMIT).expect("a copy"));
    }
    drop(lent.get(5).wait_for(LIMIT).expect("a copy"));
    put(&lent, 7, 7);
    let messages = || nodes.iter().map(|node| node.statistics().messages()).sum::<u64>();
    let before = messages();
    let held = |set: &Set<u64>| {
        let all: Vec<_> = set.local().map(|object| (object.id, object.held_as)).collect();
        let map: BTreeMap<u64, HeldAs> = all.iter().copied().collect();
        assert_eq!(all.len(), map.len(), "each once");
        map
    };
    let here: Vec<BTreeMap<u64, HeldAs>> = sets.iter().map(held).collect();
    let of_program = held(&lent);
    assert_eq!(messages(), before);
    let count = |at: usize, held_as| here[at].values().filter(|held| **held == held_as).count();
    assert_eq!((count(0, HeldAs::Owner), count(1, HeldAs::Owner), here[1][&7]), (299, 1, HeldAs::Owner));
    assert!((0..100).filter(|at| *at != 7).all(|at| here[1][&at] == HeldAs::Copy));
    let replicas: usize = (0..3).map(|at| count(at, HeldAs::Replica)).sum();
    let both = "one that is a read copy, too, is said as that";
    assert!((200..=300).contains(&replicas), "{replicas}: {both}");
    assert_eq!(of_program, BTreeMap::from([(5, HeldAs::Copy), (7, HeldAs::Owner)]));
}

/// Whoever asks in another way than nodes do is told so, and nothing else happens.
#[test]
fn questions_that_cannot_be_meant_are_answered() {
    let nodes = Node::local_cluster(2).expect("nodes");
    let set = open(&nodes[0], "asked", 1);
    put(&set, 1, 1);
    let limit = Duration::from_secs(10);
    let mut bytes = 1u64;
    for length in 0..200usize {
        let body: Vec<u8> = (0..length)
            .map(|_| {
                bytes = spread(bytes) ^ bytes >> 7;
                (bytes >> 56) as u8 % if length % 2 == 0 { 6 } else { 255 }
            })
            .collect();
        match nodes[0].rpc().call(2, "kddm.scan", &body, limit).wait() {
            Ok(answer) => assert!(!answer.is_empty()),
            Err(error) => assert!(matches!(error, Error::Rpc(_)), "{error}"),
        }
    }
    let taken = nodes[1].rpc().register("kddm.scan", |_| Ok(Vec::new())).map(drop);
    assert!(taken.is_err(), "the name is the node's own");
    assert_eq!(ids(&set), BTreeSet::from([1]));
    nodes[0].stop();
    let error = set.scan().next().expect("something is said").expect_err("the node has stopped");
    assert!(matches!(error, Error::Membership(_) | Error::Access(AccessError::Fenced)), "{error}");
}
