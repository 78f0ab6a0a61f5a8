//! Sets behind which something stands, on real clusters: what is read, what is written and when, and what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use kddm::linker::{LinkerCounts, Stamp};
use kddm::{Error, LinkerError, Node, Set};

mod ahead;
mod behind;
mod budget;
mod evicted;
mod failures;
mod heard;
mod hooks;
mod losses;
mod memory;
mod placed;
mod quick;
mod settings;

use memory::Memory;

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

fn cluster(count: usize) -> Vec<Node> {
    Node::local_cluster(count).expect("a cluster")
}

fn open(node: &Node, store: &Arc<Memory>, replicas: u8) -> Set<String> {
    let builder = node.set("rows").linker("memory", Arc::clone(store)).linker_limit(LIMIT).replicas(replicas);
    builder.wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

/// Two nodes on one store.
fn two(replicas: u8) -> (Vec<Node>, Arc<Memory>, [Set<String>; 2]) {
    let (nodes, store) = (cluster(2), Arc::<Memory>::default());
    let sets = [0, 1].map(|at: usize| open(&nodes[at], &store, replicas));
    (nodes, store, sets)
}

fn counts(node: &Node) -> LinkerCounts {
    node.linkers().first().expect("one was opened with a linker").counts
}

fn read(set: &Set<String>, object: u64) -> String {
    set.get(object).wait_for(LIMIT).expect("it is there").clone()
}

fn write(set: &Set<String>, object: u64, text: &str) -> Result<(), Error> {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("it can be had");
    *guard = text.into();
    guard.put().wait_for(LIMIT)
}

fn append(more: char) -> impl FnOnce(&mut String) -> Result<(), Error> + Send + 'static {
    move |text| {
        text.push(more);
        Ok(())
    }
}

