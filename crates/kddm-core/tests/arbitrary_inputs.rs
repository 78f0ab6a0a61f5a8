//! Whatever peers say to one node, it does not panic, fault, grow without bound, or break its contract
//! with its home: a peer cannot fence another by lying.
#![allow(clippy::unwrap_used)]

mod one_node;

use std::collections::BTreeMap;

use kddm_core::message::Message;
use one_node::tell;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_node_survives_whatever_its_peers_say(bytes in vec(any::<u8>(), 0..1500)) {
        tell(&bytes);
    }
}

/// The splitmix generator: the same bytes at every run.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// What was meant to happen has happened, or the test above shows nothing.
#[test]
fn the_stories_reach_everything() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..600 {
        for (name, count) in tell(&noise(seed, 1500)).seen {
            *seen.entry(name).or_default() += count;
        }
    }
    let outputs = ["sent", "installed", "granted", "revoked", "tried to revoke", "answered", "discarded", "dropped"];
    let of_failures = [
        "lost a member",
        "settled",
        "put done",
        "stored a replica",
        "kept a replica",
        "dropped a replica",
        "used a replica",
    ];
    for name in Message::NAMES.iter().chain(&outputs).chain(&of_failures) {
        let count = seen.get(name).copied().unwrap_or_default();
        assert!(count > 20, "`{name}` happened only {count} times: {seen:?}");
    }
}
