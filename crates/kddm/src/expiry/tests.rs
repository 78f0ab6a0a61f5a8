//! Times of single objects, where the set beside is looked at, or is in somebody's hands.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use kddm_core::id::{PlacementPolicy, SetId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::Expire;
use super::each::{LIST, PART_LIMIT, Part, make_beside, make_room, name_of, part, part_of};
use super::here::Expiring;
use super::once::THREADS;
use super::rule::{Expiry, OnExpiry};
use crate::chain::chain;
use crate::coordination::CoordinationError;
use crate::error::{AccessError, Error};
use crate::eventually::eventually;
use crate::pending::Pending;
use crate::{Node, OnLoss, Set};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_millis(30);

/// Longer than a question takes that is asked for the times of objects.
const QUESTION: Duration = Duration::from_millis(1_200);

fn open(node: &Node) -> Set<u64> {
    node.set("leaving").expires().replicas(0).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

/// The set beside, as the node has it that keeps it.
fn beside(node: &Node, set: &Set<u64>) -> Set<Part> {
    let times = node.set(&name_of(set.0.here.set)).wait_limit(LIMIT);
    times.open_existing().wait_for(LIMIT).expect("it is there")
}

fn put(set: &Set<u64>, object: u64) {
    let change = |value: &mut u64| {
        *value = 7;
        Ok(())
    };
    set.update(object, change).wait_for(LIMIT).expect("it is put");
}

fn expire(set: &Set<u64>, object: u64, time: Expire) -> bool {
    set.expire(object, time).wait_for(LIMIT).expect("it has that time")
}

fn is_there(set: &Set<u64>, object: u64, limit: Duration) -> bool {
    match set.get_existing(object).wait_for(limit).map(drop) {
        Ok(()) => true,
        Err(Error::Access(AccessError::NotFound)) => false,
        Err(error) => panic!("{error}"),
    }
}

fn expiring() -> Arc<Expiring> {
    let (expired, failed, watched, under_way, sweep, times) = Default::default();
    let rule = Expiry { after: None, idle: None, on_expiry: OnExpiry::Evict, each: true };
    let (set, name, write_policy) = (SetId(0), "leaving".into(), None);
    Arc::new(Expiring { set, name, rule, write_policy, expired, failed, watched, under_way, sweep, times })
}

#[test]
fn what_is_wanted_while_others_are_asked_for_is_asked_for_too() {
    let of = expiring();
    let [first, second, third] = [1, 2, 3].map(|object| [object].into_iter());
    let asking = of.times.learn(&of, 1, first.clone()).expect("nobody asks yet");
    assert!(of.times.learn(&of, 1, first.clone()).is_none() && of.times.learn(&of, 1, second.clone()).is_none());
    let next = |object| assert_eq!(of.times.next_to_ask(), Some(part_of(object)));
    next(1);
    assert!(of.times.learn(&of, 1, first.clone()).is_none(), "once in a round");
    assert!(of.times.learn(&of, 1, third).is_none());
    of.times.end_of_round(2);
    assert!(of.times.learn(&of, 2, first.clone()).is_none());
    [2, 3, 1].into_iter().for_each(next);
    assert_eq!(of.times.next_to_ask(), None);
    drop(asking);
    assert!(of.times.learn(&of, 2, first).is_none());
    assert!(of.times.learn(&of, 2, second).is_some(), "it was not wanted in this round yet");
}

/// Somebody has the times of an object that is to go: whoever wants the object has it meanwhile.
#[test]
fn nobody_waits_for_an_object_whose_time_is_looked_up() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let sets = [0, 1].map(|at: usize| open(&nodes[at]));
    let times = beside(&nodes[1], &sets[1]);
    put(&sets[0], 7);
    assert!(expire(&sets[0], 7, Expire::After(QUESTION)));
    let leaves_in = || nodes[0].object_of("leaving", 7).ok()?.at_owner?.leaves_in;
    eventually(LIMIT, "its time is known", || leaves_in().is_some());
    let held = [LIST, part_of(7)].map(|number| times.grab(number).wait_for(LIMIT).expect("nobody has it"));
    let begun = Instant::now();
    while begun.elapsed() < 3 * QUESTION {
        assert!(is_there(&sets[1], 7, QUESTION * 3 / 4), "nobody could see that its time is over");
    }
    drop(held);
    eventually(LIMIT, "it has left", || !is_there(&sets[1], 7, LIMIT));
}

