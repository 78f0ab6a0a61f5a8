//! What is known here of the log: what etcd holds, and what this node wants it to hold.

use std::collections::VecDeque;
use std::time::Instant;

use kddm_core::id::NodeId;
use kddm_view::{Change, Decided, PROPOSALS, State};

use crate::keys::{Entry, Leadership};

/// See [`crate::Settings::entries_kept`].
pub(crate) const ENTRIES_KEPT: usize = 4096;

/// Entries that a leader may have written which are not decided yet.
const UNDECIDED: usize = 1024;

/// A change that this node wants decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    pub ticket: u64,
    /// It counts in that leadership only.
    pub term: Option<u64>,
    pub change: Change,
}

pub(crate) struct Book {
    pub me: NodeId,
    pub origin: u64,
    /// The state that the entries kept here follow.
    pub base: State,
    entries: VecDeque<Decided>,
    pub entries_kept: usize,
    /// The term of the last leader's entry.
    lead_term: u64,
    pub leader: Option<Leadership>,
    pub heir: Option<NodeId>,
    /// The revision of the store at which those two were seen.
    seen: u64,
    /// The first entry in etcd.
    pub first: u64,
    pub wishes: VecDeque<Wish>,
    ticket: u64,
    /// Why this node can follow no more.
    pub failure: Option<String>,
    /// Whether this node wants to lead.
    pub stands: bool,
    /// A leadership that this node gives up, and for whom.
    pub resigned: Option<(u64, Option<NodeId>)>,
    /// The leadership whose node is proven dead.
    pub dead_term: u64,
    /// When the last question was put whose answer was that this node leads, and in which term.
    confirmed: Option<(u64, Instant)>,
}

impl Book {
    pub fn new(me: NodeId, origin: u64, base: State) -> Book {
        let lead_term = base.term();
        Book {
            me,
            origin,
            base,
            entries: VecDeque::new(),
            entries_kept: ENTRIES_KEPT,
            lead_term,
            leader: None,
            heir: None,
            seen: 0,
            first: 0,
            wishes: VecDeque::new(),
            ticket: 0,
            failure: None,
            stands: false,
            resigned: None,
            dead_term: 0,
            confirmed: None,
        }
    }

    /// The last entry known here.
    pub fn last(&self) -> u64 {
        self.base.applied().saturating_add(self.entries.len() as u64)
    }

