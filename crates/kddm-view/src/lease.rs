//! For how long a member may use what it holds: a lease, which those who decide renew.
//!
//! Sans-IO. A [`Holder`] asks and counts from *before it asked*; the [`Granter`], the node that leads
//! the log, counts from *after it was asked*, and adds what two clocks may drift apart. So the holder
//! has stopped, by its own clock, before the granter may say that it has, whatever became of the
//! messages: only an answer renews, and an answer cannot come before it was asked for.
//!
//! The leader has a lease, too: from a majority of the voters, by the same round trip ([`OwnLease`]).
//! What it grants ends with its own. So a new leader, which begins by giving everybody one whole lease
//! ([`Granter::elected`]), has waited for all that its predecessor can have granted, and for the
//! predecessor itself. It grants nothing before it has applied every entry that its predecessors may
//! have decided, one of an expulsion among them.
//!
//! `cargo xtask model` searches these rules, with clocks that drift, messages that are late, lost,
//! doubled and reordered, holders that pause, and a change of the leader.
//!
//! ```
//! use kddm_core::id::{Incarnation, NodeId, Time};
//! use kddm_view::lease::{Granter, Holder, Terms};
//!
//! let terms = Terms::of_ms(1_000);
//! let (node, life) = (NodeId(2), Incarnation(7));
//! let mut granter = Granter::elected(terms, [(node, life)], Time(0));
//! let mut holder = Holder::new();
//! let renewal = holder.renew(Time(5)).expect("its lease has not ended");
//! let grant = granter.renew(node, life, renewal, Time(u64::MAX), Time(9)).expect("it is a member");
//! holder.granted(grant, Time(12));
//! assert_eq!(holder.until(), Time(1_000_000_005));
//! assert!(granter.ran_out(Time(1_000_000_009)).next().is_none(), "clocks may drift");
//! assert_eq!(granter.ran_out(Time(1_050_000_000)).next(), Some((node, life)));
//! ```

use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{Incarnation, NodeId, Time};

/// How wrong a clock may go, in thousandths, either way: 1 %. Crystals are a hundred times better, a
/// clock that is being slewed is half as wrong.
pub const DRIFT_PER_MILLE: u64 = 10;

/// Renewals that wait for their answers. Whoever has more of them under way has lost the first.
pub const RENEWALS: usize = 16;

/// What holds for all leases of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Terms {
    /// How long a lease is, in ns.
    pub lease_ns: u64,
    /// How wrong each clock may go, either way, in thousandths.
    pub drift_per_mille: u64,
}

impl Terms {
    /// Leases of that length, with clocks as wrong as [`DRIFT_PER_MILLE`].
    pub const fn of_ms(lease_ms: u32) -> Terms {
        Terms { lease_ns: lease_ms as u64 * 1_000_000, drift_per_mille: DRIFT_PER_MILLE }
    }

    /// For how long the granter waits, by its clock, until `ns` are over by any other: its own clock may
    /// be as fast, and the other one as slow, as is allowed. Both count: with the drift of one alone the
    /// search finds a holder that reads after its expulsion.
    pub const fn waited_out_ns(self, ns: u64) -> u64 {
        let slow = 1_000 - self.drift_per_mille;
        let more = ns.saturating_mul(2 * self.drift_per_mille);
        ns.saturating_add(more.div_ceil(slow))
    }

    /// When a whole lease that may begin now is over for sure, by the clock of the granter.
    pub const fn whole_lease(self, now: Time) -> Time {
        now.after_ns(self.waited_out_ns(self.lease_ns))
    }

    /// How often a holder asks: four times while a lease lasts, so that two lost messages in a row, or
    /// a delay of half a lease, end nothing.
    pub const fn renew_every_ns(self) -> u64 {
        self.lease_ns / 4
    }
}

/// A holder asks for more time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Renewal {
    /// Which of the holder's renewals: the answer names it.
    pub number: u64,
}

/// The answer to a renewal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Grant {
    /// The renewal that is answered.
    pub number: u64,
    /// For how long, from when that was sent.
    pub lasts_ns: u64,
}

