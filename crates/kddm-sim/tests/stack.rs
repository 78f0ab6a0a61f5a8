//! The search of the whole stack, searched itself.

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

/// The promise that a slip breaks, in the first of so many seeds that notices.
fn noticed(slip: Slip, within: u64) -> String {
    let found = (0..within).find_map(|seed| run(seed, Some(slip)).err());
    found.map_or_else(|| panic!("{} not within {within} seeds", slip.name()), |broken| broken.what)
}

#[test]
fn who_uses_what_it_holds_without_a_lease_is_noticed() {
    let what = noticed(Slip::UseWithoutLease, 20);
    assert!(what.starts_with("I8"), "{what}");
}

#[test]
fn a_new_leader_that_waits_for_nobody_is_noticed() {
    let what = noticed(Slip::ElectedWithoutWaiting, 40);
    assert!(what.starts_with("I8"), "{what}");
}

#[test]
fn what_an_earlier_epoch_has_said_is_noticed() {
    noticed(Slip::AcceptOldEpoch, 20);
}