fn linker_error<R: std::fmt::Debug>(result: Result<R, Error>) -> LinkerError {
    match result {
        Err(Error::Linker(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn is_not_found<R: std::fmt::Debug>(result: &Result<R, Error>) -> bool {
    matches!(result, Err(Error::Access(kddm::AccessError::NotFound)))
}

#[test]
fn what_is_nowhere_in_the_cluster_is_read_once_for_all_nodes() {
    let (nodes, store, sets) = two(0);
    store.insert(7, "from the store");
    assert_eq!(read(&sets[0], 7), "from the store");
    assert_eq!(read(&sets[1], 7), "from the store");
    assert_eq!(&*sets[1].grab_existing(7).wait_for(LIMIT).expect("it exists"), "from the store");
    assert_eq!((counts(&nodes[0]).reads, counts(&nodes[1]).reads), (1, 0), "the second had it from the first");
    assert_eq!(counts(&nodes[0]).writes, 0, "nothing was put");
}

#[test]
fn every_way_to_an_object_reads_it() {
    let (_nodes, store, [set, _]) = two(0);
    (1..=9).for_each(|object| store.insert(object, "stored"));
    let stored = |text: &str| assert_eq!(text, "stored");
    stored(&set.get(1).wait_for(LIMIT).expect("a get"));
    stored(&set.grab(2).wait_for(LIMIT).expect("a grab"));
    stored(&set.get_existing(3).wait_for(LIMIT).expect("an existing one"));
    stored(&set.try_grab(4).wait_for(LIMIT).expect("nobody holds it"));
    stored(&set.grab_or_insert_with(5, || "made".into()).wait_for(LIMIT).expect("a grab"));
    stored(&set.snapshot(6).wait_for(LIMIT).expect("a snapshot"));
    let both = kddm::together((set.to_grab(7), set.to_get(8))).wait_for(LIMIT).expect("both");
    stored(&both.0);
    stored(&both.1);
    let seen = |text: &mut String| Ok(text.clone());
    stored(&set.update(9, seen).wait_for(LIMIT).expect("an update"));
}

#[test]
fn what_is_owned_here_without_a_value_is_read_at_the_next_access() {
    let (_nodes, store, [set, _]) = two(0);
    for object in 1..=6 {
        assert!(is_not_found(&set.get_existing(object).wait_for(LIMIT)), "it was asked for, and is owned here now");
        // Written past the cluster; only gets of what exists may still hear of its absence, for a second.
        store.insert(object, "stored");
    }
    let stored = |text: &str| assert_eq!(text, "stored");
    stored(&set.grab(1).wait_for(LIMIT).expect("a grab"));
    stored(&set.object(2).grab().wait_for(LIMIT).expect("a grab"));
    stored(&set.update(3, |text| Ok(text.clone())).wait_for(LIMIT).expect("an update"));
    let wanted = (set.to_grab(4), set.to_get(5));
    let both = kddm::together(wanted).wait_for(LIMIT).expect("both");
    stored(&both.0);
    stored(&both.1);
    let holder = kddm::Holder::new("test");
    stored(&set.by(&holder).grab(6).wait_for(LIMIT).expect("a grab"));
}

#[test]
fn what_is_nowhere_at_all_is_made_or_not_found() {
    let (nodes, _store, sets) = two(0);
    assert!(is_not_found(&sets[0].get_existing(7).wait_for(LIMIT)));
    assert!(is_not_found(&sets[0].grab_existing(7).wait_for(LIMIT)));
    let first = counts(&nodes[0]);
    assert_eq!(first.reads + first.known_absent, 2);
    assert!(is_not_found(&sets[1].get_existing(7).wait_for(LIMIT)), "and elsewhere");
    assert_eq!(read(&sets[1], 7), "", "a get makes it");
    assert_eq!(read(&sets[0], 7), "");
    drop(sets[0].get_existing(7).wait_for(LIMIT).expect("now it exists"));
}

#[test]
fn an_absence_is_not_remembered_beyond_the_ownership_under_which_it_was_seen() {
    let (_nodes, _store, sets) = two(0);
    for round in 0..20 {
        assert!(is_not_found(&sets[0].get_existing(round).wait_for(LIMIT)));
        write(&sets[1], round, "made elsewhere").expect("it is stored");
        let found = sets[0].get_existing(round).wait_for(LIMIT).expect("a moment ago it was made");
        assert_eq!(*found, "made elsewhere");
        drop(found);
        sets[1].remove(round).wait_for(LIMIT).expect("it is removed");
        assert!(is_not_found(&sets[0].get_existing(round).wait_for(LIMIT)));
    }
}

#[test]
fn a_put_is_seen_by_nobody_before_it_is_kept() {
    for replicas in [0, 1] {
        let (_nodes, store, sets) = two(replicas);
        write(&sets[0], 7, "old").expect("it is stored");
        let gate = store.stop_writes();
        let mut guard = sets[0].grab(7).wait_for(LIMIT).expect("nobody holds it");
        *guard = "new".into();
        let put = guard.put();
        gate.wait_until_stopped();
        let other = sets[1].get(7);
        assert!(!put.is_ready() && !other.is_ready());
        assert!(sets[0].find(7).is_none(), "not even here");
        assert_eq!(store.text(7).as_deref(), Some("old"));
        gate.open();
        put.wait_for(LIMIT).expect("it is kept now");
        assert_eq!(*other.wait_for(LIMIT).expect("it is free"), "new");
        assert_eq!(store.text(7).as_deref(), Some("new"));
    }
}

#[test]
fn every_way_to_change_an_object_is_kept() {
    for replicas in [0, 1] {
        let (_nodes, store, sets) = two(replicas);
        sets[0].update(1, append('x')).wait_for(LIMIT).expect("an update");
        sets[1].update(1, append('x')).wait_for(LIMIT).expect("an update elsewhere");
        assert_eq!(store.text(1).as_deref(), Some("xx"));
        for mut guard in sets[0].grab_many(&[2, 3]).wait_for(LIMIT).expect("both") {
            guard.push('y');
            guard.put().wait_for(LIMIT).expect("it is stored");
        }
        assert_eq!((store.text(2), store.text(3)), (Some("y".into()), Some("y".into())));
        let add = |text: &mut String, more: String| text.push_str(&more);
        let operations = [&sets[0], &sets[1]].map(|set| set.operation("add", add).expect("the name is free"));
        operations[0].invoke(4, "a".into()).wait_for(LIMIT).expect("it runs here");
        operations[1].invoke(4, "b".into()).wait_for(LIMIT).expect("it runs there");
        operations[1].invoke(4, "c".into()).wait_for(LIMIT).expect("it runs there");
        assert_eq!(store.text(4).as_deref(), Some("abc"));
        // A guard that is dropped has changed nothing, and a put that changed nothing is one.
        sets[0].grab(1).wait_for(LIMIT).expect("a grab").push('z');
        assert_eq!(store.text(1).as_deref(), Some("xx"));
    }
}

#[test]
fn what_is_removed_is_removed_there_first() {
    let (_nodes, store, sets) = two(1);
    store.insert(9, "never read");
    write(&sets[0], 7, "a").expect("it is stored");
    write(&sets[0], 8, "b").expect("it is stored");
    sets[1].remove(7).wait_for(LIMIT).expect("it is removed");
    sets[1].grab(8).wait_for(LIMIT).expect("a grab").remove().wait_for(LIMIT).expect("it is removed");
    sets[0].remove(9).wait_for(LIMIT).expect("what is in the store alone is removed there");
    for object in 7..=9 {
        assert_eq!(store.text(object), None);
        assert!(is_not_found(&sets[0].get_existing(object).wait_for(LIMIT)));
    }
    let before = store.stamp(7).expect("a removal keeps its stamp");
    write(&sets[0], 7, "again").expect("it is stored");
    assert!(store.stamp(7) > Some(before), "what is made again is newer than the removal");
    assert_eq!(store.text(7).as_deref(), Some("again"));
}

#[test]
fn the_next_cluster_finds_what_the_last_one_put_and_the_last_one_is_refused() {
    let store = Arc::<Memory>::default();
    let first = cluster(2);
    let old = open(&first[1], &store, 0);
    write(&old, 7, "kept").expect("it is stored");
    let second = cluster(1);
    let new = open(&second[0], &store, 0);
    assert_eq!(read(&new, 7), "kept");
    assert!(first[1].linkers()[0].term < second[0].linkers()[0].term);
    write(&new, 7, "newer").expect("it is stored");
    let refused = linker_error(write(&old, 7, "too late"));
    assert!(matches!(refused, LinkerError::Refused { object: 7, .. }), "{refused:?}");
    assert_eq!(read(&old, 7), "kept", "nothing was published");
    let refused = linker_error(old.remove(7).wait_for(LIMIT));
    assert!(matches!(refused, LinkerError::Refused { object: 7, .. }), "{refused:?}");
    assert_eq!(store.text(7).as_deref(), Some("newer"));
    assert_eq!(counts(&first[1]).refused, 2);
    assert_eq!(read(&old, 7), "kept", "it was not removed either");
}

#[test]
fn stamps_grow_with_every_put_wherever_it_is() {
    let (_nodes, store, sets) = two(1);
    let mut last = Stamp::default();
    for round in 0..40 {
        write(&sets[round / 3 % 2], 7, "again").expect("it is stored");
        let stamp = store.stamp(7).expect("it is there");
        assert!(stamp > last, "{stamp:?} after {last:?}");
        last = stamp;
    }
}

#[test]
fn a_task_awaits_all_of_it() {
    let (_nodes, store, [set, _]) = two(1);
    store.insert(7, "stored");
    let work = async {
        let mut guard = set.grab(7).await?;
        guard.push_str(", and more");
        guard.put().await?;
        set.update(7, append('.')).await?;
        let text = set.get_existing(7).await?.clone();
        set.remove(7).await?;
        Ok::<_, Error>((text, set.get_existing(7).await.is_err()))
    };
    assert_eq!(memory::block_on(work).expect("nothing fails"), ("stored, and more.".into(), true));
    assert_eq!(store.text(7), None);
}
