use std::time::Duration;

use kddm::{CoordinationError, Latch, Node, WhyBroken};

use crate::{LIMIT, attached, cluster, refusal};

fn open(node: &Node, name: &str, count: u64) -> Latch {
    node.latch(name, count).wait_for(LIMIT).expect("it opens").wait_limit(LIMIT)
}

#[test]
fn all_who_wait_go_on_at_zero() {
    let nodes = cluster(3);
    let program = attached(&nodes[2], "latch");
    let all: Vec<Latch> = nodes.iter().chain([&program]).map(|node| open(node, "go", 8)).collect();
    std::thread::scope(|scope| {
        let waits: Vec<_> = all.iter().map(|latch| scope.spawn(|| latch.reached().wait())).collect();
        for latch in &all {
            latch.count_down(1).wait_for(LIMIT).expect("it counts");
        }
        assert_eq!(nodes[0].latches().expect("a list")[0].remaining, 4);
        for latch in &all {
            latch.count_down(1).wait_for(LIMIT).expect("it counts");
        }
        waits.into_iter().for_each(|wait| wait.join().expect("it ends").expect("it is reached"));
    });
    all[0].reached().wait().expect("it stays reached");
}

#[test]
fn a_promise_that_cannot_be_kept_is_heard_of() {
    let nodes = cluster(3);
    let program = attached(&nodes[0], "promise");
    for (who, why) in
        [(program, WhyBroken::ProgramEnded { node: 1 }), (nodes[2].clone(), WhyBroken::NodeGone { node: 3 })]
    {
        let name = format!("by {why:?}").replace(' ', "-");
        let here = open(&nodes[1], &name, 3);
        let there = open(&who, &name, 3);
        there.promise(2).wait_for(LIMIT).expect("it is noted");
        assert_eq!(there.count_down(1).wait_for(LIMIT).expect("it counts"), 2);
        let waits = {
            let here = here.clone();
            std::thread::spawn(move || here.reached().wait())
        };
        drop(there);
        who.stop();
        for result in [waits.join().expect("it ends"), here.reached().wait()] {
            let error = refusal(result);
            let CoordinationError::LatchBroken { remaining: 2, why: told, .. } = error else {
                panic!("another error: {error}")
            };
            assert_eq!(told, why);
        }
    }
}

#[test]
fn a_wait_ends_at_its_limit_and_with_its_latch() {
    let nodes = cluster(2);
    let here = open(&nodes[0], "limit", 1);
    let error = refusal(here.clone().wait_limit(Duration::from_millis(30)).reached().wait());
    assert!(matches!(error, CoordinationError::NotReached { limit_ms: 30, .. }), "{error}");
    let waits = {
        let here = here.clone();
        std::thread::spawn(move || here.reached().wait())
    };
    open(&nodes[1], "limit", 1).remove().wait_for(LIMIT).expect("it is removed");
    let error = refusal(waits.join().expect("it ends"));
    assert!(matches!(error, CoordinationError::Removed { .. }), "{error}");
    assert!(matches!(refusal(here.count_down(1).wait_for(LIMIT)), CoordinationError::Removed { .. }));
    let _two = open(&nodes[0], "limit", 2);
    let error = refusal(nodes[1].latch("limit", 3).wait_for(LIMIT));
    assert!(matches!(error, CoordinationError::Differs { .. }), "{error}");
}
