//! Numbers that are given once in the life of a cluster.
//!
//! | bits | what |
//! |---|---|
//! | 40-63 | the epoch in which the ownership began under which its block was taken |
//! | 14-39 | the number of the block in that epoch |
//! | 0-13 | the number in the block, from 1 |
//!
//! A block belongs to one process, which takes ids from it by itself. Which blocks are taken is kept as an object. If
//! that is lost, members were, and the object begins anew with an ownership of a greater epoch than any before: nothing
//! of before is given again. (What a node knows of the epoch otherwise may be old, in a program above all.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::party::Lives;
use super::shelf::{Kept, NAMES, Named};
use super::{CoordinationError, IdsInfo};
use crate::error::{AccessError, Error};
use crate::node::Node;
use crate::pending::{Late, Pending};
use crate::promise::promise;

/// Ids of a block, and one more: so many that to take one costs little beside them, and so few that programs which
/// start, take one id and end do not use up an epoch: 67 million of them do.
const BLOCK: u64 = 1 << 14;

/// Blocks of an epoch.
const BLOCKS: u64 = 1 << 26;

const _: () = assert!(BLOCK * BLOCKS == 1 << 40 && kddm_view::EPOCHS == 1 << 24, "an epoch and its ids are 64 bits");

/// A block whose put was cut short is left, and another one taken, so often.
const ATTEMPTS: u32 = 4;

/// What is kept of a source of ids.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct IdsState {
    /// The epoch of the last block.
    epoch: u32,
    /// Blocks taken in it.
    blocks: u64,
}

impl Kept for IdsState {
    const SET: &str = "kddm/ids";
    const WHAT: &str = "sources of ids";

    fn settle(&mut self, _: &Lives) -> bool {
        false
    }
}

impl IdsState {
    /// Takes a block. The number before its first id; `None` if those of the epoch are used up.
    fn take(&mut self, epoch: u32) -> Option<u64> {
        if epoch > self.epoch {
            (self.epoch, self.blocks) = (epoch, 0);
        }
        if self.blocks >= BLOCKS {
            return None;
        }
        let block = self.blocks;
        self.blocks += 1;
        Some((u64::from(self.epoch) * BLOCKS + block) * BLOCK)
    }

    pub(super) fn info(&self, name: &str) -> IdsInfo {
        IdsInfo { name: name.into(), epoch: self.epoch, blocks: self.blocks, blocks_of_an_epoch: BLOCKS }
    }
}

/// The block of a process, under one name.
#[derive(Default)]
pub(crate) struct Block {
    /// The next id. What would be the first of a block is none: then there is no block.
    next: AtomicU64,
    taking: Mutex<()>,
}

impl Block {
    #[inline(always)]
    fn take(&self) -> Option<u64> {
        let mut next = self.next.load(Ordering::Relaxed);
        loop {
            if next.is_multiple_of(BLOCK) {
                return None;
            }
            match self.next.compare_exchange_weak(next, next + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(now) => next = now,
            }
        }
    }
}

/// A source of ids that no other of that name gives, in the whole cluster: [`Node::unique_ids`].
#[derive(Clone)]
pub struct UniqueIds(Arc<Source>);

struct Source {
    block: Arc<Block>,
    named: Named<IdsState>,
}

impl Node {
    /// The source of ids of that name: numbers above zero of which none is given twice, by whatever node or program, also
    /// after nodes were lost or came back. Where nodes keep the [log of views](crate::Config::view_log) on disk that holds also
    /// after all of them were stopped; else a cluster that is begun anew begins with its ids anew. Ids of different
    /// names have nothing to do with each other. They grow within a process, and have no order beyond that.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here = nodes[0].unique_ids("orders").wait()?;
    /// let there = nodes[1].unique_ids("orders").wait()?;
    /// let (one, other, next) = (here.next().wait()?, there.next().wait()?, here.next().wait()?);
    /// assert!(one > 0 && one != other && one < next);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TooMany` of 4096 names; what opening a set and an update can meet.
    pub fn unique_ids(&self, name: &str) -> Pending<UniqueIds> {
        let (node, name) = (self.clone(), name.to_string());
        let open = move || {
            let named = Named::open(&node, &name, IdsState::default)?;
            let mut blocks = node.runtime().coordination.blocks.lock();
            if blocks.len() >= NAMES && !blocks.contains_key(&name) {
                return Err(CoordinationError::TooMany { what: IdsState::WHAT, limit: NAMES }.into());
            }
            // It outlives its handles: what is left of it is of use to the next one.
            let block = Arc::clone(blocks.entry(name).or_default());
            Ok(UniqueIds(Arc::new(Source { block, named })))
        };
        promise("kddm-ids", open, super::opens_late)
    }
}