    /// The entries after that one. None if they are not kept any more.
    pub fn since(&self, index: u64) -> Option<Vec<Decided>> {
        let skip = index.checked_sub(self.base.applied())?;
        Some(self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)).cloned().collect())
    }

    /// The leadership of this node, if it has one.
    pub fn led(&self) -> Option<Leadership> {
        let is_mine = |leader: &Leadership| leader.node == self.me && leader.origin == self.origin;
        let stays = |leader: &Leadership| self.resigned.is_none_or(|(term, _)| term != leader.term);
        // One that does not want to may have been elected by what it had asked for before.
        self.leader.filter(is_mine).filter(stays).filter(|_| self.stands)
    }

    /// The same, once all is known here that any leader before can have written.
    pub fn led_for_sure(&self) -> Option<Leadership> {
        self.led().filter(|leader| self.lead_term == leader.term)
    }

    /// When the question was put whose answer was that this node still leads.
    pub fn confirmed(&self) -> Option<Instant> {
        let led = self.led()?;
        self.confirmed.filter(|(term, _)| *term == led.term).map(|(_, sent)| sent)
    }

    /// What etcd has said of its leader at that revision, in answer to what was asked at `sent`.
    pub fn leader_seen(&mut self, leader: Option<Leadership>, revision: u64, sent: Option<Instant>) -> bool {
        if revision < self.seen {
            return false;
        }
        self.seen = revision;
        let is_news = self.leader != leader;
        self.leader = leader;
        let Some(led) = self.led() else {
            self.drop_wishes_of_others(None);
            return is_news;
        };
        if is_news {
            self.begin_to_lead(led.term);
        }
        if let Some(sent) = sent {
            let before = self.confirmed.filter(|(term, _)| *term == led.term).map(|(_, sent)| sent);
            self.confirmed = Some((led.term, before.map_or(sent, |before| before.max(sent))));
        }
        is_news
    }

    /// Each leader begins with two entries: that it leads, and that its word alone decides who may leave.
    fn begin_to_lead(&mut self, term: u64) {
        self.drop_wishes_of_others(Some(term));
        if self.lead_term >= term || self.wishes.iter().any(|wish| wish.term == Some(term)) {
            return;
        }
        for change in [Change::Voters { voters: vec![self.me] }, Change::Lead { node: self.me, term }] {
            self.ticket += 1;
            self.wishes.push_front(Wish { ticket: self.ticket, term: Some(term), change });
        }
    }

    /// What was judged in another leadership is never written.
    pub fn drop_wishes_of_others(&mut self, term: Option<u64>) {
        self.wishes.retain(|wish| wish.term.is_none() || wish.term == term);
    }

    /// Notes a change for the log. The number of those that wait if they are too many.
    pub fn wish(&mut self, change: Change, term: Option<u64>) -> Result<(), usize> {
        let waiting = self.wishes.iter().filter(|wish| wish.term.is_some() == term.is_some()).count();
        if waiting >= if term.is_some() { UNDECIDED } else { PROPOSALS } {
            return Err(waiting);
        }
        self.ticket += 1;
        self.wishes.push_back(Wish { ticket: self.ticket, term, change });
        Ok(())
    }

    /// Takes in an entry that etcd holds. Whether it is the next one.
    pub fn learn(&mut self, index: u64, bytes: &[u8]) -> bool {
        if index != self.last().saturating_add(1) || self.failure.is_some() {
            return false;
        }
        let Entry { origin, ticket, change } = match Entry::decode(bytes) {
            Ok(entry) => entry,
            Err(what) => {
                let reason = format!("entry {index} in etcd cannot be read: {what}");
                tracing::error!(%reason, "this node can follow the view log no more");
                self.failure = Some(reason);
                return false;
            }
        };
        if origin == self.origin {
            self.wishes.retain(|wish| wish.ticket != ticket);
        }
        if let Change::Lead { term, .. } = change {
            self.lead_term = term;
        }
        self.entries.push_back(Decided { index, change });
        self.fold();
        true
    }

    /// Keeps memory within its limit: the oldest entries go into the state.
    fn fold(&mut self) {
        if self.entries.len() <= self.entries_kept {
            return;
        }
        for entry in self.entries.drain(..self.entries_kept / 2) {
            // They follow each other: none can be refused for its place.
            let _changed_or_refused = self.base.apply(&entry);
        }
    }

    /// That state was taken in whole.
    pub fn skip_to(&mut self, state: &State) {
        if state.applied() > self.last() {
            self.entries.clear();
            self.lead_term = self.lead_term.max(state.term());
            self.base = state.clone();
        }
    }

    /// The term of a leader that is to put a newer state in the place of the oldest entries in etcd.
    pub fn folds(&self) -> Option<u64> {
        let is_due = self.base.applied() > self.first.saturating_add(self.entries_kept as u64 / 2);
        self.led_for_sure().filter(|_| is_due).map(|leader| leader.term)
    }

    /// Who led last, in which leadership.
    pub fn term(&self) -> u64 {
        self.leader.map_or(self.lead_term, |leader| leader.term.max(self.lead_term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kddm_core::id::Incarnation;
    use kddm_view::{Cause, ClusterId, Identity, SessionId};

    const ME: NodeId = NodeId(1);

    fn book() -> Book {
        let state = State::new(Identity { cluster: ClusterId(1), session: SessionId::DEFAULT }, ME);
        Book { stands: true, ..Book::new(ME, 7, state) }
    }

    fn leader(node: u16, term: u64) -> Option<Leadership> {
        Some(Leadership { node: NodeId(node), origin: u64::from(node) * 7, term, lease: 1 })
    }

    fn decide(book: &mut Book, origin: u64) {
        let wish = book.wishes.front().expect("something is wanted").clone();
        let entry = Entry { origin, ticket: wish.ticket, change: wish.change };
        assert!(book.learn(book.last() + 1, &entry.encode().expect("it can be meant")));
    }

    fn expulsion() -> Change {
        Change::Expel { node: NodeId(9), incarnation: Incarnation(1), cause: Cause::Lease }
    }

    #[test]
    fn a_leader_is_sure_when_its_own_entry_is_decided_and_not_before() {
        let mut book = book();
        assert!(book.leader_seen(leader(1, 40), 40, None) && book.led().is_some());
        assert!(book.led_for_sure().is_none(), "an expulsion by the one before may be on its way here");
        decide(&mut book, 7);
        assert_eq!(book.led_for_sure().map(|leader| leader.term), Some(40));
        decide(&mut book, 7);
        let written: Vec<Change> =
            book.since(0).expect("they are kept").into_iter().map(|entry| entry.change).collect();
        assert_eq!(written, [Change::Lead { node: ME, term: 40 }, Change::Voters { voters: vec![ME] }]);
    }

    #[test]
    fn what_was_judged_in_a_leadership_goes_with_it() {
        let mut book = book();
        book.leader_seen(leader(1, 40), 40, None);
        (0..2).for_each(|_| decide(&mut book, 7));
        book.wish(Change::Seal, None).expect("there is room");
        book.wish(expulsion(), Some(40)).expect("there is room");
        book.leader_seen(leader(2, 50), 50, None);
        assert_eq!(book.wishes.iter().map(|wish| &wish.change).collect::<Vec<_>>(), [&Change::Seal]);
        // It leads again: the expulsion would be of an earlier judgement.
        book.leader_seen(leader(1, 60), 60, None);
        assert!(book.wishes.iter().all(|wish| wish.change != expulsion()), "{:?}", book.wishes);
    }

    #[test]
    fn old_news_of_the_leader_are_none() {
        let mut book = book();
        let sent = Instant::now();
        book.leader_seen(leader(2, 50), 50, None);
        assert!(!book.leader_seen(leader(1, 40), 49, Some(sent)));
        assert_eq!((book.led(), book.confirmed(), book.term()), (None, None, 50));
        assert!(book.leader_seen(leader(1, 60), 60, Some(sent)));
        assert_eq!(book.confirmed(), Some(sent));
        book.resigned = Some((60, None));
        assert_eq!((book.led(), book.confirmed()), (None, None));
        book.stands = false;
        book.leader_seen(leader(1, 70), 70, Some(sent));
        assert_eq!((book.led(), book.wishes.len()), (None, 0), "it was elected too late");
    }

    #[test]
    fn a_wish_ends_with_its_own_entry_only() {
        let mut book = book();
        book.wish(Change::Seal, None).expect("there is room");
        decide(&mut book, 8); // The same number, of another node.
        assert_eq!(book.wishes.len(), 1);
        decide(&mut book, 7);
        assert_eq!((book.wishes.len(), book.last()), (0, 2));
    }

    #[test]
    fn there_is_an_end_to_what_waits_and_to_what_is_kept() {
        let mut book = book();
        for _ in 0..PROPOSALS {
            book.wish(Change::Seal, None).expect("there is room");
        }
        assert_eq!(book.wish(Change::Seal, None), Err(PROPOSALS));
        let entry = Entry { origin: 1, ticket: 1, change: Change::Seal }.encode().expect("it can be meant");
        for index in 1..=ENTRIES_KEPT as u64 + 1 {
            assert!(book.learn(index, &entry));
        }
        assert_eq!((book.base.applied(), book.last()), (ENTRIES_KEPT as u64 / 2, ENTRIES_KEPT as u64 + 1));
        assert_eq!((book.since(1), book.since(book.last()).map(|rest| rest.len())), (None, Some(0)));
    }

    #[test]
    fn an_entry_that_cannot_be_read_ends_it_and_nothing_is_passed_over() {
        let mut book = book();
        assert!(!book.learn(1, b"strange"));
        let entry = Entry { origin: 1, ticket: 1, change: Change::Seal }.encode().expect("it can be meant");
        assert!(!book.learn(1, &entry) && !book.learn(2, &entry));
        assert!(book.failure.is_some_and(|failure| failure.contains("entry 1")));
    }
}
