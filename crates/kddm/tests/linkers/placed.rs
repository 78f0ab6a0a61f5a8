//! First touches where a linker wants to have them.

use std::sync::Arc;
use std::time::Duration;

use kddm::linker::{FirstOwner, Linker, Stamp, Store, Written};
use kddm::{LinkerError, Node, Set};

use crate::memory::{Memory, Trouble};
use crate::{LIMIT, counts, is_not_found, linker_error};

/// A store of this node, and where the objects of a hundred are to begin.
#[derive(Clone)]
struct Placed {
    store: Arc<Memory>,
    place: fn(u64) -> FirstOwner,
}

impl Linker<String> for Placed {
    fn first_touch(&self, object: u64) -> Result<Option<String>, LinkerError> {
        Linker::first_touch(&self.store, object)
    }

    fn default_owner(&self, object: u64) -> FirstOwner {
        (self.place)(object)
    }

    fn write_back(&self, object: u64, stamp: Stamp, value: &String) -> Result<Written, LinkerError> {
        Linker::write_back(&self.store, object, stamp, value)
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        Store::claim(&self.store)
    }
}

fn open(node: &Node, place: fn(u64) -> FirstOwner, limit: Duration) -> (Arc<Memory>, Set<String>) {
    let store = Arc::<Memory>::default();
    let builder = node.set("rows").linker("placed", Placed { store: Arc::clone(&store), place }).linker_limit(limit);
    let builder = builder.first_touch(|object| format!("made {object}")).replicas(0).wait_limit(LIMIT);
    (store, builder.open().wait_for(LIMIT).expect("the set opens"))
}

/// As another program would.
fn keep(store: &Memory, object: u64, text: &str) {
    store.insert(object, text);
}

fn owner(set: &Set<String>, object: u64) -> u16 {
    let found = set.scan().map(|found| found.expect("all answer")).find(|found| found.id == object);
    found.and_then(|found| found.owner).expect("it is owned")
}

/// Objects from 100 on begin at node 2, from 200 on nowhere else.
fn by_hundreds(object: u64) -> FirstOwner {
    match object {
        100..200 => FirstOwner::Prefers(2),
        200..300 => FirstOwner::Only(2),
        300..400 => FirstOwner::Prefers(9),
        400..500 => FirstOwner::Only(9),
        _ => FirstOwner::Whoever,
    }
}

#[test]
fn an_object_begins_where_its_linker_wants_it() {
    let nodes = crate::cluster(3);
    let all: Vec<_> = nodes.iter().map(|node| open(node, by_hundreds, LIMIT)).collect();
    for object in [107, 207] {
        keep(&all[1].0, object, "at the second");
        assert_eq!(*all[0].1.get(object).wait_for(LIMIT).expect("it is read there"), "at the second");
        assert_eq!(owner(&all[2].1, object), 2);
        assert_eq!(*all[2].1.get_existing(object).wait_for(LIMIT).expect("it exists"), "at the second");
    }
    let at = |node: usize| counts(&nodes[node]);
    assert_eq!((at(0).reads, at(0).elsewhere, at(1).reads, at(1).for_others, at(2).reads), (0, 2, 2, 2, 0));
    drop(all[0].1.get(7).wait_for(LIMIT).expect("it is made here"));
    assert_eq!(owner(&all[1].1, 7), 1);
    // Whoever is named does not ask anybody.
    drop(all[1].1.get(208).wait_for(LIMIT).expect("it is made"));
    assert_eq!((at(1).elsewhere, owner(&all[0].1, 208)), (0, 2));
    // Each way to an object.
    (220..230).for_each(|object| keep(&all[1].0, object, "there"));
    let set = &all[0].1;
    set.fetch(220).wait_for(LIMIT).expect("a fetch");
    assert_eq!(*set.find(220).expect("it is here"), "there");
    assert_eq!(*set.grab(221).wait_for(LIMIT).expect("a grab"), "there");
    assert_eq!(*set.try_grab(222).wait_for(LIMIT).expect("nobody holds it"), "there");
    assert_eq!(set.update(223, |text| Ok(text.clone())).wait_for(LIMIT).expect("an update"), "there");
    let both = kddm::together((set.to_grab(224), set.to_get(225))).wait_for(LIMIT).expect("both");
    assert_eq!((both.0.as_str(), both.1.as_str()), ("there", "there"));
}

