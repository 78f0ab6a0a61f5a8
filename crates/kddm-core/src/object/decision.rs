//! The home decides, once all members have said what they have of an object. The first line of the table
//! in `docs/protocol.md` ("The home's decision") that applies; a line here has its number.

use alloc::vec::Vec;

use crate::home::{Entry, EntryState};
use crate::id::{Epoch, NodeId, Tenure, Version};
use crate::io::{Access, Output};
use crate::losses::Doubt;
use crate::message::{CopyKind, Have, Message, Role};
use crate::mutation::{Mutation, mutated};
use crate::nodeset::NodeSet;
use crate::object::state::{Main, Pushing, Sharing, Turn};
use crate::recovery::{Recovery, Report};
use crate::replicas::ReplicaSet;

/// What becomes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    /// That node owns it.
    Owner(NodeId, Tenure),
    /// It is being removed.
    Removing(Tenure),
    /// That copy becomes the object.
    Promote(Candidate),
    /// The same; what is lost was newer, or may have been.
    RollBack(Candidate),
    /// It does not exist.
    Gone,
    /// The newest version cannot be proven present.
    Lost,
}

/// A copy that could become the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    tenure: Tenure,
    version: Version,
    copy: CopyKind,
    node: NodeId,
}

/// All that is known of an object whose owner may be lost.
struct Facts<'a> {
    reports: &'a [Report],
    entry: Option<Entry>,
    /// The home's own prediction was taken back: the object was never created.
    is_proven: bool,
    covered: bool,
    in_doubt: bool,
    /// The directory says so.
    is_absent: bool,
    /// The node whose copy was to become the object: it never heard so.
    taken_back: NodeId,
    recovery: &'a Recovery,
}

