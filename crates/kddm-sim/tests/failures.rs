//! The cases of a failure that need a test by name (`docs/testing.md`, "A member fails"), as far as every moment of
//! them can be searched: one member is lost at any step, everything that was under way included.

use std::time::Duration;

use kddm_sim::model;

/// More than any of these cases needs on a slow machine; reaching it fails the test.
const LIMIT: Duration = Duration::from_secs(300);

#[track_caller]
fn is_clean_at_every_moment(name: &str) {
    let case = model::case(name).expect("the name is well formed");
    let report = model::search(&case, LIMIT);
    assert!(report.clean, "{name}: {:?}\n{}", report.broken, report.trace.join("\n"));
    assert!(report.states > 500, "{name}: only {} states, the search cannot have run", report.states);
}

#[test]
fn case_1_an_owner_is_lost_before_while_and_after_it_passes_the_object_on() {
    is_clean_at_every_moment("2:w,w,+k");
}

#[test]
fn case_2_whoever_asks_is_lost_before_and_after_the_object_arrives_and_is_put() {
    is_clean_at_every_moment("1:w,w,+k");
}

#[test]
fn case_3_a_sharer_is_lost_while_it_is_told_to_drop_its_copy() {
    is_clean_at_every_moment("3:w,r,+k");
}

#[test]
fn case_4_a_home_is_lost_at_each_point_of_a_first_touch() {
    is_clean_at_every_moment("3:w,,+k");
}

#[test]
fn case_5_a_home_that_is_the_owner_is_lost() {
    is_clean_at_every_moment("1:w,r,+k");
}

#[test]
fn case_6_an_owner_is_lost_with_a_put_that_not_all_replicas_have() {
    is_clean_at_every_moment("2:w,,+k+R1");
}

#[test]
fn case_11_a_removal_meets_a_read_and_a_loss() {
    is_clean_at_every_moment("2:wx,r,+k");
}

#[test]
fn case_17_a_try_grab_meets_a_grab_and_a_loss() {
    is_clean_at_every_moment("1:wt,w,+k");
}

#[test]
fn case_18_what_is_lost_without_replicas_is_reported_and_accepted() {
    is_clean_at_every_moment("3:w,,+k+a");
}

#[test]
fn case_19_a_second_member_is_lost_while_the_others_recover_from_the_first() {
    is_clean_at_every_moment("3:w,,+k+k+R1");
}

/// The home of a removed object said that it was gone, and was lost before the last replica had heard it.
#[test]
fn what_is_gone_does_not_come_back_when_its_home_is_lost_too() {
    is_clean_at_every_moment("3:wx,,w+k+k+R1");
}
