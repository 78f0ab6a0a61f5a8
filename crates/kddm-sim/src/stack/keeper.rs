//! A node's lease and, where it leads, those of the others: the real rules, put together as a node does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kddm_core::id::{Incarnation, NodeId, Placement, Time};
use kddm_view::lease::{Grant, Granter, Holder, OwnLease, Renewal, Terms};
use kddm_view::{MemberEntry, State};

use super::Slip;

/// What a node knows of leases.
pub struct Keeper {
    terms: Terms,
    slip: Option<Slip>,
    holder: Holder,
    /// A voter that is its own majority needs no lease.
    is_needless: bool,
    leading: Option<Leading>,
    /// When to ask for time next, or to be confirmed.
    pub ask_at: Time,
    /// The lease as a timer has seen it last: only a slip looks at that.
    flag: bool,
}

/// What only a leader knows.
struct Leading {
    term: u64,
    granter: Granter,
    own: OwnLease,
    /// When the voters were asked, and this node's own renewal that goes with it.
    asks: VecDeque<(Time, Option<Renewal>)>,
    whole: BTreeMap<NodeId, (Incarnation, Placement)>,
    proposed: Option<Placement>,
    /// When each life has asked for time last.
    heard: BTreeMap<Incarnation, Time>,
    /// Those whose expulsion is to be proposed.
    condemned: BTreeSet<(NodeId, Incarnation)>,
    /// Those whose expulsion is written already.
    written: BTreeSet<(NodeId, Incarnation)>,
    /// It was held up itself: it expels nobody before.
    expels_from: Time,
}

/// Asks under way whose answers can still count.
const ASKS: usize = 32;

impl Leading {
    fn new(term: u64, granter: Granter) -> Leading {
        Leading {
            term,
            granter,
            own: OwnLease::new(),
            asks: VecDeque::new(),
            whole: BTreeMap::new(),
            proposed: None,
            heard: BTreeMap::new(),
            condemned: BTreeSet::new(),
            written: BTreeSet::new(),
            expels_from: Time(0),
        }
    }
}

impl Keeper {
    /// That of a node without a life.
    pub fn new(terms: Terms, slip: Option<Slip>) -> Keeper {
        let (holder, ask_at) = (Holder::new(), Time(0));
        Keeper { terms, slip, holder, is_needless: false, leading: None, ask_at, flag: false }
    }

    fn is(&self, slip: Slip) -> bool {
        self.slip == Some(slip)
    }

    /// A new life, which has no lease yet.
    pub fn live_anew(&mut self) {
        self.holder = Holder::new();
        self.flag = false;
        self.ask_at = Time(0);
    }

    /// A whole lease from now on. Only for one that has just decided itself that it needs one.
    fn begin(&mut self, now: Time) {
        self.holder = Holder::new();
        if let Some(renewal) = self.holder.renew(now) {
            self.granted(Grant { number: renewal.number, lasts_ns: self.terms.lease_ns }, now);
        }
    }

    /// What is decided may have changed. `term`: this node leads it, and has applied all that was decided before.
    pub fn follow(&mut self, me: NodeId, life: Option<Incarnation>, state: &State, term: Option<u64>, now: Time) {
        let was_needless = std::mem::replace(&mut self.is_needless, term.is_some() && state.voters() == [me]);
        self.flag |= self.is_needless;
        if was_needless && !self.is_needless && life.is_some() {
            self.begin(now);
        }
        let Some(term) = term else {
            if self.leading.take().is_some() && self.is(Slip::BeginAnewWhenDeposed) {
                self.begin(now);
            }
            return;
        };
        let others = state.members().map(|(node, entry)| (node, entry.incarnation));
        let others = others.filter(|(node, incarnation)| *node != me || life != Some(*incarnation));
        if let Some(leading) = self.leading.as_mut().filter(|leading| leading.term == term) {
            return leading.granter.members_are(others, now);
        }
        let waits =
            if self.is(Slip::ElectedWithoutWaiting) { self.terms.waited_out_ns(self.terms.lease_ns) } else { 0 };
        let terms = match self.slip {
            Some(Slip::ExpelWithoutDrift) => Terms { drift_per_mille: 0, ..self.terms },
            _ => self.terms,
        };
        self.ask_at = Time(0);
        self.leading = Some(Leading::new(term, Granter::elected(terms, others, Time(now.0.saturating_sub(waits)))));
    }

    /// Whether what is held may be used.
    pub fn may_use(&self, now: Time) -> bool {
        match self.slip {
            Some(Slip::UseWithoutLease) => self.holder.until() > Time(0) || self.is_needless,
            Some(Slip::LookAtFlag) => self.flag,
            Some(Slip::LeadAlone) if self.leading.is_some() => true,
            _ => self.is_needless || self.holder.is_valid(now),
        }
    }

    /// Whether the life has ended with its lease.
    pub fn is_over(&mut self, now: Time) -> bool {
        match self.slip {
            Some(Slip::UseWithoutLease) => false,
            Some(Slip::LookAtFlag) if self.flag => false,
            Some(Slip::LeadAlone) if self.leading.is_some() => false,
            _ => !self.is_needless && self.holder.look(now),
        }
    }

    /// A timer looks.
    pub fn look(&mut self, now: Time) {
        self.flag = self.is_needless || self.holder.is_valid(now);
    }

