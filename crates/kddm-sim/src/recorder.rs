//! Writes down what clients do and see, as a history that can be judged (`kddm_history`).

use std::collections::HashMap;

use kddm_core::id::ObjectId;
use kddm_core::io::Answer;
use kddm_core::message::RequestKind;
use kddm_core::shard::Main;
use kddm_history::{Kind, Operation, Outcome as Result, Seen, Word};

use crate::agent::{Agent, ClientNumber, Generation, Left, Outcome, Value, Wish, generation};
use crate::world::{Note, World};

/// The client that looks at everything at the end.
pub const OBSERVER: u64 = u64::MAX;

/// Whoever accepts what is lost.
pub const RESPONSIBLE: u64 = u64::MAX - 1;

/// An operation that has begun.
#[derive(Clone, Copy, Debug)]
struct Open {
    wish: Wish,
    invoke_ns: u64,
    granted_ns: u64,
    found: Option<Value>,
    /// It has become a removal.
    removes: bool,
    /// It has put that, and waits for the replicas.
    puts: Option<Left>,
}

/// The history so far.
#[derive(Default)]
pub struct Recorder {
    open: HashMap<(ClientNumber, ObjectId), Open>,
    /// What has ended.
    pub operations: Vec<Operation>,
}

fn seen(value: Option<Value>) -> Seen {
    value.map_or(Seen::Absent, |value| Seen::Value(Word::Number(value.into())))
}

impl Recorder {
    /// A client has noticed something.
    pub fn note(&mut self, now: u64, note: Note) {
        match note {
            Note::Began(client, object, wish) => {
                let open = Open { wish, invoke_ns: now, granted_ns: now, found: None, removes: false, puts: None };
                self.open.insert((client, object), open);
            }
            Note::Granted(client, object, outcome, found) => {
                let Some(open) = self.open.get_mut(&(client, object)) else { return };
                (open.granted_ns, open.found) = (now, found);
                if outcome == Outcome::Reading {
                    let open = *open;
                    self.ended(client, object, open, now, (Kind::Read, seen(found), None), Result::Ok);
                }
            }
            Note::Removes(client, object) => {
                if let Some(open) = self.open.get_mut(&(client, object)) {
                    open.removes = true;
                }
            }
            Note::Puts(client, object, found, left) => {
                if let Some(open) = self.open.get_mut(&(client, object)) {
                    (open.found, open.puts) = (found, Some(left));
                }
            }
            Note::Safe(client, object) => {
                let Some(open) = self.open.remove(&(client, object)) else { return };
                self.released(client, object, open, now, open.found, open.puts.unwrap_or(Left::Nothing));
            }
            Note::Released(client, object, found, left) => {
                let Some(open) = self.open.remove(&(client, object)) else { return };
                self.released(client, object, open, now, found, left);
            }
            Note::Ended(client, object, outcome) => {
                let Some(open) = self.open.remove(&(client, object)) else { return };
                match outcome {
                    Outcome::Done if open.is_removal() => {
                        let what = (Kind::Remove, open.removed(), None);
                        self.ended(client, object, open, now, what, Result::Ok);
                    }
                    Outcome::Failed(Answer::NotFound) => {
                        self.ended(client, object, open, now, (Kind::Read, Seen::Absent, None), Result::Failed);
                    }
                    Outcome::Destroyed | Outcome::Failed(Answer::Unknown) => self.gave_up(client, object, open),
                    _ => {}
                }
            }
            Note::GaveUp(client, object) => {
                if let Some(open) = self.open.remove(&(client, object)) {
                    self.gave_up(client, object, open);
                }
            }
        }
    }

    /// Somebody accepts that the object is gone, if it is lost: as a removal that may happen at any time.
    pub fn accepted(&mut self, now: u64, object: ObjectId) {
        self.operations.push(Operation {
            client: RESPONSIBLE,
            object: Word::Number(object.0),
            invoke_ns: now,
            return_ns: None,
            kind: Kind::Remove,
            value: None,
            seen: Seen::Nothing,
            outcome: Result::Unknown,
        });
    }

