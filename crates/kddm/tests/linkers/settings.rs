//! What stands behind a set is the same for all who open it.

use std::sync::Arc;

use kddm::linker::WritePolicy;
use kddm::{Error, LinkerError, Node, OnLoss, Set, SetError};

use crate::memory::{Memory, Trouble};
use crate::{LIMIT, append, is_not_found, linker_error, open, read, two, write};

fn differing(opened: Result<Set<String>, Error>) -> &'static str {
    match opened {
        Err(Error::Set(SetError::SettingsDiffer { setting, .. })) => setting,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_opens_a_set_needs_its_linker() {
    let nodes = crate::cluster(2);
    let store = Arc::<Memory>::default();
    let _first = open(&nodes[0], &store, 0);
    let plain = || nodes[1].set::<String>("rows").open().wait_for(LIMIT);
    let error = linker_error(plain());
    assert_eq!(error, LinkerError::Missing { set: "rows".into(), linker: "memory".into() });
    let other = nodes[1].set::<String>("rows").linker("another", Arc::clone(&store)).open().wait_for(LIMIT);
    assert!(matches!(linker_error(other), LinkerError::Missing { .. }));
    assert!(nodes[1].linkers().is_empty(), "nothing was opened");
    let second = open(&nodes[1], &store, 0);
    let again = plain().expect("this node has it now");
    write(&second, 7, "shared").expect("it is stored");
    assert_eq!(read(&again, 7), "shared");
    let info = nodes[1].set_info("rows").expect("it exists");
    assert_eq!((info.linker.as_deref(), info.write_policy), (Some("memory"), Some(WritePolicy::Through)));
}

#[test]
fn what_was_given_is_compared() {
    let nodes = crate::cluster(1);
    let store = Arc::<Memory>::default();
    let _plain: Set<String> = nodes[0].set("plain").open().wait_for(LIMIT).expect("it opens");
    let linked = nodes[0].set("plain").linker("memory", Arc::clone(&store)).open().wait_for(LIMIT);
    assert_eq!(differing(linked), "linker");
    let _rows = open(&nodes[0], &store, 0);
    let builder = || nodes[0].set("rows").linker("memory", Arc::clone(&store));
    assert_eq!(differing(builder().write_policy(WritePolicy::Around).open().wait_for(LIMIT)), "write_policy");
    builder().write_policy(WritePolicy::Through).open().wait_for(LIMIT).expect("that is what it has");
    assert_eq!(differing(builder().on_loss(OnLoss::Linker).open().wait_for(LIMIT)), "on_loss");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let nodes = crate::cluster(1);
    let store = Arc::<Memory>::default();
    let refused = |opened: Result<Set<String>, Error>, what: &str| {
        let error = opened.expect_err("it makes no sense");
        assert!(matches!(error, Error::Configuration(_)) && error.to_string().contains(what), "{error}");
    };
    let builder = || nodes[0].set::<String>("rows");
    refused(builder().write_policy(WritePolicy::Around).open().wait_for(LIMIT), "write_policy");
    refused(builder().on_loss(OnLoss::Linker).open().wait_for(LIMIT), "on_loss");
    refused(builder().linker("", Arc::clone(&store)).open().wait_for(LIMIT), "linker");
    let around = builder().linker("memory", Arc::clone(&store)).write_policy(WritePolicy::Around);
    refused(around.on_loss(OnLoss::Linker).open().wait_for(LIMIT), "on_loss");
    assert!(nodes[0].sets().expect("they are listed").is_empty());
}

#[test]
fn a_store_that_cannot_be_claimed_makes_no_set() {
    let nodes = crate::cluster(1);
    let store = Arc::<Memory>::default();
    for trouble in [Trouble::Fails, Trouble::Panics] {
        store.trouble(Trouble::None, trouble);
        let opened = nodes[0].set::<String>("rows").linker("memory", Arc::clone(&store)).open().wait_for(LIMIT);
        linker_error(opened);
        assert!(nodes[0].sets().expect("they are listed").is_empty());
    }
    store.trouble(Trouble::None, Trouble::None);
    open(&nodes[0], &store, 0);
}

#[test]
fn programs_are_told_what_to_do() {
    let nodes = crate::cluster(1);
    let store = Arc::<Memory>::default();
    let socket = std::env::temp_dir().join(format!("kddm-linkers-{}.sock", std::process::id()));
    nodes[0].accept_programs(&socket).expect("it listens");
    let program = Node::attach(&socket).wait_for(LIMIT).expect("it attaches");
    let linked = program.set::<String>("rows").linker("memory", Arc::clone(&store)).open().wait_for(LIMIT);
    let error = linked.expect_err("a program has no linker");
    assert!(error.to_string().contains("in a node"), "{error}");
    let _rows = open(&nodes[0], &store, 0);
    let error = linker_error(program.set::<String>("rows").open().wait_for(LIMIT));
    assert!(matches!(error, LinkerError::Missing { .. }), "its node has it, and cannot read for it: {error}");
}

#[test]
fn around_writes_nothing_and_a_removed_object_is_read_again() {
    let nodes = crate::cluster(2);
    let store = Arc::<Memory>::default();
    let around = |node: &Node| -> Set<String> {
        let builder = node.set("rows").linker("memory", Arc::clone(&store)).write_policy(WritePolicy::Around);
        builder.wait_limit(LIMIT).open().wait_for(LIMIT).expect("it opens")
    };
    let sets = [around(&nodes[0]), around(&nodes[1])];
    store.insert(7, "stored");
    assert_eq!(read(&sets[0], 7), "stored");
    write(&sets[1], 7, "here alone").expect("it is put");
    assert_eq!((read(&sets[0], 7), store.text(7)), ("here alone".into(), Some("stored".into())));
    store.insert(7, "by the program itself");
    sets[0].remove(7).wait_for(LIMIT).expect("it is removed");
    assert_eq!(read(&sets[1], 7), "by the program itself");
    sets[1].grab(7).wait_for(LIMIT).expect("a grab").remove().wait_for(LIMIT).expect("it is removed");
    assert_eq!(read(&sets[0], 7), "by the program itself");
    assert!(is_not_found(&sets[0].get_existing(8).wait_for(LIMIT)));
}

#[test]
fn two_who_make_a_set_at_one_time_use_one_term() {
    for _ in 0..20 {
        let (nodes, store) = (crate::cluster(2), Arc::<Memory>::default());
        let sets: Vec<Set<String>> = std::thread::scope(|scope| {
            let opening = [&nodes[0], &nodes[1]].map(|node| {
                let store = &store;
                scope.spawn(move || open(node, store, 0))
            });
            opening.map(|opening| opening.join().expect("it opens")).into()
        });
        assert_eq!(nodes[0].linkers()[0].term, nodes[1].linkers()[0].term);
        write(&sets[0], 7, "one").expect("its term is the newest");
        write(&sets[1], 7, "two").expect("its term is the newest");
    }
}

#[test]
fn threads_on_two_nodes_lose_no_increment_and_the_store_has_the_last() {
    let (_nodes, store, sets) = two(1);
    const EACH: usize = 50;
    std::thread::scope(|scope| {
        for set in sets.iter().flat_map(|set| [set, set]) {
            scope.spawn(move || {
                for _ in 0..EACH {
                    set.update(7, append('x')).wait_for(LIMIT).expect("it is stored");
                }
            });
        }
    });
    assert_eq!(read(&sets[0], 7).len(), 4 * EACH);
    assert_eq!(store.text(7).map(|text| text.len()), Some(4 * EACH));
}
