//! Objects with times of their own.

use std::time::{Duration, Instant};

use kddm::expiry::PART_LIMIT;
use kddm::{Cursor, Error, Expire, Node, Set, SetBuilder, SetError};
use kddm_core::id::mix;

use super::{LIMIT, LONG, TIME, attached, cluster, expired, find, info, is_empty, members, put, until};

fn open(node: &Node, time: Option<Duration>, replicas: u8) -> Set<u64> {
    let builder = node.set("leaving").expires().replicas(replicas).wait_limit(LIMIT);
    let builder: SetBuilder<u64> = if let Some(time) = time { builder.expire_after(time) } else { builder };
    builder.open().wait_for(LIMIT).expect("the set opens")
}

fn expire(set: &Set<u64>, object: u64, time: Expire) -> bool {
    set.expire(object, time).wait_for(LIMIT).expect("it has that time")
}

/// Puts an object that has that time of its own before that of the set is over. When that was begun.
fn put_with(set: &Set<u64>, object: u64, time: Expire) -> Instant {
    loop {
        put(set, object, 7);
        let begun = Instant::now();
        if expire(set, object, time) && find(set, object) == Some(7) {
            return begun;
        }
    }
}

fn leaves_in(node: &Node, object: u64) -> Option<Duration> {
    node.object_of("leaving", object).ok()?.at_owner?.leaves_in
}

fn sees_no_faults(nodes: &[Node]) {
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn one_leaves_sooner_than_its_set_says_and_has_the_time_of_the_set_when_it_is_made_anew() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], Some(LONG), 1));
    (1..=20).for_each(|object| _ = put(&sets[0], object, 7));
    let begun = Instant::now();
    (1..=10).for_each(|object| assert!(expire(&sets[object as usize % 2], object, Expire::After(TIME))));
    until("ten have left", || sets[1].len().wait_for(LIMIT).expect("it is counted") == 10);
    assert!(begun.elapsed() >= TIME, "one left before its time");
    assert!((11..=20).all(|object| find(&sets[1], object) == Some(7)), "the others are there");
    until("they are counted", || expired(&nodes) == 10);
    put(&sets[0], 1, 8);
    until("its time has gone with the one before", || {
        if find(&sets[1], 1).is_none() {
            put(&sets[0], 1, 8);
        }
        leaves_in(&nodes[1], 1).is_some_and(|left| left > LONG / 2)
    });
    sees_no_faults(&nodes);
}

#[test]
fn one_stays_longer_than_its_set_says_or_for_ever_until_it_is_to_be_as_the_set() {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, Some(TIME), 1)).collect();
    put_with(&sets[0], 1, Expire::After(LONG));
    put_with(&sets[0], 2, Expire::Never);
    let begun = put(&sets[0], 3, 7);
    until("the time of the set has been over for long", || begun.elapsed() > 4 * TIME && find(&sets[1], 3).is_none());
    assert_eq!((find(&sets[1], 1), find(&sets[1], 2)), (Some(7), Some(7)));
    until("it leaves late", || leaves_in(&nodes[1], 1).is_some_and(|left| left > LONG / 2));
    assert_eq!(leaves_in(&nodes[1], 2), None);
    // Wherever they move.
    (1..=2).for_each(|object| sets[object as usize].acquire(object).wait_for(LIMIT).expect("it moves"));
    let begun = Instant::now();
    until("the time of the set is over there, too", || begun.elapsed() > 3 * TIME);
    assert_eq!((find(&sets[0], 1), find(&sets[0], 2)), (Some(7), Some(7)));
    let begun = Instant::now();
    assert!(expire(&sets[0], 2, Expire::AsTheSet), "it is there");
    until("it has left", || find(&sets[0], 2).is_none());
    assert!(begun.elapsed() >= TIME, "it counts from then on");
    assert!(expire(&sets[1], 1, Expire::After(TIME)));
    until("the other one, too", || is_empty(&sets[2]));
    sees_no_faults(&nodes);
}

