//! The numbers of sets: what counts them may be lost, and none is given out twice all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kddm_core::id::{NodeId, SetId};
use kddm_view::MemberEntry;

use crate::error::{Error, SetError};
use crate::runtime::Runtime;
use crate::runtime::control::{Answer, NO_MEMBER, Question};
use crate::system::SYSTEM_NAME;

/// Numbers above this are nobody's: so many sets are not made in a thousand years, and who names one lies.
const MOST_SETS: u64 = 1 << 38;

/// The greatest number of a set of which this node has been told.
#[derive(Default)]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    /// There is, or was, a set of that count.
    pub fn note(&self, counter: u64) {
        if counter <= MOST_SETS {
            self.0.fetch_max(counter, Ordering::Relaxed);
        }
    }
}

impl Runtime {
    /// The greatest number of a set that this node knows, or has known.
    pub fn greatest_set(&self) -> u64 {
        for lane in &self.lanes {
            lane.lock().core.sets().into_iter().for_each(|set| self.numbers.note(set.counter()));
        }
        self.numbers.0.load(Ordering::Relaxed)
    }

    /// The greatest one that any member knows: all that may have anything of a set are asked.
    pub fn greatest_set_of_all(self: &Arc<Self>) -> Result<u64, Error> {
        let state = self.membership.lock().state.clone();
        let mut greatest = self.greatest_set().max(SetId::FIRST_COUNTER - 1);
        let others = |(node, _): &(NodeId, &MemberEntry)| *node != self.identity.id;
        for (node, member) in state.members().filter(others) {
            let answer = self.answer_of(&member.address, &Question::GreatestSet, Duration::ZERO);
            let reason = match answer {
                Ok(Answer::GreatestSet(number)) => {
                    greatest = greatest.max(number.min(MOST_SETS));
                    continue;
                }
                Ok(_) => NO_MEMBER.into(),
                Err(reason) => reason,
            };
            return Err(SetError::AcceptanceUnconfirmed { name: SYSTEM_NAME.into(), node: node.0, reason }.into());
        }
        Ok(greatest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::Config;
    use crate::Node;
    use crate::Set;
    use crate::system::COUNTER;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn no_number_is_given_out_twice_though_the_count_is_lost() {
        let lease = Duration::from_secs(3);
        let first = Node::join(Config::new().node_id(1).lease(lease)).wait_for(LIMIT).expect("the first node");
        let contact = first.address().clone();
        let join = |id| Node::join(Config::new().node_id(id).contact(contact.clone())).wait_for(LIMIT);
        let (second, third) = (join(2).expect("it is let in"), join(3).expect("it is let in"));
        let open = |node: &Node, name: &str| -> Set<u64> { node.set(name).open().wait_for(LIMIT).expect("it opens") };
        // Only the second node knows these: nothing of them was ever touched.
        let known: Vec<Set<u64>> = ["one", "two", "three"].iter().map(|name| open(&second, name)).collect();
        third.stop_within(Duration::ZERO);
        let begun = Instant::now();
        while first.members().len() + second.members().len() > 4 {
            assert!(begun.elapsed() < LIMIT, "it was not expelled");
            std::thread::yield_now();
        }
        let number = |name| SetId(first.set_info(name).expect("it exists").id).counter();
        let before = number("three");
        first.system().expect("there are sets").remove(COUNTER).wait_for(LIMIT).expect("it is as if it was given up");
        let _after = open(&first, "after");
        assert_eq!(number("after"), before + 1);
        drop(known);
    }

    #[test]
    fn a_number_that_only_a_liar_names_is_not_believed() {
        let numbers = Numbers::default();
        numbers.note(20);
        numbers.note(MOST_SETS + 1);
        assert_eq!(numbers.0.load(Ordering::Relaxed), 20);
    }
}
