//! Read copies of a former life: which of them are the newest, their owners are asked as soon as this node shares
//! objects, and again in each new epoch.

use std::sync::Arc;

use kddm_core::id::{NodeId, ObjectId, SetId, Version};
use kddm_core::io::{Access, Input, Outputs};
use kddm_core::message::{Message, ReadCopy};
use kddm_core::node::QUESTIONS_AT_ONCE;

use super::{Agent, Effects, Generation, Todo, Value, generation, set_of};

/// So few copies in a question that small worlds have several questions.
const COPIES_AT_ONCE: usize = 2;

/// A read copy of a former life, and its value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Candidate {
    set: SetId,
    from: NodeId,
    copy: ReadCopy,
    value: Value,
}

/// The candidates of a life.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Candidates {
    /// Nobody has been asked about these, in order.
    waiting: Vec<Candidate>,
    /// Those of each question under way.
    asked: Vec<(u64, Vec<Candidate>)>,
}

impl Candidates {
    pub fn of(waiting: Vec<Candidate>) -> Candidates {
        Candidates { waiting, asked: Vec::new() }
    }

    fn all(&self) -> impl Iterator<Item = Candidate> {
        self.waiting.iter().chain(self.asked.iter().flat_map(|(_, candidates)| candidates)).copied()
    }
}

impl Agent {
    /// The read copies of a life that is over, and those of lives before that it has not heard of. Of each object
    /// the newest.
    pub(super) fn kept_copies(&self) -> Vec<Candidate> {
        let valid = self.core.read_copies().filter_map(|(set, from, copy)| {
            let cell = self.cells.get(&copy.object).filter(|cell| cell.version == copy.version)?;
            Some(Candidate { set, from, copy, value: cell.value? })
        });
        let mut all: Vec<Candidate> = valid.chain(self.candidates.all()).collect();
        all.sort_by_key(|one| (one.set, one.copy.object, std::cmp::Reverse((one.copy.tenure, one.copy.version))));
        all.dedup_by_key(|one| (one.set, one.copy.object));
        all.sort_unstable();
        all
    }

    /// Asks as much as may be asked at once. What nobody can tell is forgotten.
    pub(super) fn ask_for_copies(&mut self, effects: &mut Effects) {
        if self.view().homes.binary_search(&self.me).is_err() {
            return; // It shares nothing yet, or is to leave.
        }
        // What was asked in an epoch before is asked again.
        let core = Arc::clone(&self.core);
        let over = self.candidates.asked.extract_if(.., |(question, _)| !core.asks(*question));
        self.candidates.waiting.extend(over.flat_map(|(_, candidates)| candidates));
        self.candidates.waiting.sort_unstable();
        drop(core);
        while self.candidates.asked.len() < QUESTIONS_AT_ONCE
            && let Some(Candidate { set, from, .. }) = self.candidates.waiting.first().copied()
        {
            let is_alike = |one: &&Candidate| (one.set, one.from) == (set, from);
            let count = self.candidates.waiting.iter().take_while(is_alike).take(COPIES_AT_ONCE).count();
            let some: Vec<Candidate> = self.candidates.waiting.drain(..count).collect();
            let copies: Vec<ReadCopy> = some.iter().map(|one| one.copy).collect();
            let mut outputs = Outputs::new();
            match Arc::make_mut(&mut self.core).revalidate(set, from, &copies, &mut outputs) {
                Ok(Some(question)) => self.candidates.asked.push((question, some)),
                Ok(None) => {}
                Err(refused) => effects.broken.push(format!("node {} refused to ask: {refused:?}", self.me)),
            }
            for output in outputs.drain() {
                self.act(set, output, None, &mut Todo::new(), effects);
            }
        }
    }

    /// After an answer: whatever has not become a copy is forgotten, and more may be asked.
    pub(super) fn is_answered(&mut self, question: u64, effects: &mut Effects) {
        if !self.core.asks(question) && self.candidates.asked.iter().any(|(asked, _)| *asked == question) {
            self.candidates.asked.retain(|(asked, _)| *asked != question);
            self.ask_for_copies(effects);
        }
    }

    /// The copy is the newest.
    pub(super) fn use_copy(&mut self, object: ObjectId, version: Version, question: u64, effects: &mut Effects) {
        let of_question = self.candidates.asked.iter().find(|(asked, _)| *asked == question);
        let candidate = of_question.and_then(|(_, all)| all.iter().find(|one| one.copy.object == object));
        let Some(Candidate { copy, value, .. }) = candidate.copied() else {
            return effects.broken.push("a copy is used that is not here".into());
        };
        let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
        if cell.is_held() || copy.version != version {
            effects.broken.push(format!("I1: a copy replaced a value in use at node {}, or another one", self.me));
        }
        (cell.value, cell.version, cell.access) = (Some(value), version, Access::Read);
    }

    /// The set is no more, and so is what it had.
    pub(super) fn forget_candidates(&mut self, of: Generation) {
        let is_of = |one: &Candidate| generation(one.copy.object) == of && one.set == set_of(of);
        self.candidates.waiting.retain(|one| !is_of(one));
        self.candidates.asked.retain(|(_, all)| !all.iter().any(is_of));
    }

    /// The question that an input answers, if it does.
    pub(super) fn question_of(input: &Input) -> Option<u64> {
        match input {
            Input::Message { message: Message::Revalidated { id, .. }, .. } => Some(id.counter),
            _ => None,
        }
    }

    /// It has asked, and not heard yet.
    pub(super) fn has_questions(&self) -> bool {
        !self.candidates.asked.is_empty()
    }
}
