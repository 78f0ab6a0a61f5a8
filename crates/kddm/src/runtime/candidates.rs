//! Read copies that a node had when it lost its lease. Its next life asks whoever gave them which are the newest
//! still, a thousand in one message, and fetches none of these. Each answer lets it ask on: no thread waits.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use kddm_core::id::{Mixer, NodeId, ObjectId, SetId, Version};
use kddm_core::io::Access;
use kddm_core::message::{COPIES_AT_ONCE, ReadCopy};
use kddm_core::node::QUESTIONS_AT_ONCE;

use crate::runtime::lane::LaneState;

/// Copies of one set that one node gave, by ascending object, each with its bytes: what one question is about.
#[derive(Clone)]
pub(crate) struct Batch {
    set: SetId,
    from: NodeId,
    copies: Vec<(ReadCopy, Vec<u8>)>,
    /// Up to there they have been used, or passed over.
    looked_at: usize,
    used: usize,
}

/// What is not known to be the newest yet; nobody reads it. Never more than the former life had to read.
#[derive(Default)]
pub(crate) struct Candidates {
    waiting: Vec<Batch>,
    /// With the numbers of their questions, a few at a time.
    asked: Vec<(u64, Batch)>,
}

impl Batch {
    fn new(set: SetId, from: NodeId) -> Batch {
        Batch { set, from, copies: Vec::new(), looked_at: 0, used: 0 }
    }

    /// The bytes of a copy. They are asked for in order.
    fn take(&mut self, object: ObjectId) -> Option<Vec<u8>> {
        let rest = self.copies.get_mut(self.looked_at..)?;
        let at = rest.iter().position(|(copy, _)| copy.object >= object)?;
        self.looked_at += at + 1;
        let (_, bytes) = rest.get_mut(at).filter(|(copy, _)| copy.object == object)?;
        self.used += 1;
        Some(std::mem::take(bytes))
    }
}

impl Candidates {
    /// Those of which nothing is known. Of a question they are all: its answer has not come.
    fn all(&self) -> impl Iterator<Item = &Batch> {
        self.waiting.iter().chain(self.asked.iter().map(|(_, batch)| batch))
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }
}

impl LaneState {
    /// What this life had to read, and what it had not heard of yet that lives before it had. It is fenced: nothing of
    /// that changes any more.
    pub(super) fn copies(&self) -> Vec<Batch> {
        let mut full: Vec<Batch> = self.candidates.all().cloned().collect();
        let mut open: HashMap<(SetId, NodeId), Batch, Mixer> = HashMap::default();
        for (set, from, copy) in self.core.read_copies() {
            let Some(store) = self.stores.get(&set) else { continue };
            let Some(cell) = store.find(copy.object.0).filter(|cell| store.version(*cell) == copy.version.0) else {
                continue;
            };
            let mut bytes = Vec::new();
            if !store.encode(cell, &mut bytes).unwrap_or(false) {
                continue;
            }
            let batch = open.entry((set, from)).or_insert_with(|| Batch::new(set, from));
            batch.copies.push((copy, bytes));
            if batch.copies.len() == COPIES_AT_ONCE {
                full.push(std::mem::replace(batch, Batch::new(set, from)));
            }
        }
        full.extend(open.into_values().filter(|batch| !batch.copies.is_empty()));
        for batch in &mut full {
            batch.copies.sort_unstable_by_key(|(copy, _)| copy.object);
        }
        full
    }

    /// Takes in what a former life had to read, and begins to ask.
    pub(super) fn revalidate(&mut self, copies: Vec<Batch>) {
        self.candidates.waiting.extend(copies);
        self.ask_for_copies();
    }

    /// Asks as much as may be asked at once. What nobody can tell, or would tell in vain, is forgotten.
    pub(super) fn ask_for_copies(&mut self) {
        if self.fenced || self.candidates.is_empty() {
            return;
        }
        // What an epoch has ended is asked again.
        let core = &self.core;
        let over = self.candidates.asked.extract_if(.., |(question, _)| !core.asks(*question));
        self.candidates.waiting.extend(over.map(|(_, batch)| batch));
        while self.candidates.asked.len() < QUESTIONS_AT_ONCE
            && let Some(mut batch) = self.candidates.waiting.pop()
        {
            (batch.looked_at, batch.used) = (0, 0);
            let copies: Vec<ReadCopy> = batch.copies.iter().map(|(copy, _)| *copy).collect();
            let mut outputs = std::mem::take(&mut self.outputs);
            let question = self.core.revalidate(batch.set, batch.from, &copies, &mut outputs);
            for output in outputs.drain() {
                self.act(batch.set, output, &mut None, &mut VecDeque::new());
            }
            self.outputs = outputs;
            match question {
                Ok(Some(question)) => self.candidates.asked.push((question, batch)),
                // That node is gone, this one is to leave, or there is no memory.
                Ok(None) | Err(_) => self.statistics.forgotten_copies += batch.copies.len() as u64,
            }
        }
    }

    /// After an answer: what it did not name is forgotten, and the next may be asked about.
    pub(super) fn is_answered(&mut self, question: u64) {
        let is_it = |(asked, _): &(u64, Batch)| *asked == question;
        if self.core.asks(question) {
            return; // Somebody else has said that.
        }
        let Some(at) = self.candidates.asked.iter().position(is_it) else { return };
        let (_, batch) = self.candidates.asked.swap_remove(at);
        self.statistics.forgotten_copies += (batch.copies.len() - batch.used) as u64;
        self.ask_for_copies();
    }