/// The side of the member that uses what it holds.
///
/// A lease that has ended is not renewed: the life of the node has ended with it ([`Self::end`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Holder {
    /// The renewals under way, and when they were sent, oldest first.
    sent: VecDeque<(u64, Time)>,
    number: u64,
    until: Time,
    has_ended: bool,
}

impl Holder {
    /// A member that holds nothing yet, and has no lease.
    pub fn new() -> Holder {
        Holder::default()
    }

    /// Asks for more time. `now` was read before the message leaves. None when it has ended.
    pub fn renew(&mut self, now: Time) -> Option<Renewal> {
        if self.look(now) {
            return None;
        }
        if self.sent.len() >= RENEWALS {
            self.sent.pop_front();
        }
        self.number += 1;
        self.sent.push_back((self.number, now));
        Some(Renewal { number: self.number })
    }

    /// Takes in an answer, whether it came before or not. The lease never becomes shorter, and one that
    /// is over at `now` stays so. Whether it has become longer.
    pub fn granted(&mut self, grant: Grant, now: Time) -> bool {
        if self.look(now) {
            return false;
        }
        let Ok(at) = self.sent.binary_search_by_key(&grant.number, |(number, _)| *number) else { return false };
        let until = self.sent[at].1.after_ns(grant.lasts_ns);
        // Those before it would give less.
        self.sent.drain(..=at);
        if until <= self.until {
            return false;
        }
        self.until = until;
        true
    }

    /// When it ends, by this node's clock; 0 before the first grant.
    pub fn until(&self) -> Time {
        self.until
    }

    /// Whether what is held may be used. Ask with a time that was read *after* the value was.
    pub fn is_valid(&self, now: Time) -> bool {
        !self.has_ended && now < self.until
    }

    /// Whether it is known to be over: then nothing renews it.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Ends the lease if its time is over. Whether it has ended.
    pub fn look(&mut self, now: Time) -> bool {
        if self.until > Time(0) && now >= self.until {
            self.end();
        }
        self.has_ended
    }

    /// It is over, whatever else arrives.
    pub fn end(&mut self) {
        self.has_ended = true;
        self.sent.clear();
    }
}

/// What the leader knows of a member's lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Granted {
    incarnation: Incarnation,
    /// From then on, by the leader's clock, nobody can have it.
    until: Time,
    /// Its expulsion is under way: it gets no more.
    is_condemned: bool,
}

/// The side of the leader.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Granter {
    terms: Terms,
    leases: BTreeMap<NodeId, Granted>,
}

impl Granter {
    /// A new leader: everybody may have been granted a whole lease just now, by the one before.
    pub fn elected(terms: Terms, members: impl IntoIterator<Item = (NodeId, Incarnation)>, now: Time) -> Granter {
        let mut granter = Granter { terms, leases: BTreeMap::new() };
        granter.members_are(members, now);
        granter
    }

    /// Who is a member by now. Who comes in has a whole lease's time to ask for its first.
    pub fn members_are(&mut self, members: impl IntoIterator<Item = (NodeId, Incarnation)>, now: Time) {
        let until = self.terms.whole_lease(now);
        let before = std::mem::take(&mut self.leases);
        for (node, incarnation) in members {
            let known = before.get(&node).filter(|granted| granted.incarnation == incarnation).copied();
            self.leases.insert(node, known.unwrap_or(Granted { incarnation, until, is_condemned: false }));
        }
    }

    /// Answers a renewal. `own_until` is when the leader's own lease ends, the end of time for a
    /// leader that is its own majority; `now` was read after the renewal had come. None for one that is
    /// no member or is to be expelled, and while the leader itself has no lease.
    pub fn renew(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        renewal: Renewal,
        own_until: Time,
        now: Time,
    ) -> Option<Grant> {
        let granted = self.leases.get_mut(&node).filter(|granted| granted.incarnation == incarnation)?;
        let lasts_ns = own_until.0.saturating_sub(now.0).min(self.terms.lease_ns);
        if granted.is_condemned || lasts_ns == 0 {
            return None;
        }
        granted.until = granted.until.max(now.after_ns(self.terms.waited_out_ns(lasts_ns)));
        Some(Grant { number: renewal.number, lasts_ns })
    }

