//! Objects leave the cluster and stay behind it; and clusters leave their store.

use std::sync::Arc;
use std::time::Duration;

use kddm::linker::{Directory, WritePolicy};
use kddm::{LinkerError, Node, Set};

use crate::memory::{Memory, Trouble};
use crate::{LIMIT, counts, is_not_found, linker_error, read, two, write};

fn kept(set: &Set<String>) -> usize {
    set.local_count()
}

#[test]
fn what_is_evicted_is_read_again() {
    for replicas in [0, 1] {
        let (nodes, store, sets) = two(replicas);
        write(&sets[0], 7, "kept").expect("it is stored");
        assert_eq!(read(&sets[1], 7), "kept");
        sets[1].evict(7).wait_for(LIMIT).expect("nobody holds it");
        assert_eq!((kept(&sets[0]), kept(&sets[1])), (0, 0));
        let writes = counts(&nodes[0]).writes + counts(&nodes[1]).writes;
        assert_eq!((writes, counts(&nodes[1]).evicted), (1, 1), "the store had it already");
        store.insert(8, "never put");
        assert_eq!((read(&sets[0], 7), read(&sets[0], 8)), ("kept".into(), "never put".into()));
        sets[0].evict(8).wait_for(LIMIT).expect("nobody holds it");
        sets[0].evict(9).wait_for(LIMIT).expect("what is not there need not go");
        assert_eq!(read(&sets[1], 8), "never put");
        assert!(is_not_found(&sets[1].get_existing(9).wait_for(LIMIT)));
        write(&sets[1], 7, "newer").expect("its stamp is newer, too");
        assert_eq!(store.text(7).as_deref(), Some("newer"));
    }
}

#[test]
fn what_waits_to_be_written_is_written_before_it_goes() {
    let (nodes, store) = (crate::cluster(2), Arc::<Memory>::default());
    let never = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 1 << 20 };
    let open = |node: &Node| -> Set<String> {
        let builder = node.set("rows").linker("memory", Arc::clone(&store)).write_policy(never);
        builder.replicas(1).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
    };
    let sets = [open(&nodes[0]), open(&nodes[1])];
    write(&sets[0], 7, "of another").expect("it is put");
    write(&sets[1], 8, "own").expect("it is put");
    store.trouble(Trouble::None, Trouble::Fails);
    linker_error(sets[1].evict(7).wait_for(LIMIT));
    assert_eq!(read(&sets[1], 7), "of another", "it did not go");
    store.trouble(Trouble::None, Trouble::None);
    for object in [7, 8] {
        sets[1].evict(object).wait_for(LIMIT).expect("nobody holds it");
    }
    assert_eq!((kept(&sets[0]), kept(&sets[1])), (0, 0));
    assert_eq!((read(&sets[0], 7), read(&sets[0], 8)), ("of another".into(), "own".into()));
    write(&sets[1], 7, "newer").expect("it is put");
    sets[1].sync().wait_for(LIMIT).expect("it is written");
    sets[0].sync().wait_for(LIMIT).expect("what waited here is older");
    assert_eq!(store.text(7).as_deref(), Some("newer"));
}

#[test]
fn it_waits_for_holders_and_needs_something_that_keeps_it() {
    let (nodes, _store, sets) = two(0);
    write(&sets[0], 7, "kept").expect("it is stored");
    let guard = sets[0].get(7).wait_for(LIMIT).expect("it is there");
    let evicted = sets[1].evict(7);
    assert!(sets[0].evict(7).wait_for(LIMIT).is_err(), "this thread would wait for itself");
    assert!(!evicted.is_ready());
    drop(guard);
    evicted.wait_for(LIMIT).expect("nobody holds it now");
    let plain: Set<String> = nodes[0].set("plain").open().wait_for(LIMIT).expect("it opens");
    write(&plain, 7, "nowhere else").expect("it is put");
    let error = linker_error(plain.evict(7).wait_for(LIMIT));
    assert_eq!(error, LinkerError::NotKept { set: "plain".into() });
    assert_eq!(read(&plain, 7), "nowhere else");
}

#[test]
fn a_cluster_that_was_stopped_finds_all_in_its_directory() {
    let path = std::env::temp_dir().join(format!("kddm-linkers-{}", std::process::id()));
    let open = |node: &Node, policy| -> Set<String> {
        let directory = Directory::open(&path).expect("a directory");
        let builder = node.set("rows").linker("directory", directory).write_policy(policy).linker_limit(LIMIT);
        builder.wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
    };
    for (round, policy) in [WritePolicy::Through, WritePolicy::behind(), WritePolicy::Through].into_iter().enumerate() {
        let nodes = crate::cluster(2);
        let sets = [open(&nodes[0], policy), open(&nodes[1], policy)];
        assert_eq!(nodes[1].linkers()[0].term, round as u64 + 1);
        for object in 0..10 {
            let before = if round == 0 { String::new() } else { format!("{object} of round {}", round - 1) };
            assert_eq!(read(&sets[0], object), before);
            write(&sets[object as usize % 2], object, &format!("{object} of round {round}")).expect("it is put");
        }
        nodes.iter().for_each(Node::stop);
    }
    std::fs::remove_dir_all(&path).expect("it is there");
}