#[test]
fn a_set_without_a_time_has_some_that_leave() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], None, 0));
    (1..=3).for_each(|object| _ = put(&sets[0], object, 7));
    assert!(expire(&sets[1], 1, Expire::After(TIME)) && expire(&sets[1], 2, Expire::Idle(TIME)));
    let begun = Instant::now();
    let mut last = begun;
    let mut is_late = false;
    until("it was used for long", || {
        let now = Instant::now();
        let found = find(&sets[0], 2);
        // A machine that is busy may not have let it be used in time.
        is_late |= last.elapsed() >= TIME;
        assert!(is_late || found == Some(7), "it was just used");
        last = now;
        begun.elapsed() > 4 * TIME && find(&sets[1], 1).is_none()
    });
    until("nobody uses it, and it has left", || sets[0].len().wait_for(LIMIT).expect("it is counted") == 1);
    assert!(is_late || last.elapsed() >= TIME);
    assert_eq!(find(&sets[1], 3), Some(7));
    let (said, known) = (nodes[1].set_info("leaving").expect("it is there"), info(&nodes[0]));
    assert!(said.expire_each && known.each && said.expire_after.is_none() && known.after.is_none());
    sees_no_faults(&nodes);
}

/// Who is told that the object is there has it for the new time, whoever was just having it go.
#[test]
fn what_is_told_to_be_there_stays_by_its_new_time() {
    const SHORT: Duration = Duration::from_millis(40);
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], Some(SHORT), 0));
    let (mut gone, mut there) = (0, 0);
    for round in 1..=150_u64 {
        let (writer, other) = (&sets[round as usize % 2], &sets[(round / 2) as usize % 2]);
        expire(writer, 7, Expire::AsTheSet);
        let begun = put(writer, 7, round);
        let moment = SHORT - Duration::from_millis(2) + Duration::from_micros(round * 7_919 % 14_000);
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        if !expire(other, 7, Expire::Never) {
            gone += 1;
            continue;
        }
        there += 1;
        let told = Instant::now();
        while told.elapsed() < SHORT / 4 {
            assert_eq!(find(other, 7), Some(round), "round {round}: it was told to be there");
        }
    }
    assert!(gone > 0 && there > 0, "gone {gone}, there {there}");
    sees_no_faults(&nodes);
}

/// Nobody of those that are left has opened the set.
#[test]
fn times_outlive_the_owner_and_whoever_gave_them() {
    let mut nodes = members(3);
    let set = open(&nodes[2], Some(TIME), 2);
    (0..10).for_each(|object| _ = put_with(&set, object, Expire::Never));
    (10..20).for_each(|object| _ = put(&set, object, 7));
    drop(set);
    nodes.remove(2).stop_within(Duration::ZERO);
    let left = |node: &Node| {
        let (mut left, mut from) = (Vec::new(), Some(Cursor::default()));
        while let Some(cursor) = from {
            let page = node.objects_of("leaving", cursor, 100).ok()?;
            left.extend(page.objects.iter().map(|object| object.id));
            from = page.next;
        }
        left.sort_unstable();
        Some(left)
    };
    let staying: Vec<u64> = (0..10).collect();
    until("the others have left", || left(&nodes[0]).is_some_and(|left| left == staying));
    let set = open(&nodes[1], Some(TIME), 2);
    let begun = Instant::now();
    until("the time of the set is over once more", || begun.elapsed() > 3 * TIME);
    assert!((0..10).all(|object| find(&set, object) == Some(7)));
    sees_no_faults(&nodes);
}

