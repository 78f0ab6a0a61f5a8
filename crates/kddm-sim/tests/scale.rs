//! What a membership costs as it grows: the shape of it. `kddm-sim scale` has the figures.

use kddm_sim::scale::{Figures, Size, run};

fn figures(nodes: u16) -> Figures {
    run(Size { owned: 16, ..Size::of(nodes) }).expect("nothing goes wrong here")
}

#[test]
fn a_miss_costs_the_same_in_a_larger_cluster() {
    // With three nodes the home is often one of the two that have to do with it anyway.
    let (small, large) = (figures(16).miss, figures(40).miss);
    assert!((large.messages - small.messages).abs() < 0.1 * small.messages, "{small:?} {large:?}");
    assert!((large.over_ms - small.over_ms).abs() < 0.1 * small.over_ms, "{small:?} {large:?}");
}

#[test]
fn each_member_tells_each_other_once_in_a_view() {
    for nodes in [3, 16] {
        let figures = figures(nodes);
        let others = f64::from(nodes);
        // A member comes in, and then shares: the first view moves nothing.
        assert!(figures.join.of_none >= others - 1.0, "{nodes}: {:?}", figures.join);
        assert!(figures.join.of_none <= 3.0 * others, "{nodes}: {:?}", figures.join);
        assert!(figures.loss.of_none >= others - 2.0, "{nodes}: {:?}", figures.loss);
    }
}

#[test]
fn all_ends_and_a_loss_ends_after_it_was_reported() {
    let figures = figures(16);
    for cost in [figures.join, figures.leave, figures.loss] {
        assert!(cost.holds_ms > 0.2 && cost.over_ms >= cost.holds_ms, "two hops at the least: {cost:?}");
        assert!(cost.over_ms < 1_000.0, "{cost:?}");
    }
    assert!(figures.objects_kib > figures.view_kib);
}

#[test]
fn sizes_that_are_none_are_refused() {
    for nodes in [0, 2, 1_024, u16::MAX] {
        assert!(run(Size::of(nodes)).is_err_and(|wrong| wrong.contains("give 3 to")), "{nodes}");
    }
}