#[test]
fn what_is_nowhere_is_made_there_or_here_or_not_at_all() {
    let nodes = crate::cluster(2);
    let all: Vec<_> = nodes.iter().map(|node| open(node, by_hundreds, LIMIT)).collect();
    let set = &all[0].1;
    assert!(is_not_found(&set.get_existing(201).wait_for(LIMIT)));
    assert!(is_not_found(&set.grab_existing(201).wait_for(LIMIT)));
    assert_eq!(*set.get(201).wait_for(LIMIT).expect("it is made"), "made 201");
    assert_eq!(owner(set, 201), 2, "as any of the set, where it begins");
    let guard = set.grab_or_insert_with(202, || "mine".into()).wait_for(LIMIT).expect("it is made");
    assert_eq!(*guard, "mine", "only this node knows how");
    guard.put().wait_for(LIMIT).expect("it is put");
    assert_eq!(*all[1].1.get(202).wait_for(LIMIT).expect("a copy"), "mine");
}

#[test]
fn without_that_node_it_begins_with_whoever_wants_it_or_not_at_all() {
    let nodes = crate::cluster(2);
    let (store, set) = open(&nodes[0], by_hundreds, LIMIT);
    (0..500).for_each(|object| keep(&store, object, "here"));
    for object in [107, 307] {
        assert_eq!(*set.get(object).wait_for(LIMIT).expect("it is read here"), "here");
    }
    // The second node has not opened the set, and there is no ninth.
    for (object, of) in [(207, 2), (407, 9)] {
        let error = linker_error(set.get(object).wait_for(LIMIT));
        assert!(matches!(error, LinkerError::Elsewhere { node, .. } if node == of), "{error:?}");
    }
    let (there, _second) = open(&nodes[1], by_hundreds, LIMIT);
    keep(&there, 207, "there");
    assert_eq!(*set.get(207).wait_for(LIMIT).expect("now it is read there"), "there");
    // What fails there is no reason to read something else here.
    for trouble in [Trouble::Fails, Trouble::Panics] {
        there.trouble(trouble, Trouble::None);
        for object in [108, 208] {
            let error = linker_error(set.get(object).wait_for(LIMIT));
            assert!(matches!(error, LinkerError::Elsewhere { node: 2, .. }), "{error:?}");
        }
    }
    there.trouble(Trouble::None, Trouble::None);
    keep(&there, 108, "there");
    assert_eq!(*set.get(108).wait_for(LIMIT).expect("it is read there"), "there");
}

#[test]
fn who_does_not_answer_in_time_keeps_nobody_longer() {
    let nodes = crate::cluster(2);
    let short = Duration::from_millis(300);
    let (_, set) = open(&nodes[0], by_hundreds, short);
    let (there, _second) = open(&nodes[1], by_hundreds, LIMIT);
    keep(&there, 207, "there");
    let gate = there.stop_reads();
    let error = linker_error(set.get(207).wait_for(LIMIT));
    assert!(matches!(error, LinkerError::Elsewhere { node: 2, .. }), "{error:?}");
    there.stop_nobody();
    gate.open();
    assert_eq!(*set.get(207).wait_for(LIMIT).expect("it is read"), "there");
}

#[test]
fn two_who_name_each_other_do_not_ask_for_ever() {
    let nodes = crate::cluster(2);
    let (_, first) = open(&nodes[0], |_| FirstOwner::Only(2), LIMIT);
    let (_, second) = open(&nodes[1], |_| FirstOwner::Only(1), LIMIT);
    for object in 0..20 {
        let sets = if object % 2 == 0 { [&first, &second] } else { [&second, &first] };
        std::thread::scope(|scope| {
            for set in sets {
                scope.spawn(move || drop(set.get(object).wait_for(LIMIT).expect("it is made")));
            }
        });
    }
}
