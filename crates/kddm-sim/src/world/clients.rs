//! Clients of a world: what they begin, hold and leave, and what they must find.

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::io::Answer;

use super::{Client, Doing, Note, World};
use crate::agent::{ClientNumber, Effects, Left, Outcome, Value, Wish, generation, replicas_of};
use crate::check;

/// How a writer ends its hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It puts a new value.
    Put,
    /// It leaves what it found; what did not exist gets its first value.
    Keep,
    /// A first touch fails: there is still no value.
    Fail,
}

impl World {
    pub(super) fn begin(&mut self, number: ClientNumber, effects: &mut Effects) {
        let client = &self.clients[usize::from(number)];
        let (node, Some((object, wish))) = (client.node, client.plan.front().copied()) else { return };
        // Noted only where it is asked for: it makes no difference between worlds elsewhere.
        let exists = |truth: &super::Truth| truth.value.is_some() && !truth.maybe.contains(&None);
        let existed = wish.is_existing() && self.truth.get(&object).is_some_and(exists);
        let client = &mut self.clients[usize::from(number)];
        client.existed = existed;
        self.notes.push(Note::Began(number, object, wish));
        if wish.is_ahead() {
            // Nobody waits for it: the client goes on.
            client.plan.pop_front();
            self.notes.push(Note::Ended(number, object, Outcome::Done));
            return self.node_mut(node).begin(ClientNumber::MAX, object, wish, effects);
        }
        client.doing = Doing::Waiting;
        self.node_mut(node).begin(number, object, wish, effects);
    }

    pub(super) fn cancel(&mut self, number: ClientNumber, effects: &mut Effects) {
        self.cancels -= 1;
        let client = &mut self.clients[usize::from(number)];
        let (node, Some((object, _))) = (client.node, client.plan.pop_front()) else { return };
        client.doing = Doing::Nothing;
        self.notes.push(Note::GaveUp(number, object));
        self.node_mut(node).cancel(number, object, effects);
        self.let_go(number, Ending::Keep, effects);
    }

    pub(super) fn finish(&mut self, number: ClientNumber, ending: Ending, effects: &mut Effects) {
        let client = &self.clients[usize::from(number)];
        let (node, Some((object, wish))) = (client.node, client.plan.front().copied()) else { return };
        let is_writing = client.doing == Doing::Writing;
        let found = self.value_at(node, object);
        let is_leaving = self.node(node).is_leaving();
        if is_writing && wish == Wish::RemoveHeld && found.is_some() && !is_leaving {
            self.clients[usize::from(number)].doing = Doing::Waiting;
            self.notes.push(Note::Removes(number, object));
            return self.node_mut(node).remove_held(number, object, effects);
        }
        let first_touch_to_read = is_writing && wish.reads();
        let ending = match wish {
            Wish::Insert if found.is_some() => Ending::Keep,
            // There is nothing to remove, or a node that is about to leave begins no removal.
            Wish::RemoveHeld => Ending::Fail,
            _ => ending,
        };
        let left = if is_writing { self.left_behind(node, object, ending, first_touch_to_read) } else { Left::Nothing };
        if left != Left::Nothing && replicas_of(generation(object)) > 0 {
            // It goes on when the replicas have it.
            self.clients[usize::from(number)].doing = Doing::Putting;
            self.notes.push(Note::Puts(number, object, found, left));
            return self.node_mut(node).release(number, object, left, effects);
        }
        self.released(number, (object, found), left, (first_touch_to_read, ending), effects);
    }

    /// A client has ended its hold.
    fn released(
        &mut self,
        number: ClientNumber,
        (object, found): (ObjectId, Option<Value>),
        left: Left,
        (first_touch_to_read, ending): (bool, Ending),
        effects: &mut Effects,
    ) {
        let client = &mut self.clients[usize::from(number)];
        let node = client.node;
        let is_leaving = self.nodes[usize::from(node.0) - 1].is_leaving();
        client.doing = Doing::Nothing;
        // A read that had to make the first value asks again for what it wanted: the read.
        if !(first_touch_to_read && ending != Ending::Fail) {
            client.plan.pop_front();
        }
        if is_leaving {
            self.clients[usize::from(number)].plan.clear();
        }
        self.notes.push(Note::Released(number, object, found, left));
        self.node_mut(node).release(number, object, left, effects);
        self.let_go(number, ending, effects);
    }

    /// A put has its replicas: it is done.
    pub(super) fn is_safe(&mut self, node: NodeId, object: ObjectId, value: Option<Value>) {
        let truth = self.truth.entry(object).or_default();
        truth.value = value;
        truth.maybe.clear();
        let puts = |client: &Client| {
            client.node == node
                && client.doing == Doing::Putting
                && client.plan.front().is_some_and(|(of, _)| *of == object)
        };
        let Some(number) = self.clients.iter().position(puts) else { return };
        let number = number as ClientNumber;
        let is_first_touch_to_read =
            self.clients[usize::from(number)].plan.front().is_some_and(|(_, wish)| wish.reads());
        let client = &mut self.clients[usize::from(number)];
        client.doing = Doing::Nothing;
        if !is_first_touch_to_read {
            client.plan.pop_front();
        }
        if self.node(node).is_leaving() {
            self.clients[usize::from(number)].plan.clear();
        }
        self.notes.push(Note::Safe(number, object));
    }

