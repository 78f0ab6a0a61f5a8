//! The log itself: a state that has taken in its older entries, the younger ones, and how far they
//! are decided. What has changed since the last write is noted for the disk.

use std::collections::VecDeque;

use kddm_core::id::NodeId;

use crate::change::Change;
use crate::log::Decided;
use crate::state::{MEMBERS, State};
use crate::voters::message::{entry_bytes, read_entry};
use crate::voters::storage::{Batch, Kept, Promise, StorageError};

/// Proposers whose last number is remembered: two lives for each member.
pub(super) const TAKEN: usize = 2 * MEMBERS;

/// One entry, decided or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// The term of the leader that wrote it.
    pub term: u64,
    /// Whose proposal it is; 0 for that of a leader itself.
    pub origin: u64,
    /// Its number among those of its proposer.
    pub ticket: u64,
    pub change: Change,
}

/// What the older entries add up to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Base {
    pub state: State,
    /// Of each proposer the last number taken, and the entry that it is; the latest last.
    pub taken: VecDeque<(u64, u64, u64)>,
    /// Of entries up to here `taken` may lack some.
    pub taken_after: u64,
}

impl Base {
    /// Where a log begins whose older entries are known by their sum only.
    pub fn of(state: State) -> Base {
        let taken_after = state.applied();
        Base { state, taken: VecDeque::new(), taken_after }
    }

    /// The term of the last entry: each leader's begin with one that says so.
    pub fn term(&self) -> u64 {
        self.state.term
    }

    fn note(&mut self, origin: u64, ticket: u64, index: u64) {
        if origin == 0 {
            return;
        }
        self.taken.retain(|(other, ..)| *other != origin);
        self.taken.push_back((origin, ticket, index));
        if self.taken.len() > TAKEN
            && let Some((.., index)) = self.taken.pop_front()
        {
            self.taken_after = self.taken_after.max(index);
        }
    }
}

/// Voters, and the entry that named them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Configuration {
    pub at: u64,
    pub voters: Vec<NodeId>,
}

#[derive(Debug)]
pub(super) struct Book {
    base: Base,
    entries: VecDeque<Entry>,
    decided: u64,
    /// What the disk does not know yet.
    pub batch: Batch,
}

impl Book {
    pub fn new(base: Base) -> Book {
        let mut batch = Batch::default();
        let decided = base.state.applied();
        // Whatever was there before is of another life.
        batch.cut_after = Some(0);
        batch.base = Some((decided, base.encode()));
        batch.decided = Some(decided);
        batch.promise = Some(Promise::default());
        batch.votes_from = Some(0);
        Book { base, entries: VecDeque::new(), decided, batch }
    }

