//! Barriers: whoever comes waits until all have come.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::WhyBroken;
use super::party::{Lives, Party};
use super::shelf::{Kept, Named, milliseconds};
use super::{BarrierInfo, CoordinationError, PARTIES};
use crate::chain::chain;
use crate::error::{AccessError, Error};
use crate::node::Node;
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::wait::deadline_in;

/// Generations of which is remembered that they were reset, so that whoever waited in one hears it. Who is still
/// later than so many resets is told that it was reset, too.
const RESETS: usize = 64;

/// Who has to come to a barrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Parties {
    /// So many: threads or tasks, of any nodes and programs. If one of the nodes or programs that have opened the
    /// barrier is gone, and too few of them are left, or one is gone that waits, it is broken.
    Count(u32),
    /// Each node that shares objects: itself, or any program that is attached to it. The count follows the membership:
    /// a node that joins meanwhile is waited for, and one that is lost or leaves is not. It never breaks by itself.
    Members,
}

/// Somebody who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Arrival {
    party: Party,
    /// Tells those of one party apart.
    serial: u64,
}

/// What is kept of a barrier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct BarrierState {
    parties: Parties,
    /// Who made it: it is not one of the same name that was removed.
    made: Arrival,
    /// How often all have come, or it was reset.
    generation: u64,
    arrived: Vec<Arrival>,
    /// Nodes and programs that have opened it.
    enrolled: Vec<Party>,
    broken: Option<Party>,
    /// The last generations that were reset.
    resets: Vec<u64>,
    /// Of generations before this one it is not known any more.
    forgotten: u64,
}

/// What became of somebody who came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Waits,
    Passed,
    Broken(WhyBroken),
    /// It is another barrier by now.
    Removed,
}

impl Kept for BarrierState {
    const SET: &str = "kddm/barriers";
    const WHAT: &str = "barriers";

    fn settle(&mut self, lives: &Lives) -> bool {
        let before = (self.generation, self.arrived.len(), self.enrolled.len());
        let full = self.is_full();
        let gone = |party: &Party| lives.is_gone(party);
        let waited = self.arrived.iter().map(|arrival| arrival.party).find(gone);
        let expected = self.enrolled.iter().copied().find(gone);
        self.arrived.retain(|arrival| !gone(&arrival.party));
        self.enrolled.retain(|party| !gone(party));
        let too_few = (full || before.1 > 0) && !self.is_full();
        match self.parties {
            Parties::Members => {
                if self.have_all_members(lives) {
                    self.pass();
                }
            }
            // What had broken it first stays said.
            Parties::Count(_) => {
                self.broken = self.broken.or(waited).or(expected.filter(|_| too_few));
                if self.broken.is_some() {
                    self.arrived.clear(); // They are told by that.
                }
            }
        }
        before != (self.generation, self.arrived.len(), self.enrolled.len())
    }
}

impl BarrierState {
    fn new(parties: Parties, made: Arrival) -> BarrierState {
        let (arrived, enrolled, resets) = Default::default();
        BarrierState { parties, made, generation: 0, arrived, enrolled, broken: None, resets, forgotten: 0 }
    }

    /// Whether enough take part, as far as is known.
    fn is_full(&self) -> bool {
        matches!(self.parties, Parties::Count(count) if self.enrolled.len() >= count as usize)
    }

    /// A node that has opened the barrier is one of them, also for those who have not heard yet that it has joined.
    fn have_all_members(&self, lives: &Lives) -> bool {
        let has_come = |(node, incarnation): (u16, u32)| {
            self.arrived.iter().any(|arrival| (arrival.party.node, arrival.party.incarnation) == (node, incarnation))
        };
        let news = self.enrolled.iter().filter(|party| lives.is_news(party));
        let mut expected = lives.sharing().chain(news.map(|party| (party.node, party.incarnation)));
        !self.arrived.is_empty() && expected.all(has_come)
    }

    fn pass(&mut self) {
        self.generation += 1;
        self.arrived.clear();
    }

