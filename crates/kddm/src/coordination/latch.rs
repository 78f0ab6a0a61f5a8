//! Latches: whoever waits goes on when a count has come to zero.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::WhyBroken;
use super::party::{Lives, Party};
use super::shelf::{Kept, Named, milliseconds};
use super::{CoordinationError, LatchInfo, PARTIES};
use crate::chain::chain;
use crate::error::Error;
use crate::node::Node;
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::wait::deadline_in;

/// What is kept of a latch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LatchState {
    /// What it began with.
    count: u64,
    remaining: u64,
    /// Who has promised to count down, and how much is still to come of that.
    owed: Vec<(Party, u64)>,
    broken: Option<Party>,
}

impl Kept for LatchState {
    const SET: &str = "kddm/latches";
    const WHAT: &str = "latches";

    fn settle(&mut self, lives: &Lives) -> bool {
        let before = self.owed.len();
        let gone = self.owed.iter().map(|(party, _)| *party).find(|party| lives.is_gone(party));
        self.owed.retain(|(party, _)| !lives.is_gone(party));
        if self.remaining > 0 {
            self.broken = self.broken.or(gone);
        }
        before != self.owed.len()
    }
}

impl LatchState {
    fn new(count: u64) -> LatchState {
        LatchState { count, remaining: count, owed: Vec::new(), broken: None }
    }

    /// A party will count down by so much.
    fn promise(&mut self, party: Party, count: u64) -> Result<(), CoordinationError> {
        if let Some((_, owed)) = self.owed.iter_mut().find(|(by, _)| *by == party) {
            *owed = owed.saturating_add(count);
        } else if self.owed.len() >= PARTIES {
            return Err(CoordinationError::TooMany { what: "parties", limit: PARTIES });
        } else if count > 0 {
            self.owed.push((party, count));
        }
        Ok(())
    }

    /// A party counts down. What remains.
    fn count_down(&mut self, party: Party, count: u64) -> u64 {
        self.remaining = self.remaining.saturating_sub(count);
        for (_, owed) in self.owed.iter_mut().filter(|(by, _)| *by == party) {
            *owed = owed.saturating_sub(count);
        }
        self.owed.retain(|(_, owed)| *owed > 0);
        self.remaining
    }

    /// Whether it has come to zero, or will not.
    fn outcome(&self) -> Option<Result<(), (u64, WhyBroken)>> {
        match self.broken {
            _ if self.remaining == 0 => Some(Ok(())),
            Some(party) => Some(Err((self.remaining, WhyBroken::by(party)))),
            None => None,
        }
    }

    pub(super) fn info(&self, name: &str) -> LatchInfo {
        let LatchState { count, remaining, ref owed, broken } = *self;
        LatchInfo { name: name.into(), count, remaining, owed: owed.clone(), broken: broken.map(WhyBroken::by) }
    }
}

/// A count of the whole cluster that goes down to zero once, and those who wait for that: [`Node::latch`].
pub struct Latch {
    named: Named<LatchState>,
    limit: Duration,
}

impl Clone for Latch {
    fn clone(&self) -> Latch {
        Latch { named: self.named.clone(), limit: self.limit }
    }
}