    /// Asks for more time. The term, if it is for a leader to be confirmed; the renewal, if there is a life that can
    /// go on.
    pub fn ask(&mut self, now: Time, has_life: bool) -> (Option<u64>, Option<Renewal>) {
        self.ask_at = now.after_ns(self.terms.renew_every_ns());
        let renewal = if has_life { self.holder.renew(now) } else { None };
        let Some(leading) = &mut self.leading else { return (None, renewal) };
        if leading.asks.len() >= ASKS {
            leading.asks.pop_front();
        }
        leading.asks.push_back((now, renewal));
        (Some(leading.term), renewal)
    }

    fn own_until(&self, me: NodeId, state: &State, now: Time) -> Time {
        let Some(leading) = &self.leading else { return Time(0) };
        let own = leading.own.until(me, state.voters(), self.terms);
        let reaches_further = self.is(Slip::GrantBeyondOwn) && own > now;
        if self.is(Slip::LeadAlone) || reaches_further { Time(u64::MAX) } else { own }
    }

    /// A voter has confirmed.
    pub fn confirmed(&mut self, (me, voter): (NodeId, NodeId), state: &State, (term, sent): (u64, Time), now: Time) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.term == term) else { return };
        leading.own.confirmed(voter, sent);
        let until = leading.own.until(me, state.voters(), self.terms);
        let lease_ns = self.terms.lease_ns;
        // The majority stands behind what was asked then.
        let asked = leading.asks.iter().rev().find(|(sent, _)| sent.after_ns(lease_ns) <= until);
        if let Some(renewal) = asked.and_then(|(_, renewal)| *renewal) {
            self.granted(Grant { number: renewal.number, lasts_ns: lease_ns }, now);
        }
    }

    /// A member asks for time.
    pub fn grant(
        &mut self,
        me: NodeId,
        (node, life): (NodeId, Incarnation),
        (renewal, whole): (Renewal, Option<Placement>),
        (state, now): (&State, Time),
    ) -> Option<Grant> {
        let own_until = self.own_until(me, state, now);
        let leading = self.leading.as_mut()?;
        leading.heard.insert(life, now);
        if let Some(placement) = whole {
            leading.whole.insert(node, (life, placement));
        }
        leading.granter.renew(node, life, renewal, own_until, now)
    }

    /// The answer.
    pub fn granted(&mut self, grant: Grant, now: Time) {
        self.flag |= self.holder.granted(grant, now);
    }

    /// The leader was held up: what it knows of others is old.
    pub fn was_late(&mut self, now: Time) {
        if let Some(leading) = &mut self.leading {
            leading.expels_from = now.after_ns(2 * self.terms.renew_every_ns());
        }
    }

    /// Those whose expulsion the leader is to propose now, for the first time or again; `proven` are dead.
    pub fn whom_to_expel(
        &mut self,
        state: &State,
        proven: &BTreeSet<Incarnation>,
        now: Time,
    ) -> Vec<(NodeId, Incarnation)> {
        let early = if self.is(Slip::BelieveSilence) { self.terms.lease_ns / 2 } else { 0 };
        let Some(leading) = &mut self.leading else { return Vec::new() };
        let lives = || state.members().map(|(node, entry)| (node, entry.incarnation));
        let mut gone: Vec<_> = lives().filter(|(_, life)| proven.contains(life)).collect();
        if now >= leading.expels_from {
            gone.extend(leading.granter.ran_out(now.after_ns(early)));
        }
        for (node, life) in gone {
            leading.granter.condemn(node, life);
            leading.condemned.insert((node, life));
        }
        let is_due = |who: &(NodeId, Incarnation)| lives().any(|of| of == *who) && !leading.written.contains(who);
        leading.condemned.retain(is_due);
        leading.condemned.iter().copied().collect()
    }

    /// Its expulsion is written.
    pub fn is_written(&mut self, who: (NodeId, Incarnation)) {
        if let Some(leading) = &mut self.leading {
            leading.written.insert(who);
        }
    }

    /// Whether that life has asked for time lately: nobody else should get a vote, or nothing may be decided any
    /// more, not even who takes its place.
    pub fn hears(&self, life: Incarnation, now: Time) -> bool {
        let heard = self.leading.as_ref().and_then(|leading| leading.heard.get(&life));
        heard.is_some_and(|heard| now <= heard.after_ns(2 * self.terms.renew_every_ns()))
    }

    /// Whether all members have said that they are whole in the placement that there is, this node among them
    /// if it has a life. Says so once for each placement.
    pub fn is_all_whole(&mut self, me: NodeId, own: Option<(Incarnation, Option<Placement>)>, state: &State) -> bool {
        let early = self.is(Slip::HealTooEarly);
        let Some(leading) = &mut self.leading else { return false };
        let placement = state.placement();
        if state.is_healed() || leading.proposed == Some(placement) {
            return false;
        }
        if let Some((life, Some(placement))) = own {
            leading.whole.insert(me, (life, placement));
        }
        leading.whole.retain(|node, _| state.member(*node).is_some());
        let is_whole =
            |(node, entry): (NodeId, &MemberEntry)| leading.whole.get(&node) == Some(&(entry.incarnation, placement));
        let all = early || (state.members().count() > 0 && state.members().all(is_whole));
        if all {
            leading.proposed = Some(placement);
        }
        all
    }
}