#[test]
fn a_time_that_could_not_be_forgotten_is_forgotten_later() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let sets = [0, 1].map(|at: usize| open(&nodes[at]));
    let times = beside(&nodes[1], &sets[1]);
    put(&sets[0], 7);
    assert!(expire(&sets[0], 7, Expire::After(SHORT)));
    let reads = times.get(part_of(7)).wait_for(LIMIT).expect("a copy");
    eventually(LIMIT, "it has left", || !is_there(&sets[1], 7, LIMIT));
    let left = Instant::now();
    eventually(LIMIT, "nobody has waited for so long", || left.elapsed() > QUESTION);
    assert!(reads.own(7).is_some(), "it is being read");
    drop(reads);
    let has_none = || times.get(part_of(7)).wait_for(LIMIT).expect("a copy").own(7).is_none();
    eventually(LIMIT, "it is forgotten", has_none);
}

/// As after a loss that was accepted.
#[test]
fn a_list_that_is_lost_is_made_anew() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let sets = [0, 1].map(|at: usize| open(&nodes[at]));
    let times = beside(&nodes[1], &sets[1]);
    let is_made = || times.get(LIST).wait_for(LIMIT).expect("a copy").changes > 0;
    (1..=3).for_each(|object| put(&sets[0], object));
    assert!(
        expire(&sets[0], 1, Expire::After(QUESTION)) && expire(&sets[0], 2, Expire::After(Duration::from_secs(600)))
    );
    times.remove(LIST).wait_for(LIMIT).expect("it is lost");
    eventually(LIMIT, "it has left by a time that is still known", || !is_there(&sets[1], 1, LIMIT));
    assert!(is_made() && is_there(&sets[1], 3, LIMIT));
    times.remove(LIST).wait_for(LIMIT).expect("it is lost");
    assert!(expire(&sets[1], 2, Expire::AsTheSet) && is_made());
    assert!(times.get(part_of(2)).wait_for(LIMIT).expect("a copy").own(2).is_none());
}

/// Keeps the threads of a node from what they are to do with times, until what this gives is dropped.
fn busy(node: &Node) -> Vec<Sender<()>> {
    let pool = node.runtime().signals.expiries.works.pool();
    let gates = (0..THREADS).map(|_| {
        let ((opens, gate), (begins, begun)) = (channel(), channel());
        let job = move || {
            begins.send(()).expect("the test listens");
            _ = gate.recv();
        };
        pool.take(|work| std::thread::Builder::new().spawn(work).map(drop), job).expect("it is taken");
        begun.recv().expect("it runs");
        opens
    });
    gates.collect()
}

/// Those who want something of the times of a set, each as far as he comes.
fn are_waiting(node: &Node, asked: &[Pending<bool>], set: &Set<Part>, number: u64) {
    let works = &node.runtime().signals.expiries.works;
    eventually(LIMIT, "all wait", || {
        assert!(!asked.iter().any(Pending::is_ready), "nothing is done yet");
        works.waiting(set.0.here.set.0, number) >= asked.len()
    });
    assert_eq!(works.pool().waiting(), 1, "for one that does it");
}

/// Has a part filled with the times of as many objects as it can have; these, and others that belong there.
fn full_part(set: &Set<u64>) -> (Vec<u64>, impl Iterator<Item = u64>) {
    let mut together = (0..).filter(|object| part_of(*object) == 7);
    let objects: Vec<u64> = together.by_ref().take(PART_LIMIT).collect();
    objects.iter().for_each(|object| assert!(!expire(set, *object, Expire::Never)));
    (objects, together)
}

#[test]
fn one_member_finds_out_which_parts_there_are_for_all_who_want_to_know() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let sets = [0, 1].map(|at: usize| open(&nodes[at]));
    let times = [0, 1].map(|at: usize| beside(&nodes[at], &sets[at]));
    put(&sets[0], 1);
    assert!(expire(&sets[0], 1, Expire::Never));
    // Before: whoever looks by himself what is to leave finds out, too.
    let busy = [busy(&nodes[0]), busy(&nodes[1])];
    times[0].remove(LIST).wait_for(LIMIT).expect("it is lost");
    let asked = [0, 1].map(|at: usize| -> Vec<Pending<bool>> {
        let objects = 10 * at as u64 + 10..10 * at as u64 + 18;
        objects.map(|object| sets[at].expire(object, Expire::Never)).collect()
    });
    (0..2).for_each(|at| are_waiting(&nodes[at], &asked[at], &times[at], LIST));
    let misses = || nodes.iter().map(|node| node.statistics().misses).sum::<u64>();
    let before = misses();
    drop(busy);
    for asked in asked.into_iter().flatten() {
        assert!(!asked.wait_for(LIMIT).expect("it has that time"), "it is not there");
    }
    let asked_for = misses() - before;
    assert!((1_000..1_500).contains(&asked_for), "{asked_for} questions, for 1,024 parts and 16 times");
    let list = times[1].get(LIST).wait_for(LIMIT).expect("a copy");
    assert_eq!(list.changes, 1);
    let part = times[1].get_existing(part_of(1)).wait_for(LIMIT).expect("it is there");
    assert!(part.own(1).is_some(), "what was there is known");
}

