//! What no fault may break. The checks stand outside, and look at a node after each of its steps.

use std::collections::{BTreeMap, BTreeSet};

use kddm_core::id::{Epoch, NodeId};
use kddm_view::{Change, Decided, LogError, State, ViewLog, Voters};

/// How often what went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages lost.
    pub lost: u64,
    /// Messages that came twice.
    pub doubled: u64,
    /// Messages that came so late that others overtook them.
    pub late: u64,
    /// Messages that a cut link has swallowed.
    pub cut: u64,
    /// Processes that ended.
    pub crashes: u64,
    /// Writes that were torn by such an end.
    pub torn: u64,
    /// Disks that failed under a node that went on.
    pub retired: u64,
    /// Whole clusters that ended.
    pub blackouts: u64,
    /// Nodes that slept.
    pub pauses: u64,
    /// Disks that were lost.
    pub wiped: u64,
    /// Changes of the voters that were decided.
    pub voters: u64,
    /// Leaders.
    pub leaders: u64,
    /// States that were taken in the place of entries.
    pub states: u64,
    /// Epochs.
    pub epochs: u64,
    /// Nodes that could not know whether what they wanted was decided. Rare, and may be 0.
    pub doubts: u64,
    /// Last proposals that a node did not take at once. Rare, and may be 0.
    pub refused: u64,
}

impl Counts {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 14] {
        let Counts {
            lost,
            doubled,
            late,
            cut,
            crashes,
            torn,
            retired,
            blackouts,
            pauses,
            wiped,
            voters,
            leaders,
            states,
            epochs,
            doubts: _,
            refused: _,
        } = *self;
        [
            ("lost", lost),
            ("doubled", doubled),
            ("late", late),
            ("cut", cut),
            ("crashes", crashes),
            ("torn writes", torn),
            ("failed disks", retired),
            ("blackouts", blackouts),
            ("pauses", pauses),
            ("lost disks", wiped),
            ("changes of voters", voters),
            ("leaders", leaders),
            ("whole states", states),
            ("epochs", epochs),
        ]
    }

    /// The sum of both.
    pub fn plus(&self, other: &Counts) -> Counts {
        Counts {
            lost: self.lost + other.lost,
            doubled: self.doubled + other.doubled,
            late: self.late + other.late,
            cut: self.cut + other.cut,
            crashes: self.crashes + other.crashes,
            torn: self.torn + other.torn,
            retired: self.retired + other.retired,
            blackouts: self.blackouts + other.blackouts,
            pauses: self.pauses + other.pauses,
            wiped: self.wiped + other.wiped,
            voters: self.voters + other.voters,
            leaders: self.leaders + other.leaders,
            states: self.states + other.states,
            epochs: self.epochs + other.epochs,
            doubts: self.doubts + other.doubts,
            refused: self.refused + other.refused,
        }
    }
}

/// What was decided, as the first node knew that did.
pub struct Truth {
    entries: Vec<Change>,
    state: State,
    /// Of the state after each entry; the first one is that before all.
    states: Vec<u64>,
    once: BTreeSet<u64>,
    /// Who could not know whether what it wanted was decided.
    doubtful: BTreeSet<u16>,
    leaders: BTreeMap<u64, NodeId>,
    /// The term that each node was in last.
    terms: BTreeMap<NodeId, u64>,
    trace: u64,
    pub counts: Counts,
}