    /// When [`Self::ran_out`] has to be asked next, if nobody renews anything until then.
    pub fn next_end(&self) -> Option<Time> {
        let waits = self.leases.values().filter(|granted| !granted.is_condemned);
        waits.map(|granted| granted.until).min()
    }

    /// Members whose lease nobody can have any more, and whose expulsion is not under way. They may be
    /// expelled.
    pub fn ran_out(&self, now: Time) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        let ended = move |granted: &Granted| !granted.is_condemned && now >= granted.until;
        self.leases
            .iter()
            .filter(move |(_, granted)| ended(granted))
            .map(|(node, granted)| (*node, granted.incarnation))
    }

    /// Those that it knows.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.leases.keys().copied()
    }

    /// From then on the lease of that life can be taken as over. None if it is no member.
    pub fn ends_at(&self, node: NodeId, incarnation: Incarnation) -> Option<Time> {
        self.leases.get(&node).filter(|granted| granted.incarnation == incarnation).map(|granted| granted.until)
    }

    /// Whether its expulsion is under way.
    pub fn is_condemned(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.leases.get(&node).is_some_and(|granted| granted.incarnation == incarnation && granted.is_condemned)
    }

    /// Its expulsion was not proposed after all, and never will be by what was judged then.
    pub fn pardon(&mut self, node: NodeId, incarnation: Incarnation) {
        if let Some(granted) = self.leases.get_mut(&node).filter(|granted| granted.incarnation == incarnation) {
            granted.is_condemned = false;
        }
    }

    /// Whoever asked to be let in asks once more, and counts a whole lease from that: it has not heard that it is a member. False if it is
    /// to be expelled.
    pub fn welcomed_again(&mut self, node: NodeId, incarnation: Incarnation, now: Time) -> bool {
        let until = self.terms.whole_lease(now);
        let Some(granted) = self.leases.get_mut(&node).filter(|granted| granted.incarnation == incarnation) else {
            return true;
        };
        if !granted.is_condemned {
            granted.until = granted.until.max(until);
        }
        !granted.is_condemned
    }

    /// Its expulsion is proposed: it is granted nothing more. Do this before the proposal.
    pub fn condemn(&mut self, node: NodeId, incarnation: Incarnation) {
        if let Some(granted) = self.leases.get_mut(&node).filter(|granted| granted.incarnation == incarnation) {
            granted.is_condemned = true;
        }
    }
}

/// The leader's own lease, from the voters.
///
/// A voter confirms as long as it has promised nothing to a later leader. So whoever is elected later
/// has a voter in its majority that had confirmed before, and waits a whole lease from then on.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct OwnLease {
    /// When the newest renewal was sent that the voter has confirmed.
    confirmed: BTreeMap<NodeId, Time>,
}

impl OwnLease {
    /// No voter has confirmed anything.
    pub fn new() -> OwnLease {
        OwnLease::default()
    }

    /// A voter has confirmed a renewal that was sent at `sent`, by this node's clock.
    pub fn confirmed(&mut self, voter: NodeId, sent: Time) {
        let newest = self.confirmed.entry(voter).or_insert(sent);
        *newest = sent.max(*newest);
    }