#[test]
fn one_makes_room_in_a_full_part_for_all_who_want_some() {
    let node = Node::local_cluster(1).expect("a cluster").remove(0);
    let set = open(&node);
    let times = beside(&node, &set);
    let (objects, more) = full_part(&set);
    let busy = busy(&node);
    let more: Vec<u64> = more.take(100).collect();
    let asked: Vec<_> = more.iter().map(|object| set.expire(*object, Expire::Never)).collect();
    are_waiting(&node, &asked, &times, 7);
    drop(busy);
    for asked in asked {
        assert!(!asked.wait_for(LIMIT).expect("there is room, and when it is used up there is more"));
    }
    let part = times.get(7).wait_for(LIMIT).expect("a copy");
    assert!(more.iter().all(|object| part.own(*object).is_some()));
    assert!(part.own(objects[0]).is_none() && part.own(objects[PART_LIMIT - 1]).is_some(), "the oldest have gone");
}

/// There is none where all objects are there; else nobody has found out.
#[test]
fn whoever_has_no_time_to_make_room_does_not_say_that_there_is_none() {
    let node = Node::local_cluster(1).expect("a cluster").remove(0);
    let set = open(&node);
    let times = beside(&node, &set);
    let (objects, mut more) = full_part(&set);
    let more = more.next().expect("there are many");
    let hurried: Set<u64> = node.set("leaving").wait_limit(Duration::ZERO).open().wait_for(LIMIT).expect("it opens");
    let builder = node.set(&name_of(set.0.here.set)).wait_limit(Duration::ZERO);
    let hurried_times: Set<Part> = builder.open_existing().wait_for(LIMIT).expect("it is there");
    let asked = hurried.expire(more, Expire::Never).wait_for(LIMIT).map(|_| ());
    for late in [asked, make_room(&set, &hurried_times, 7).map(|_| ())] {
        let late = late.expect_err("all of its time is over at once");
        assert!(matches!(late, Error::Access(AccessError::TimedOut { limit_ms: 0, .. })), "{late}");
    }
    assert_eq!(times.get(7).wait_for(LIMIT).expect("a copy").count(), PART_LIMIT, "nothing was forgotten");
    objects.iter().for_each(|object| put(&set, *object));
    let full = set.expire(more, Expire::Never).wait_for(LIMIT).expect_err("all are there");
    assert!(matches!(full, Error::Coordination(CoordinationError::TooMany { limit: PART_LIMIT, .. })), "{full}");
    set.remove(objects[1]).wait_for(LIMIT).expect("it is removed");
    assert!(!expire(&set, more, Expire::Never), "there is room for it, and it is not there");
}

/// As after losses that were accepted: the list is made anew when the part is not there yet that somebody is about to write.
#[test]
fn a_time_is_listed_that_is_given_while_the_list_is_lost() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let sets = [0, 1].map(|at: usize| open(&nodes[at]));
    let times = [0, 1].map(|at: usize| beside(&nodes[at], &sets[at]));
    let here = |at: usize, number| {
        let times = times[at].clone();
        let found = chain(async move { part(&times, number).await }, |_| AccessError::NotFound.into());
        found.wait_for(LIMIT).expect("it can be read")
    };
    let (objects, mut more) = full_part(&sets[0]);
    let busy = busy(&nodes[0]);
    let more = more.next().expect("there are more");
    let asked = [sets[0].expire(more, Expire::Never)];
    are_waiting(&nodes[0], &asked, &times[0], 7);
    [7, LIST].iter().for_each(|number| times[1].remove(*number).wait_for(LIMIT).expect("it is lost"));
    assert!(here(1, 7).own(objects[0]).is_none(), "nothing is known of it in the list that is made anew");
    drop(busy);
    for asked in asked {
        assert!(!asked.wait_for(LIMIT).expect("there is room"), "it is not there");
    }
    assert!((0..2).all(|at| here(at, 7).own(more).is_some()), "it is found by whoever looks");
}