impl Truth {
    pub fn new(state: State) -> Truth {
        let states = vec![sum(&state.encode())];
        Truth {
            entries: Vec::new(),
            state,
            states,
            once: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            trace: 0,
            counts: Counts::default(),
        }
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn has(&self, nonce: u64) -> bool {
        self.once.contains(&nonce)
    }

    /// A node knows nothing of its former life.
    pub fn forget(&mut self, id: NodeId) {
        self.terms.remove(&id);
    }

    pub fn note(&mut self, from: u64, to: u64, message: &[u8]) {
        self.trace = self.trace.rotate_left(5) ^ sum(message) ^ (from << 32 | to);
    }

    /// Agreement, no gaps, one leader a term, growing epochs: on what a node says that it has decided.
    pub fn judge(&mut self, id: NodeId, log: &Voters, state: &mut State) -> Result<(), String> {
        // One whose disk has failed forgets what it hears, and has nobody count on it.
        let is_retired = log.failure().is_some();
        if is_retired && (log.promised().is_some() || log.votes() || log.is_leader()) {
            return Err(format!("{id} has a say, and keeps nothing: {log:?}"));
        }
        let last = self.terms.get(&id).copied().unwrap_or(0);
        if !is_retired {
            self.terms.insert(id, log.term());
        }
        if log.term() < last {
            return Err(format!("{id} was in term {last}, and is in term {}: it may vote twice", log.term()));
        }
        if log.is_leader() {
            let leader = *self.leaders.entry(log.term()).or_insert_with(|| {
                self.counts.leaders += 1;
                id
            });
            if leader != id {
                return Err(format!("term {} has two leaders, {leader} and {id}", log.term()));
            }
        }
        if log.doubts() > 0 && self.doubtful.insert(id.0) {
            self.counts.doubts += 1;
        }
        let entries = match log.decided_since(state.applied()) {
            Ok(entries) => entries,
            Err(LogError::Forgotten { .. }) => {
                self.counts.states += 1;
                *state = log.state().ok_or("a log without a state forgets nothing")?.clone();
                self.same_state(id, state)?;
                log.decided_since(state.applied()).map_err(|error| error.to_string())?
            }
            Err(error) => return Err(format!("{id}: {error}")),
        };
        for entry in entries {
            self.agree(id, &entry)?;
            state.apply(&entry).map_err(|gap| format!("{id}: {gap}"))?;
            self.same_state(id, state)?;
        }
        Ok(())
    }

    fn agree(&mut self, id: NodeId, entry: &Decided) -> Result<(), String> {
        let index = entry.index;
        match self.entries.get(index as usize - 1) {
            Some(known) if *known == entry.change => return Ok(()),
            Some(known) => {
                return Err(format!("entry {index} is {known:?}, and {id} has decided {:?}", entry.change));
            }
            None if index != self.len() + 1 => {
                return Err(format!("{id} has entry {index}, and nobody the one before"));
            }
            None => {}
        }
        if let Change::Join { nonce, .. } = entry.change
            && nonce >= super::ONCE
            && !self.once.insert(nonce)
            && !self.doubtful.contains(&((nonce & 0xff) as u16))
        {
            return Err(format!("proposal {nonce} was decided twice, at last as entry {index}"));
        }
        self.counts.voters += u64::from(matches!(entry.change, Change::Voters { .. }));
        let (before, term) = (self.state.view().epoch, self.state.term());
        let expels = matches!(entry.change, Change::Expel { .. }) && self.state.check(&entry.change).is_ok();
        self.state.apply(entry).map_err(|gap| gap.to_string())?;
        let after = self.state.view().epoch;
        if after < before || (expels && after != Epoch(before.0 + 1)) {
            return Err(format!("epoch {before:?} was followed by {after:?}"));
        }
        if matches!(entry.change, Change::Lead { .. }) && self.state.term() <= term {
            return Err(format!("term {term} was followed by term {}", self.state.term()));
        }
        self.counts.epochs += u64::from(after > before);
        self.entries.push(entry.change.clone());
        self.states.push(sum(&self.state.encode()));
        self.trace = self.trace.rotate_left(7) ^ index;
        Ok(())
    }

    /// Whether that is the state after so many entries: so no epoch means two things.
    pub fn same_state(&self, id: NodeId, state: &State) -> Result<(), String> {
        let applied = state.applied();
        match self.states.get(applied as usize) {
            Some(known) if *known == sum(&state.encode()) => Ok(()),
            Some(_) => Err(format!("{id} has another state than the others after entry {applied}")),
            None => Err(format!("{id} has a state after entry {applied}, which nobody has decided")),
        }
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
