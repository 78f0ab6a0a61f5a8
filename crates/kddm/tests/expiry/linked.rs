//! What stands behind the set fails, or is not where an object is owned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm::linker::{LinkerError, Memory, Stamp, Store, Stored, WritePolicy, Written};
use kddm::{Node, OnExpiry, Set};
use parking_lot::Mutex;

use crate::{LIMIT, TIME, cluster, expired, info, members, until};

/// Takes what is put and refuses to remove it, and says when it was asked to.
#[derive(Clone, Default)]
struct Stubborn {
    kept: Memory,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Store for Stubborn {
    fn kind(&self) -> &'static str {
        "stubborn"
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        self.kept.claim()
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        self.kept.read(object)
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        if bytes.is_some() {
            return self.kept.write(object, stamp, bytes);
        }
        self.asked.lock().push(Instant::now());
        Err(LinkerError::Store { kind: "stubborn", reason: "the test has it fail".into() })
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        self.kept.objects(after, limit)
    }
}

fn kept(set: &Set<String>, object: u64) {
    let keep = |text: &mut String| {
        *text = "kept".into();
        Ok(())
    };
    set.update(object, keep).wait_for(LIMIT).expect("it is put");
}

#[test]
fn what_is_not_taken_is_tried_again_less_and_less_often() {
    let store = Stubborn::default();
    let nodes = cluster(1);
    let builder = nodes[0].set("leaving").linker("stubborn", store.clone()).write_policy(WritePolicy::Through);
    let builder = builder.expire_after(TIME).on_expiry(OnExpiry::Remove).wait_limit(LIMIT);
    let set: Set<String> = builder.open().wait_for(LIMIT).expect("the set opens");
    kept(&set, 7);
    until("it was tried again and again", || store.asked.lock().len() >= 6);
    let asked = store.asked.lock().clone();
    let took = asked[5] - asked[0];
    // A sixteenth of the time after the first one, then twice as long each time: 31 of them, less what the first was late by.
    assert!(took >= TIME, "six tries within {took:?}");
    until("it is counted", || info(&nodes[0]).failed >= 5);
    assert_eq!((expired(&nodes), set.get(7).wait_for(LIMIT).expect("it stays").as_str()), (0, "kept"));
}

/// The nodes that are left have no linker: they leave the objects alone until one of them has.
#[test]
fn what_is_owned_where_no_linker_is_stays_until_one_is_there() {
    // So that its first owner is gone before.
    const AFTER: Duration = Duration::from_secs(3);
    let store = Memory::default();
    let never = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 1 << 20 };
    let open = |node: &Node| -> Set<String> {
        let builder = node.set("leaving").linker("memory", store.clone()).write_policy(never).replicas(2);
        builder.expire_after(AFTER).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
    };
    let mut nodes = members(3);
    let set = open(&nodes[2]);
    kept(&set, 7);
    drop(set);
    nodes.remove(2).stop_within(Duration::ZERO);
    until("its next owner counts", || {
        let seen = nodes[0].object_of("leaving", 7);
        seen.is_ok_and(|seen| seen.at_owner.is_some_and(|at| at.leaves_in.is_some()))
    });
    let begun = Instant::now();
    until("its time has been over for long", || begun.elapsed() > 2 * AFTER);
    assert_eq!((expired(&nodes), nodes.iter().flat_map(Node::expiries).map(|set| set.failed).sum::<u64>()), (0, 0));
    let sets = [open(&nodes[0]), open(&nodes[1])];
    until("it has left", || sets[0].len().wait_for(LIMIT).expect("it is counted") == 0);
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}
