//! A cluster whose nodes were all stopped, and the logs that they keep.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kddm::{Address, Config, Error, Node, Set};
use kddm_core::id::{NodeId, Time};
use kddm_view::{Cause, Change, RedbDisk, State, ViewLog, Voters};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Long enough for a busy machine.
const LEASE: Duration = Duration::from_secs(3);

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("kddm-revival-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for temporary files");
        Scratch(path)
    }

    fn log(&self, id: u16) -> PathBuf {
        self.0.join(format!("{id}.redb"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _it_is_temporary = std::fs::remove_dir_all(&self.0);
    }
}

fn config(id: u16, listen: &Address, log: &Path) -> Config {
    let limit = Duration::from_secs(30);
    Config::new().node_id(id).listen(listen.clone()).view_log(log).lease(LEASE).join_limit(limit)
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn cluster(scratch: &Scratch, nodes: u16) -> Vec<Node> {
    let mut all: Vec<Node> = Vec::new();
    for id in 1..=nodes {
        let mut config = config(id, &Address::loopback(), &scratch.log(id));
        config.contacts.extend(all.first().map(|first| first.address().clone()));
        all.push(Node::join(config).wait_for(LIMIT).expect("it is let in"));
    }
    let wanted: Vec<u16> = if nodes < 3 { vec![1] } else { (1..=nodes).collect() };
    eventually("all vote", || all.iter().all(|node| node.voting().voters == wanted));
    all
}

/// They come back at their addresses. In one process the other end of a connection keeps a port for as long as it
/// is read from.
fn restart(scratch: &Scratch, addresses: &[Address], ids: &[u16]) -> Vec<Result<Node, Error>> {
    let join = |id: u16| loop {
        match Node::join(config(id, &addresses[usize::from(id) - 1], &scratch.log(id))).wait_for(LIMIT) {
            Err(Error::Configuration(kddm::ConfigurationError::Listen { .. })) => std::thread::yield_now(),
            joined => return joined,
        }
    };
    std::thread::scope(|scope| {
        let joins: Vec<_> = ids.iter().map(|id| scope.spawn(move || join(*id))).collect();
        joins.into_iter().map(|join| join.join().expect("it returns")).collect()
    })
}

fn put(set: &Set<u64>, object: u64, value: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

/// As if the power had gone at all of them at once.
fn lose_all(nodes: Vec<Node>) {
    let ends: Vec<_> =
        nodes.into_iter().map(|node| std::thread::spawn(move || node.stop_within(Duration::ZERO))).collect();
    ends.into_iter().for_each(|end| end.join().expect("it stops"));
}

/// Those who vote have confirmed the one that leads, and that has granted the others more time.
fn outlive_a_lease(nodes: &[Node]) {
    let left = |node: &Node| node.lease().remaining.expect("three decide");
    let first: Vec<Instant> = nodes.iter().map(|node| Instant::now() + left(node)).collect();
    eventually("their leases are renewed", || {
        nodes.iter().zip(&first).all(|(node, first)| {
            let left = left(node);
            assert!(!left.is_zero(), "the lease of node {} has ended", node.id());
            Instant::now() + left > *first + LEASE
        })
    });
}

#[test]
fn a_cluster_that_was_stopped_goes_on_where_it_was() {
    let scratch = Scratch::new("all");
    let nodes = cluster(&scratch, 3);
    let set: Set<u64> = nodes[1].set("numbers").open().wait_for(LIMIT).expect("the set opens");
    put(&set, 1, 7);
    drop(set);
    let addresses: Vec<Address> = nodes.iter().map(|node| node.address().clone()).collect();
    let (cluster, mut epoch) = (nodes[0].cluster_id(), nodes[0].epoch());
    let mut life = nodes.iter().flat_map(Node::members).map(|member| member.incarnation).max();
    lose_all(nodes);
    // Twice, so that what the second life has kept is seen, too.
    for _ in 0..2 {
        let nodes: Vec<Node> = restart(&scratch, &addresses, &[1, 2, 3])
            .into_iter()
            .map(|node| node.expect("a majority has come back"))
            .collect();
        eventually("all vote", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]));
        assert!(nodes.iter().all(|node| node.cluster_id() == cluster && node.epoch() > epoch));
        assert!(nodes[0].members().iter().all(|member| Some(member.incarnation) > life), "all are new lives");
        outlive_a_lease(&nodes);
        // What was in memory is gone, and all is whole without it.
        let set: Set<u64> = nodes[2].set("numbers").open().wait_for(LIMIT).expect("the set is made anew");
        assert_eq!(*set.get(1).wait_for(LIMIT).expect("nobody has it"), 0);
        put(&set, 1, 8);
        drop(set);
        epoch = nodes[0].epoch();
        life = nodes[0].members().iter().map(|member| member.incarnation).max();
        lose_all(nodes);
    }
}

#[test]
fn two_of_three_are_enough_and_one_is_not() {
    let scratch = Scratch::new("two");
    let nodes = cluster(&scratch, 3);
    let addresses: Vec<Address> = nodes.iter().map(|node| node.address().clone()).collect();
    let epoch = nodes[0].epoch();
    lose_all(nodes);
    let short = config(2, &addresses[1], &scratch.log(2)).join_limit(Duration::from_millis(100));
    let error = Node::join(short).wait_for(LIMIT).err().expect("it is alone").to_string();
    assert!(error.contains("[1, 2, 3]") && error.contains("too few"), "{error}");
    let two: Vec<Node> =
        restart(&scratch, &addresses, &[2, 3]).into_iter().map(|node| node.expect("two are a majority")).collect();
    assert!(two.iter().all(|node| node.epoch() > epoch && node.members().len() == 2));
    let first = restart(&scratch, &addresses, &[1]).remove(0).expect("the others are there");
    assert_eq!(first.members().len(), 3);
}

/// What is decided in a log, added up.
fn state_of(log: &Voters) -> State {
    let mut state = log.base().clone();
    for entry in log.decided_since(state.applied()).expect("it is all there") {
        state.apply(&entry).expect("they are in order");
    }
    state
}

/// As a leader does that comes back: it has expelled the lives of before, its own, too, and all are stopped before
/// anybody has been let in again.
fn expel_all(scratch: &Scratch, ids: &[u16]) {
    let open = |id: u16| {
        let disk = RedbDisk::open(&scratch.log(id)).expect("nobody else has it");
        Voters::restart(NodeId(id), u64::from(id) << 32, Box::new(disk)).expect("it is whole").expect("it has a log")
    };
    let mut logs: Vec<(NodeId, Voters)> = ids.iter().map(|id| (NodeId(*id), open(*id))).collect();
    for round in 1.. {
        assert!(round < 10_000, "nobody is elected, or nothing is decided");
        if logs.iter().all(|(_, log)| state_of(log).members().count() == 0) {
            return;
        }
        let mut said = Vec::new();
        for (node, log) in &mut logs {
            log.tick(Time(round * 50_000_000));
            if log.is_leader() && !log.has_undecided() && state_of(log).term() == log.term() {
                let next = state_of(log).members().next().map(|(node, entry)| (node, entry.incarnation));
                if let Some((node, incarnation)) = next {
                    log.write_as_leader(Change::Expel { node, incarnation, cause: Cause::Lease }).expect("written");
                }
            }
            said.extend(log.take_outgoing().into_iter().map(|out| (*node, out)));
        }
        while let Some((from, out)) = said.pop() {
            let (node, log) = logs.iter_mut().find(|(node, _)| *node == out.to).expect("all are there");
            log.step(from, &out.message).expect("they are honest");
            said.extend(log.take_outgoing().into_iter().map(|out| (*node, out)));
        }
    }
}

/// All are stopped again while they come back, when nobody is a member for the moment.
#[test]
fn a_cluster_comes_back_that_was_stopped_while_it_came_back() {
    for ids in [&[1][..], &[1, 2, 3]] {
        let scratch = Scratch::new(&format!("again-{}", ids.len()));
        let nodes = cluster(&scratch, ids.len() as u16);
        let addresses: Vec<Address> = nodes.iter().map(|node| node.address().clone()).collect();
        let (cluster, epoch) = (nodes[0].cluster_id(), nodes[0].epoch());
        lose_all(nodes);
        expel_all(&scratch, ids);
        let nodes: Vec<Node> =
            restart(&scratch, &addresses, ids).into_iter().map(|node| node.expect("all are there")).collect();
        assert!(nodes.iter().all(|node| node.cluster_id() == cluster && node.epoch() > epoch));
        eventually("all are members", || nodes.iter().all(|node| node.members().len() == ids.len()));
        let set: Set<u64> = nodes[0].set("numbers").open().wait_for(LIMIT).expect("the set is made anew");
        put(&set, 1, 8);
    }
}

/// With the log of its own cluster it is let in by no other one, whose changes it would take for those of its own.
#[test]
fn a_node_that_has_kept_a_log_joins_no_other_cluster() {
    let (scratch, others) = (Scratch::new("ours"), Scratch::new("theirs"));
    let ours = cluster(&scratch, 3);
    let address = ours[1].address().clone();
    lose_all(ours);
    let theirs = cluster(&others, 1);
    let short = config(2, &address, &scratch.log(2)).contact(theirs[0].address().clone()).join_limit(LEASE);
    let error = Node::join(short).wait_for(LIMIT).err().expect("it is of another cluster").to_string();
    assert!(error.contains("the other one to cluster") && error.contains("too few"), "{error}");
    assert_eq!(theirs[0].members().len(), 1);
}

/// The only voter comes back before anybody's lease has ended: the other one keeps what it has.
#[test]
fn one_that_decides_alone_comes_back_to_a_member_that_lives() {
    let scratch = Scratch::new("alone");
    let mut nodes = cluster(&scratch, 2);
    let set: Set<u64> = nodes[1].set("numbers").replicas(1).open().wait_for(LIMIT).expect("the set opens");
    put(&set, 1, 7);
    let first = nodes.remove(0);
    let address = first.address().clone();
    let epoch = first.epoch();
    first.stop_within(Duration::ZERO);
    drop(first);
    let first = restart(&scratch, &[address], &[1]).remove(0).expect("it needs nobody");
    assert!(first.epoch() > epoch);
    assert_eq!(first.members().len(), 2);
    assert_eq!(*set.get(1).wait_for(LIMIT).expect("it is here"), 7);
    let again: Set<u64> = first.set("numbers").replicas(1).open().wait_for(LIMIT).expect("it exists");
    assert_eq!(*again.get(1).wait_for(LIMIT).expect("the other node has it"), 7);
}

#[test]
fn a_log_that_is_damaged_or_of_another_node_is_refused_with_what_to_do_and_left_alone() {
    let scratch = Scratch::new("damaged");
    let file = scratch.log(1);
    std::fs::write(&file, b"this is no log of any node, and long enough to be looked at as one").expect("written");
    let before = std::fs::read(&file).expect("just written");
    let error = Node::join(config(1, &Address::loopback(), &file)).wait_for(LIMIT).err().expect("it is damaged");
    let text = error.to_string();
    assert!(text.contains("1.redb") && text.contains("move its file away"), "{text}");
    assert_eq!(std::fs::read(&file).expect("still there"), before);
    let kept = scratch.log(2);
    Node::join(config(2, &Address::loopback(), &kept)).wait_for(LIMIT).expect("it begins a cluster").stop();
    let error = Node::join(Config::new().view_log(&kept)).wait_for(LIMIT).err().expect("whose is it?").to_string();
    assert!(error.contains("node_id"), "{error}");
    let error = Node::join(config(3, &Address::loopback(), &kept)).wait_for(LIMIT).err().expect("not its own");
    assert!(error.to_string().contains("that of node 2, and this is node 3"), "{error}");
    let other = config(2, &Address::loopback(), &kept).session(12);
    let error = Node::join(other).wait_for(LIMIT).err().expect("not its session").to_string();
    assert!(error.contains("give it session 4711"), "{error}");
    std::fs::write(&kept, b"").expect("written");
    let error = Node::join(config(2, &Address::loopback(), &kept)).wait_for(LIMIT).err().expect("it was there");
    assert!(error.to_string().contains("it is empty, and what it kept is gone"), "{error}");
}