#[test]
fn programs_give_times_too() {
    let node = cluster(1).remove(0);
    let program = attached(&node, "each");
    let set = open(&program, Some(LONG), 0);
    put(&set, 1, 7);
    put(&set, 2, 7);
    let begun = Instant::now();
    assert!(expire(&set, 1, Expire::After(TIME)));
    assert!(!expire(&set, 3, Expire::Never), "nobody has made it");
    until("it has left", || find(&set, 1).is_none());
    assert!(begun.elapsed() >= TIME && find(&set, 2) == Some(7));
    program.destroy_set("leaving", LIMIT).wait_for(LIMIT).expect("it is destroyed");
    assert_eq!(node.sets().expect("they are known"), [], "nor are its times there");
    let ended = set.expire(1, Expire::Never).wait_for(LIMIT).expect_err("it has ended");
    assert!(matches!(ended, Error::Set(SetError::Destroyed)), "{ended}");
}

#[test]
fn there_are_limits_and_only_sets_made_for_it_have_them() {
    let nodes = cluster(2);
    let set = open(&nodes[0], None, 0);
    let together = (0..).filter(|object| mix(*object) % 1024 == 7).take(PART_LIMIT + 1);
    let together: Vec<u64> = together.collect();
    together.iter().for_each(|object| _ = put(&set, *object, 7));
    (together[1..].iter()).for_each(|object| assert!(expire(&set, *object, Expire::Never)));
    let refused =
        |set: &Set<u64>, object, time| set.expire(object, time).wait_for(LIMIT).expect_err("it cannot be").to_string();
    let full = refused(&set, together[0], Expire::Never);
    assert!(full.contains("1024") && full.contains("remove some"), "{full}");
    expire(&set, together[1], Expire::AsTheSet);
    expire(&set, together[0], Expire::Never);
    refused(&set, together[1], Expire::Never);
    set.remove(together[500]).wait_for(LIMIT).expect("it is removed");
    assert!(expire(&set, together[1], Expire::Never), "what is not there makes room");
    let short = refused(&set, 1, Expire::Idle(Duration::from_millis(1)));
    assert!(short.contains("at least 20 ms"), "{short}");
    let long = refused(&set, 1, Expire::After(Duration::MAX));
    assert!(long.contains("at most 366 days"), "{long}");
    // Sets that are not made for it.
    let plain: Set<u64> = nodes[0].set("staying").open().wait_for(LIMIT).expect("it opens");
    let for_all: Set<u64> = nodes[0].set("all").expire_after(LONG).open().wait_for(LIMIT).expect("it opens");
    for set in [&plain, &for_all] {
        let unfit = refused(set, 1, Expire::Never);
        assert!(unfit.contains(".expires()"), "{unfit}");
    }
    let differs = nodes[1].set::<u64>("all").expires().open().wait_for(LIMIT).expect_err("it differs").to_string();
    assert!(differs.contains("expires"), "{differs}");
    // What keeps the times is not for others, and goes with its set.
    let beside = format!("kddm.times/{}", nodes[0].set_info("leaving").expect("it is there").id);
    let taken = nodes[1].set::<u64>(&beside).open().wait_for(LIMIT).expect_err("it is taken").to_string();
    assert!(taken.contains("times of objects"), "{taken}");
    let alone = nodes[1].destroy_set(&beside, LIMIT).wait_for(LIMIT).expect_err("it stays").to_string();
    assert!(alone.contains("goes with the set"), "{alone}");
    let frozen =
        nodes[1].freeze_set(&beside, LIMIT).wait_for(LIMIT).map(drop).expect_err("it is not frozen").to_string();
    assert!(frozen.contains("freeze that one"), "{frozen}");
    assert!(nodes[1].set_info(&beside).is_ok());
    nodes[1].destroy_set("leaving", LIMIT).wait_for(LIMIT).expect("it is destroyed");
    assert!(nodes[1].set_info(&beside).is_err(), "it has gone");
    let ended = set.expire(1, Expire::Never).wait_for(LIMIT).expect_err("it has ended");
    assert!(matches!(ended, Error::Set(SetError::Destroyed)), "{ended}");
    sees_no_faults(&nodes);
}
