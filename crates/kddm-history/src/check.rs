//! A whole history, object by object; and of one that is wrong, the part that shows it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::{Value as Json, json};

use crate::format::to_json;
use crate::linearizable::{ABSENT, Expect, Found, State, Step, search};
use crate::operation::{Kind, Operation, Outcome, Seen, Word};

/// Steps of the search for one object, unless said otherwise: a second or a few.
pub const BUDGET: u64 = 20_000_000;

/// Searches spent on leaving out operations that an offence can do without.
const MOST_TRIALS: usize = 300;

/// What a check came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Operations looked at.
    pub operations: usize,
    /// Objects that they concern.
    pub objects: usize,
    /// The result.
    pub verdict: Verdict,
}

/// Whether a history is linearizable.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// Every object behaves like one register.
    Linearizable,
    /// One does not.
    NotLinearizable(Offence),
    /// The budget was used up at this object before that was known: no pass.
    Unknown(Word),
}

/// Operations on one object that no register could have had.
#[derive(Clone, PartialEq, Debug)]
pub struct Offence {
    /// The object.
    pub object: Word,
    /// What it was before them.
    pub before: Seen,
    /// The operations, by their beginning.
    pub operations: Vec<Operation>,
}

impl Report {
    /// The report as `kddmadm history check --json` prints it.
    pub fn to_json(&self) -> Json {
        let mut json = json!({ "operations": self.operations, "objects": self.objects });
        match &self.verdict {
            Verdict::Linearizable => json["verdict"] = "linearizable".into(),
            Verdict::Unknown(object) => {
                json["verdict"] = "unknown".into();
                json["object"] = json!(object);
            }
            Verdict::NotLinearizable(offence) => {
                json["verdict"] = "not_linearizable".into();
                json["object"] = json!(offence.object);
                json["before"] = match &offence.before {
                    Seen::Value(word) => json!(word),
                    Seen::Nothing | Seen::Absent => Json::Null,
                };
                json["offending"] = offence.operations.iter().map(to_json).collect();
            }
        }
        json
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { operations, objects, verdict } = self;
        match verdict {
            Verdict::Linearizable => write!(f, "linearizable: {operations} operations on {objects} objects"),
            Verdict::Unknown(object) => write!(f, "unknown: the budget was used up at object {object}"),
            Verdict::NotLinearizable(offence) => write!(f, "not linearizable: {offence}"),
        }
    }
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {}, which ", self.object)?;
        match &self.before {
            Seen::Value(word) => write!(f, "was {word} before, cannot have had this:")?,
            Seen::Nothing | Seen::Absent => write!(f, "did not exist before, cannot have had this:")?,
        }
        for operation in &self.operations {
            write!(f, "\n  {operation}")?;
        }
        Ok(())
    }
}

/// Judges a history; nothing exists at its beginning. `budget` limits the search for each object.
pub fn check(operations: &[Operation], budget: u64) -> Report {
    let mut objects: BTreeMap<&Word, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        objects.entry(&operation.object).or_default().push(operation);
    }
    let mut verdict = Verdict::Linearizable;
    for (object, mut of_object) in objects.iter().map(|(object, of)| (*object, of.clone())) {
        of_object.sort_by_key(|operation| (operation.invoke_ns, operation.client));
        let judged = Judged::new(&of_object);
        match search(&judged.of(&judged.all(), u64::MAX), ABSENT, budget) {
            Found::Order => {}
            Found::Exhausted => verdict = Verdict::Unknown(object.clone()),
            Found::NoOrder => {
                verdict = Verdict::NotLinearizable(judged.offence(object, budget));
                break;
            }
        }
    }
    Report { operations: operations.len(), objects: objects.len(), verdict }
}

/// The operations on one object, with values as numbers.
struct Judged<'a> {
    operations: Vec<(&'a Operation, Step)>,
    words: Vec<&'a Word>,
}

impl<'a> Judged<'a> {
    fn new(operations: &[&'a Operation]) -> Judged<'a> {
        let mut numbers: HashMap<&Word, State> = HashMap::new();
        let mut words = Vec::new();
        let mut number = |word: &'a Word| {
            *numbers.entry(word).or_insert_with(|| {
                words.push(word);
                words.len() as State
            })
        };
        let judged = |operation: &&'a Operation| Some((*operation, step(operation, &mut number)?));
        let mut operations: Vec<(&Operation, Step)> = operations.iter().filter_map(judged).collect();
        // A value that nobody has seen, of an operation that need not have happened, explains nothing
        // unless somebody saw just that there was one.
        let sees_any = operations.iter().any(|(_, step)| step.expect == Expect::Present);
        let seen: Vec<Expect> = operations.iter().map(|(_, step)| step.expect).collect();
        let seen: std::collections::HashSet<State> = seen
            .into_iter()
            .filter_map(|expect| if let Expect::State(state) = expect { Some(state) } else { None })
            .collect();
        operations.retain(|(_, step)| {
            step.until.is_some() || sees_any || step.leaves.is_some_and(|state| seen.contains(&state))
        });
        Judged { operations, words }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.operations.len()).collect()
    }