    /// A node or program takes part from now on. Where nobody of those who did is left, all begins anew.
    fn enrol(&mut self, party: Party, lives: &Lives) -> Result<bool, CoordinationError> {
        let mut has_changed = self.settle(lives);
        if self.enrolled.is_empty() && self.arrived.is_empty() && self.broken.is_some() {
            self.reset(self.generation);
            has_changed = true;
        }
        if !self.enrolled.contains(&party) {
            if self.enrolled.len() >= PARTIES {
                return Err(CoordinationError::TooMany { what: "parties", limit: PARTIES });
            }
            self.enrolled.push(party);
            has_changed = true;
        }
        Ok(has_changed)
    }

    /// A node or program takes no part any more, and breaks nothing by that it goes.
    fn leave(&mut self, party: Party) -> bool {
        let before = self.enrolled.len();
        self.enrolled.retain(|enrolled| *enrolled != party);
        before != self.enrolled.len()
    }

    /// Somebody comes. The generation in which he waits, or which he has completed: then it is `true`.
    fn arrive(&mut self, arrival: Arrival, lives: &Lives) -> Result<Result<(u64, bool), WhyBroken>, CoordinationError> {
        self.enrol(arrival.party, lives)?;
        if let Some(party) = self.broken {
            return Ok(Err(WhyBroken::by(party)));
        }
        if self.arrived.len() >= PARTIES {
            return Err(CoordinationError::TooMany { what: "parties", limit: PARTIES });
        }
        let generation = self.generation;
        self.arrived.push(arrival);
        let all_have_come = match self.parties {
            Parties::Count(count) => self.arrived.len() >= count as usize,
            Parties::Members => self.have_all_members(lives),
        };
        if all_have_come {
            self.pass();
        }
        Ok(Ok((generation, all_have_come)))
    }

    /// Takes back somebody who waits.
    fn withdraw(&mut self, arrival: Arrival) -> bool {
        let before = self.arrived.len();
        self.arrived.retain(|other| *other != arrival);
        before != self.arrived.len()
    }

    /// What became of one who came in that generation.
    fn outcome(&self, arrival: Arrival, made: Arrival, generation: u64) -> Outcome {
        if self.made != made || generation > self.generation {
            return Outcome::Removed;
        }
        if generation < self.generation {
            let was_reset = generation < self.forgotten || self.resets.contains(&generation);
            return if was_reset { Outcome::Broken(WhyBroken::Reset) } else { Outcome::Passed };
        }
        match self.broken {
            Some(party) => Outcome::Broken(WhyBroken::by(party)),
            None if self.arrived.contains(&arrival) => Outcome::Waits,
            // It was taken for gone: its node was taken for lost, and hears of that, too.
            None => Outcome::Broken(WhyBroken::by(arrival.party)),
        }
    }

    /// Who waits in that generation hears that it was reset; the next one begins.
    fn reset(&mut self, generation: u64) -> bool {
        if generation != self.generation {
            return false;
        }
        if self.resets.len() >= RESETS {
            self.forgotten = self.resets.remove(0) + 1;
        }
        self.resets.push(generation);
        self.broken = None;
        self.pass();
        true
    }

    pub(super) fn info(&self, name: &str) -> BarrierInfo {
        BarrierInfo {
            name: name.into(),
            parties: self.parties,
            generation: self.generation,
            waiting: self.arrived.iter().map(|arrival| arrival.party).collect(),
            enrolled: self.enrolled.clone(),
            broken: self.broken.map(WhyBroken::by),
        }
    }
}

/// Numbers those who come, in this process.
static SERIALS: AtomicU64 = AtomicU64::new(1);

fn arrival(node: &Node) -> Arrival {
    Arrival { party: Party::of(node), serial: SERIALS.fetch_add(1, Ordering::Relaxed) }
}

/// What [`Barrier::arrive`] says when all have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Passed {
    /// Which use of the barrier this was, from 0.
    pub generation: u64,
    /// This one came last: so for one of all.
    pub is_last: bool,
}