    /// A copy is the newest: it is read from now on.
    pub(super) fn use_copy(&mut self, set: SetId, object: ObjectId, version: Version, question: u64) {
        let batch = self.candidates.asked.iter_mut().find(|(asked, _)| *asked == question);
        let Some(bytes) = batch.and_then(|(_, batch)| batch.take(object)) else {
            return self.fence("a read copy that the protocol knows of is not here");
        };
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        if store.install_bytes(cell, version.0, Some(Cow::Owned(bytes))).is_err() {
            self.statistics.undecodable += 1;
        }
        self.grant(set, object, Access::Read);
        self.statistics.revalidated += 1;
    }

    /// Of a set that is no more. What is given back is to be dropped where that keeps nobody waiting.
    pub(super) fn forget_candidates(&mut self, set: SetId) -> Vec<Batch> {
        let waiting = self.candidates.waiting.extract_if(.., |batch| batch.set == set);
        let asked = self.candidates.asked.extract_if(.., |(_, batch)| batch.set == set).map(|(_, batch)| batch);
        let gone = waiting.chain(asked).collect();
        self.ask_for_copies();
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use kddm_core::id::Tenure;

    use super::*;
    use crate::runtime::statistics::Statistics;
    use crate::transport::Address;
    use crate::{Config, Node, Set};

    /// Far beyond what any of this takes, also where processors are shared.
    const LIMIT: Duration = Duration::from_secs(60);
    /// Ten questions, and a rest.
    const OBJECTS: u64 = 10_300;
    /// Each so many objects somebody puts to one meanwhile.
    const PUT_EACH: u64 = 100;

    #[test]
    fn a_batch_gives_each_of_its_copies_once_and_in_order() {
        let copy = |object| ReadCopy { object: ObjectId(object), tenure: Tenure(1), version: Version(1) };
        let mut batch = Batch::new(SetId::SYSTEM, NodeId(1));
        batch.copies = [2, 3, 5, 8].map(|object| (copy(object), vec![object as u8])).to_vec();
        assert_eq!(batch.take(ObjectId(3)), Some(vec![3]));
        assert_eq!(batch.take(ObjectId(3)), None, "it comes once");
        assert_eq!((batch.take(ObjectId(2)), batch.used), (None, 1), "it was passed over");
    }

    /// The second has a lease of the first, which decides alone.
    fn two_nodes() -> [Node; 2] {
        let address = |name| Address::local(&format!("candidates-{}-{name}", std::process::id()));
        let config = |name| {
            let mut config = Config::new().listen(address(name)).lease(Duration::from_secs(3));
            config.decides_alone = true;
            config
        };
        let first = Node::join(config("first")).wait().expect("it begins");
        let second = config("second").contact(first.address().clone());
        let second = Node::join(second).wait().expect("it is let in");
        [first, second]
    }

    fn put(set: &Set<u64>, object: u64, value: u64) {
        let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
        *guard = value;
        guard.put().wait_for(LIMIT).expect("it is here");
    }

    fn sent(seen: &Statistics, name: &str) -> u64 {
        seen.by_kind().find(|(kind, ..)| *kind == name).map_or(0, |(_, sent, _)| sent)
    }

    #[test]
    fn a_blip_keeps_the_copies_and_fetches_only_what_has_changed() {
        let [owner, reader] = two_nodes();
        let here: Set<u64> = owner.set("blip").replicas(0).open().wait_for(LIMIT).expect("the set opens");
        let there: Set<u64> = reader.set("blip").open().wait_for(LIMIT).expect("the set opens");
        for object in 0..OBJECTS {
            put(&here, object, object);
            assert_eq!(*there.get(object).wait_for(LIMIT).expect("it is there"), object);
        }
        reader.runtime().lease.set_deadline_ns(0);
        assert!(reader.wait_until_fenced(), "its lease is over");
        drop(there);
        let lives = || owner.members().iter().any(|member| member.id == reader.id());
        let begin = Instant::now();
        while lives() {
            assert!(begin.elapsed() < LIMIT, "it is not expelled");
            std::thread::yield_now();
        }
        for object in (0..OBJECTS).step_by(PUT_EACH as usize) {
            put(&here, object, object + 1);
        }
        let reader = reader.rejoin(LIMIT).wait().expect("it comes back");
        while !reader.runtime().lanes.iter().all(|lane| lane.lock().candidates.is_empty()) {
            assert!(begin.elapsed() < LIMIT, "not all is answered");
            std::thread::yield_now();
        }
        let changed = OBJECTS.div_ceil(PUT_EACH);
        let (asked, given) = (reader.statistics(), owner.statistics());
        assert!(asked.revalidated >= OBJECTS - changed && asked.forgotten_copies >= changed, "{asked:?}");
        // Of the set, and of the few objects in which the cluster keeps its sets.
        let (questions, answers) = (sent(&asked, "revalidate"), sent(&given, "revalidated"));
        assert_eq!(questions, answers);
        assert!((11..=20).contains(&questions), "{questions} questions of {OBJECTS} copies");

        let there: Set<u64> = reader.set("blip").open().wait_for(LIMIT).expect("the set opens");
        let before_reading = sent(&owner.statistics(), "data");
        for object in 0..OBJECTS {
            let value = *there.get(object).wait_for(LIMIT).expect("it is there");
            assert_eq!(value, object + u64::from(object % PUT_EACH == 0));
        }
        assert_eq!(sent(&owner.statistics(), "data") - before_reading, changed, "no other is fetched");
        // They are copies like all others.
        put(&here, 7, 1_000);
        assert_eq!(*there.get(7).wait_for(LIMIT).expect("it is there"), 1_000);
    }
}