    /// Some operations as they were at a moment: what had not ended then may yet happen or not.
    fn of(&self, which: &[usize], at: u64) -> Vec<Step> {
        let steps = which.iter().map(|number| self.operations[*number].1).filter(|step| step.invoke <= at);
        steps.map(|step| Step { until: step.until.filter(|until| *until <= at), ..step }).collect()
    }

    /// The shortest beginning that has no order, without what it can do without.
    fn offence(&self, object: &Word, budget: u64) -> Offence {
        let mut ends: Vec<u64> = self.operations.iter().filter_map(|(_, step)| step.until).collect();
        ends.sort_unstable();
        let has_no_order =
            |which: &[usize], initial, at| search(&self.of(which, at), initial, budget) == Found::NoOrder;
        // Once there is no order there is none for ever: the first such moment can be halved out.
        let all = self.all();
        let first = ends.partition_point(|at| !has_no_order(&all, ABSENT, *at));
        let at = ends.get(first).copied().unwrap_or(u64::MAX);
        let mut which: Vec<usize> = all.into_iter().filter(|number| self.operations[*number].1.invoke <= at).collect();
        let (start, initial) = self.quiet(&which, at);
        which.drain(..start);
        let mut trials = 0;
        for number in which.clone() {
            let step = self.operations[number].1;
            if step.leaves.is_some() || step.until.is_none_or(|until| until > at) || trials >= MOST_TRIALS {
                continue;
            }
            trials += 1;
            let without: Vec<usize> = which.iter().copied().filter(|other| *other != number).collect();
            if has_no_order(&without, initial, at) {
                which = without;
            }
        }
        let before = (initial as usize).checked_sub(1).and_then(|word| self.words.get(word));
        Offence {
            object: object.clone(),
            before: before.map_or(Seen::Absent, |word| Seen::Value((*word).clone())),
            operations: which.into_iter().map(|number| self.operations[number].0.clone()).collect(),
        }
    }

    /// The last moment before `at` at which nothing was going on but what came after, and the state
    /// then: the one operation that was alone just before says it.
    fn quiet(&self, which: &[usize], at: u64) -> (usize, State) {
        let mut found = (0, ABSENT);
        // The greatest end so far, none at first; no answer once something may go on for ever.
        let mut ended: Option<Option<u64>> = Some(None);
        for (position, number) in which.iter().enumerate() {
            let step = self.operations[*number].1;
            let is_alone = ended.is_some_and(|ended| ended.is_none_or(|ended| ended < step.invoke))
                && which.get(position + 1).is_none_or(|next| {
                    let next = self.operations[*next].1.invoke;
                    step.until.is_some_and(|until| until < next && until < at)
                });
            ended = ended.zip(step.until).map(|(ended, until)| Some(until).max(ended));
            let state = match (step.leaves, step.expect) {
                (Some(state), _) | (None, Expect::State(state)) => state,
                _ => continue,
            };
            if is_alone && position + 1 < which.len() {
                found = (position + 1, state);
            }
        }
        found
    }
}

/// What an operation says about its object; none if nothing.
fn step<'a>(operation: &'a Operation, number: &mut impl FnMut(&'a Word) -> State) -> Option<Step> {
    let saw = match &operation.seen {
        Seen::Nothing => Expect::Anything,
        Seen::Absent => Expect::State(ABSENT),
        Seen::Value(word) => Expect::State(number(word)),
    };
    let (expect, leaves) = match (operation.kind, operation.outcome) {
        (Kind::Insert, Outcome::Failed) if saw == Expect::Anything => (Expect::Present, None),
        (_, Outcome::Failed) | (Kind::Read, Outcome::Ok) => (saw, None),
        (Kind::Read, Outcome::Unknown) => return None,
        (Kind::Insert, _) => (Expect::State(ABSENT), operation.value.as_ref().map(number)),
        (Kind::Remove, _) => (saw, Some(ABSENT)),
        (Kind::Write | Kind::Update, _) => (saw, operation.value.as_ref().map(number)),
    };
    if expect == Expect::Anything && leaves.is_none() {
        return None;
    }
    let until = operation.return_ns.filter(|_| operation.outcome != Outcome::Unknown);
    Some(Step { invoke: operation.invoke_ns, until, expect, leaves })
}
