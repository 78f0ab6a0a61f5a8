//! Operations that programs invoke: their node knows where the object is, and they run nothing for others.

use kddm::{Node, Operation, Set};

use crate::seat::LIMIT;
use crate::{House, open};

fn add(set: &Set<u64>) -> Operation<u64, u64, u64> {
    let code = |count: &mut u64, by: u64| {
        *count += by;
        *count
    };
    set.operation("add", code).expect("the name is free")
}

fn moves(house: &House) -> u64 {
    house.nodes.iter().map(|node| node.statistics().moves()).sum()
}

fn served(house: &House) -> Vec<u64> {
    house.nodes.iter().map(|node| node.statistics().invoking.served).collect()
}

#[test]
fn a_program_has_the_owner_run_it_wherever_that_is() {
    let house = House::new();
    let program = house.program();
    let sets: Vec<Set<u64>> = house.nodes.iter().map(open).collect();
    let _adds: Vec<_> = sets.iter().map(add).collect();
    let here = add(&open(&program));
    for (object, set) in (10..).zip(&sets) {
        set.acquire(object).wait_for(LIMIT).expect("it is there");
        set.grab(object).wait_for(LIMIT).expect("nobody holds it").put().wait_for(LIMIT).expect("it is put");
    }
    let moved = moves(&house);
    for count in 1..=5 {
        assert_eq!(here.invoke(10, 1).wait().expect("its node owns it"), count);
        assert_eq!(here.invoke(11, 1).wait().expect("the other one owns it"), count);
    }
    assert_eq!((served(&house), moves(&house)), (vec![5, 5], moved));
    assert_eq!(program.statistics().invoking.fallbacks, 0);
    house.check();
}

#[test]
fn what_only_programs_can_run_comes_to_who_asks() {
    let house = House::new();
    let (first, second) = (house.program(), house.program());
    let adds = [add(&open(&first)), add(&open(&second))];
    for count in 1..=6u64 {
        let add = &adds[(count % 2) as usize];
        assert_eq!(add.invoke(3, 1).wait().expect("it comes here"), count);
    }
    assert!(first.statistics().invoking.fallbacks > 0);
    assert_eq!(served(&house), [0, 0]);
    // A node that has it meets an object that a program has on loan: it is asked back as by anyone.
    let there = add(&open(&house.nodes[1]));
    assert_eq!(there.invoke(3, 1).wait().expect("it is given back"), 7);
    let own = add(&open(&house.nodes[0]));
    assert_eq!(own.invoke(3, 1).wait().expect("it is there"), 8);
    house.check();
}

#[test]
fn threads_of_nodes_and_programs_count_each_once() {
    let house = House::new();
    let programs: Vec<Node> = (0..2).map(|_| house.program()).collect();
    let adds: Vec<_> = house.nodes.iter().chain(&programs).map(|node| add(&open(node))).collect();
    let threads: Vec<_> = adds
        .iter()
        .flat_map(|add| [add.clone(), add.clone()])
        .map(|add| {
            std::thread::spawn(move || {
                let invoked = (0..50).map(|_| add.invoke(1, 1).wait().expect("nothing goes wrong"));
                invoked.collect::<Vec<u64>>()
            })
        })
        .collect();
    let mut counts: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=400).collect::<Vec<u64>>());
    house.check();
}