    /// What a disk has kept.
    pub fn read(kept: &Kept) -> Result<Book, StorageError> {
        let damaged = |what: &str| StorageError::Damaged { what: what.into() };
        let base = Base::decode(&kept.base).map_err(damaged)?;
        let mut book = Book { decided: base.state.applied(), base, entries: VecDeque::new(), batch: Batch::default() };
        let mut term = book.base.term();
        for (index, bytes) in &kept.entries {
            if *index <= book.base.state.applied() {
                continue;
            }
            let entry = read_entry(bytes).map_err(damaged)?;
            if *index != book.last() + 1 || entry.term < term {
                return Err(damaged("an entry is missing"));
            }
            term = entry.term;
            book.entries.push_back(entry);
        }
        if kept.decided > book.last() {
            return Err(damaged("a decided entry is missing"));
        }
        book.decided = book.decided.max(kept.decided);
        Ok(book)
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The entry before the first one that is here.
    pub fn first(&self) -> u64 {
        self.base.state.applied()
    }

    pub fn last(&self) -> u64 {
        self.first().saturating_add(self.entries.len() as u64)
    }

    pub fn decided(&self) -> u64 {
        self.decided
    }

    pub fn last_term(&self) -> u64 {
        self.entries.back().map_or(self.base.term(), |entry| entry.term)
    }

    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first())?.checked_sub(1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.first() {
            return Some(self.base.term());
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// The entries after `index`, which is not before the first one.
    pub fn after(&self, index: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let skip = usize::try_from(index.saturating_sub(self.first())).unwrap_or(usize::MAX);
        (self.first() + 1..).zip(&self.entries).skip(skip)
    }

    /// The decided entries after `index`, as far as they are here.
    pub fn decided_after(&self, index: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.after(index).take_while(|(index, _)| *index <= self.decided)
    }

    pub fn decided_since(&self, index: u64) -> Vec<Decided> {
        self.decided_after(index).map(|(index, entry)| Decided { index, change: entry.change.clone() }).collect()
    }

    /// All that have a say: those of the last decided entry, and those named since.
    pub fn configurations(&self) -> Vec<Configuration> {
        let state = &self.base.state;
        let mut all = vec![Configuration { at: state.voters_at, voters: state.voters.clone() }];
        for (index, entry) in self.after(self.first()) {
            if let Change::Voters { voters } = &entry.change {
                if index <= self.decided {
                    all.clear();
                }
                all.push(Configuration { at: index, voters: voters.clone() });
            }
        }
        all
    }

    /// Whether that proposal is in the log, or a later one of the same proposer, or may be: it is not in
    /// there if its proposer knew all entries of which nothing is known here but their sum.
    pub fn has_taken(&self, origin: u64, ticket: u64, known: u64) -> bool {
        let is_it = |of: u64, number: u64| of == origin && number >= ticket;
        known < self.base.taken_after
            || self.entries.iter().any(|entry| is_it(entry.origin, entry.ticket))
            || self.base.taken.iter().any(|(of, number, _)| is_it(*of, *number))
    }

    pub fn append(&mut self, entry: Entry) {
        let index = self.last() + 1;
        self.batch.append.push((index, entry_bytes(&entry)));
        self.entries.push_back(entry);
    }

    /// Forgets the entries after `index`. Decided ones stay.
    pub fn cut_after(&mut self, index: u64) {
        let index = index.max(self.decided);
        if index >= self.last() {
            return;
        }
        self.entries.truncate(usize::try_from(index - self.first()).unwrap_or(usize::MAX));
        self.batch.append.retain(|(at, _)| *at <= index);
        self.batch.cut_after = Some(self.batch.cut_after.map_or(index, |cut| cut.min(index)));
    }

    /// Forgets the entries after `index`, decided or not: nobody has been told of them, and what others have decided
    /// they tell again.
    pub fn forget_after(&mut self, index: u64) {
        self.decided = self.decided.min(index.max(self.first()));
        self.cut_after(self.decided);
    }

    /// Takes in entries that follow `previous`, where others are in the place of those the others go.
    /// False if one contradicts what is decided.
    pub fn merge(&mut self, previous: u64, entries: Vec<Entry>) -> bool {
        for (index, entry) in (previous.saturating_add(1)..).zip(entries) {
            match self.term_at(index) {
                // Nothing is known of one that is in a state alone.
                None if index <= self.first() => {}
                _ if index == self.first() => {}
                Some(term) if term == entry.term => {}
                Some(_) if index <= self.decided => return false,
                _ => {
                    self.cut_after(index - 1);
                    if index != self.last() + 1 || entry.term < self.last_term() {
                        return false;
                    }
                    self.append(entry);
                }
            }
        }
        true
    }

    /// All up to `index` is decided. The changes that this adds.
    pub fn decide(&mut self, index: u64) -> Vec<Entry> {
        let (from, to) = (self.decided, index.min(self.last()));
        if to <= from {
            return Vec::new();
        }
        self.decided = to;
        self.batch.decided = Some(to);
        let news: Vec<Entry> =
            self.after(from).take_while(|(index, _)| *index <= to).map(|(_, entry)| entry.clone()).collect();
        // Whose majority counts must not be forgotten: those who had a say before may be gone for good.
        self.batch.is_urgent |= news.iter().any(|entry| matches!(entry.change, Change::Voters { .. }));
        news
    }

    /// Folds the decided entries up to `index` into the state.
    pub fn fold(&mut self, index: u64) {
        if self.first() >= index.min(self.decided) {
            return;
        }
        while self.first() < index.min(self.decided) {
            let Some(entry) = self.entries.pop_front() else { break };
            let decided = Decided { index: self.first() + 1, change: entry.change };
            // It follows the last one: a refusal by the state is the same on every member.
            let applied = self.base.state.apply(&decided);
            debug_assert!(applied.is_ok(), "an entry follows the last one");
            self.base.note(entry.origin, entry.ticket, decided.index);
        }
        self.batch.base = Some((self.first(), self.base.encode()));
    }

    /// Goes on from a state that others have decided. What follows it stays if it does follow.
    pub fn replace(&mut self, base: Base) {
        let applied = base.state.applied();
        if applied >= self.first() && self.term_at(applied) == Some(base.term()) {
            let folded = usize::try_from(applied - self.first()).unwrap_or(usize::MAX);
            self.entries.drain(..folded.min(self.entries.len()));
        } else {
            self.entries.clear();
            self.batch.cut_after = Some(applied.min(self.batch.cut_after.unwrap_or(applied)));
        }
        let last = applied + self.entries.len() as u64;
        self.batch.append.retain(|(at, _)| *at > applied && *at <= last);
        self.base = base;
        self.decided = self.decided.max(applied);
        self.batch.base = Some((applied, self.base.encode()));
        self.batch.decided = Some(self.decided);
    }
}
