//! What happened in a run, and how often.

/// How often what happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Operations of which something is known.
    pub operations: u64,
    /// Members killed.
    pub kills: u64,
    /// Of these, with so few others lost since all was whole that nothing may be lost.
    pub covered_kills: u64,
    /// Members killed while the others had not recovered yet from the last loss.
    pub second_kills: u64,
    /// Members that have fenced themselves because their lease was over.
    pub fenced: u64,
    /// Lives that were expelled.
    pub expelled: u64,
    /// Of these, because their lease had run out.
    pub ran_out: u64,
    /// Uses that were refused because there was no lease.
    pub refused: u64,
    /// Lives that came after the first of their node.
    pub rebirths: u64,
    /// Operations that ended well while some link was cut.
    pub while_cut: u64,
    /// Times at which links were cut.
    pub cuts: u64,
    /// Datagrams that a cut has swallowed.
    pub cut: u64,
    /// Datagrams lost otherwise.
    pub lost: u64,
    /// Nodes that slept.
    pub pauses: u64,
    /// Of these, for longer than a lease.
    pub long_pauses: u64,
    /// Processes that ended in the middle of a write.
    pub torn: u64,
    /// Disks that were lost.
    pub wiped: u64,
    /// Leaders.
    pub leaders: u64,
    /// How often all was whole again.
    pub healed: u64,
    /// Epochs that were begun for what a node remembers.
    pub recalled: u64,
    /// Answers that an object could not be proven present.
    pub told_lost: u64,
    /// Members that have left cleanly.
    pub left: u64,
    /// Members that have stopped to share, and begun again.
    pub stopped: u64,
    /// Flushes.
    pub flushes: u64,
    /// Read copies of former lives that were found to be the newest. Rare, and may be 0.
    pub revalidated: u64,
    /// What a core has dropped that `is_known_drop` knows. Rare, and may be 0.
    pub known_drops: u64,
}

impl Counts {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 24] {
        let mut counts = *self;
        counts.each().map(|(name, count)| (name, *count))
    }

    /// The sum of both.
    pub fn plus(&self, other: &Counts) -> Counts {
        let mut sum = *self;
        for ((_, count), (_, more)) in sum.each().into_iter().zip(other.named()) {
            *count += more;
        }
        sum.known_drops += other.known_drops;
        sum.revalidated += other.revalidated;
        sum
    }

    fn each(&mut self) -> [(&'static str, &mut u64); 24] {
        [
            ("operations", &mut self.operations),
            ("kills", &mut self.kills),
            ("covered kills", &mut self.covered_kills),
            ("kills during a recovery", &mut self.second_kills),
            ("fenced", &mut self.fenced),
            ("expelled", &mut self.expelled),
            ("of these by lease", &mut self.ran_out),
            ("refused uses", &mut self.refused),
            ("new lives", &mut self.rebirths),
            ("operations while a link was cut", &mut self.while_cut),
            ("cuts", &mut self.cuts),
            ("datagrams cut", &mut self.cut),
            ("datagrams lost", &mut self.lost),
            ("pauses", &mut self.pauses),
            ("pauses longer than a lease", &mut self.long_pauses),
            ("torn writes", &mut self.torn),
            ("lost disks", &mut self.wiped),
            ("leaders", &mut self.leaders),
            ("heals", &mut self.healed),
            ("epochs for what is remembered", &mut self.recalled),
            ("answers that an object is lost", &mut self.told_lost),
            ("clean leaves", &mut self.left),
            ("stops of sharing", &mut self.stopped),
            ("flushes", &mut self.flushes),
        ]
    }
}
