//! Sets on real nodes behind which a store stands: what is put is there after all nodes have ended.

use std::sync::Arc;
use std::time::Duration;

use kddm::linker::{Durability, Stamp, Store, Written};
use kddm::{Node, Set};

use crate::{Kind, Scratch};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

fn open(node: &Node, store: &Arc<dyn Store>) -> Set<String> {
    let builder = node.set("notes").linker("store", Arc::clone(store)).linker_limit(LIMIT).wait_limit(LIMIT);
    builder.open().wait_for(LIMIT).expect("the set opens")
}

#[test]
fn what_was_put_is_read_by_the_next_cluster_and_the_last_one_is_refused() {
    for kind in Kind::ALL {
        let scratch = Scratch::new("sets");
        // Each node has its own, where several may.
        let store = || -> Arc<dyn Store> { Arc::from(kind.open(&scratch.0, Durability::EachWrite)) };
        let stores = || {
            let first = store();
            let second = if Kind::SHARED.contains(&kind) { store() } else { Arc::clone(&first) };
            [first, second]
        };
        let mut last = None;
        for life in 0..3 {
            let stores = stores();
            let nodes = Node::local_cluster(2).expect("a cluster");
            let sets = [0, 1].map(|at: usize| open(&nodes[at], &stores[at]));
            for object in [1, 2, u64::MAX] {
                for set in &sets {
                    let mut note = set.grab(object).wait_for(LIMIT).expect("it can be had");
                    note.push('x');
                    note.put().wait_for(LIMIT).expect("it is kept");
                }
                let note = sets[0].get(object).wait_for(LIMIT).expect("it is there");
                assert_eq!(note.len(), 2 * (life + 1), "{kind:?}, life {life}");
            }
            let there = stores[1].objects(None, 9).expect("they are there");
            assert_eq!(there.iter().map(|(object, _)| *object).collect::<Vec<_>>(), [1, 2, u64::MAX], "{kind:?}");
            if let Some(Stamp { term, tenure, .. }) = last {
                let late = Stamp { term, tenure: tenure + 100, version: 1 };
                let refused = stores[0].write(1, late, Some(b"late"));
                assert!(matches!(refused, Ok(Written::Refused { by }) if by.term > term), "{kind:?}: {refused:?}");
            }
            last = Some(there[0].1);
            sets[1].remove(2).wait_for(LIMIT).expect("it can be had");
            assert_eq!(stores[0].read(2).expect("it is whole").and_then(|kept| kept.bytes), None, "{kind:?}");
            let again = sets[0].grab(2).wait_for(LIMIT).map(|mut note| {
                *note = "xx".repeat(life + 1);
                note.put().wait_for(LIMIT)
            });
            again.expect("it can be had").expect("it is kept");
            for node in &nodes {
                node.stop();
            }
        }
    }
}