impl Facts<'_> {
    /// The greatest tenure that a member knows: what it has forgotten counts.
    fn seen_by(&self, node: NodeId) -> Tenure {
        let report = self.reports.iter().find(|report| report.from == node);
        report.map_or_else(|| self.recovery.forgotten_by(node), |report| report.have.seen)
    }

    fn greatest(&self) -> Tenure {
        let of = |report: &Report| {
            let replica = report.replica.map_or(Tenure::NONE, |(tenure, _)| tenure);
            report.have.seen.max(report.have.tenure).max(report.have.sent).max(replica).max(offered(report))
        };
        let reported = self.reports.iter().map(of).max().unwrap_or_default();
        reported.max(self.entry.map_or(Tenure::NONE, |entry| entry.tenure))
    }

    fn best(&self, candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
        let order = |c: &Candidate| (c.tenure, c.version, c.copy == CopyKind::Replica, core::cmp::Reverse(c.node));
        if mutated(Mutation::PromoteOldest) {
            return candidates.min_by_key(order);
        }
        candidates.max_by_key(order)
    }

    fn of_role(&self, role: Role, copy: CopyKind) -> impl Iterator<Item = Candidate> + '_ {
        let has_it = move |report: &&Report| report.have.role == role && report.have.has_value;
        let candidate = move |report: &Report| Candidate {
            tenure: report.have.tenure,
            version: report.have.version,
            copy,
            node: report.from,
        };
        self.reports.iter().filter(has_it).map(candidate)
    }

    fn replicas(&self) -> impl Iterator<Item = Candidate> + '_ {
        let candidate = |report: &Report| {
            let (tenure, version) = report.replica?;
            Some(Candidate { tenure, version, copy: CopyKind::Replica, node: report.from })
        };
        self.reports.iter().filter_map(candidate)
    }

    /// What owners have kept that were expelled and are back, each with the epoch from which on it was no member.
    fn offers(&self) -> impl Iterator<Item = (Candidate, Epoch)> + '_ {
        let candidate = |report: &Report| {
            let (tenure, version, left) = report.offer?;
            Some((Candidate { tenure, version, copy: CopyKind::Offer, node: report.from }, left))
        };
        self.reports.iter().filter_map(candidate)
    }

    /// That life owned it when it was frozen, so what came later was decided after it had left, and the directory
    /// knows of that.
    fn offer_is_newest(&self, offer: &Candidate, left: Epoch) -> bool {
        let is_unbroken = self.recovery.unbroken <= left || mutated(Mutation::TrustOfferOfBroken);
        is_unbroken && !self.is_proven && self.may_be_newest(offer.node, offer.tenure)
    }

    /// Nobody who is there knows of a newer owner than the one of which that node has an offer.
    fn may_be_newest(&self, node: NodeId, tenure: Tenure) -> bool {
        let of = |report: &Report| report.have.seen.max(report.have.sent).max(offered(report));
        let by_reports = self.reports.iter().all(|report| of(report) <= tenure);
        let by_entry = self.entry.is_none_or(|entry| entry.tenure <= tenure || self.taken_back == node);
        (by_reports && by_entry) || mutated(Mutation::TrustOlderOffer)
    }

    /// Line 1: the home's own prediction did not come true.
    fn take_back(&mut self, is_member: impl Fn(NodeId) -> bool) {
        let Some(entry) = self.entry else { return };
        let is_prediction = matches!(entry.state, EntryState::Predicted | EntryState::Promoted);
        let of = |report: &Report| report.have.seen.max(report.have.sent).max(offered(report));
        let knows = |report: &Report| of(report) >= entry.tenure;
        let came_true = self.seen_by(entry.node) >= entry.tenure || self.reports.iter().any(knows);
        if !is_prediction || !is_member(entry.node) || came_true {
            return;
        }
        if entry.state == EntryState::Predicted {
            self.entry = None;
            self.is_proven = true;
        } else {
            self.taken_back = entry.node;
            self.entry = Some(Entry { state: EntryState::Unknown, node: NodeId::NOBODY, ..entry });
        }
    }

    fn decide(&self) -> Decision {
        let end = self.reports.iter().filter(|report| !report.from.is_somebody()).map(|report| report.have.seen).max();
        let living = |role| self.reports.iter().filter(move |report| report.have.role == role);
        // Line 2.
        let owner = living(Role::Owner).max_by_key(|report| report.have.tenure);
        if let Some(owner) = owner.filter(|owner| end.is_none_or(|end| owner.have.tenure > end)) {
            return Decision::Owner(owner.from, owner.have.tenure);
        }
        if end.is_some() {
            return Decision::Gone;
        }
        if let Some(tombstone) = living(Role::Tombstone).max_by_key(|report| report.have.tenure) {
            return Decision::Removing(tombstone.have.tenure);
        }
        // Line 3: no newer put can have been completed without the ack of a sharer.
        if let Some(sharer) = self.best(self.of_role(Role::Sharer, CopyKind::Sharer)) {
            return Decision::Promote(sharer);
        }
        // The home parked whoever asked, and all who had a copy were told to drop it.
        if self.entry.is_some_and(|entry| entry.state == EntryState::Removing) {
            return Decision::Gone;
        }
        let is_lost = self.entry.is_some_and(|entry| entry.lost);
        let whole_and_none = (!self.in_doubt || self.is_absent) && self.entry.is_none();
        if whole_and_none && !self.is_proven && self.replicas().next().is_none() {
            return Decision::Gone;
        }
        self.decide_by_what_is_kept(is_lost, whole_and_none)
    }

    /// Lines 4 to 10: nobody may read what is there, but it may be the newest.
    fn decide_by_what_is_kept(&self, is_lost: bool, whole_and_none: bool) -> Decision {
        let usable = |ghost: &Candidate| self.ghost_is_newest(ghost);
        let not_removed = |ghost: &Candidate| !self.was_removed_after(ghost);
        let ghosts = || self.of_role(Role::Ghost, CopyKind::Ghost);
        let covered = self.covered || mutated(Mutation::ForgetFailures);
        // Of what was lost before, the newest version may have been lost with it.
        let covers = covered && !is_lost;
        let covering = ghosts().filter(|ghost| covers && not_removed(ghost) && !self.may_be_removed(ghost));
        if let Some(copy) = self.best(self.replicas().chain(covering)) {
            return Decision::Promote(copy); // Line 4.
        }
        let newest = self.offers().filter(|(offer, left)| self.offer_is_newest(offer, *left));
        if let Some(offer) = self.best(newest.map(|(offer, _)| offer)) {
            return Decision::Promote(offer); // Line 5.
        }
        if let Some(ghost) = self.best(ghosts().filter(usable)) {
            return Decision::Promote(ghost); // Line 6.
        }
        // What a node has forgotten may have been the end of it, or not.
        let is_unclear = ghosts().any(|ghost| not_removed(&ghost) && self.may_be_removed(&ghost));
        if covered && !is_lost && !is_unclear {
            return Decision::Gone; // Line 7.
        }
        if whole_and_none || self.is_proven {
            return Decision::Gone; // Line 8.
        }
        Decision::Lost
    }

    /// What is left of an object that is lost: it may not have been the newest, but nobody has removed it.
    fn left(&self) -> Option<Candidate> {
        let ghosts = self.of_role(Role::Ghost, CopyKind::Ghost).filter(|ghost| !self.was_removed_after(ghost));
        let offers = self.offers().map(|(offer, _)| offer).filter(|offer| !self.is_removed(offer.tenure));
        self.best(ghosts.chain(offers))
    }

    /// Whether somebody knows of a removal after that tenure.
    fn is_removed(&self, since: Tenure) -> bool {
        let removed = self.reports.iter().any(|report| report.have.removed && report.have.seen > since);
        removed && !mutated(Mutation::RollBackRemoved)
    }

    fn sent(&self, ghost: &Candidate) -> (Tenure, NodeId) {
        let report = self.reports.iter().find(|report| report.from == ghost.node);
        report.map_or_else(Default::default, |report| (report.have.sent, report.have.to))
    }

    /// Its target lives and has never had it, and nobody knows more.
    fn ghost_is_newest(&self, ghost: &Candidate) -> bool {
        let (sent, to) = self.sent(ghost);
        let known = self.reports.iter().map(|report| report.have.seen.max(report.have.sent).max(offered(report)));
        let forgotten = self.recovery.reported.iter().map(|(_, forgotten)| *forgotten);
        let target_lacks_it = to.is_somebody() && self.seen_by(to) < sent;
        let by_entry = self.entry.is_none_or(|entry| entry.tenure <= sent);
        (target_lacks_it || mutated(Mutation::TrustGhostOfLost))
            && known.chain(forgotten).all(|tenure| tenure <= sent)
            && by_entry
    }

    fn was_removed_after(&self, ghost: &Candidate) -> bool {
        self.is_removed(self.sent(ghost).0)
    }

    fn may_be_removed(&self, ghost: &Candidate) -> bool {
        let (sent, _) = self.sent(ghost);
        let has_reported = |node: NodeId| self.reports.iter().any(|report| report.from == node);
        self.recovery.reported.iter().any(|(node, forgotten)| !has_reported(*node) && *forgotten > sent)
    }
}

