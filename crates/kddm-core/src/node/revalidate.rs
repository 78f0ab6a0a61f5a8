//! Read copies of a former life of this node: which of them are the newest still, its owners are asked in batches.
//! `docs/protocol.md`, "A member comes back".

use alloc::vec::Vec;

use crate::id::{NodeId, ObjectId, RequestId, SetId, ShardIndex};
use crate::io::{Body, NoMemory, Output, Outputs};
use crate::message::{COPIES_AT_ONCE, Message, ReadCopy};

use super::{Node, Refused};

/// Questions under way from one lane: enough that whoever answers always has one at hand.
pub const QUESTIONS_AT_ONCE: usize = 4;

/// What this node waits to hear.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Question {
    pub set: SetId,
    to: NodeId,
    counter: u64,
    copies: Vec<ReadCopy>,
}

impl Node {
    /// The read copies of this life, each with its set and who gave it, in no particular order. To be asked once it
    /// uses and handles nothing any more.
    pub fn read_copies(&self) -> impl Iterator<Item = (SetId, NodeId, ReadCopy)> + '_ {
        let of_set = move |set: SetId| {
            let copies = self.touched(set).flat_map(|(_, _, shard)| shard.read_copies());
            copies.filter(|(owner, _)| *owner != self.me).map(move |(owner, copy)| (set, owner, copy))
        };
        self.sets().into_iter().flat_map(of_set)
    }

    /// Asks whoever gave these copies to a former life whether they are the newest. They are of one set, by ascending
    /// object, at most [`COPIES_AT_ONCE`]. The number of the question; none if that node is not there to be asked, this
    /// one is to keep nothing, or [`QUESTIONS_AT_ONCE`] are under way.
    ///
    /// A question ends with its answer, or as soon as it is in vain: see [`asks`](Self::asks).
    ///
    /// # Errors
    /// As [`handle`](Self::handle). Nothing has changed.
    pub fn revalidate(
        &mut self,
        set: SetId,
        to: NodeId,
        copies: &[ReadCopy],
        outputs: &mut Outputs,
    ) -> Result<Option<u64>, Refused> {
        let is_askable = to != self.me && self.is_worth_asking(to) && self.questions.len() < QUESTIONS_AT_ONCE;
        let Some(first) = copies.first().filter(|_| is_askable && copies.len() <= COPIES_AT_ONCE) else {
            return Ok(None);
        };
        if self.destroyed.contains(&set) || set.policy().is_none() {
            return Err(Refused::UnknownSet);
        }
        outputs.reserve(1)?;
        self.questions.try_reserve(1).map_err(|_| NoMemory)?;
        let (said, kept) = (copied(copies)?, copied(copies)?);
        self.counter += 1;
        let id = RequestId { node: self.me, incarnation: self.incarnation, counter: self.counter };
        self.questions.push(Question { set, to, counter: id.counter, copies: kept });
        let message = Message::Revalidate { id, copies: said };
        outputs.push(Output::Send { to, object: first.object, message, body: Body::None, deferred: false });
        Ok(Some(id.counter))
    }

    /// Whether the answer to that question is awaited. What is not answered in its epoch may be asked again.
    pub fn asks(&self, question: u64) -> bool {
        self.questions.iter().any(|asked| asked.counter == question)
    }

    /// This node is to keep what it has, and that one may be asked.
    fn is_worth_asking(&self, to: NodeId) -> bool {
        let talks = self.view.member(to).is_some_and(|member| member.state.can_talk());
        talks && self.view.homes.binary_search(&self.me).is_ok()
    }

    /// A view has come: who has left answers nothing any more, and who is to leave has nothing to ask.
    pub(super) fn forget_vain_questions(&mut self) {
        let mut questions = core::mem::take(&mut self.questions);
        questions.retain(|question| self.is_worth_asking(question.to));
        self.questions = questions;
    }

    /// A node that is back asks for copies that this one gave. Where nothing is known of an object, nothing is made.
    /// If memory is refused half-way, the copy set of some is too large until the question is handled again.
    pub(super) fn asked_to_revalidate(
        &mut self,
        set: SetId,
        (from, id): (NodeId, RequestId),
        (object, copies): (ObjectId, &[ReadCopy]),
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let mut valid = Vec::new();
        valid.try_reserve_exact(copies.len()).map_err(|_| NoMemory)?;
        let member = self.view.member(from).filter(|_| id.node == from);
        if member.is_some_and(|member| member.incarnation == id.incarnation && member.state.can_share()) {
            for copy in copies {
                if self.is_newest(set, copy, (from, id.counter), outputs)? {
                    valid.push(copy.object);
                }
            }
        }
        outputs.reserve(1)?;
        let message = Message::Revalidated { id, valid };
        outputs.push(Output::Send { to: from, object, message, body: Body::None, deferred: false });
        Ok(())
    }

    fn is_newest(
        &mut self,
        set: SetId,
        copy: &ReadCopy,
        (from, counter): (NodeId, u64),
        outputs: &mut Outputs,
    ) -> Result<bool, Refused> {
        let at = copy.object.shard(set.policy().unwrap_or_default());
        let Some(touched) = self.sets.get(&set.0).and_then(|state| state.get(at)) else { return Ok(false) };
        if touched.shard.recovery.entered != self.view.epoch {
            self.entered(set, at, outputs)?;
        }
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        Ok(state.touch(at, || NodeId::NOBODY)?.shard.revalidate(copy, from, counter)?)
    }

    /// The answer to a question. Of what was not asked nothing is taken.
    pub(super) fn revalidated(
        &mut self,
        set: SetId,
        (from, id): (NodeId, RequestId),
        valid: &[ObjectId],
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let is_meant = |asked: &Question| {
            let own = RequestId { node: self.me, incarnation: self.incarnation, counter: asked.counter };
            (asked.set, asked.to, own) == (set, from, id)
        };
        let Some(position) = self.questions.iter().position(is_meant) else { return Ok(()) };
        let mut found: Vec<ReadCopy> = Vec::new();
        found.try_reserve_exact(valid.len()).map_err(|_| NoMemory)?;
        let mut copies = self.questions.get(position).map_or(&[][..], |asked| &asked.copies).iter();
        for object in valid {
            // Both are in order. After a lie nothing is believed.
            let Some(copy) = copies.find(|copy| copy.object >= *object).filter(|copy| copy.object == *object) else {
                break;
            };
            found.push(*copy);
        }
        self.questions.remove(position);
        // Where memory is refused they get room one by one, or are fetched when somebody wants them.
        let _is_refused = self.reserve_copies(set, &found, outputs);
        for copy in &found {
            if self.take_copy(set, copy, (from, id.counter), outputs) == Ok(true) {
                let ReadCopy { object, version, .. } = *copy;
                outputs.push(Output::UseCopy { object, version, question: id.counter });
            }
        }
        Ok(())
    }

    /// Room for copies, shard by shard.
    fn reserve_copies(&mut self, set: SetId, copies: &[ReadCopy], outputs: &mut Outputs) -> Result<(), Refused> {
        let policy = set.policy().unwrap_or_default();
        let mut shards: Vec<ShardIndex> = Vec::new();
        shards.try_reserve_exact(copies.len()).map_err(|_| NoMemory)?;
        shards.extend(copies.iter().map(|copy| copy.object.shard(policy)));
        shards.sort_unstable();
        for alike in shards.chunk_by(|a, b| a == b) {
            let Some(at) = alike.first().copied() else { continue };
            self.entered(set, at, outputs)?;
            let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
            state.touch(at, || NodeId::NOBODY)?.shard.reserve_copies(alike.len())?;
        }
        Ok(())
    }

    /// There is room for one output then.
    fn take_copy(
        &mut self,
        set: SetId,
        copy: &ReadCopy,
        (from, counter): (NodeId, u64),
        outputs: &mut Outputs,
    ) -> Result<bool, Refused> {
        let at = copy.object.shard(set.policy().unwrap_or_default());
        self.entered(set, at, outputs)?;
        outputs.reserve(1)?;
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        Ok(state.touch(at, || NodeId::NOBODY)?.shard.take_copy(copy, from, counter)?)
    }
}

fn copied(copies: &[ReadCopy]) -> Result<Vec<ReadCopy>, NoMemory> {
    let mut copied = Vec::new();
    copied.try_reserve_exact(copies.len()).map_err(|_| NoMemory)?;
    copied.extend_from_slice(copies);
    Ok(copied)
}
