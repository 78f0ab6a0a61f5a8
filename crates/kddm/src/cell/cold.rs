//! Which objects were used lately, as a clock with one hand knows it. A hand that passes a cell sets COLD, and whoever
//! reads the object next takes that away: once for each round of the hand, and not on the path of other hits, which look at
//! that bit together with those that they look at anyway. Puts are known by their version, or are noted.
//!
//! What has just been brought is COLD once whoever had it brought has read or put it, and goes in the first round unless somebody reads
//! it again; what was used in several rounds stays for as many in which it is not (see [`super::account`]).
//!
//! Where there are two hands, one for a budget and one for the age of objects, what one finds it leaves for the other.
//!
//! A sample stays COLD, so that each of its reads comes here and is counted; that it was read says USED.

use std::sync::Arc;

use super::account::{Account, Hand, Known};
use super::arena::Cell;
use super::sync::Ordering;
use super::table::{Table, is, refused};
use super::word::{COLD, REVOKE, Refusal, Slow, USED, WAITERS, WRITER};
use super::{CellNumber, content};
use crate::value::Value;

/// What the hand has found in a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swept {
    /// No value, or one that somebody is busy with.
    Nothing,
    /// It was used since the hand was here last.
    Used,
    /// It was not, but before: it stays this time.
    Spared,
    /// It was not.
    Unused,
}

impl<T: Value> Table<T> {
    /// What is here counts there from now on. One that is there already stays, and is answered.
    pub fn set_account(&self, account: Arc<Account>) -> &Arc<Account> {
        self.head().account.get_or_init(|| account)
    }

    /// Where what is here counts.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.head().account.get()
    }

    /// A value has come, or has gone.
    pub(super) fn counts(&self, cell: CellNumber, value_bytes: Option<usize>, version: u64) {
        if let Some(account) = self.account() {
            match value_bytes {
                Some(bytes) => account.note(cell, bytes, version),
                None => account.forget(cell),
            }
        }
    }

    /// A cell is an object's from now on: a sample is counted from its first read on.
    pub(super) fn begin_sample(&self, cell: &Cell, id: u64) {
        if self.account().is_some_and(|account| account.samples(id)) {
            cell.word.change(|word| word | COLD | USED);
        }
    }

    /// An object was read here by somebody who had waited for it: that was no hit. If it was brought for him, it is no use from
    /// which others follow, either; else it is one like any.
    pub fn was_missed(&self, id: u64) {
        let Some(account) = self.account() else { return };
        account.was_missed(id);
        if let Some(number) = self.find_cell(id) {
            self.is_brought(number, id);
        }
    }

    /// The object is read or put for the first time, by whoever has it brought, or else it is one use of it like any. Whether it
    /// was that: it is cold from here on.
    pub fn is_brought(&self, number: CellNumber, id: u64) -> bool {
        let Some(account) = self.account() else { return false };
        let Some(cell) = self.arena.cell(number).filter(|cell| is(cell, id)) else { return false };
        let is_brought = account.was_brought(number);
        if is_brought {
            let _by_whoever_has_it_brought =
                if account.samples(id) { cell.word.take_used() } else { cell.word.make_cold() };
        }
        is_brought
    }

    /// A reader was not counted as others are.
    #[cold]
    pub(super) fn count_cold(&self, cell: &Cell, id: u64, slow: Slow) -> Result<(), Slow> {
        let account = self.account();
        if account.is_none() && !cell.word.load().has(COLD) {
            return Err(refused(cell, Refusal::Slow(slow)));
        }
        let sampling = account.filter(|account| account.samples(id));
        let (set, clear) = if sampling.is_some() { (USED, 0) } else { (0, COLD) };
        match cell.word.count_cold_reader(|| is(cell, id), set, clear) {
            Ok(()) => sampling.into_iter().for_each(|account| account.hit()),
            Err(slow) => return Err(refused(cell, Refusal::Slow(slow))),
        }
        Ok(())
    }

    /// Plain old data is about to be copied out, which leaves no trace where the cell is not cold.
    #[cold]
    pub(super) fn glance_cold(&self, cell: &Cell, id: u64) {
        if !cell.word.load().has(COLD) || !is(cell, id) {
            return;
        }
        match self.account().filter(|account| account.samples(id)) {
            Some(account) => {
                cell.word.set_used();
                account.hit();
            }
            None => cell.word.set_warm(),
        }
    }

    /// The object is being put, or read by whoever brought it: it is in use, which its version does not tell where the
    /// account knows that already.
    pub fn is_in_use(&self, number: CellNumber, id: u64) {
        if let Some(cell) = self.arena.cell(number).filter(|cell| is(cell, id)) {
            if self.account().is_some_and(|account| account.samples(id)) {
                cell.word.set_used();
            } else {
                cell.word.set_warm();
            }
        }
    }

    /// The hand of those passes that looks which objects are in use. Whether this one was.
    pub(super) fn mark(&self, number: CellNumber, cell: &Cell) -> bool {
        // Not `||`: it is cold from here on in any case.
        let is_used = cell.word.make_cold() | cell.word.take_used();
        let Some(account) = self.account() else { return is_used };
        if is_used {
            account.leave_word(number, Hand::OfBudget);
        }
        is_used | account.take_word(number, Hand::OfAges)
    }

    /// Whether the value is here as it came, which nobody can hold.
    pub fn is_undecoded(&self, number: CellNumber) -> bool {
        self.live(number).is_some_and(|cell| content::is_bytes(cell.value.load(Ordering::Acquire)))
    }

    /// The hand passes that cell. **The caller has the lane of the object**, as for [`Store`](super::Store).
    pub fn sweep(&self, number: CellNumber, id: u64) -> Swept {
        let (Some(cell), Some(account)) = (self.arena.cell(number), self.account()) else { return Swept::Nothing };
        let seen = cell.word.load();
        if !is(cell, id) || !super::store::has_value(cell) || seen.has(WRITER | REVOKE | WAITERS) {
            return Swept::Nothing;
        }
        let version = cell.version.load(Ordering::Acquire);
        let known = account.knows(number, version);
        if known != Known::This
            && let Some(bytes) = self.length(number, usize::MAX)
        {
            account.note(number, bytes, version);
        }
        // Not `||`: it is cold from here on in any case. It may have been a sample until now.
        let is_used = cell.word.make_cold() | cell.word.take_used();
        if is_used {
            account.leave_word(number, Hand::OfAges);
        }
        let is_used = is_used | account.take_word(number, Hand::OfBudget) || known == Known::Another;
        account.passes(number, is_used)
    }
}