    /// Ends the holds that a client has kept.
    pub(super) fn let_go(&mut self, number: ClientNumber, ending: Ending, effects: &mut Effects) {
        let client = &mut self.clients[usize::from(number)];
        let (node, kept) = (client.node, std::mem::take(&mut client.kept));
        for object in kept {
            let found = self.value_at(node, object);
            let left = self.left_behind(node, object, ending, false);
            self.notes.push(Note::Released(number, object, found, left));
            let before = self.node(node).inspect(object).main;
            self.node_mut(node).release(number, object, left, effects);
            if check::ended_its_life(before, self.node(node).inspect(object).main) {
                self.removed(object, node);
            }
        }
    }

    fn left_behind(&mut self, node: NodeId, object: ObjectId, ending: Ending, first_touch_to_read: bool) -> Left {
        let empty = self.value_at(node, object).is_none();
        let is_pushed = replicas_of(generation(object)) > 0;
        let truth = self.truth.entry(object).or_default();
        let mut make = || {
            truth.made += 1;
            if is_pushed {
                truth.maybe.push(Some(truth.made));
            } else {
                truth.value = Some(truth.made);
            }
            truth.made
        };
        match ending {
            Ending::Fail => Left::Nothing,
            Ending::Keep if !empty => Left::Nothing,
            Ending::Keep => Left::First(make()),
            Ending::Put if first_touch_to_read => Left::First(make()),
            Ending::Put => Left::Put(make()),
        }
    }

    pub(super) fn ended(&mut self, number: ClientNumber, outcome: Outcome) {
        let Some(client) = self.clients.get(usize::from(number)) else { return };
        let (node, existed) = (client.node, client.existed);
        if outcome == Outcome::Destroyed {
            return self.lost_its_set(number);
        }
        let Some((object, wish)) = client.plan.front().copied() else { return };
        let here = self.value_at(node, object);
        // A node that has not heard of the end of the set, and joins or becomes a home meanwhile, finds
        // nothing where there was something.
        let is_promised = !self.is_given_up(object);
        let is_seen = matches!(outcome, Outcome::Reading | Outcome::Writing);
        let may_be_gone = self.truth.get(&object).is_some_and(|truth| truth.maybe.contains(&None));
        if is_promised && is_seen {
            self.observed(object, here);
        }
        let truth = self.truth.get(&object).filter(|_| is_promised).map_or(here, |truth| truth.value);
        match outcome {
            Outcome::Reading if here != truth || here.is_none() => {
                self.breaks(format!("I2: node {node} reads {here:?} of object {}, the truth is {truth:?}", object.0));
            }
            Outcome::Writing if here != truth => {
                self.breaks(format!("I2: node {node} grabs {here:?} of object {}, the truth is {truth:?}", object.0));
            }
            Outcome::Failed(Answer::NotFound) if existed && is_promised && !may_be_gone => {
                self.breaks(format!("I5: node {node} did not find object {}, which existed all the time", object.0));
            }
            Outcome::Failed(Answer::Lost) if !self.may_be_doubted(object) => {
                self.breaks(format!("I4: object {} is lost, although there were replicas", object.0));
            }
            _ => {}
        }
        let client = &mut self.clients[usize::from(number)];
        client.doing = match outcome {
            Outcome::Writing if wish == Wish::Also => {
                client.plan.pop_front();
                client.kept.push(object);
                Doing::Nothing
            }
            Outcome::Reading => Doing::Reading,
            Outcome::Writing => Doing::Writing,
            Outcome::Done | Outcome::Failed(_) | Outcome::Destroyed => {
                client.plan.pop_front();
                Doing::Nothing
            }
        };
        self.notes.push(match outcome {
            Outcome::Reading | Outcome::Writing => Note::Granted(number, object, outcome, here),
            _ => Note::Ended(number, object, outcome),
        });
        if matches!(outcome, Outcome::Failed(_)) && wish != Wish::Also {
            // What ends the holds that it has kept is no hold itself.
            let mut effects = Effects::default();
            self.let_go(number, Ending::Keep, &mut effects);
            self.settle(node, effects);
        }
    }

    /// A client finds the object so: what was not certain is.
    fn observed(&mut self, object: ObjectId, here: Option<Value>) {
        let Some(truth) = self.truth.get_mut(&object) else { return };
        if here == truth.value {
            // A removal that was cut short may still take effect.
            truth.maybe.retain(Option::is_none);
        } else if truth.maybe.contains(&here) {
            truth.value = here;
            truth.maybe.clear();
        }
    }

    /// The set with which a client is busy is no more. What it keeps is of the same set.
    fn lost_its_set(&mut self, number: ClientNumber) {
        let client = &mut self.clients[usize::from(number)];
        let kept = std::mem::take(&mut client.kept);
        let lost =
            if client.doing == Doing::Nothing { None } else { client.plan.pop_front().map(|(object, _)| object) };
        client.doing = Doing::Nothing;
        for object in kept.into_iter().chain(lost) {
            self.notes.push(Note::Ended(number, object, Outcome::Destroyed));
        }
    }
}
