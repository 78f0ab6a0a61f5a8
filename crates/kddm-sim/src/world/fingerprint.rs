//! A world in 128 bits: what tells a search whether it has been there.

use std::hash::{Hash, Hasher};

use super::{Action, World};

/// Two halves, made by multiplications of their own. Of a hundred million worlds, two have the same
/// fingerprint by chance once in 10^22 searches.
#[derive(Clone, Copy)]
struct Fingerprinter(u64, u64);

const FACTORS: (u64, u64) = (0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93);

fn fold(value: u64, factor: u64) -> u64 {
    let product = u128::from(value) * u128::from(factor);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Fingerprinter {
    fn new() -> Fingerprinter {
        Fingerprinter(FACTORS.1, FACTORS.0)
    }

    fn value(self) -> u128 {
        u128::from(fold(self.0 ^ FACTORS.1, FACTORS.0)) << 64 | u128::from(fold(self.1 ^ FACTORS.0, FACTORS.1))
    }
}

impl Hasher for Fingerprinter {
    fn finish(&self) -> u64 {
        self.value() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.write_u64(u64::from_le_bytes(word) ^ ((piece.len() as u64) << 56));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0.rotate_left(23) ^ word, FACTORS.0);
        self.1 = fold(self.1.rotate_left(41) ^ word, FACTORS.1).wrapping_add(word);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

fn fingerprint(of: impl Hash) -> u128 {
    let mut hasher = Fingerprinter::new();
    of.hash(&mut hasher);
    hasher.value()
}

impl World {
    /// The position of the node that a step changes, if it changes any.
    pub fn changes(&self, action: Action) -> Option<usize> {
        match action {
            // A dead node is known by the list of them.
            Action::Decide => None,
            action => self.concerns(action).map(|(node, _)| usize::from(node.0) - 1),
        }
    }
}

/// The fingerprint of a world, with those of its nodes: a step changes one of these.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    nodes: Vec<u128>,
    whole: u128,
}

impl Fingerprint {
    /// That of a world.
    pub fn of(world: &World) -> Fingerprint {
        let mut fingerprint = Fingerprint { nodes: world.nodes.iter().map(fingerprint).collect(), whole: 0 };
        fingerprint.whole = fingerprint.whole_of(world);
        fingerprint
    }

    /// That of the world after a step: only one node has changed, if any, besides what is between them.
    pub fn after(&self, world: &World, changed: Option<usize>) -> Fingerprint {
        let mut next = self.clone();
        if let Some((agent, slot)) = changed.and_then(|at| Some((world.nodes.get(at)?, next.nodes.get_mut(at)?))) {
            *slot = fingerprint(agent);
        }
        next.whole = next.whole_of(world);
        next
    }

    /// All of it in one number.
    pub fn value(&self) -> u128 {
        self.whole
    }

    /// A broken world ends.
    fn whole_of(&self, world: &World) -> u128 {
        // All fields by name: a new one is not forgotten here. Notes say nothing of what comes.
        #[rustfmt::skip]
        let World {
            nodes: _, links, clients, truth, cancels, discards, failed_touches, crashes, returns, acceptances, dead, failed, owed, reborn: _, healed, tainted, views, installed, untold, broken, notes: _,
        } = world;
        let budgets =
            (cancels, discards, failed_touches, crashes, (returns, acceptances), dead, (failed, owed, healed, tainted));
        fingerprint((&self.nodes, links, clients, truth, budgets, views, installed, untold, broken.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    /// Otherwise two different worlds would count as one.
    #[test]
    fn a_step_changes_no_node_but_the_one_that_it_concerns() {
        let mut random = fastrand::Rng::with_seed(1);
        for case in model::quick() {
            let mut world = World::new(&case.plan);
            let mut fingerprint = Fingerprint::of(&world);
            let mut actions = Vec::new();
            for _ in 0..200 {
                actions.clear();
                world.actions(&mut actions);
                let Some(action) = random.choice(&actions).copied() else { break };
                let changed = world.changes(action);
                world.apply(action);
                fingerprint = fingerprint.after(&world, changed);
                assert_eq!(fingerprint.value(), Fingerprint::of(&world).value(), "{}: {action:?}", case.name);
            }
            assert!(!actions.contains(&Action::Begin(0)), "{}: it did not get far", case.name);
        }
    }

    #[test]
    fn what_differs_in_one_bit_or_in_length_has_another_fingerprint() {
        let mut seen = std::collections::HashSet::new();
        for bit in 0..64 {
            assert!(seen.insert(fingerprint(1_u64 << bit)), "bit {bit}");
            assert!(seen.insert(fingerprint([1_u8 << (bit % 8); 9].get(..1 + bit / 8))), "bytes {bit}");
        }
        assert!(seen.insert(fingerprint((0_u64, 0_u64))));
        assert!(seen.insert(fingerprint(0_u64)));
        assert!(seen.insert(fingerprint((1_u64, 2_u64))) && seen.insert(fingerprint((2_u64, 1_u64))));
    }
}
