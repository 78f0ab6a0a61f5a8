//! Is there an order of the operations on one object that a single register could have had? The
//! search of Wing & Gong with the memory of Lowe: a configuration (which operations are done, and
//! the state after them) is looked at once.

use std::collections::HashSet;

/// What a register has: a value by its number, zero for "does not exist".
pub type State = u32;

/// "Does not exist."
pub const ABSENT: State = 0;

/// What must be so at the moment at which an operation takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// The object exists, with whatever value.
    Present,
    /// Just this.
    State(State),
}

impl Expect {
    fn holds(self, state: State) -> bool {
        match self {
            Expect::Anything => true,
            Expect::Present => state != ABSENT,
            Expect::State(expected) => state == expected,
        }
    }
}

/// One operation, as the search needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// When it began.
    pub invoke: u64,
    /// By when it had happened; none if it may happen later, or never.
    pub until: Option<u64>,
    /// What it found.
    pub expect: Expect,
    /// What it left; none if it changed nothing.
    pub leaves: Option<State>,
}

/// What a search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// There is such an order.
    Order,
    /// There is none.
    NoOrder,
    /// The budget was used up before that was known.
    Exhausted,
}

/// Searches for an order, in at most `budget` steps.
pub fn search(steps: &[Step], initial: State, budget: u64) -> Found {
    Search::new(steps, initial).run(budget)
}

/// The done operations, as bits: those that must happen in the order of their beginning, and apart
/// from them those that may never happen, so that these do not keep the others' front far back.
#[derive(Clone, Default)]
struct Done {
    must: Vec<u64>,
    may: Vec<u64>,
}

impl Done {
    /// Equal for equal sets, and short: of the certain ones only the part around the front.
    fn key(&self, state: State) -> Box<[u64]> {
        let front = self.must.iter().take_while(|word| **word == u64::MAX).count();
        let back = self.must.iter().rposition(|word| *word != 0).map_or(front, |last| (last + 1).max(front));
        let may = self.may.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let mut key = Vec::with_capacity(2 + back - front + may);
        key.push(u64::from(state) << 32 | (back - front) as u64);
        key.push(front as u64);
        key.extend_from_slice(&self.must[front..back]);
        key.extend_from_slice(&self.may[..may]);
        key.into_boxed_slice()
    }
}

/// An operation that the current path has done.
struct Choice {
    step: usize,
    before: State,
    /// Nothing else had to be tried in its place.
    is_forced: bool,
}

/// The events that are not done yet stand in a list in the order of time: `step` for its beginning,
/// `count + step` for the end, one more for the end of the list.
struct Search<'a> {
    steps: &'a [Step],
    next: Vec<usize>,
    previous: Vec<usize>,
    place: Vec<usize>,
    done: Done,
    state: State,
    /// Operations that must still happen.
    missing: usize,
    path: Vec<Choice>,
    seen: HashSet<Box<[u64]>>,
}

impl<'a> Search<'a> {
    fn new(steps: &'a [Step], initial: State) -> Search<'a> {
        let count = steps.len();
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * count);
        for (at, step) in steps.iter().enumerate() {
            events.push((step.invoke, false, at));
            events.extend(step.until.map(|until| (until, true, count + at)));
        }
        // Where a beginning and an end fall together nobody knows which was first: they overlap.
        events.sort_unstable();
        let end = 2 * count;
        let (mut next, mut previous) = (vec![end; end + 1], vec![end; end + 1]);
        let mut last = end;
        for (_, _, event) in &events {
            (next[last], previous[*event]) = (*event, last);
            last = *event;
        }
        (next[last], previous[end]) = (end, last);
        let (mut must, mut may, mut place) = (0_usize, 0_usize, vec![0; count]);
        for (_, is_end, at) in events {
            if !is_end {
                let counter = if steps[at].until.is_some() { &mut must } else { &mut may };
                place[at] = *counter;
                *counter += 1;
            }
        }
        let done = Done { must: vec![0; must.div_ceil(64)], may: vec![0; may.div_ceil(64)] };
        Search {
            steps,
            next,
            previous,
            place,
            done,
            state: initial,
            missing: must,
            path: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn run(&mut self, mut budget: u64) -> Found {
        let end = 2 * self.steps.len();
        self.read_all(&mut budget);
        let mut at = self.next[end];
        while self.missing > 0 {
            if budget == 0 {
                return Found::Exhausted;
            }
            budget -= 1;
            if at < self.steps.len() {
                if self.may_do(at) && self.is_of_use(at) && self.is_new(at) {
                    self.choose(at, false);
                    self.read_all(&mut budget);
                    at = self.next[end];
                } else {
                    at = self.next[at];
                }
                continue;
            }
            // Something that has not happened had to happen before this: another choice.
            match self.take_back() {
                Some(step) => at = self.next[step],
                None => return Found::NoOrder,
            }
        }
        Found::Order
    }

    /// Whoever only looks, and sees what is, may as well look now: that hinders nobody.
    fn read_all(&mut self, budget: &mut u64) {
        let mut at = self.next[2 * self.steps.len()];
        while at < self.steps.len() {
            *budget = budget.saturating_sub(1);
            let following = self.next[at];
            if self.steps[at].leaves.is_none() && self.may_do(at) {
                self.choose(at, true);
            }
            at = following;
        }
    }

    fn may_do(&self, step: usize) -> bool {
        self.steps[step].expect.holds(self.state)
    }

    /// What need not happen need not be tried where it changes nothing. Of those that would do just the
    /// same only the most urgent is tried: in any order with another one here, the two can change places.
    fn is_of_use(&self, step: usize) -> bool {
        let Step { until, expect, leaves, .. } = self.steps[step];
        let is_alike = |other: &Step| (other.expect, other.leaves) == (expect, leaves);
        let urgency = |step: usize| (self.steps[step].until.unwrap_or(u64::MAX), step);
        let mut at = self.next[2 * self.steps.len()];
        while at < self.steps.len() {
            if is_alike(&self.steps[at]) && urgency(at) < urgency(step) {
                return false;
            }
            at = self.next[at];
        }
        until.is_some() || leaves.is_some_and(|state| state != self.state)
    }

    /// The configuration after this step has not been looked at.
    fn is_new(&mut self, step: usize) -> bool {
        let state = self.steps[step].leaves.unwrap_or(self.state);
        self.flip(step);
        let key = self.done.key(state);
        self.flip(step);
        self.seen.insert(key)
    }

    fn flip(&mut self, step: usize) {
        let set = if self.steps[step].until.is_some() { &mut self.done.must } else { &mut self.done.may };
        set[self.place[step] / 64] ^= 1 << (self.place[step] % 64);
    }

    fn choose(&mut self, step: usize, is_forced: bool) {
        self.path.push(Choice { step, before: self.state, is_forced });
        self.state = self.steps[step].leaves.unwrap_or(self.state);
        self.flip(step);
        self.unlink(step);
        if self.steps[step].until.is_some() {
            self.unlink(self.steps.len() + step);
            self.missing -= 1;
        }
    }

    /// Back to before the last choice that could have been another.
    fn take_back(&mut self) -> Option<usize> {
        loop {
            let Choice { step, before, is_forced } = self.path.pop()?;
            self.state = before;
            self.flip(step);
            if self.steps[step].until.is_some() {
                self.link(self.steps.len() + step);
                self.missing += 1;
            }
            self.link(step);
            if !is_forced {
                return Some(step);
            }
        }
    }

    fn unlink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes the last `unlink` of this event.
    fn link(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = event;
        self.previous[next] = event;
    }
}