    /// From that time on nothing is promised of the objects of a set that ends: what began later does not
    /// count, and what had not ended may have happened or not.
    pub fn forget(&mut self, of: Generation, from_ns: u64) {
        self.operations.retain_mut(|operation| {
            let Word::Number(object) = operation.object else { return true };
            if generation(ObjectId(object)) != of || operation.return_ns.is_some_and(|end| end < from_ns) {
                return true;
            }
            if operation.outcome == Result::Ok {
                operation.outcome = Result::Unknown;
            }
            operation.invoke_ns < from_ns && operation.outcome == Result::Unknown
        });
    }

    /// What every object is at the end, seen by somebody who began when all was over.
    pub fn look(&mut self, now: u64, world: &World) {
        for (object, _) in world.truth.iter().filter(|(_, truth)| !truth.is_given_up) {
            let is_living = |node: &&Agent| !world.is_dead(node.id());
            let owner = world
                .nodes
                .iter()
                .filter(is_living)
                .find(|node| matches!(node.inspect(*object).main, Main::Owner { .. }));
            if owner.is_none() && world.may_be_lost(*object) {
                continue; // Nobody can tell whether it existed.
            }
            let value = owner.and_then(|node| node.cell(*object)).and_then(|cell| cell.value);
            self.operations.push(Operation {
                client: OBSERVER,
                object: Word::Number(object.0),
                invoke_ns: now + 1,
                return_ns: Some(now + 2),
                kind: Kind::Read,
                value: None,
                seen: seen(value),
                outcome: Result::Ok,
            });
        }
    }

    fn released(
        &mut self,
        client: ClientNumber,
        object: ObjectId,
        open: Open,
        now: u64,
        found: Option<Value>,
        left: Left,
    ) {
        let word = |value: Value| Some(Word::Number(value.into()));
        // What it found was there from the grant to the release: nobody else could change it.
        let (what, end, result) = match left {
            _ if open.wish.reads() && left == Left::Nothing => return,
            Left::Nothing if open.wish == Wish::Insert && found.is_some() => {
                ((Kind::Insert, seen(found), None), open.granted_ns, Result::Failed)
            }
            Left::Nothing => ((Kind::Read, seen(found), None), open.granted_ns, Result::Ok),
            Left::First(new) | Left::Put(new) if open.wish == Wish::Insert => {
                ((Kind::Insert, Seen::Nothing, word(new)), now, Result::Ok)
            }
            Left::First(new) | Left::Put(new) => ((Kind::Update, seen(found), word(new)), now, Result::Ok),
        };
        self.ended(client, object, open, end, what, result);
    }

    fn gave_up(&mut self, client: ClientNumber, object: ObjectId, open: Open) {
        if let Some(Left::First(new) | Left::Put(new)) = open.puts {
            let value = Some(Word::Number(new.into()));
            self.push(client, object, open, None, (Kind::Update, seen(open.found), value), Result::Unknown);
        }
        if open.is_removal() {
            let what = (Kind::Remove, open.removed(), None);
            self.push(client, object, open, None, what, Result::Unknown);
        }
    }

    fn ended(
        &mut self,
        client: ClientNumber,
        object: ObjectId,
        open: Open,
        now: u64,
        what: (Kind, Seen, Option<Word>),
        outcome: Result,
    ) {
        self.push(client, object, open, Some(now), what, outcome);
    }

    fn push(
        &mut self,
        client: ClientNumber,
        object: ObjectId,
        open: Open,
        return_ns: Option<u64>,
        (kind, seen, value): (Kind, Seen, Option<Word>),
        outcome: Result,
    ) {
        self.operations.push(Operation {
            client: client.into(),
            object: Word::Number(object.0),
            invoke_ns: open.invoke_ns,
            return_ns,
            kind,
            value,
            seen,
            outcome,
        });
    }
}

impl Open {
    fn is_removal(&self) -> bool {
        self.removes || self.wish.kind() == RequestKind::Remove
    }

    /// Who removes what it holds has seen it, with nothing in between.
    fn removed(&self) -> Seen {
        if self.removes { seen(self.found) } else { Seen::Nothing }
    }
}
