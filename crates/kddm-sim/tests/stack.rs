//! The search of the whole stack, searched itself.

use std::ops::Range;

use kddm_sim::stack::{Slip, run};

#[test]
fn some_seeds_are_clean_and_the_same_twice() {
    let mut kills = 0;
    for seed in 0..2 {
        let once = run(seed, None).unwrap_or_else(|broken| panic!("seed {seed}: {} {}", broken.at_ms, broken.what));
        kills += once.counts.kills;
        assert_eq!(run(seed, None), Ok(once), "seed {seed}");
    }
    assert!(kills > 0, "nobody was killed");
}

/// The promise that a slip breaks, in the first of these seeds that notices.
fn noticed(slip: Slip, mut seeds: Range<u64>) -> String {
    let found = seeds.find_map(|seed| run(seed, Some(slip)).err());
    found.map_or_else(|| panic!("{} is not noticed", slip.name()), |broken| broken.what)
}

#[test]
fn who_uses_what_it_holds_without_a_lease_is_noticed() {
    let what = noticed(Slip::UseWithoutLease, 3..20);
    assert!(what.starts_with("I8"), "{what}");
}

#[test]
fn a_new_leader_that_waits_for_nobody_is_noticed() {
    let what = noticed(Slip::ElectedWithoutWaiting, 9..40);
    assert!(what.starts_with("I8"), "{what}");
}

#[test]
fn what_an_earlier_epoch_has_said_is_noticed() {
    noticed(Slip::AcceptOldEpoch, 18..40);
}
