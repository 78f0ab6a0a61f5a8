//! The search itself.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{STATE_LIMIT, Search, Step, World};

/// What a search has found.
#[derive(Default)]
pub(super) struct Found {
    pub states: usize,
    pub steps: usize,
    pub depth: usize,
    pub broken: Option<String>,
    pub trace: Vec<String>,
}

impl Search {
    /// Breadth first, so that the way to what is broken is short.
    pub(super) fn run(&self) -> Found {
        let mut found = Found::default();
        let mut seen = HashSet::new();
        let mut ways: Vec<(usize, Step)> = vec![(0, Step::Tick)];
        let first = self.first();
        seen.insert(fingerprint(&first));
        let mut front = vec![(0, first)];
        while !front.is_empty() {
            let mut next = Vec::new();
            for (way, world) in front {
                for step in self.steps(&world) {
                    found.steps += 1;
                    let mut after = world.clone();
                    let broken = self.take(&mut after, step).err();
                    if broken.is_none() && !seen.insert(fingerprint(&after)) {
                        continue;
                    }
                    ways.push((way, step));
                    if broken.is_some() {
                        found.states = seen.len();
                        found.broken = broken;
                        found.trace = self.trace(&ways);
                        return found;
                    }
                    next.push((ways.len() - 1, after));
                }
            }
            found.depth += 1;
            if seen.len() > STATE_LIMIT {
                found.broken = Some("the limit was over before all was seen".into());
                break;
            }
            front = next;
        }
        found.states = seen.len();
        found
    }

    fn trace(&self, ways: &[(usize, Step)]) -> Vec<String> {
        let mut at = ways.len() - 1;
        let mut steps = vec![format!("clocks: {:?} parts a tick", self.rates)];
        while at != 0 {
            let (before, step) = ways[at];
            steps.insert(1, format!("{step:?}"));
            at = before;
        }
        steps
    }
}

fn fingerprint(world: &World) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, world).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (half(1) << 64) | half(2)
}