    /// When the lease of the leader `me` ends: a lease after that renewal that a majority of the voters
    /// has confirmed. A sole voter is its own majority, and its lease does not end. A leader that is
    /// none of the voters has no lease.
    pub fn until(&self, me: NodeId, voters: &[NodeId], terms: Terms) -> Time {
        if !voters.contains(&me) {
            return Time(0);
        }
        let needed = voters.len() / 2;
        let mut sent: Vec<Time> = voters.iter().filter_map(|voter| self.confirmed.get(voter)).copied().collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        match needed.checked_sub(1) {
            None => Time(u64::MAX),
            // Itself it needs not to ask.
            Some(last) => sent.get(last).map_or(Time(0), |sent| sent.after_ns(terms.lease_ns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { lease_ns: 1_000, drift_per_mille: DRIFT_PER_MILLE };
    const FOREVER: Time = Time(u64::MAX);
    const NODE: NodeId = NodeId(2);
    const LIFE: Incarnation = Incarnation(5);

    fn granter() -> Granter {
        Granter::elected(TERMS, [(NODE, LIFE)], Time(0))
    }

    #[test]
    fn a_granter_waits_for_the_slowest_holder_by_the_fastest_clock() {
        for lease_ns in [50_000_000_u64, 1_000_000_000, 60_000_000_000] {
            let waited = Terms { lease_ns, ..TERMS }.waited_out_ns(lease_ns);
            // In true time: the holder's clock is 1 % slow, the granter's 1 % fast.
            assert!(waited * 990 >= lease_ns * 1_010);
            assert!(waited * 1_000 <= lease_ns * 1_021, "{waited}");
        }
    }

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for() {
        let mut holder = Holder::new();
        let first = holder.renew(Time(10)).unwrap();
        let second = holder.renew(Time(300)).unwrap();
        assert!(!holder.is_valid(Time(11)), "nothing was granted yet");
        assert!(holder.granted(Grant { number: second.number, lasts_ns: 1_000 }, Time(301)));
        assert_eq!(holder.until(), Time(1_300));
        assert!(
            !holder.granted(Grant { number: first.number, lasts_ns: 1_000 }, Time(302)),
            "a late answer shortens nothing"
        );
        assert!(!holder.granted(Grant { number: second.number, lasts_ns: 9_000 }, Time(303)), "an answer counts once");
        assert!(!holder.granted(Grant { number: 77, lasts_ns: 9_000 }, Time(304)), "nobody asked");
        assert!(holder.is_valid(Time(1_299)) && !holder.is_valid(Time(1_300)));
    }

    #[test]
    fn a_lease_that_has_ended_is_not_renewed() {
        let mut holder = Holder::new();
        let first = holder.renew(Time(0)).unwrap();
        holder.granted(Grant { number: first.number, lasts_ns: 1_000 }, Time(1));
        let late = holder.renew(Time(900)).unwrap();
        assert!(!holder.granted(Grant { number: late.number, lasts_ns: 1_000 }, Time(1_000)));
        assert_eq!(holder.renew(Time(1_000)), None);
        assert!(!holder.is_valid(Time(999)) && holder.renew(Time(999)).is_none());
    }

    /// Its questions arrive and no answer does: it asks no more once its own lease is over, and is expelled then, and
    /// does not stay a member that can do nothing.
    #[test]
    fn a_member_that_hears_no_answer_is_expelled_two_leases_later_at_most() {
        for (slow, fast) in [(1_000, 1_000), (990, 1_010), (1_010, 990)] {
            let (mut holder, mut granter) = (Holder::new(), granter());
            let first = holder.renew(Time(0)).unwrap();
            holder.granted(Grant { number: first.number, lasts_ns: TERMS.lease_ns }, Time(1));
            let (mut asked, mut expelled) = (0, None);
            for true_ns in 2..5_000_u64 {
                let (own, leaders) = (Time(true_ns * slow / 1_000), Time(true_ns * fast / 1_000));
                if true_ns % TERMS.renew_every_ns() == 0
                    && let Some(renewal) = holder.renew(own)
                {
                    assert!(granter.renew(NODE, LIFE, renewal, FOREVER, leaders).is_some(), "it asks in time");
                    asked += 1;
                }
                if expelled.is_none() && granter.ran_out(leaders).next().is_some() {
                    assert!(!holder.is_valid(own), "it has nothing any more");
                    expelled = Some(true_ns);
                }
            }
            assert!((3..=4).contains(&asked), "{asked}");
            assert!(expelled.is_some_and(|at| at <= 2_060), "{expelled:?}");
        }
    }

    #[test]
    fn the_oldest_renewal_is_forgotten_when_too_many_are_under_way() {
        let mut holder = Holder::new();
        let numbers: Vec<u64> = (0..=RENEWALS as u64).map(|at| holder.renew(Time(at)).unwrap().number).collect();
        assert!(!holder.granted(Grant { number: numbers[0], lasts_ns: 1_000 }, Time(20)));
        assert!(holder.granted(Grant { number: numbers[1], lasts_ns: 1_000 }, Time(20)));
    }

    #[test]
    fn who_asks_is_not_expelled_and_who_is_to_be_expelled_gets_nothing() {
        let mut granter = granter();
        let ask = |granter: &mut Granter, now| granter.renew(NODE, LIFE, Renewal { number: 1 }, FOREVER, Time(now));
        assert_eq!(ask(&mut granter, 800), Some(Grant { number: 1, lasts_ns: 1_000 }));
        assert_eq!(granter.ends_at(NODE, LIFE), Some(Time(1_821)));
        assert_eq!(granter.ran_out(Time(1_820)).count(), 0);
        assert_eq!(granter.ran_out(Time(1_821)).collect::<Vec<_>>(), [(NODE, LIFE)]);
        assert_eq!(granter.next_end(), Some(Time(1_821)));
        granter.condemn(NODE, LIFE);
        assert_eq!(ask(&mut granter, 1_822), None);
        assert_eq!((granter.ran_out(Time(1_822)).count(), granter.next_end()), (0, None), "once is enough");
        assert_eq!(granter.renew(NODE, Incarnation(4), Renewal { number: 1 }, FOREVER, Time(0)), None);
        assert_eq!(granter.renew(NodeId(9), LIFE, Renewal { number: 1 }, FOREVER, Time(0)), None);
    }

    #[test]
    fn another_life_begins_with_a_lease_of_its_own() {
        let mut granter = granter();
        granter.condemn(NODE, LIFE);
        granter.members_are([(NODE, Incarnation(6)), (NodeId(3), LIFE)], Time(5_000));
        assert_eq!(granter.ends_at(NODE, LIFE), None);
        assert_eq!(granter.ends_at(NODE, Incarnation(6)), Some(Time(6_021)));
        granter.members_are([(NODE, Incarnation(6))], Time(9_000));
        assert_eq!(granter.ends_at(NODE, Incarnation(6)), Some(Time(6_021)), "to be known is no renewal");
        assert_eq!(granter.ends_at(NodeId(3), LIFE), None);
    }

    /// Its first question was decided, and the answer was lost.
    #[test]
    fn who_is_let_in_twice_has_a_whole_lease_from_the_second_time_on() {
        let mut granter = granter();
        assert!(granter.welcomed_again(NODE, LIFE, Time(700)));
        assert_eq!(granter.ends_at(NODE, LIFE), Some(Time(1_721)));
        assert!(granter.welcomed_again(NODE, LIFE, Time(0)), "that comes late");
        assert_eq!(granter.ends_at(NODE, LIFE), Some(Time(1_721)));
        granter.condemn(NODE, LIFE);
        assert!(!granter.welcomed_again(NODE, LIFE, Time(1_721)));
    }

    #[test]
    fn what_a_leader_grants_ends_with_its_own_lease() {
        let mut granter = granter();
        let grant = granter.renew(NODE, LIFE, Renewal { number: 3 }, Time(900), Time(500));
        assert_eq!(grant, Some(Grant { number: 3, lasts_ns: 400 }));
        assert_eq!(granter.renew(NODE, LIFE, Renewal { number: 4 }, Time(900), Time(900)), None);
    }

    #[test]
    fn a_leader_has_its_lease_from_a_majority() {
        let [me, second, third] = [1, 2, 3].map(NodeId);
        let mut own = OwnLease::new();
        assert_eq!(own.until(me, &[me], TERMS), FOREVER);
        assert_eq!(own.until(me, &[second], TERMS), Time(0));
        let voters = [me, second, third];
        assert_eq!(own.until(me, &voters, TERMS), Time(0));
        own.confirmed(second, Time(100));
        own.confirmed(third, Time(300));
        own.confirmed(third, Time(200));
        assert_eq!(own.until(me, &voters, TERMS), Time(1_300));
        assert_eq!(own.until(me, &[me, second, third, NodeId(4), NodeId(5)], TERMS), Time(1_100));
        own.confirmed(NodeId(9), Time(800));
        assert_eq!(own.until(me, &voters, TERMS), Time(1_300), "it does not vote");
    }
}