impl UniqueIds {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.named.name
    }

    /// The next id: here in nanoseconds, but once in 16,383 times, when a block of them is taken from the cluster.
    ///
    /// # Errors
    /// `IdsExhausted`: 2^40 were given in one epoch; what an update can meet. None was given then.
    #[inline]
    pub fn next(&self) -> Pending<u64> {
        match self.0.block.take() {
            Some(id) => Pending::hit(id),
            None => Pending::late(self.next_slowly()),
        }
    }

    #[cold]
    fn next_slowly(&self) -> Late<u64> {
        let source = Arc::clone(&self.0);
        Late::of(promise("kddm-ids", move || source.next(), super::opens_late))
    }
}

impl Source {
    /// The next id, of a new block if there is none. Blocks.
    fn next(&self) -> Result<u64, Error> {
        // One block for all who find none.
        let _taking = self.block.taking.lock();
        if let Some(id) = self.block.take() {
            return Ok(id);
        }
        let mut attempt = 1;
        loop {
            match self.take_block() {
                Ok(before) => {
                    self.block.next.store(before + 2, Ordering::Relaxed);
                    return Ok(before + 1);
                }
                Err(error) if attempt == ATTEMPTS => return Err(error),
                // It may have been taken or not: it is not used.
                Err(Error::Access(AccessError::CutShort | AccessError::PutUnconfirmed { .. })) => {}
                Err(
                    Error::Access(AccessError::Lost { .. }) | Error::Coordination(CoordinationError::Removed { .. }),
                ) => {
                    self.named.renew_if_lost(IdsState::default)?;
                }
                Err(error) => return Err(error),
            }
            attempt += 1;
        }
    }

    fn take_block(&self) -> Result<u64, Error> {
        let taken = self.named.change_in_tenure(|state, tenure| {
            let taken = state.take(tenure.epoch().0);
            (taken.is_some(), taken.ok_or(state.epoch))
        })?;
        taken.map_err(|epoch| CoordinationError::IdsExhausted { name: self.named.name.to_string(), epoch }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_begin_anew_only_in_a_later_epoch() {
        let mut state = IdsState::default();
        let first = state.take(1).expect("there are some");
        assert_eq!((first, state.take(1)), (1 << 40, Some((1 << 40) + BLOCK)));
        assert_eq!(state.take(3), Some(3 << 40));
        assert_eq!(state.take(3), Some((3 << 40) + BLOCK));
        // The object was lost: members were, so that the epoch is a later one.
        assert_eq!(IdsState::default().take(4), Some(4 << 40));
    }

    #[test]
    fn the_last_block_of_an_epoch_and_the_last_epoch_fit() {
        let last = kddm_view::EPOCHS - 1;
        let mut state = IdsState { epoch: last, blocks: BLOCKS - 1 };
        let before = state.take(last).expect("one is left");
        assert_eq!(before + (BLOCK - 1), u64::MAX);
        assert_eq!((state.take(last), state.take(1)), (None, None));
        let mut state = IdsState { epoch: 5, blocks: BLOCKS };
        assert_eq!((state.take(5), state.take(6)), (None, Some(6 << 40)));
    }

    #[test]
    fn a_block_is_given_once() {
        let block = Block::default();
        assert_eq!(block.take(), None);
        block.next.store(BLOCK * 7 + 1, Ordering::Relaxed);
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let take = || std::iter::from_fn(|| block.take()).collect();
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            takers.into_iter().map(|taker| taker.join().expect("it ends")).collect()
        });
        let mut all: Vec<u64> = taken.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (BLOCK * 7 + 1..BLOCK * 8).collect::<Vec<_>>());
    }
}