impl Node {
    /// The latch of that name, which is made with that count if there is none.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here = nodes[0].latch("loaded", 2).wait()?;
    /// let there = nodes[1].latch("loaded", 2).wait()?;
    /// there.promise(2).wait()?; // whoever waits hears of it if this node is lost before
    /// assert_eq!(there.count_down(1).wait()?, 1);
    /// let waits = here.reached(); // `.await` it, or `.wait()` for it
    /// assert_eq!(there.count_down(1).wait()?, 0);
    /// waits.wait()?;
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Differs` if it was made with another count; `TooMany` of 4096; what opening a set and an update can meet.
    pub fn latch(&self, name: &str, count: u64) -> Pending<Latch> {
        let (node, name, limit) = (self.clone(), name.to_string(), self.runtime().config.wait_limit);
        let open = move || {
            let named = Named::open(&node, &name, || LatchState::new(count))?;
            let has = named.look_now(|state| state.count)?;
            match has {
                Some(has) if has != count => {
                    let (has, wanted) = (format!("a count of {has}"), format!("one of {count}"));
                    Err(CoordinationError::Differs { name, has, wanted }.into())
                }
                _ => Ok(Latch { named, limit }),
            }
        };
        promise("kddm-latch", open, super::opens_late)
    }
}

impl Latch {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// The same with another limit for each wait; it is the node's wait limit at first.
    pub fn wait_limit(mut self, limit: Duration) -> Latch {
        self.limit = limit;
        self
    }

    /// This node or program will count down by so much. If it is gone before it has, the latch is broken: whoever
    /// waits, now or later, hears that. Without a promise nobody knows whom to expect, and waits end at their limit.
    ///
    /// # Errors
    /// `TooMany` of 4096 parties; `Removed`; what an update can meet.
    pub fn promise(&self, count: u64) -> Pending<()> {
        let (named, party) = (self.named.clone(), Party::of(&self.named.node));
        let steps = async move {
            let promised = named.change(|state| {
                let promised = state.promise(party, count);
                (promised.is_ok(), promised)
            });
            promised.await?.map_err(Error::from)
        };
        chain(steps, super::opens_late)
    }

    /// Counts down by so much, and says what remains; zero stays zero.
    ///
    /// # Errors
    /// `Removed`; what an update can meet: where that leaves the [fate](Error::fate) unknown, so it is here.
    pub fn count_down(&self, count: u64) -> Pending<u64> {
        let (named, party) = (self.named.clone(), Party::of(&self.named.node));
        let steps = async move { named.change(|state| (true, state.count_down(party, count))).await };
        chain(steps, super::opens_late)
    }

    /// Waits until the count is zero.
    ///
    /// # Errors
    /// `LatchBroken` says by whom; `NotReached` at the limit; `Removed`; what a get can meet.
    pub fn reached(&self) -> Pending<()> {
        let (named, limit) = (self.named.clone(), self.limit);
        let name = std::sync::Arc::clone(&named.name);
        let not_reached = move |limit: Duration| -> Error {
            CoordinationError::NotReached { name: name.to_string(), limit_ms: milliseconds(limit) }.into()
        };
        let at_limit = not_reached.clone();
        let steps = async move {
            let broken = |(remaining, why)| -> Error {
                CoordinationError::LatchBroken { name: named.name.to_string(), remaining, why }.into()
            };
            let judge = |state: &LatchState| state.outcome().map(|outcome| outcome.map_err(broken));
            named.until(deadline_in(limit), judge).await?.ok_or_else(|| at_limit(limit))
        };
        chain(steps, not_reached)
    }

    /// The latch is no more: whoever waits hears of it, and its name is free.
    ///
    /// # Errors
    /// What an update can meet.
    pub fn remove(self) -> Pending<()> {
        promise("kddm-latch", move || self.named.remove(), super::opens_late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::party::first_lives::{lives, party};

    #[test]
    fn it_counts_down_to_zero_and_stays_there() {
        let mut latch = LatchState::new(3);
        assert_eq!((latch.count_down(party(1), 2), latch.outcome()), (1, None));
        assert_eq!((latch.count_down(party(2), 5), latch.outcome()), (0, Some(Ok(()))));
        assert_eq!((latch.count_down(party(1), 1), latch.outcome()), (0, Some(Ok(()))));
        assert_eq!(LatchState::new(0).outcome(), Some(Ok(())));
    }

    #[test]
    fn it_breaks_with_one_who_has_promised_and_not_counted() {
        let mut latch = LatchState::new(3);
        latch.promise(party(1), 2).expect("there is room");
        latch.promise(party(2), 1).expect("there is room");
        latch.count_down(party(2), 1);
        assert!(!latch.settle(&lives(&[1])), "one who has counted may go");
        latch.count_down(party(1), 1);
        assert!(latch.settle(&lives(&[3])));
        let broken = Some(Err((1, WhyBroken::NodeGone { node: 1 })));
        assert_eq!(latch.outcome(), broken);
        assert!(!latch.settle(&lives(&[3])));
        assert_eq!(latch.outcome(), broken, "it stays so");
    }

    #[test]
    fn one_that_is_at_zero_breaks_no_more() {
        let mut latch = LatchState::new(1);
        latch.promise(party(1), 5).expect("there is room");
        latch.count_down(party(2), 1);
        assert!(latch.settle(&lives(&[2])));
        assert_eq!(latch.outcome(), Some(Ok(())));
    }

    #[test]
    fn there_is_a_limit_to_parties() {
        let mut latch = LatchState::new(1);
        for node in 0..PARTIES as u16 {
            latch.promise(party(node), 1).expect("there is room");
        }
        assert!(matches!(latch.promise(party(9_999), 1), Err(CoordinationError::TooMany { .. })));
        latch.promise(party(7), 1).expect("it is there already");
    }
}