/// The tenure of what it offers.
fn offered(report: &Report) -> Tenure {
    report.offer.map_or(Tenure::NONE, |(tenure, ..)| tenure)
}

impl Turn<'_> {
    /// All members have said what they have: the home answers for the object again.
    pub fn decide(&mut self, mut reports: Vec<Report>, recovery: &Recovery) {
        // What has been said since then, and what has become of what was here.
        if reports.is_empty() {
            reports = core::mem::take(&mut self.to_free);
        } else {
            reports.append(&mut self.to_free);
        }
        let (me, mine, kept) = (self.me(), self.have(), self.replica);
        let offer = self.offer.map(|(tenure, version)| (tenure, version, recovery.left));
        for report in reports.iter_mut().filter(|report| report.from == me) {
            // What was reported of others is of the same moment. A copy may have been given up since.
            if matches!(report.have.role, Role::Sharer | Role::Ghost) && report.have.role != mine.role {
                report.have.role = Role::None;
            }
            (report.replica, report.offer) = (kept, offer);
        }
        if reports.is_empty() && self.entry.is_none() {
            return self.restart_parked();
        }
        let absent = self.entry.filter(|entry| entry.state == EntryState::Absent);
        let named = self.entry.filter(|_| absent.is_none());
        // What is in doubt since an earlier loss is not covered by what was made whole after it.
        let was_whole = absent.or(named).is_some() || recovery.doubt != Doubt::Old;
        let mut facts = Facts {
            reports: &reports,
            entry: named,
            is_proven: false,
            covered: self.place.view.covers(self.place.set.replicas()) && was_whole,
            in_doubt: recovery.in_doubt(),
            is_absent: absent.is_some(),
            taken_back: NodeId::NOBODY,
            recovery,
        };
        let view = self.place.view;
        facts.take_back(|node| view.member(node).is_some());
        self.entry = facts.entry;
        // What this node has heard of since its own report counts, or it would refuse its own word.
        let greatest = facts.greatest().max(self.seen.tenure).max(absent.map_or(Tenure::NONE, |entry| entry.tenure));
        let rolls_back = self.place.set.rolls_back() && !self.place.is_accepted;
        let decision = match facts.decide() {
            Decision::Lost if rolls_back => facts.left().map_or(Decision::Lost, Decision::RollBack),
            decision => decision,
        };
        match decision {
            Decision::Owner(node, tenure) => self.decided_owner(&reports, node, tenure),
            Decision::Removing(tenure) => {
                self.enter_in_directory(NodeId::NOBODY, tenure, EntryState::Removing);
                self.free_ghosts(&reports, NodeId::NOBODY, tenure);
                self.drop_orphans(&reports, ReplicaSet::new());
            }
            Decision::Promote(candidate) => self.promote(reports, candidate, greatest),
            Decision::RollBack(candidate) => {
                self.output(Output::RolledBack { object: self.id });
                self.promote(reports, candidate, greatest);
            }
            Decision::Gone => self.decided_gone(reports, greatest),
            // Somebody has accepted the loss before it was noticed.
            Decision::Lost if self.place.is_accepted => self.decided_gone(reports, greatest),
            Decision::Lost => {
                // What speaks against an offer stays, unless it is only that another home knew more.
                let is_older = |report: &&Report| {
                    report.offer.is_some_and(|(tenure, ..)| !facts.may_be_newest(report.from, tenure))
                };
                for report in reports.iter().filter(is_older) {
                    self.send(report.from, Message::Confirm { tenure: offered(report) });
                }
                self.decided_lost(greatest);
            }
        }
    }

    /// What is here of the object, for its home.
    pub fn have(&self) -> Have {
        let mut have = Have {
            seen: self.seen.tenure,
            removed: !self.seen.node.is_somebody(),
            has_value: self.has_value,
            ..Have::default()
        };
        (have.role, have.tenure, have.version) = match self.main {
            Main::None => (Role::None, Tenure::NONE, Version(0)),
            Main::Owner { tenure, version, .. } => (Role::Owner, tenure, version),
            Main::Sharer { tenure, version, .. } => (Role::Sharer, tenure, version),
            Main::Ghost { tenure, version, .. } => (Role::Ghost, tenure, version),
            Main::Tombstone { tenure, .. } => (Role::Tombstone, tenure, Version(0)),
        };
        if let Main::Ghost { sent, to, .. } = self.main {
            (have.sent, have.to) = (sent, to);
        }
        if have.role == Role::Owner {
            have.replicas = self.replicas;
            let leaving = self.side.pushing.map_or(ReplicaSet::new(), |pushing| pushing.leaving);
            leaving.iter().for_each(|node| {
                have.replicas.insert(node);
            });
        }
        have
    }

    fn enter_in_directory(&mut self, node: NodeId, tenure: Tenure, state: EntryState) {
        self.entry = Some(Entry { object: self.id, tenure, node, state, lost: false });
    }

    /// Whoever waits at the home asks anew.
    pub fn restart_parked(&mut self) {
        while let Some(request) = self.parked.pop_front() {
            self.calls.push_back(Message::Request(request));
        }
    }

    fn decided_owner(&mut self, reports: &[Report], node: NodeId, tenure: Tenure) {
        self.enter_in_directory(node, tenure, EntryState::Fact);
        self.free_ghosts(reports, node, tenure);
        self.drop_orphans(reports, ReplicaSet::of(node));
        self.parked_follow(node, tenure);
    }

    /// Replicas that no owner has named: its word that they are of no more use was lost with the epoch. An owner
    /// that has got it since has named them all the same: its list is that of the one before.
    fn drop_orphans(&mut self, reports: &[Report], kept: ReplicaSet) {
        let named = |node: NodeId| {
            kept.contains(node)
                || reports.iter().any(|of| of.have.role == Role::Owner && of.have.replicas.contains(node))
        };
        for report in reports.iter().filter(|report| !named(report.from)) {
            if let Some((tenure, version)) = report.replica {
                self.send(report.from, Message::Orphan { tenure, version });
            }
        }
    }

    pub fn free_ghosts(&mut self, reports: &[Report], owner: NodeId, tenure: Tenure) {
        let keeps = |report: &&Report| report.have.role == Role::Ghost || report.offer.is_some();
        for report in reports.iter().filter(keeps).filter(|report| report.from != owner) {
            self.send(report.from, Message::Confirm { tenure: tenure.max(offered(report)) });
        }
    }

    fn decided_gone(&mut self, reports: Vec<Report>, greatest: Tenure) {
        *self.floor = (*self.floor).max(greatest);
        self.to_free = reports;
        self.end(greatest);
    }

    /// Everything that could still decide it is kept where it is, offers too: a later view decides again, when a home is
    /// back that was lost as well.
    fn decided_lost(&mut self, greatest: Tenure) {
        let object = self.id;
        let unknown = Entry { object, tenure: greatest, node: NodeId::NOBODY, state: EntryState::Unknown, lost: true };
        self.entry = Some(self.entry.map_or(unknown, |entry| Entry { lost: true, ..entry }));
        self.restart_parked();
    }

    fn promote(&mut self, reports: Vec<Report>, chosen: Candidate, greatest: Tenure) {
        let Some(tenure) = greatest.max(*self.floor).next(self.place.epoch()) else {
            return self.dropped("I3: the tenures of this object are used up");
        };
        if self.drops_surplus(&reports, greatest) {
            self.to_free = reports;
            return;
        }
        let other = |report: &&Report| report.from != chosen.node;
        let shares = |report: &&Report| report.have.role == Role::Sharer;
        let is_replica = |report: &&Report| report.replica.is_some();
        let mut sharers = core::mem::take(self.nodes);
        reports.iter().filter(other).filter(shares).for_each(|report| {
            sharers.insert(report.from);
        });
        let replicas: ReplicaSet = reports.iter().filter(other).filter(is_replica).map(|report| report.from).collect();
        self.enter_in_directory(chosen.node, tenure, EntryState::Promoted);
        let (version, copy) = (chosen.version, chosen.copy);
        self.send(chosen.node, Message::Promote { tenure, version, copy, sharers, replicas });
        while let Some(request) = self.parked.pop_front() {
            self.forward(chosen.node, crate::message::Request { tau: tenure, to_home: false, ..request });
        }
        self.to_free = reports;
    }

    /// The copy that was to be the object has left: what else was reported decides.
    pub fn declined(&mut self, from: NodeId, (tenure, copy): (Tenure, CopyKind), recovery: &Recovery) {
        let is_meant =
            |entry: Entry| entry.state == EntryState::Promoted && entry.node == from && entry.tenure == tenure;
        if !self.entry.is_some_and(is_meant) {
            return self.dropped("declined what was not offered");
        }
        let mut reports = core::mem::take(&mut self.to_free);
        for report in reports.iter_mut().filter(|report| report.from == from) {
            match copy {
                CopyKind::Replica => report.replica = None,
                CopyKind::Offer => report.offer = None,
                CopyKind::Sharer | CopyKind::Ghost => report.have.role = Role::None,
            }
            report.have.seen = report.have.seen.max(tenure);
        }
        self.entry = self.entry.map(|entry| Entry { state: EntryState::Unknown, node: NodeId::NOBODY, ..entry });
        self.decide(reports, recovery);
    }

    /// This node has the copy that is to be the object: it owns it from now on.
    pub fn promoted(&mut self, from: NodeId, tenure: Tenure, copy: (CopyKind, Version), others: (NodeSet, ReplicaSet)) {
        let (kind, version) = copy;
        // Another node may be about to answer for the object, as far as this one knows.
        if tenure <= self.seen.tenure {
            return self.dropped("promoted too late");
        }
        let is_here = match (kind, self.main) {
            (CopyKind::Sharer, Main::Sharer { version: here, .. })
            | (CopyKind::Ghost, Main::Ghost { version: here, .. }) => here == version && self.has_value,
            (CopyKind::Replica, _) => self.replica.is_some_and(|(_, here)| here == version),
            (CopyKind::Offer, _) => self.offer.is_some_and(|(_, here)| here == version),
            _ => false,
        };
        if !is_here {
            return self.send(from, Message::Decline { tenure, copy: kind });
        }
        if matches!(kind, CopyKind::Replica | CopyKind::Offer) {
            if self.access != Access::None || self.side.revoking.is_some() {
                return self.dropped("I2: a replica was to replace a copy that is in use");
            }
            self.output(Output::UseReplica { object: self.id, version });
            self.has_value = true;
        }
        self.drop_own_replica();
        let (sharers, replicas) = others;
        self.side.sharers.clear();
        for node in sharers.iter().filter(|node| *node != self.place.me) {
            self.side.sharers.push(Sharing { node, counter: 0 });
        }
        self.side.owed.clear();
        self.replicas = self.others_of(replicas);
        let main = Main::Owner { tenure, version, born: tenure };
        // A put that was never completed may be what was found: nobody sees it before it is safe.
        let hides = kind != CopyKind::Sharer && !mutated(Mutation::ShowHalfPut);
        let mut pushing = Pushing { hides, announces: true, ..Pushing::nothing() };
        self.main = main;
        self.change_replicas(&mut pushing);
        self.push(self.replicas, pushing);
        self.owner_from_now_on(tenure);
    }
}
