use std::collections::HashSet;
use std::time::Duration;

use kddm::{Config, CoordinationError, NameHold, Names, Node};

use crate::{LIMIT, attached, cluster, eventually, refusal};

/// The death of a node is to be seen soon here, and on a busy machine that of nobody else.
const LEASE: Duration = Duration::from_secs(3);

fn open(node: &Node, class: &str) -> Names {
    node.names(class).wait_for(LIMIT).expect("it opens")
}

fn reserve(names: &Names, name: &str) -> NameHold {
    names.reserve(name).wait_for(LIMIT).expect("it is reserved")
}

fn find(names: &Names, name: &str) -> Option<u64> {
    names.find(name).wait_for(LIMIT).expect("it is looked for")
}

/// Threads of three nodes and of a program reserve the same names at one time, and give them back, again and again.
#[test]
fn all_who_use_a_name_at_one_time_have_one_id() {
    const THREADS: usize = 8;
    let nodes = cluster(3);
    let program = attached(&nodes[2], "names");
    let all: Vec<Names> = nodes.iter().chain([&program]).map(|node| open(node, "rpc")).collect();
    let mut before = HashSet::new();
    for round in 0..5 {
        let holds: Vec<NameHold> = std::thread::scope(|scope| {
            let wanted = all.iter().flat_map(|names| (0..THREADS).map(move |_| names));
            let threads: Vec<_> = wanted.map(|names| scope.spawn(|| reserve(names, "one"))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
        });
        let ids: HashSet<u64> = holds.iter().map(NameHold::id).collect();
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        let id = holds[0].id();
        assert!(id > 0 && before.insert(id), "it was given before");
        holds.iter().for_each(|hold| hold.check().wait_for(LIMIT).expect("it is used"));
        let list = nodes[1].names_in_use(Some("rpc"), 10).expect("a list");
        assert_eq!((list.total, list.names[0].id, list.names[0].users.len()), (1, id, 4), "{list:?}");
        assert_eq!(nodes[0].statistics().names.used, 1);
        // All but one go at one time, by a word or dropped.
        let mut holds = holds.into_iter();
        let last = holds.next().expect("there are many");
        std::thread::scope(|scope| {
            for (at, hold) in holds.enumerate() {
                scope.spawn(
                    move || if at % 2 == 0 { drop(hold) } else { hold.release().wait_for(LIMIT).expect("given") },
                );
            }
        });
        last.check().wait_for(LIMIT).expect("it is used still");
        assert_eq!(find(&all[2], "one"), Some(id));
        drop(last);
        eventually("it is free", || all.iter().all(|names| find(names, "one").is_none()));
        assert_eq!(nodes[0].statistics().names.used, 0);
    }
}

#[test]
fn classes_have_nothing_to_do_with_each_other_and_names_have_limits() {
    let nodes = cluster(2);
    let (ports, calls) = (open(&nodes[0], "net/port"), open(&nodes[1], "rpc"));
    let (port, call) = (reserve(&ports, "a"), reserve(&calls, "a"));
    assert_ne!(port.id(), call.id());
    assert_eq!(find(&open(&nodes[1], "net/port"), "a"), Some(port.id()));
    let longest = reserve(&ports, &"x".repeat(64));
    assert_eq!(longest.name().len(), 64);
    for bad in ["", &"x".repeat(65)] {
        let error = refusal(ports.reserve(bad).wait_for(LIMIT));
        assert!(matches!(error, CoordinationError::BadName { .. }), "{error}");
    }
    for bad in ["", &"x".repeat(54), "a//b"] {
        assert!(nodes[0].names(bad).wait_for(LIMIT).is_err(), "{bad:?} is no class");
    }
    let refused = nodes[0].set::<u64>("kddm/names/rpc").open().wait_for(LIMIT).expect_err("it is for names");
    assert!(refused.to_string().contains("take another name"), "{refused}");
    let refused = nodes[0].destroy_set("kddm/names/rpc", LIMIT).wait_for(LIMIT).expect_err("it is needed");
    assert!(refused.to_string().contains("cannot be destroyed"), "{refused}");
    let all = nodes[1].names_in_use(None, 2).expect("a list");
    let shown: Vec<_> = all.names.iter().map(|info| (info.class.as_str(), info.name.as_str())).collect();
    assert_eq!((all.total, shown), (3, vec![("net/port", "a"), ("net/port", longest.name())]));
}

/// A use without a handle ends by a word, and once.
#[test]
fn a_use_can_be_kept_without_its_handle() {
    let nodes = cluster(2);
    let names = open(&nodes[1], "kept");
    let id = reserve(&names, "a").into_id();
    assert_eq!(reserve(&names, "a").into_id(), id);
    names.release("a").wait_for(LIMIT).expect("one of two");
    assert_eq!(find(&names, "a"), Some(id));
    names.release("a").wait_for(LIMIT).expect("the other");
    assert_eq!(find(&names, "a"), None);
    let error = refusal(names.release("a").wait_for(LIMIT));
    assert!(matches!(error, CoordinationError::NotReserved { .. }), "{error}");
}

/// A name that is used here, and has been changed by nobody, costs no message.
#[test]
fn a_name_that_is_used_here_costs_no_message() {
    let nodes = cluster(2);
    let names = open(&nodes[1], "cheap");
    let held = reserve(&names, "a");
    let messages = || nodes.iter().map(|node| node.statistics().messages()).sum::<u64>();
    let before = messages();
    for _ in 0..1_000 {
        let again = reserve(&names, "a");
        assert_eq!(again.id(), held.id());
        again.check().wait_for(LIMIT).expect("it is used");
    }
    assert_eq!(messages(), before);
}

/// One leaves and one ends without a word; each had names of its own and one that others use, too.
#[test]
fn what_a_node_used_that_is_gone_is_free_but_for_what_others_use() {
    let first = Node::join(Config::new().node_id(1).lease(LEASE)).wait_for(LIMIT).expect("a cluster");
    let contact = first.address().clone();
    let join =
        |id| Node::join(Config::new().node_id(id).contact(contact.clone())).wait_for(LIMIT).expect("it is let in");
    let mut nodes = vec![first.clone(), join(2), join(3), join(4)];
    let all: Vec<Names> = nodes.iter().map(|node| open(node, "gone")).collect();
    let held = reserve(&all[0], "shared");
    for (at, names) in all.iter().enumerate().skip(1) {
        assert_eq!(reserve(names, "shared").into_id(), held.id());
        reserve(names, &format!("own-{at}")).into_id();
    }
    let here = &all[0];
    let before = find(here, "own-3").expect("it is used");
    nodes.remove(3).stop_within(Duration::ZERO);
    // Whoever looks at it once that node is expelled frees it, and makes another id.
    eventually("it is free", || {
        let now = reserve(here, "own-3");
        let is_another = now.id() != before;
        now.release().wait_for(LIMIT).expect("it is given back");
        is_another
    });
    nodes.remove(2).stop();
    eventually("what it used is seen to be free", || {
        let list = first.names_in_use(Some("gone"), 10).expect("a list");
        list.names.iter().all(|info| info.name != "own-2" || !info.gone.is_empty())
    });
    let now = reserve(here, "own-2");
    assert_eq!(find(here, "shared"), Some(held.id()));
    held.check().wait_for(LIMIT).expect("it is used still");
    drop(now);
    eventually("only what is used is there", || {
        let list = first.names_in_use(Some("gone"), 10).expect("a list");
        let live = |info: &kddm::NameInfo| info.users.len() > info.gone.len();
        let names: Vec<&str> = list.names.iter().filter(|info| live(info)).map(|info| &*info.name).collect();
        names == ["own-1", "shared"]
    });
}

/// Programs come and go more often than nodes: what one used is free when its connection has ended.
#[test]
fn what_a_program_used_that_has_ended_is_free() {
    let nodes = cluster(2);
    let program = attached(&nodes[1], "ended");
    let here = open(&nodes[0], "programs");
    let there = open(&program, "programs");
    let held = reserve(&here, "shared");
    reserve(&there, "shared").into_id();
    reserve(&there, "own").into_id();
    drop(there);
    program.stop();
    eventually("it is free", || find(&here, "own").is_none());
    let list = nodes[0].names_in_use(None, 10).expect("a list");
    assert_eq!((list.total, list.names[0].users.len(), list.names[0].id), (1, 1, held.id()), "{list:?}");
    assert_eq!(nodes[1].statistics().names.ended, 2);
}

/// Many names: each object stays small, and each is found again.
#[test]
fn many_names_are_spread_over_many_small_objects() {
    /// Without optimization each takes ten times as long.
    const NAMES: usize = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    const THREADS: usize = 4;
    let nodes = cluster(2);
    let all: Vec<Names> = nodes.iter().map(|node| open(node, "many")).collect();
    let begun = std::time::Instant::now();
    let ids: HashSet<u64> = std::thread::scope(|scope| {
        let some = |thread: usize| {
            let names = &all[thread % all.len()];
            (thread..NAMES).step_by(THREADS).map(|at| reserve(names, &format!("name-{at}")).into_id()).collect()
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || -> Vec<u64> { some(thread) })).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
    });
    assert_eq!(ids.len(), NAMES);
    let each = begun.elapsed() / NAMES as u32;
    for at in (0..NAMES).step_by(1_001) {
        assert!(find(&all[0], &format!("name-{at}")).is_some_and(|id| ids.contains(&id)));
    }
    let set = nodes[0].set_info("kddm/names/many").expect("it is there").id;
    let objects = nodes[0].usage()[&set].directory_entries + nodes[1].usage()[&set].directory_entries;
    assert!((4_000..=4096).contains(&objects), "they are spread: {objects}");
    let bytes = nodes[0].usage()[&set].metadata_bytes;
    println!("{NAMES} names: {each:?} each, {bytes} bytes of records and indexes at one node");
}
