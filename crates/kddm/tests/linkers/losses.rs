//! What the store has outlives the nodes.

use std::sync::Arc;
use std::time::Duration;

use kddm::linker::{Stamp, Written};
use kddm::{Config, Incident, Node, OnLoss, Set};

use crate::memory::Memory;
use crate::{LIMIT, read, write};

/// It has to end in these tests, and for nobody who lives: long beside what a busy machine holds up a thread.
const LEASE: Duration = Duration::from_secs(3);

/// Nodes that expel each other soon.
fn cluster(nodes: u16) -> Vec<Node> {
    let first = Node::join(Config::new().node_id(1).lease(LEASE)).wait_for(LIMIT).expect("the first node");
    let contact = first.address().clone();
    let join =
        |id| Node::join(Config::new().node_id(id).contact(contact.clone())).wait_for(LIMIT).expect("it is let in");
    let others: Vec<Node> = (2..=nodes).map(join).collect();
    std::iter::once(first).chain(others).collect()
}

#[test]
fn what_a_node_had_put_that_dies_is_read_by_the_others() {
    let store = Arc::<Memory>::default();
    let mut nodes = cluster(3);
    let (sender, told) = std::sync::mpsc::channel();
    let watch = move |incident: &Incident| _ = sender.send(incident.clone());
    nodes[0].on_incident(watch).expect("there is room");
    let on_loss = |node: &Node| -> Set<String> {
        let builder = node.set("rows").linker("memory", Arc::clone(&store)).linker_limit(LIMIT).replicas(0);
        builder.on_loss(OnLoss::Linker).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
    };
    let sets: Vec<Set<String>> = nodes.iter().map(on_loss).collect();
    assert_eq!(nodes[0].set_info("rows").expect("it exists").on_loss, OnLoss::Linker);
    for object in 0..20 {
        write(&sets[2], object, &format!("of object {object}")).expect("it is stored");
    }
    sets[2].remove(19).wait_for(LIMIT).expect("it is removed");
    nodes.remove(2).stop_within(Duration::ZERO);
    let existing = |object: u64| sets[object as usize % 2].get_existing(object).wait_for(LIMIT);
    for object in 0..19 {
        assert_eq!(*existing(object).expect("it is kept"), format!("of object {object}"));
    }
    assert!(crate::is_not_found(&existing(19)), "what was removed does not come back");
    write(&sets[0], 3, "of the next owner").expect("its stamp is newer");
    assert_eq!((store.text(3), read(&sets[1], 3)), (Some("of the next owner".into()), "of the next owner".into()));
    let before = Stamp { term: 1, tenure: 0, version: u64::MAX };
    assert!(matches!(store.write_by_hand(3, before), Written::Refused { .. }));
    let is_told =
        |incident: Incident| matches!(incident, Incident::Accepted { set, objects } if set == "rows" && objects > 0);
    while !is_told(told.recv_timeout(LIMIT).expect("it is told")) {}
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}
