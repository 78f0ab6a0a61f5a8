//! The rules of leases hold in every interleaving of a small case, and the search sees when they do not.
//! `cargo xtask model` searches the larger ones.

use kddm_sim::lease_model::{CASES, Deviation, search};

#[test]
fn no_member_uses_what_it_holds_after_its_expulsion() {
    let report = search(CASES[0], None, false);
    assert!(report.clean, "{:?}\n{}", report.broken, report.trace.join("\n"));
    assert!(report.states > 10_000, "{} states: little was looked at", report.states);
}

#[test]
fn every_deviation_is_found() {
    for deviation in Deviation::ALL {
        let report = search(deviation.case(), Some(deviation), false);
        let broken = report.broken.unwrap_or_else(|| panic!("{deviation:?} is not found in {}", report.name));
        assert!(broken.contains("after its expulsion"), "{deviation:?}: {broken}");
        println!("{deviation:?}: {} after {} states\n  {}", report.name, report.states, report.trace.join("\n  "));
    }
}
