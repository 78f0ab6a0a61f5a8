//! From a seed that fails to a smaller scenario that still does: fewer faults, nodes, operations.

use std::collections::BTreeSet;

use crate::run;
use crate::scenario::{Cut, Scenario};

/// Runs spent on it: a few seconds to a minute.
const MOST_RUNS: u32 = 3_000;

/// A seed's failing scenario on its way to a smaller one.
struct Shrinking {
    seed: u64,
    cut: Cut,
    /// The first word of what is broken, an invariant: another failure is another bug.
    broken: String,
    runs: u32,
}

/// Leaves out what the failure can do without; none if the seed does not fail.
pub fn shrink(seed: u64) -> Option<Cut> {
    let cut = Cut::default();
    shrink_from(seed, cut, |scenario| run::run_scenario(scenario, None).broken)
}

/// The same for whatever says what is broken in a scenario.
pub fn shrink_by(seed: u64, broken: impl Fn(&Scenario) -> Option<String>) -> Option<Cut> {
    shrink_from(seed, Cut::default(), broken)
}

fn shrink_from(seed: u64, cut: Cut, broken: impl Fn(&Scenario) -> Option<String>) -> Option<Cut> {
    let first = broken(&Scenario::of(seed, &cut))?;
    let mut shrinking = Shrinking { seed, cut, broken: first_word(&first), runs: 0 };
    loop {
        let before = shrinking.cut.clone();
        shrinking.faults(&broken);
        shrinking.nodes(&broken);
        shrinking.operations(&broken);
        if shrinking.cut == before || shrinking.runs >= MOST_RUNS {
            return Some(shrinking.cut);
        }
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

impl Shrinking {
    /// Takes the smaller scenario if it still fails in the same way.
    fn take(&mut self, smaller: Cut, broken: &impl Fn(&Scenario) -> Option<String>) -> bool {
        if self.runs >= MOST_RUNS {
            return false;
        }
        self.runs += 1;
        let still = broken(&Scenario::of(self.seed, &smaller)).is_some_and(|text| first_word(&text) == self.broken);
        if still {
            self.cut = smaller;
        }
        still
    }

    fn faults(&mut self, broken: &impl Fn(&Scenario) -> Option<String>) {
        for fault in Scenario::of(self.seed, &self.cut).asked() {
            let mut smaller = self.cut.clone();
            smaller.without.insert(fault);
            self.take(smaller, broken);
        }
    }

    fn nodes(&mut self, broken: &impl Fn(&Scenario) -> Option<String>) {
        let nodes = Scenario::of(self.seed, &self.cut).nodes;
        for fewer in 1..nodes {
            if self.take(Cut { nodes: Some(fewer), ..self.cut.clone() }, broken) {
                return;
            }
        }
    }

    /// Leaves out halves, quarters, and so on down to single operations.
    fn operations(&mut self, broken: &impl Fn(&Scenario) -> Option<String>) {
        let scenario = Scenario::of(self.seed, &self.cut);
        let number = |program: &crate::scenario::Program| {
            program.operations.iter().map(|timed| (program.number, timed.number)).collect::<Vec<_>>()
        };
        let mut kept: Vec<(u16, u16)> = scenario.programs.iter().flat_map(number).collect();
        let mut size = kept.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < kept.len() {
                let fewer: Vec<(u16, u16)> =
                    kept.iter().enumerate().filter(|(i, _)| *i < at || *i >= at + size).map(|(_, op)| *op).collect();
                let keep: BTreeSet<(u16, u16)> = fewer.iter().copied().collect();
                if self.take(Cut { keep: Some(keep), ..self.cut.clone() }, broken) {
                    kept = fewer;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
    }
}