/// Whoever gave it was cut short before he could list it.
#[test]
fn a_time_that_is_not_listed_can_be_taken_back() {
    let node = Node::local_cluster(1).expect("a cluster").remove(0);
    let set = open(&node);
    let times = beside(&node, &set);
    assert!(!expire(&set, 1, Expire::Never));
    let given = times.get_existing(part_of(1)).wait_for(LIMIT).expect("it is there").snapshot();
    times.remove(part_of(1)).wait_for(LIMIT).expect("it is lost");
    times.remove(LIST).wait_for(LIMIT).expect("so is the list");
    assert!(!expire(&set, 1, Expire::AsTheSet), "there is none, and none is made");
    assert!(matches!(times.get_existing(part_of(1)).wait_for(LIMIT), Err(Error::Access(AccessError::NotFound))));
    let again = move |part: &mut Part| {
        *part = (*given).clone();
        Ok(())
    };
    times.update(part_of(1), again).wait_for(LIMIT).expect("it is put");
    assert!(!expire(&set, 1, Expire::AsTheSet));
    let own = times.get_existing(part_of(1)).wait_for(LIMIT).expect("it is there").own(1);
    assert!(own.is_none(), "whoever is the next to list it finds {own:?}");
}

#[test]
fn times_of_what_can_be_made_anew_can_be_lost_like_that() {
    let node = Node::local_cluster(1).expect("a cluster").remove(0);
    for (name, on_loss) in [("cache", OnLoss::FirstTouch), ("kept", OnLoss::Error), ("older", OnLoss::Rollback)] {
        let set: Set<u64> = node.set(name).expires().on_loss(on_loss).open().wait_for(LIMIT).expect("the set opens");
        let of_times = node.set_info(&name_of(set.0.here.set)).expect("it is there").on_loss;
        assert_eq!(of_times == OnLoss::FirstTouch, on_loss == OnLoss::FirstTouch, "{of_times:?}");
    }
}

/// Whoever was making the set was cut short.
#[test]
fn times_of_a_set_that_was_never_made_can_be_destroyed() {
    let node = Node::local_cluster(1).expect("a cluster").remove(0);
    let set = open(&node);
    let never = SetId::new(PlacementPolicy::Hash, set.0.here.set.counter() + 1_000).expiring();
    let maker = node.clone();
    let make = chain(async move { make_beside(&maker, never).await }, |_| AccessError::NotFound.into());
    make.wait_for(LIMIT).expect("it is made");
    node.destroy_set(&name_of(never), LIMIT).wait_for(LIMIT).expect("nobody needs it");
    let needed = node.destroy_set(&name_of(set.0.here.set), LIMIT).wait_for(LIMIT).expect_err("it is needed");
    assert!(needed.to_string().contains("goes with the set"), "{needed}");
}

/// Of a value that this node cannot read.
#[derive(Clone, Default, Serialize)]
struct Strange(u64);

impl<'a> Deserialize<'a> for Strange {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Strange, D::Error> {
        match u64::deserialize(from)? {
            13 => Err(D::Error::custom("of that there is none")),
            other => Ok(Strange(other)),
        }
    }
}

#[test]
fn what_does_not_decode_leaves_too() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let sets = [0, 1].map(|at: usize| -> Set<Strange> {
        let builder = nodes[at].set("leaving").expire_after(QUESTION).expires().replicas(0).wait_limit(LIMIT);
        builder.open().wait_for(LIMIT).expect("the set opens")
    });
    let mut strange = sets[0].grab(7).wait_for(LIMIT).expect("nobody has it");
    strange.0 = 13;
    strange.put().wait_for(LIMIT).expect("it is put");
    sets[1].acquire(7).wait_for(LIMIT).expect("it moves");
    let found = sets[1].get_existing(7).wait_for(LIMIT).map(drop);
    assert!(matches!(found, Err(Error::Access(AccessError::Decode { .. }))), "{found:?}");
    eventually(LIMIT, "it has left", || sets[0].len().wait_for(LIMIT).expect("it is counted") == 0);
    eventually(LIMIT, "it is counted", || nodes[1].expiries()[0].expired == 1);
}