/// A place where parties of a whole cluster wait for each other, again and again: [`Node::barrier`].
pub struct Barrier {
    named: Named<BarrierState>,
    made: Arrival,
    limit: Duration,
}

impl Clone for Barrier {
    fn clone(&self) -> Barrier {
        Barrier { named: self.named.clone(), made: self.made, limit: self.limit }
    }
}

impl Node {
    /// The barrier of that name, which is made if there is none. Whoever opens it takes part: if this node or program is gone,
    /// those who wait for it hear of it, until it says with [`Barrier::leave`] that it takes no part any more.
    ///
    /// ```
    /// use kddm::Parties;
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here = nodes[0].barrier("phase", Parties::Count(2)).wait()?;
    /// let there = nodes[1].barrier("phase", Parties::Count(2)).wait()?;
    /// for generation in 0..3 {
    ///     let waits = here.arrive(); // its place is taken once it is polled or waited for
    ///     let (first, last) = std::thread::scope(|scope| {
    ///         let first = scope.spawn(|| waits.wait());
    ///         (there.arrive().wait(), first.join().expect("no panic"))
    ///     });
    ///     assert_eq!((first?.generation, last?.generation), (generation, generation));
    /// }
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Differs` if it has other parties; `TooMany` of 4096; what opening a set and an update can meet.
    pub fn barrier(&self, name: &str, parties: Parties) -> Pending<Barrier> {
        let (node, name, limit) = (self.clone(), name.to_string(), self.runtime().config.wait_limit);
        let open = move || {
            let made = arrival(&node);
            let named = Named::open(&node, &name, || BarrierState::new(parties, made))?;
            let enrol = |state: &mut BarrierState| {
                if state.parties != parties {
                    let (has, wanted) = (format!("{:?}", state.parties), format!("{parties:?}"));
                    return (false, Err(CoordinationError::Differs { name: name.clone(), has, wanted }));
                }
                let enrolled = state.enrol(Party::of(&node), &named.lives.lock());
                (matches!(enrolled, Ok(true)), enrolled.map(|_| state.made))
            };
            let made = named.change_now(enrol)??;
            Ok(Barrier { named, made, limit })
        };
        promise("kddm-barrier", open, super::opens_late)
    }
}

impl Barrier {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// The same with another limit for each wait; it is the node's wait limit at first.
    pub fn wait_limit(mut self, limit: Duration) -> Barrier {
        self.limit = limit;
        self
    }

    /// Comes to the barrier, and waits until all have come. It begins when the answer is polled or waited for. Whoever
    /// drops the answer, or waits for less than the limit, is taken back soon after; at the limit itself it is certain that nobody
    /// counts on this one any more.
    ///
    /// # Errors
    /// `BarrierBroken` says by whom; `NotAllArrived` at the limit; `Removed`; what an update can meet. Of others who
    /// wait none is told of an error of this one, but that of its node or program.
    pub fn arrive(&self) -> Pending<Passed> {
        let (barrier, limit) = (self.clone(), self.limit);
        let arrival = arrival(&barrier.named.node);
        let name = self.name().to_string();
        let late = move |limit: Duration| {
            CoordinationError::NotAllArrived { name: name.clone(), limit_ms: milliseconds(limit) }.into()
        };
        chain(async move { barrier.arrive_as(arrival, limit).await }, late)
    }

    async fn arrive_as(&self, arrival: Arrival, limit: Duration) -> Result<Passed, Error> {
        let deadline = deadline_in(limit);
        let mut place = TakenBack { barrier: Some(self.clone()), arrival };
        let result = self.pass(arrival, deadline).await;
        let is_certain = match &result {
            Ok(_) | Err(Error::Coordination(_) | Error::Membership(_) | Error::Set(_)) => true,
            Err(error) => matches!(error, Error::Access(AccessError::Fenced)),
        };
        if is_certain {
            place.barrier = None;
        }
        result
    }

    async fn pass(&self, arrival: Arrival, deadline: Instant) -> Result<Passed, Error> {
        let named = &self.named;
        let came = named.change(|state| match state.made == self.made {
            true => {
                // Those of now: it may have been long until it was there.
                let came = state.arrive(arrival, &named.lives.lock());
                (true, Some(came.map(|came| came.map_err(|why| (state.generation, why)))))
            }
            false => (false, None),
        });
        let (generation, is_last) = match came.await? {
            None => return Err(self.is_removed()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Err((generation, why)))) => return Err(self.is_broken(generation, why)),
            Some(Ok(Ok(came))) => came,
        };
        if is_last {
            return Ok(Passed { generation, is_last });
        }
        let judge = |state: &BarrierState| match state.outcome(arrival, self.made, generation) {
            Outcome::Waits => None,
            Outcome::Passed => Some(Ok(Passed { generation, is_last })),
            Outcome::Broken(why) => Some(Err(self.is_broken(generation, why))),
            Outcome::Removed => Some(Err(self.is_removed())),
        };
        if let Some(passed) = named.until(deadline, judge).await? {
            return Ok(passed);
        }
        // All may have come just now.
        let judged = named.change(|state| {
            let judged = judge(state);
            (judged.is_none() && state.withdraw(arrival), judged)
        });
        judged.await?.unwrap_or_else(|| {
            let limit_ms = milliseconds(self.limit);
            Err(CoordinationError::NotAllArrived { name: self.name().into(), limit_ms }.into())
        })
    }

    fn is_broken(&self, generation: u64, why: WhyBroken) -> Error {
        CoordinationError::BarrierBroken { name: self.name().into(), generation, why }.into()
    }

    fn is_removed(&self) -> Error {
        CoordinationError::Removed { name: self.name().into() }.into()
    }

    /// Ends that generation: who waits in it hears that it was reset, and the next one begins, broken by nobody. Nothing, if
    /// it has ended already: all who hear that it is broken may say so, and one of them does it. Says whether it was this.
    ///
    /// # Errors
    /// As [`arrive`](Barrier::arrive).
    pub fn reset(&self, generation: u64) -> Pending<bool> {
        self.changing(move |state| {
            let is_reset = state.reset(generation);
            (is_reset, is_reset)
        })
    }

    /// This node or program takes no part any more, and may go without breaking the barrier.
    ///
    /// # Errors
    /// As [`arrive`](Barrier::arrive).
    pub fn leave(&self) -> Pending<()> {
        let party = Party::of(&self.named.node);
        self.changing(move |state| (state.leave(party), ()))
    }

    fn changing<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BarrierState) -> (bool, R) + Send + 'static,
    ) -> Pending<R> {
        let barrier = self.clone();
        let steps = async move {
            let made = barrier.made;
            let changed = barrier.named.change(|state| match state.made == made {
                true => {
                    let (has_changed, result) = change(state);
                    (has_changed, Some(result))
                }
                false => (false, None),
            });
            changed.await?.ok_or_else(|| barrier.is_removed())
        };
        chain(steps, super::opens_late)
    }

    /// The barrier is no more: whoever waits hears of it, and its name is free.
    ///
    /// # Errors
    /// As [`arrive`](Barrier::arrive).
    pub fn remove(self) -> Pending<()> {
        promise("kddm-barrier", move || self.named.remove(), super::opens_late)
    }
}

/// Somebody who came: unless it was certain what became of him, he is taken back when he loses interest.
struct TakenBack {
    barrier: Option<Barrier>,
    arrival: Arrival,
}

impl Drop for TakenBack {
    fn drop(&mut self) {
        let Some(barrier) = self.barrier.take() else { return };
        let arrival = self.arrival;
        let take_back = move || {
            if let Err(error) = barrier.named.change_now(|state| (state.withdraw(arrival), ())) {
                tracing::debug!(name = barrier.name(), %error, "one who waits no more could not be taken back");
            }
        };
        let spawned = std::thread::Builder::new().name("kddm-take-back".into()).spawn(take_back);
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to take back one who waits no more");
        }
    }
}

#[cfg(test)]
mod tests;
