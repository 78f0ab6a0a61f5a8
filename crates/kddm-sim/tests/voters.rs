//! The search of the log of several voters, searched itself.

use kddm_sim::voters::run;
use kddm_view::Mutation;

/// Seeds within which each broken disk must show.
const WITHIN: u64 = 60;

#[test]
fn some_seeds_are_clean_and_the_same_twice() {
    for seed in 0..6 {
        let once = run(seed, None).unwrap_or_else(|broken| panic!("seed {seed}: {broken:?}"));
        assert_eq!(run(seed, None), Ok(once), "seed {seed}");
    }
}

/// A leader that had been let in with a state alone decided a late copy of a proposal once more.
#[test]
fn a_new_leader_takes_no_proposal_that_was_decided_before_it_came() {
    run(170, None).unwrap_or_else(|broken| panic!("{broken:?}"));
}

/// Those who were to vote took one that led no more for the leader, because it answered them, and voted
/// for nobody.
#[test]
fn who_leads_no_more_keeps_nobody_from_voting() {
    run(1087, None).unwrap_or_else(|broken| panic!("{broken:?}"));
}

/// Who could not know whether its proposal was decided asked on with its old number, which was taken.
#[test]
fn who_is_in_doubt_asks_anew() {
    run(1670, None).unwrap_or_else(|broken| panic!("{broken:?}"));
}

/// What one that could not decide for long was asked for last it did not take, and was not asked again.
#[test]
fn who_could_not_decide_for_long_decides_what_it_was_asked_for_last() {
    // Since elections are shorter nobody refuses anything in this run, and all that is wanted is decided still.
    let summary = run(2134, None).unwrap_or_else(|broken| panic!("{broken:?}"));
    assert!(summary.entries > 0 && summary.counts.blackouts > 0, "{summary:?}");
}

/// The first seed that notices.
fn noticed(mutation: Mutation) -> Option<(u64, String)> {
    (0..WITHIN).find_map(|seed| run(seed, Some(mutation)).err().map(|broken| (seed, broken.what)))
}

#[test]
fn a_disk_that_forgets_promises_is_noticed() {
    let found = noticed(Mutation::ForgetsPromises);
    assert!(found.is_some(), "not within {WITHIN} seeds");
    println!("{found:?}");
}

#[test]
fn a_disk_that_syncs_nothing_is_noticed() {
    let found = noticed(Mutation::SyncsNothing);
    assert!(found.is_some(), "not within {WITHIN} seeds");
    println!("{found:?}");
}
